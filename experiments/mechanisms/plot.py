"""Mechanisms over k above, methods' leads over k below; a column for each family.

Leads are in two rows, of those that work on spectra and of the others, so that every
curve has a color of its own.
"""

from typing import Any

from matplotlib.figure import Figure

from experiments.common.figures import COLORS, mark_outside, over_counts
from experiments.common.methods import METHODS, Method
from experiments.mechanisms.config import MECHANISMS


def draw(found: dict[str, Any]) -> Figure:
    """Draws a summary, as read from its file."""
    families = found["families"]
    figure = Figure(figsize=(2.9 * len(families) + 1.9, 8), layout="constrained")
    grid = figure.subplots(3, len(families), squeeze=False, sharex="col")
    spectral = [m for m in METHODS if m.family == "spectral"]
    others = [m for m in METHODS if m.family != "spectral"]
    for j, (name, family) in enumerate(families.items()):
        _mechanisms(grid[0, j], family)
        _leads(grid[1, j], family, spectral)
        _leads(grid[2, j], family, others)
        grid[0, j].set_title(f"{name}\n{family['label']}", fontsize=9)
        grid[-1, j].set_xlabel("experts merged, k")
    grid[0, 0].set_ylabel("distance from neutral:\nlog ratio (conflict: share)")
    for axes, kind in zip(grid[1:, 0], ("spectral", "others"), strict=True):
        axes.set_ylabel(f"{kind}: gains kept, points\nahead of the tuned average")
    for row in grid:
        row[-1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1.02, 0.5))
    return figure


def _lines(axes: Any, curve: dict[str, Any], factor: float, **style: Any) -> None:
    counts = sorted(curve, key=int)
    values = [[factor * x for x in curve[k]] for k in counts]
    middle, lower, upper = zip(*values, strict=True)
    ks = [int(k) for k in counts]
    (line,) = axes.plot(ks, middle, marker="o", markersize=3, lw=1.3, **style)
    axes.fill_between(ks, lower, upper, color=line.get_color(), alpha=0.1, lw=0)


def _mechanisms(axes: Any, family: dict[str, Any]) -> None:
    for c, name in enumerate(MECHANISMS):
        if family["mechanisms"][name]:
            _lines(axes, family["mechanisms"][name], 1.0, color=f"C{c}", label=name)
    axes.axhline(0, color="black", lw=0.8)
    over_counts(axes)


def _leads(axes: Any, family: dict[str, Any], methods: list[Method]) -> None:
    there = [m for m in methods if m.name in family["lead"]]
    for c, method in enumerate(there):
        style = {"color": COLORS[c], "label": method.label}
        _lines(axes, family["lead"][method.name], 100, **style)
    axes.axhline(0, color="black", lw=0.8)
    # One method that diverges must not flatten all others.
    axes.set_ylim(bottom=max(axes.get_ylim()[0], -60))
    mark_outside(axes)
    over_counts(axes)
