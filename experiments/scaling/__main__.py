"""The scaling law: joint fits, forecasts made before, and rivals.

`python -m experiments.scaling --preset cpu`; a rerun goes on where one stopped.
Forecasts are written to `predictions.json` before anything that they are about is
merged, and are not written again.
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.common.command import Command, save_figure
from experiments.common.results import fingerprint, write_json
from experiments.scaling.config import PRESETS, Config
from experiments.scaling.plot import draw
from experiments.scaling.predict import forecast
from experiments.scaling.report import summary, table
from experiments.scaling.sweep import (
    Size,
    load_sizes,
    points_of,
    references_of,
    run_sweep,
)


def predictions(config: Config, sizes: Sequence[Size], out: Path) -> dict[str, Any]:
    """The forecasts: those in the file if they are of these models, else new ones."""
    path = out / "predictions.json"
    rows = run_sweep(config, sizes, out, seen=True)
    made_from = fingerprint(
        [[size.pool.identity for size in sizes], config.seen, config.methods]
    )
    if path.exists():
        told = json.loads(path.read_text())
        if told["made_from"] == made_from:
            return told
    pool = sizes[0].pool.size
    told: dict[str, Any] = {
        name: forecast(points_of(sizes, rows, name), sizes[-1].parameters, pool)
        for name in config.methods
    }
    told["made_from"] = made_from
    write_json(path, told)
    return told


def draw_all(found: dict[str, Any], out: Path) -> list[Path]:
    """Writes the figure of a summary into a folder."""
    return [save_figure(draw(found), out / "scaling.png")]


def compute(
    config: Config, out: Path, cache: Path
) -> tuple[dict[str, Any], dict[str, float]]:
    """Forecasts, then all merges: their summary, and how long it took."""
    started = time.perf_counter()
    sizes = load_sizes(config, cache)
    told = predictions(config, sizes, out)
    rows = run_sweep(config, sizes, out, seen=False)
    points = {name: points_of(sizes, rows, name) for name in config.methods}
    found = summary(config, points, told, sizes[0].pool.tasks)
    found["references"] = references_of(sizes, out)
    return found, {"all": time.perf_counter() - started}


main = Command(
    name="scaling",
    presets=PRESETS,
    compute=compute,
    table=lambda config, found: table(found),
    draw_all=draw_all,
    files="predictions.json, summary.json, merges.jsonl and scaling.png",
    by_family=False,
).main


if __name__ == "__main__":
    sys.exit(main())
