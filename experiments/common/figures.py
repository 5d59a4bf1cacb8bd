"""What the questions' figures share: colors, axes, and marks of what leaves a panel."""

from collections.abc import Iterable
from typing import Any

from matplotlib import colormaps

# Without grey, which is for what all panels have.
COLORS = tuple(
    color
    for i, color in enumerate(colormaps["tab10"].colors)  # pyright: ignore[reportAttributeAccessIssue]
    if i != 7
)


def over_counts(axes: Any) -> None:
    """A panel over numbers of experts, by doublings."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axes.grid(alpha=0.25)


def retention_limits(values: Iterable[float]) -> tuple[float, float]:
    """From the least share of gains kept, or where it would flatten all others."""
    return max(-0.5, min(-0.05, *values)), 1.05


def mark_outside(axes: Any) -> None:
    """A triangle at the edge for every point of a curve that is beyond it.

    Call it when the limits are set.
    """
    low, high = axes.get_ylim()
    for line in list(axes.lines):
        if line.get_transform() != axes.transData:  # a line across the panel
            continue
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True):
            if low <= y <= high:
                continue
            axes.plot(
                x,
                0.97 if y > high else 0.03,
                marker="^" if y > high else "v",
                color=line.get_color(),
                markersize=4,
                transform=axes.get_xaxis_transform(),
            )
