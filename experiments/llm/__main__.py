"""Trains pools of language models, or merges real ones.

`python -m experiments.llm --preset cpu` trains and keeps the pools of a preset.
"""

import argparse
import sys
import time
from pathlib import Path

from experiments.common.results import write_json
from experiments.llm.config import PRESETS
from experiments.llm.pool import CACHE, TooFewExpertsError, load_pool
from experiments.llm.report import costs, training_table


def train(preset: str, cache: Path, out: Path | None) -> int:
    """All pools of a preset; a rerun reads what is finished."""
    records = []
    for config in PRESETS[preset]:
        started = time.perf_counter()
        stage = lambda what, started=started: print(
            f"[{time.perf_counter() - started:6.0f} s] {what}", flush=True
        )
        try:
            pool, record = load_pool(config, cache, stage)
        except TooFewExpertsError as error:
            print(error, file=sys.stderr)
            return 1
        print(f"\n{pool.name}: {costs(record)}\n\n{training_table(record)}\n")
        records.append({"name": pool.name, **record})
        if out is not None:
            write_json(out, records)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.llm",
        description="Language models that are merged: trained here, or your own.",
    )
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--record", type=Path, help="where to write a JSON record")
    options = parser.parse_args(arguments)
    return train(options.preset, options.cache, options.record)


if __name__ == "__main__":
    sys.exit(main())
