"""How many experts are worth merging: every T* before, and the measured curve after.

`python -m experiments.thresholds --preset cpu`; a rerun goes on where one stopped.
Predictions are written to `predictions.jsonl` before any set is merged.
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
from experiments.thresholds.config import PRESETS, Config
from experiments.thresholds.plot import draw
from experiments.thresholds.report import summary, table
from experiments.thresholds.sweep import curves, predictions


def draw_all(found: dict[str, Any], out: Path) -> Path:
    """Writes the figure of a summary into a folder."""
    matplotlib.use("agg")
    path = out / "thresholds.png"
    draw(found).savefig(path, dpi=90, metadata={"Software": None})
    return path


def run(config: Config, out: Path, cache: Path) -> dict[str, Any]:
    """All predictions, then all merges, the summary and figure, in a folder."""
    out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    total = sum(seeds for _, seeds in config.families)
    bar = lambda rows, what: list(tqdm(rows, what, total, leave=False))
    told = bar(predictions(config, out, cache), "predicting")
    predicted = time.perf_counter()
    found = summary(config, told, bar(curves(config, out, cache), "merging"))
    durations = {
        "predictions": predicted - started,
        "merges": time.perf_counter() - predicted,
    }
    found["manifest"] = make_manifest(config, durations=durations)
    write_json(out / "summary.json", found)
    draw_all(found, out)
    return found


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m experiments.thresholds")
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
    out = options.out or Path("runs") / "thresholds" / options.preset
    config = with_families(parser, PRESETS[options.preset], options.family)
    print(table(run(config, out, options.cache)))
    print(f"in {out}: predictions.jsonl, summary.json, merges.jsonl, thresholds.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
