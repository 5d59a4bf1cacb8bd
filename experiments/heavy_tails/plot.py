"""Retention over density, for RHT, its controls and its rivals."""

from typing import Any

from matplotlib.figure import Figure

from experiments.common.figures import mark_outside, over_counts
from experiments.heavy_tails.config import KINDS


def draw(found: dict[str, Any]) -> Figure:
    """Above: retention over density at the most experts. Below: RHT's lead over k.

    Args:
      found: the summary, as read from its file.
    """
    families = found["families"]
    figure = Figure(figsize=(2.9 * len(families) + 1.8, 5.4), layout="constrained")
    grid = figure.subplots(2, len(families), squeeze=False)
    for j, (name, family) in enumerate(families.items()):
        _over_density(grid[0, j], family)
        _lead(grid[1, j], family)
        grid[0, j].set_title(
            f"{name}\nexcess kurtosis {family['kurtosis']:.1f}", fontsize=9
        )
    grid[0, 0].set_ylabel("share of gains kept,\nscale tuned")
    grid[1, 0].set_ylabel("RHT's lead, points,\nall tuned alike")
    for row in grid:
        row[-1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1.02, 0.5))
    return figure


def _over_density(axes: Any, family: dict[str, Any]) -> None:
    last = max(family["tuned"]["average"], key=int)
    for c, (kind, label) in enumerate(KINDS.items()):
        curves = family["by_density"][kind]
        densities = [float(d) for d in curves]
        middle, lower, upper = zip(
            *(curve[last] for curve in curves.values()), strict=True
        )
        axes.plot(
            densities, middle, marker="o", markersize=3, color=f"C{c}", label=label
        )
        axes.fill_between(densities, lower, upper, color=f"C{c}", alpha=0.12, lw=0)
    average = family["tuned"]["average"][last]
    axes.axhline(average[0], color="0.5", ls="--", lw=1, label="average")
    # What keeps less than nothing would hide the differences of all others.
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -0.05), high + 0.04 * (high - max(low, -0.05)))
    mark_outside(axes)
    axes.set_xlabel(f"density, at k = {last}")
    axes.grid(alpha=0.25)


def _lead(axes: Any, family: dict[str, Any]) -> None:
    for rival, ahead in family["ahead"].items():
        color = f"C{list(KINDS).index(rival)}" if rival in KINDS else "0.5"
        counts = sorted(ahead, key=int)
        middle, lower, upper = (
            [100 * x for x in xs]
            for xs in zip(*(ahead[k] for k in counts), strict=True)
        )
        ks = [int(k) for k in counts]
        label = f"over {KINDS.get(rival, rival)}"
        axes.plot(ks, middle, marker="o", markersize=3, color=color, label=label)
        axes.fill_between(ks, lower, upper, color=color, alpha=0.12, lw=0)
    axes.axhline(0, color="black", lw=0.8)
    over_counts(axes)
    axes.set_xlabel("experts merged, k")
