"""How loss and retention move with the number of experts, for each kind of method.

`python -m experiments.saturation --preset cpu`; a rerun goes on where one stopped.
`--draw SUMMARY.json` only draws the figures of a finished run again.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import matplotlib
from tqdm import tqdm

from experiments.common.families import CACHE, with_families
from experiments.common.manifest import make_manifest
from experiments.common.results import write_json
from experiments.saturation.config import PRESETS, Config
from experiments.saturation.plot import draw, draw_population
from experiments.saturation.population import measure_population
from experiments.saturation.report import summary, table
from experiments.saturation.sweep import count_rows, run_sweep

_FIGURES = tuple(
    (functional, column)
    for functional in ("pooled_loss", "retention")
    for column in ("published", "tuned")
)


def draw_all(found: dict[str, Any], out: Path) -> list[Path]:
    """Writes every figure of a summary into a folder."""
    matplotlib.use("agg")
    paths = []
    for functional, column in _FIGURES:
        paths.append(out / f"{functional}_{column}.png")
        figure = draw(found, functional, column)
        figure.savefig(paths[-1], dpi=72, metadata={"Software": None})
    if found["population"]:
        paths.append(out / "population.png")
        sets = sum(point["sets"] for point in found["population"][0]["curve"])
        figure = draw_population(found["population"], f"all {sets:,} sets of experts")
        figure.savefig(paths[-1], dpi=72, metadata={"Software": None})
    return paths


def run(config: Config, out: Path, cache: Path) -> dict[str, Any]:
    """All merges, their summary and figures, in a folder."""
    out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    rows = run_sweep(config, out, cache)
    bar = tqdm(rows, total=count_rows(config), unit="pool", leave=False)
    pools = list(bar)
    swept = time.perf_counter()
    population = measure_population(config, out, cache, bar.set_postfix_str)
    found = summary(config, pools, population)
    durations = {"sweep": swept - started, "population": time.perf_counter() - swept}
    found["manifest"] = make_manifest(config, durations=durations)
    write_json(out / "summary.json", found)
    # Read back, so that keys are text as they are for whoever draws it later.
    draw_all(json.loads((out / "summary.json").read_text()), out)
    return found


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m experiments.saturation")
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--family", nargs="+", help="some of the preset's families")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--cache", type=Path, default=CACHE, help="trained models")
    parser.add_argument("--draw", type=Path, help="a summary.json to draw again")
    options = parser.parse_args(arguments)
    if options.draw:
        out = options.out or options.draw.parent
        for path in draw_all(json.loads(options.draw.read_text()), out):
            print(path)
        return 0
    out = options.out or Path("runs") / "saturation" / options.preset
    config = with_families(parser, PRESETS[options.preset], options.family)
    print(table(config, run(config, out, options.cache)))
    print(f"in {out}: summary.json, merges.jsonl and the figures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
