"""How loss and retention move with the number of experts, for each kind of method.

`python -m experiments.saturation --preset cpu`; a rerun goes on where one stopped.
`--draw SUMMARY.json` only draws the figures of a finished run again.
"""

import sys
import time
from pathlib import Path
from typing import Any

from experiments.common.command import Command, save_figure, with_progress
from experiments.saturation.config import PRESETS, Config
from experiments.saturation.plot import draw, draw_population
from experiments.saturation.population import measure_population
from experiments.saturation.report import summary, table
from experiments.saturation.sweep import run_sweep

_FIGURES = tuple(
    (functional, column)
    for functional in ("pooled_loss", "retention")
    for column in ("published", "tuned")
)
_DPI = 80  # many panels


def draw_all(found: dict[str, Any], out: Path) -> list[Path]:
    """Writes every figure of a summary into a folder."""
    paths = []
    for functional, column in _FIGURES:
        figure = draw(found, functional, column)
        path = out / f"{functional}_{column}.png"
        paths.append(save_figure(figure, path, _DPI))
    if found["population"]:
        sets = sum(point["sets"] for point in found["population"][0]["curve"])
        figure = draw_population(found["population"], f"all {sets:,} sets of experts")
        paths.append(save_figure(figure, out / "population.png", _DPI))
    return paths


def compute(
    config: Config, out: Path, cache: Path
) -> tuple[dict[str, Any], dict[str, float]]:
    """All merges: their summary, and how long they took."""
    started = time.perf_counter()
    pools = with_progress(run_sweep(config, out, cache), config)
    swept = time.perf_counter()
    population = measure_population(config, out, cache)
    found = summary(config, pools, population)
    return found, {
        "sweep": swept - started,
        "population": time.perf_counter() - swept,
    }


main = Command(
    name="saturation",
    presets=PRESETS,
    compute=compute,
    table=table,
    draw_all=draw_all,
    files="summary.json, merges.jsonl and the figures",
    rows=run_sweep,
).main


if __name__ == "__main__":
    sys.exit(main())
