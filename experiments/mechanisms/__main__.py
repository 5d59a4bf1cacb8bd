"""Which mechanism dominates as experts are added, and which method removes it.

`python -m experiments.mechanisms --preset cpu`; a rerun goes on where one stopped.
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
from experiments.mechanisms.config import PRESETS, Config
from experiments.mechanisms.plot import draw
from experiments.mechanisms.report import summary, table
from experiments.mechanisms.sweep import run_sweep


def draw_all(found: dict[str, Any], out: Path) -> Path:
    """Writes the figure of a summary into a folder."""
    matplotlib.use("agg")
    path = out / "mechanisms.png"
    draw(found).savefig(path, dpi=90, metadata={"Software": None})
    return path


def run(config: Config, out: Path, cache: Path) -> dict[str, Any]:
    """All merges, their summary and figure, in a folder."""
    out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    total = sum(seeds for _, seeds in config.families)
    rows = tqdm(run_sweep(config, out, cache), total=total, unit="pool", leave=False)
    found = summary(config, list(rows))
    durations = {"all": time.perf_counter() - started}
    found["manifest"] = make_manifest(config, durations=durations)
    write_json(out / "summary.json", found)
    draw_all(json.loads((out / "summary.json").read_text()), out)
    return found


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m experiments.mechanisms")
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--family", nargs="+", help="some of the preset's families")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--cache", type=Path, default=CACHE, help="trained models")
    parser.add_argument("--draw", type=Path, help="a summary.json to draw again")
    options = parser.parse_args(arguments)
    if options.draw:
        found = json.loads(options.draw.read_text())
        print(draw_all(found, options.out or options.draw.parent))
        return 0
    out = options.out or Path("runs") / "mechanisms" / options.preset
    config = with_families(parser, PRESETS[options.preset], options.family)
    print(table(config, run(config, out, options.cache)))
    print(f"in {out}: summary.json, merges.jsonl and mechanisms.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
