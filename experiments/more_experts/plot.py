"""The figure, drawn from results.json alone.

`python -m experiments.more_experts.plot RESULTS.json`
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart with any colour vision. What the question turns on
# is drawn bold and coloured; the rest thin and grey, named at its end.
_BOLD = {
    "average": ("#000000", "-"),
    "task_arithmetic": ("#0072B2", "-"),
    "ties": ("#009E73", "-"),
    "isotropic": ("#CC79A7", "-"),
    "rht": ("#D55E00", "-"),
    "rht_control": ("#D55E00", "--"),
    "emr": ("#E69F00", "-"),
}
_THIN = ("#8c8c8c", "-")
_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 2)))
_TITLES = {
    "published": "published scale",
    "tuned": "scale tuned on validation samples",
}


def _style(name: str, thin: Sequence[str]) -> dict[str, Any]:
    if name in _BOLD:
        colour, dash = _BOLD[name]
        return {"color": colour, "linestyle": dash, "linewidth": 1.9, "zorder": 3}
    dash = _DASHES[thin.index(name) % len(_DASHES)]
    return {"color": _THIN[0], "linestyle": dash, "linewidth": 1.0, "zorder": 2}


def _spaced(heights: Sequence[float], gap: float) -> list[float]:
    """Heights moved apart until neighbours are `gap` from each other, centred."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    groups = [[i] for i in order]

    def middle(group: list[int]) -> float:
        return sum(heights[i] for i in group) / len(group)

    merged = True
    while merged:
        merged = False
        for a in range(len(groups) - 1):
            low, high = groups[a], groups[a + 1]
            room = gap * (len(low) + len(high)) / 2
            if middle(high) - middle(low) < room - 1e-12:
                groups[a : a + 2] = [low + high]
                merged = True
                break
    placed = list(heights)
    for group in groups:
        for position, i in enumerate(group):
            placed[i] = middle(group) + gap * (position - (len(group) - 1) / 2)
    return placed


def _name_ends(
    axes: Axes, ends: list[tuple[str, float, float, dict[str, Any]]]
) -> None:
    """Writes each line's name at its right end, with a hair line to where it ends."""
    low, high = axes.get_ylim()
    left, last = axes.get_xlim()
    step = (last - left) / 40
    places = _spaced([y for _, _, y, _ in ends], gap=(high - low) * 0.037)
    for (label, x, y, style), place in zip(ends, places, strict=True):
        bold = style["linewidth"] > 1
        axes.plot(
            [x, last + step, last + 2 * step],
            [y, place, place],
            color=style["color"],
            linestyle=style["linestyle"],
            linewidth=0.5,
            clip_on=False,
        )
        axes.text(
            last + 2.4 * step,
            place,
            label,
            color=style["color"] if bold else "#555555",
            fontsize=7,
            va="center",
            weight="bold" if bold else "normal",
            clip_on=False,
        )


def _panel(axes: Axes, results: Mapping[str, Any], column: str, measure: str) -> None:
    """One measure of every recipe against k."""
    thin = [c["recipe"] for c in results["curves"] if c["recipe"] not in _BOLD]
    ends = []
    for curve in results["curves"]:
        points = [p for p in curve.get(column, ()) if measure in p]
        if not points:
            continue
        counts = [p["k"] for p in points]
        mean, low, high = (
            [100 * p[measure][part] for p in points] for part in ("mean", "low", "high")
        )
        style = _style(curve["recipe"], thin)
        marker = "D" if len(points) == 1 else None
        axes.plot(counts, mean, marker=marker, markersize=5, **style)
        if curve["recipe"] in _BOLD:
            axes.fill_between(
                counts, low, high, color=style["color"], alpha=0.10, linewidth=0
            )
        if len(points) > 1:
            ends.append((curve["label"], counts[-1], mean[-1], style))
        else:
            axes.annotate(
                curve["label"],
                (counts[0], mean[0]),
                xytext=(4, 5),
                textcoords="offset points",
                fontsize=7,
                color="#555555",
            )
    for name, reference in results["references"].items():
        if measure not in reference:
            continue
        height = 100 * reference[measure]
        axes.axhline(height, color="#333333", linewidth=0.8, linestyle=(0, (1, 3)))
        axes.annotate(
            name,
            (1, height),
            xytext=(0, -9 if name == "base" else 2),
            textcoords="offset points",
            fontsize=7,
            style="italic",
            color="#333333",
        )
    axes.set_xlabel("number of experts merged, k")
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if ends:
        _name_ends(axes, ends)


def plot_results(results: Mapping[str, Any], path: Path) -> None:
    """Draws accuracy (left) and retention (right), published (top) and tuned scale.

    Args:
      results: what results.json holds.
      path: the image to write.
    """
    matplotlib.use("agg")
    figure = Figure(figsize=(13.5, 9.6))
    grid = figure.subplots(2, 2, sharex=True, sharey="col")
    counts = [p["k"] for c in results["curves"] for p in c["published"]]
    tasks = len(results["tasks"])
    left = f"Accuracy over all {tasks} tasks, %"
    right = "Retention of the merged experts, %"
    for row, (column, title) in zip(grid, _TITLES.items(), strict=True):
        for axes, measure, label in zip(
            row, ("accuracy", "retention"), (left, right), strict=True
        ):
            axes.set_xlim(0.8, max(counts) + 0.1)
            axes.set_xticks(range(1, max(counts) + 1))
            axes.set_ylim(0, 104)
            axes.tick_params(labelbottom=True)
            axes.set_title(f"{label} – {title}", fontsize=10, loc="left")
            _panel(axes, results, column, measure)
    sets = max(
        (p["sets"] for c in results["curves"] for p in c["published"] if p["k"] > 1),
        default=1,
    )
    caption = (
        f"Experts on {tasks} tasks made from scikit-learn's digits, merged by each "
        f"recipe. Lines: means over the sets of k experts ({tasks} for k = 1, one for "
        f"k = {tasks}, else {sets}, the same for all recipes); bands: lowest to "
        "highest.\n"
        "Retention: merged accuracy over the expert's own, on the expert's own task. "
        "Dotted: the base, the best single expert, and one model trained on all tasks "
        "at once.\n"
        "EMR makes one model per task and must be told which task an input is from, so "
        "it has no accuracy over all tasks and no scale. RHT's scalar control has "
        "RHT's norm, without its shape."
    )
    figure.text(0.035, 0.012, caption, fontsize=8, va="bottom", color="#333333")
    figure.subplots_adjust(
        left=0.035, right=0.885, top=0.97, bottom=0.125, wspace=0.37, hspace=0.22
    )
    figure.savefig(path, dpi=110, metadata={"Software": None})


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Draws the figure of a results.json.")
    parser.add_argument("results", type=Path)
    parser.add_argument("--out", type=Path, help="default: figure.png beside it")
    options = parser.parse_args()
    out = options.out or options.results.with_name("figure.png")
    plot_results(json.loads(options.results.read_text()), out)
    print(out)


if __name__ == "__main__":
    main()
