"""The scaling law: joint fits, forecasts made before, and rivals.

`python -m experiments.scaling --preset cpu`; a rerun goes on where one stopped.
Forecasts are written to `predictions.json` before anything that they are about is
merged, and are not written again.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import matplotlib

from experiments.common.families import CACHE
from experiments.common.manifest import make_manifest
from experiments.common.results import fingerprint, write_json
from experiments.scaling.config import PRESETS, Config
from experiments.scaling.plot import draw
from experiments.scaling.predict import forecast
from experiments.scaling.report import summary, table
from experiments.scaling.sweep import points_of, run_sweep


def predictions(config: Config, out: Path, cache: Path) -> dict[str, Any]:
    """The forecasts: those in the file if they are of these models, else new ones."""
    path = out / "predictions.json"
    sizes, rows = run_sweep(config, out, cache, seen=True)
    made_from = fingerprint(
        [[size.pool.identity for size in sizes], config.seen, config.methods]
    )
    if path.exists():
        told = json.loads(path.read_text())
        if told["made_from"] == made_from:
            return told
    pool = min(size.pool.size for size in sizes)
    told: dict[str, Any] = {
        name: forecast(points_of(sizes, rows, name), sizes[-1].parameters, pool)
        for name in config.methods
    }
    told["made_from"] = made_from
    write_json(path, told)
    return told


def draw_all(found: dict[str, Any], out: Path) -> Path:
    """Writes the figure of a summary into a folder."""
    matplotlib.use("agg")
    path = out / "scaling.png"
    draw(found).savefig(path, dpi=90, metadata={"Software": None})
    return path


def run(config: Config, out: Path, cache: Path) -> dict[str, Any]:
    """Forecasts, then all merges, their summary and figure, in a folder."""
    out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    told = predictions(config, out, cache)
    sizes, rows = run_sweep(config, out, cache, seen=False)
    points = {name: points_of(sizes, rows, name) for name in config.methods}
    pool = min(size.pool.size for size in sizes)
    found = summary(config, points, told, pool)
    durations = {"all": time.perf_counter() - started}
    found["manifest"] = make_manifest(config, durations=durations)
    write_json(out / "summary.json", found)
    draw_all(found, out)
    return found


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m experiments.scaling")
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--cache", type=Path, default=CACHE, help="trained models")
    parser.add_argument("--draw", type=Path, help="a summary.json to draw again")
    options = parser.parse_args(arguments)
    if options.draw:
        found = json.loads(options.draw.read_text())
        print(draw_all(found, options.out or options.draw.parent))
        return 0
    out = options.out or Path("runs") / "scaling" / options.preset
    print(table(run(PRESETS[options.preset], out, options.cache)))
    print(f"in {out}: predictions.json, summary.json, merges.jsonl and scaling.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
