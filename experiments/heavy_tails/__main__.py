"""When heavier tails help: RHT over density and divisor, against what it is like.

`python -m experiments.heavy_tails --preset cpu`; a rerun goes on where one stopped.
"""

import sys
import time
from pathlib import Path
from typing import Any

from experiments.common.command import Command, save_figure, with_progress
from experiments.heavy_tails.config import PRESETS, Config
from experiments.heavy_tails.plot import draw
from experiments.heavy_tails.report import summary, table
from experiments.heavy_tails.sweep import run_sweep


def draw_all(found: dict[str, Any], out: Path) -> list[Path]:
    """Writes the figure of a summary into a folder."""
    return [save_figure(draw(found), out / "heavy_tails.png")]


def compute(
    config: Config, out: Path, cache: Path
) -> tuple[dict[str, Any], dict[str, float]]:
    """All merges: their summary, and how long it took."""
    started = time.perf_counter()
    found = summary(config, with_progress(run_sweep(config, out, cache), config))
    return found, {"all": time.perf_counter() - started}


main = Command(
    name="heavy_tails",
    presets=PRESETS,
    compute=compute,
    table=lambda config, found: table(found),
    draw_all=draw_all,
    files="summary.json, merges.jsonl and heavy_tails.png",
    rows=run_sweep,
).main


if __name__ == "__main__":
    sys.exit(main())
