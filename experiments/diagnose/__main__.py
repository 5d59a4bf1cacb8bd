"""Scores the advice of `jaxmerge diagnose` on merges whose outcome is measured.

`python -m experiments.diagnose --preset full`; a rerun reuses finished work.
"""

import argparse
import sys
import time
from pathlib import Path

from tqdm import tqdm

from experiments.common.manifest import make_manifest
from experiments.common.results import write_json
from experiments.diagnose.config import PRESETS, Scoring
from experiments.diagnose.report import table
from experiments.diagnose.score import make_record
from experiments.diagnose.sweep import run_sweep, sets_of


def run(config: Scoring, out: Path) -> dict:
    """The whole experiment; returns the record."""
    out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    rows = []
    total = sum(len(sets_of(pool)) for pool in config.pools)
    with tqdm(total=total, unit="set", leave=False) as bar:
        for row in run_sweep(config, out):
            bar.update()
            rows.append(row)
    record = make_record(rows, config.seed, config.resamples)
    write_json(out / "record.json", record)
    seconds = {"everything": time.perf_counter() - started}
    write_json(
        out / "results.json",
        {
            "record": record,
            "rows": rows,
            "manifest": make_manifest(config, durations=seconds),
        },
    )
    text = table(record)
    (out / "table.txt").write_text(text + "\n")
    print(text)
    return record


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.diagnose",
        description="Is the advice of `jaxmerge diagnose` any good?",
    )
    parser.add_argument("--preset", choices=PRESETS, default="full")
    parser.add_argument(
        "--out", type=Path, help="where to work (default: runs/diagnose/PRESET)"
    )
    parser.add_argument(
        "--install",
        action="store_true",
        help="write the record into the package, where every report reads it",
    )
    options = parser.parse_args(arguments)
    out = options.out or Path("runs") / "diagnose" / options.preset
    record = run(PRESETS[options.preset], out)
    if options.install:
        target = Path(__file__).parents[2] / "jaxmerge" / "diagnose" / "record.json"
        write_json(target, record)
        print(f"written to {target.name} of jaxmerge.diagnose")
    return 0


if __name__ == "__main__":
    sys.exit(main())
