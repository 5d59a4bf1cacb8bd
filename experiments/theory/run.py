"""Runs the validations of the theory and draws their figures.

`python -m experiments.theory.run --only v1 v2 --preset cpu`
"""

import argparse
import json
import sys
import time
from pathlib import Path
from types import ModuleType

import matplotlib
from tqdm import tqdm

from experiments.common.manifest import make_manifest
from experiments.common.results import write_json
from experiments.theory import (
    circular_cones,
    half_spaces,
    heavy_tails,
    merging,
    orthants,
    sparse_recovery,
    subspaces,
    wells,
)
from experiments.theory.config import PRESETS, Config

PARTS: dict[str, ModuleType] = {
    "v1": circular_cones,
    "v2": orthants,
    "v3": half_spaces,
    "v4": subspaces,
    "v5": wells,
    "v6": sparse_recovery,
    "v7": merging,
    "v7-tails": heavy_tails,
}


def _save(part: ModuleType, results: dict, figures: Path) -> Path:
    matplotlib.use("agg")
    path = figures / f"{part.NAME}.png"
    part.draw(results).savefig(path, dpi=110, metadata={"Software": None})
    return path


def run(name: str, config: Config, out: Path, figures: Path) -> dict:
    """One validation: its numbers to `out`, its figure to `figures`."""
    part = PARTS[name]
    started = time.perf_counter()
    results = {"question": part.QUESTION, **part.compute(config)}
    durations = {"computing": time.perf_counter() - started}
    results["manifest"] = make_manifest(config, durations=durations)
    out.mkdir(parents=True, exist_ok=True)
    figures.mkdir(parents=True, exist_ok=True)
    path = out / f"{part.NAME}.json"
    write_json(path, results)
    results = json.loads(path.read_text())
    _save(part, results, figures)
    return results


def report(name: str, results: dict) -> str:
    """The claims of a validation and whether they held."""
    seconds = results["manifest"]["seconds"]["computing"]
    lines = [f"{name}: {results['question']} ({seconds:.0f} s)"]
    for entry in results["claims"]:
        verdict = "ok  " if entry["holds"] else "FAIL"
        number = f"{entry['value']:.3g} (at most {entry['limit']:.3g})"
        lines.append(f"  {verdict} {entry['claim']} {number}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """The command line; 1 if a claim does not hold."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.theory.run",
        description="Holds the theory against Monte Carlo: V1 to V7, with figures.",
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument(
        "--out", type=Path, help="for the numbers (default: runs/theory/PRESET)"
    )
    parser.add_argument("--figures", type=Path, help="(default: beside the numbers)")
    parser.add_argument(
        "--redraw", action="store_true", help="draw again from the numbers in --out"
    )
    options = parser.parse_args(arguments)
    out = options.out or Path("runs") / "theory" / options.preset
    figures = options.figures or out
    held = True
    for name in tqdm(options.only, unit="validation", leave=False):
        if options.redraw:
            path = out / f"{PARTS[name].NAME}.json"
            tqdm.write(str(_save(PARTS[name], json.loads(path.read_text()), figures)))
            continue
        results = run(name, PRESETS[options.preset], out, figures)
        tqdm.write(report(name, results))
        held = held and all(entry["holds"] for entry in results["claims"])
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
