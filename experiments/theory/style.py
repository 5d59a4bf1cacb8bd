"""How the figures look: one palette, one kind of axes."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart with any colour vision.
BLACK, GREY = "#000000", "#8c8c8c"
BLUE, GREEN, RED = "#0072B2", "#009E73", "#D55E00"
ORANGE, PINK, SKY = "#E69F00", "#CC79A7", "#56B4E9"
CYCLE = (BLUE, RED, GREEN, PINK, ORANGE, SKY, BLACK)


def make(columns: int, *, width: float = 5.2, height: float = 3.9) -> tuple:
    """A figure and its panels, side by side."""
    figure = Figure(figsize=(width * columns, height), layout="constrained")
    panels = figure.subplots(1, columns, squeeze=False)[0]
    for axes in panels:
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    return figure, panels


def label(axes: Axes, x: str, y: str, title: str) -> None:
    """Names of the axes, with units, and of the panel."""
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.set_title(title, fontsize=9.5, loc="left")


def bounds(
    axes: Axes, counts: Sequence[float], case: Mapping[str, Any], published: str
) -> None:
    """The bands of the published and of our bounds; `published` labels the first."""
    ours = "Bennett bounds (reconstruction)"
    bands = [("published", ORANGE, 0.18, published), ("bennett", SKY, 0.35, ours)]
    for name, color, alpha, text in bands:
        axes.fill_between(
            counts,
            case[f"{name}_lower"],
            case[f"{name}_upper"],
            color=color,
            alpha=alpha,
            linewidth=0,
            label=text,
        )


def points(
    axes: Axes,
    x: Sequence[float],
    frequencies: Sequence[Mapping[str, Any]],
    *,
    color: str = BLACK,
    label: str | None = None,
    marker: str = "o",
) -> None:
    """Measured frequencies, with bars of two standard errors."""
    axes.errorbar(
        x,
        [f["mean"] for f in frequencies],
        yerr=[2 * f["stderr"] for f in frequencies],
        fmt=marker,
        color=color,
        markersize=3.6,
        linewidth=1.0,
        capsize=2,
        label=label,
        zorder=4,
    )


def mark(
    axes: Axes, x: float, text: str, *, y: float = 0.5, before: bool = False
) -> None:
    """A vertical line with its name along it; y is a part of the axes' height."""
    axes.axvline(x, color="#444444", linewidth=0.9, linestyle=(0, (4, 2)), zorder=1)
    axes.annotate(
        text,
        (x, y),
        xycoords=("data", "axes fraction"),
        xytext=(-10 if before else 3, 0),
        textcoords="offset points",
        rotation=90,
        fontsize=7.5,
        va="center",
        color="#444444",
    )


def legend(axes: Axes, **kwargs: Any) -> None:
    """A legend without a frame, in small letters."""
    axes.legend(fontsize=7.5, frameon=False, **kwargs)
