"""`python -m benchmarks.run`: in-memory and streamed throughput against copy bandwidth.

    python -m benchmarks.run                       # the cpu preset, some minutes
    python -m benchmarks.run --preset smoke        # seconds: does everything run?
    python -m benchmarks.run --only streamed ties  # one part, one recipe

Writes `results.jsonl` (a manifest, then one line a measurement) and `results.png`.
"""

import argparse
from pathlib import Path

from benchmarks import floor, in_memory, plot, selection, streamed, subsets, widths
from benchmarks.common import PRESETS, Results, manifest

PARTS = ("in_memory", "selection", "widths", "subsets", "streamed")


def run(preset_name: str, parts: list[str], out: Path, checkpoints: Path) -> Path:
    """Runs parts of a preset; the file with their results."""
    preset = PRESETS[preset_name]
    recipe = next((name for name in parts if name not in PARTS), None)
    chosen = [name for name in parts if name in PARTS] or list(PARTS)
    results = Results(out / "results.jsonl")
    results.add(manifest(preset))
    best = 0.0
    for record in floor.memory(preset):
        best = max(best, record["gb_per_s"])
        results.add(record)
    if "in_memory" in chosen:
        for record in in_memory.run(preset, best, recipe):
            results.add(record)
    if "selection" in chosen:
        for record in selection.run(preset):
            results.add(record)
    if "widths" in chosen:
        for record in widths.run(preset):
            results.add(record)
    if "subsets" in chosen:
        for record in subsets.run(preset):
            results.add(record)
    if "streamed" in chosen:
        for record in streamed.run(preset, checkpoints / preset.name, recipe):
            results.add(record)
    plot.draw(results.path, out / "results.png")
    return results.path


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Throughput of the recipes against copy bandwidth."
    )
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="NAME",
        help=f"parts ({', '.join(PARTS)}), and at most one recipe",
    )
    parser.add_argument("--out", type=Path, help="default: runs/benchmarks/PRESET")
    parser.add_argument(
        "--checkpoints",
        type=Path,
        default=Path("runs/benchmarks/checkpoints"),
        help="where the generated checkpoints are kept (cpu: 2.5 GB)",
    )
    arguments = parser.parse_args()
    out = arguments.out or Path("runs/benchmarks") / arguments.preset
    run(arguments.preset, arguments.only, out, arguments.checkpoints)


if __name__ == "__main__":
    main()
