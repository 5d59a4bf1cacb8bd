"""One figure from a results file: ratios to the machine's limits, times, and memory."""

import argparse
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks.common import read

_COLOURS = {3: "#4c72b0", 8: "#dd8452", 16: "#55a868", 2: "#8172b3"}


def _grouped(axes: Axes, records: list[dict[str, Any]], value: str) -> None:
    """Horizontal bars, one group a recipe and one bar a number of experts."""
    names = list(dict.fromkeys(r["name"] for r in records))[::-1]
    groups = {n: [r for r in records if r["name"] == n] for n in names}
    for row, name in enumerate(names):
        height = 0.8 / len(groups[name])
        for i, record in enumerate(reversed(groups[name])):
            y = row - 0.4 + height * (i + 0.5)
            label = f"{record['experts']} experts"
            colour = _COLOURS.get(record["experts"], "grey")
            axes.barh(y, record[value], height * 0.9, color=colour, label=label)
            axes.text(record[value], y, f" {record[value]:.3g}", va="center", size=7)
    axes.set_yticks(range(len(names)), names)
    axes.margins(x=0.12)
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(
        sorted(zip(labels, handles, strict=True), key=lambda x: int(x[0].split()[0]))
    )
    axes.legend(unique.values(), unique.keys(), fontsize=8)


def _in_memory(axes: Axes, records: list[dict[str, Any]]) -> None:
    shown = [r for r in records if r["dtype"] == "bfloat16"]
    _grouped(axes, shown, "of_copy")
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_title("In memory, bfloat16: share of copy bandwidth")


def _streamed(axes: Axes, records: list[dict[str, Any]]) -> None:
    _grouped(axes, records, "steady_seconds")
    axes.set_title(
        f"Streamed, {records[0]['parameters'] / 1e6:.0f}M parameters, bfloat16: seconds"
    )


def _memory(axes: Axes, records: list[dict[str, Any]]) -> None:
    _grouped(axes, records, "peak_mib")
    axes.set_title("Streamed: peak resident memory, MiB")


def _selection(axes: Axes, records: list[dict[str, Any]]) -> None:
    largest = max(r["elements"] for r in records)
    shown = [r for r in records if r["elements"] == largest][::-1]
    axes.barh([r["name"] for r in shown], [r["ns_per_element"] for r in shown])
    for row, record in enumerate(shown):
        text = f" {record['ns_per_element']:.3g}"
        axes.text(record["ns_per_element"], row, text, va="center", size=8)
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.set_title(f"k-th largest of {largest / 1e6:.3g}M float32: ns per element")


def draw(results: Path, out: Path) -> None:
    """Draws what a results file has."""
    records = list(read(results))
    manifest = records[0]
    by_kind = lambda kind: [r for r in records if r["kind"] == kind]
    panels = [
        (_in_memory, by_kind("in_memory")),
        (_streamed, by_kind("streamed")),
        (_selection, by_kind("selection")),
        (_memory, by_kind("streamed")),
    ]
    panels = [(panel, rows) for panel, rows in panels if rows]
    columns = min(2, max(1, len(panels)))
    rows = -(-len(panels) // columns) or 1
    figure, grid = plt.subplots(
        rows, columns, figsize=(7 * columns, 4.5 * rows), squeeze=False
    )
    for axes in grid.flat:
        axes.set_visible(False)
    for axes, (panel, shown) in zip(grid.flat, panels, strict=False):
        axes.set_visible(True)
        panel(axes, shown)
    figure.suptitle(f"{manifest['hardware']}; jax {manifest['versions']['jax']}")
    figure.tight_layout()
    figure.savefig(out, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draws a results file.")
    parser.add_argument("results", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    draw(arguments.results, arguments.out)


if __name__ == "__main__":
    main()
