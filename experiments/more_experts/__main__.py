"""Trains ten experts, merges ever more of them by every recipe, and shows what is kept.

`python -m experiments.more_experts --preset quick`; a rerun reuses finished work.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from tqdm import tqdm

from experiments.common.manifest import make_manifest
from experiments.common.results import write_json
from experiments.more_experts.config import PRESETS, Config
from experiments.more_experts.plot import plot_results
from experiments.more_experts.report import merge_table, summarise
from experiments.more_experts.sweep import make_plan, run_sweep
from experiments.more_experts.train import (
    STAGES,
    Trained,
    WeakExpertsError,
    check_gains,
    train_or_load,
    training_table,
)


def _train(config: Config, out: Path) -> Trained:
    with tqdm(total=STAGES, unit="stage", leave=False) as bar:

        def stage(what: str) -> None:
            bar.set_description(what)
            bar.update()

        return train_or_load(config, out, stage)


def _sweep(config: Config, trained: Trained, out: Path) -> list[dict]:
    rows = []
    with tqdm(total=len(make_plan(config)), unit="merge", leave=False) as bar:
        for row in run_sweep(config, trained, out):
            bar.set_description(f"merging {len(row['experts'])} experts")
            bar.update()
            rows.append(row)
    return rows


def run(config: Config, out: Path) -> Path:
    """The whole experiment; returns where results.json is.

    Raises:
      WeakExpertsError: if an expert gains too little over the base.
    """
    out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    trained = _train(config, out)
    trained_at = time.perf_counter()
    table = training_table(trained)
    print(f"Accuracy on each task's own test samples:\n\n{table}\n")
    check_gains(trained, config.required_gain)
    print(
        f"Every expert is at least {config.required_gain:g} points above the base "
        "on its own task.\n"
    )
    results = summarise(_sweep(config, trained, out), trained)
    durations = {
        "training": trained_at - started,
        "merging and evaluation": time.perf_counter() - trained_at,
    }
    results["manifest"] = make_manifest(config, durations=durations)
    write_json(out / "results.json", results)
    tables = [merge_table(results, name) for name in ("retention", "accuracy")]
    text = "\n\n".join([table, *tables]) + "\n"
    (out / "table.txt").write_text(text)
    plot_results(json.loads((out / "results.json").read_text()), out / "figure.png")
    print("\n\n".join(tables) + "\n")
    seconds = time.perf_counter() - started
    print(f"Done in {seconds:.0f} s; a rerun reuses what is finished. In {out}:")
    print("  figure.png     accuracy and retention against the number of experts")
    print("  table.txt      the tables above")
    print("  results.json   all numbers, and the manifest of this run")
    print("  merges.jsonl   one line for each merge, as it finished")
    print(
        "  models/        the base, the experts and the multitask model (safetensors)"
    )
    return out / "results.json"


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.more_experts",
        description="When do more experts stop paying? Ten experts on digits, merged.",
    )
    parser.add_argument("--preset", choices=PRESETS, default="quick")
    parser.add_argument(
        "--out", type=Path, help="where to work (default: runs/more_experts/PRESET)"
    )
    options = parser.parse_args(arguments)
    out = options.out or Path("runs") / "more_experts" / options.preset
    try:
        run(PRESETS[options.preset], out)
    except WeakExpertsError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
