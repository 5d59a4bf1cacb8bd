"""Predicted over measured T, a panel for each predictor."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.common.figures import mark_outside
from experiments.thresholds.report import verdict

_COLUMNS = 5


def draw(found: dict[str, Any]) -> Figure:
    """Draws a summary: what lies on the diagonal was predicted."""
    scores = {n: s for n, s in found["scores"].items() if s["answers"]}
    names = sorted(scores, key=lambda n: scores[n]["error"][0])
    rows = -(-len(names) // _COLUMNS)
    figure = Figure(
        figsize=(2.5 * min(_COLUMNS, len(names)) + 1.6, 2.6 * rows),
        layout="constrained",
    )
    grid = figure.subplots(
        rows,
        min(_COLUMNS, len(names)),
        squeeze=False,
        sharex=True,
        sharey=True,
    )
    pools = [pool for pool in found["pools"] if pool["measured"][0] is not None]
    families = list(dict.fromkeys(pool["family"] for pool in pools))
    ends = np.array([1.0, max(pool["experts"] for pool in pools)])
    for axes in grid.flat[len(names) :]:
        axes.set_axis_off()
    for axes in grid.flat[
        max(len(names) - _COLUMNS, 0) : len(names)
    ]:  # its column's last
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("measured T")
    for axes, name in zip(grid.flat, names, strict=False):
        axes.plot(ends, ends, color="0.7", lw=1)
        for c, family in enumerate(families):
            own = [p for p in pools if p["family"] == family]
            own = [p for p in own if p["predicted"].get(name) is not None]
            axes.plot(
                [p["measured"][0] for p in own],
                [p["predicted"][name] for p in own],
                "o",
                ms=4,
                mfc="none",
                color=f"C{c % 10}",
                label=family,
            )
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda x, _: f"{x:g}")
        said = "" if name == "constant" else f"\n{verdict(scores[name])}"
        axes.set_title(f"{name.replace('_', ' ')}{said}", fontsize=8)
        axes.grid(alpha=0.25)
    grid[0, 0].set_ylim(0.8, 4 * ends[1])
    for axes in grid.flat[: len(names)]:
        mark_outside(axes)
    for axes in grid[:, 0]:
        axes.set_ylabel("predicted T")
    handles = grid[0, 0].get_legend_handles_labels()
    figure.legend(*handles, fontsize=7, loc="outside right center")
    return figure
