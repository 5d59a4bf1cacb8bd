"""How many experts are worth merging: every T* before, and the measured curve after.

`python -m experiments.thresholds --preset cpu`; a rerun goes on where one stopped.
Predictions are written to `predictions.jsonl` before any set is merged.
"""

import sys
import time
from pathlib import Path
from typing import Any

from experiments.common.command import Command, save_figure, with_progress
from experiments.thresholds.config import PRESETS, Config
from experiments.thresholds.plot import draw
from experiments.thresholds.report import summary, table
from experiments.thresholds.sweep import curves, predictions


def draw_all(found: dict[str, Any], out: Path) -> list[Path]:
    """Writes the figure of a summary into a folder."""
    return [save_figure(draw(found), out / "thresholds.png")]


def compute(
    config: Config, out: Path, cache: Path
) -> tuple[dict[str, Any], dict[str, float]]:
    """All predictions, then all merges: their summary, and how long they took."""
    started = time.perf_counter()
    told = with_progress(predictions(config, out, cache), config, "predicting")
    predicted = time.perf_counter()
    merged = with_progress(curves(config, out, cache), config, "merging")
    found = summary(config, told, merged)
    return found, {
        "predictions": predicted - started,
        "merges": time.perf_counter() - predicted,
    }


main = Command(
    name="thresholds",
    presets=PRESETS,
    compute=compute,
    table=lambda config, found: table(found),
    draw_all=draw_all,
    files="predictions.jsonl, summary.json, merges.jsonl, thresholds.png",
    rows=predictions,
).main


if __name__ == "__main__":
    sys.exit(main())
