"""The figure: forecasts with their bands, and the curves that were measured after."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxmerge.laws.foresight import QUANTILES, scale_of_error

_BLUE, _RED, _GREY = "#0072B2", "#D55E00", "#8c8c8c"


def _panel(axes: Axes, row: Mapping[str, Any]) -> None:
    k = np.asarray(row["k"])
    third, second = np.asarray(row["forecast"]), np.asarray(row["second_order"])
    half = QUANTILES[0.9] * scale_of_error(third, second)
    axes.fill_between(k, third - half, third + half, color=_BLUE, alpha=0.2, lw=0)
    axes.plot(k, third, color=_BLUE, lw=1.4, label="forecast, 90 % band")
    axes.plot(
        k, row["taylor_at_base"], color=_GREY, lw=1, ls="--", label="Taylor at the base"
    )
    axes.plot(k, row["measured"], "o", color=_RED, ms=3.5, label="measured after")
    measured = np.asarray(row["measured"])
    drop = measured[0] - measured.min()
    axes.set_ylim(measured.min() - 0.35 * drop, measured[0] + 0.35 * drop)
    axes.set_title(f"{row['kind']}, {len(k)} experts", fontsize=8, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=7)
    axes.set_xticks(k[:: 2 if len(k) > 6 else 1])


def draw(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """A panel for each family."""
    columns = 5
    lines = -(-len(rows) // columns)
    figure = Figure(figsize=(2.5 * columns, 1.9 * lines + 0.5), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).reshape(-1)
    for axes, row in zip(panels, rows, strict=False):
        _panel(axes, row)
    for axes in panels[len(rows) :]:
        axes.set_visible(False)
    figure.supxlabel("number of experts averaged, k", fontsize=9)
    figure.supylabel("mean loss over all tasks and subsets", fontsize=9)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, fontsize=8)
    return figure
