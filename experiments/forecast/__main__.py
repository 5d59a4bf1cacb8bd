"""Forecasts curves of toy families before any merge, then merges and compares.

`python -m experiments.forecast --preset cpu`; a rerun reuses finished families.
"""

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import matplotlib
from tqdm import tqdm

from experiments.common.command import save_figure
from experiments.common.manifest import make_manifest
from experiments.common.results import Results, write_json
from experiments.forecast.measure import measure
from experiments.forecast.plot import draw
from experiments.forecast.report import summary, text

# The band's factors come from the first families alone; the others test it.
_FIRST_TEST_SEED = 1000


@dataclasses.dataclass(frozen=True)
class Config:
    """How many families.

    Attributes:
      seed: unused by the families, which have their own.
      calibration: families whose errors make the band's factors.
      test: families that test it.
    """

    seed: int = 0
    calibration: int = 36
    test: int = 20


PRESETS = {"smoke": Config(calibration=0, test=1), "cpu": Config()}


def run(config: Config, out: Path) -> dict[str, Any]:
    """All families, their summary and figure, in a folder."""
    out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    results = Results(out / "families.jsonl")
    seeds = [
        *range(config.calibration),
        *range(_FIRST_TEST_SEED, _FIRST_TEST_SEED + config.test),
    ]
    rows = [
        results.get_or_compute({"seed": seed}, lambda seed=seed: measure(seed))
        for seed in tqdm(seeds, unit="family", leave=False)
    ]
    calibration, test = rows[: config.calibration], rows[config.calibration :]
    found = summary(calibration, test)
    durations = {"all": time.perf_counter() - started}
    found["manifest"] = make_manifest(config, durations=durations)
    write_json(out / "summary.json", found)
    matplotlib.use("agg")
    save_figure(draw(test), out / "figure.png", 110)
    return found


def redraw(rows: Path, path: Path) -> None:
    """The figure of finished families, as they stand in `families.jsonl`."""
    found = [json.loads(line)["row"] for line in rows.read_text().splitlines()]
    test = [row for row in found if row["seed"] >= _FIRST_TEST_SEED]
    save_figure(draw(test), path, 110)


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m experiments.forecast")
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    out = options.out or Path("runs") / "forecast" / options.preset
    print(text(run(PRESETS[options.preset], out)))
    print(f"in {out}: figure.png, summary.json, families.jsonl")
    return 0


if __name__ == "__main__":
    sys.exit(main())
