"""Loss over k for each size, with the law; and how far the forecasts were off."""

from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from experiments.scaling.predict import FORECASTERS, label_of


def draw(found: dict[str, Any]) -> Figure:
    """A column for each method: curves and the law, then errors of the forecasts.

    Args:
      found: the summary.
    """
    methods = found["methods"]
    figure = Figure(figsize=(2.9 * len(methods) + 1.4, 5.4), layout="constrained")
    grid = figure.subplots(
        2,
        len(methods),
        squeeze=False,
        gridspec_kw={"height_ratios": [3, 2]},
    )
    for j, method in enumerate(methods.values()):
        _curves(grid[0, j], method)
        _errors(grid[1, j], method)
        grid[0, j].set_title(method["label"], fontsize=9)
    grid[0, 0].set_ylabel("pooled test loss, nats a token")
    grid[1, 0].set_ylabel("mean error of\nforecasts, nats")
    grid[0, -1].legend(
        fontsize=7, loc="center left", bbox_to_anchor=(1.02, 0.5), title="parameters"
    )
    grid[1, -1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1.02, 0.5))
    return figure


def _curves(axes: Any, method: dict[str, Any]) -> None:
    points = {name: np.array(x, float) for name, x in method["points"].items()}
    fitted = np.array(method["fit"]["fitted"])
    told = method["forecasts"]
    sizes = np.unique(points["size"])
    for c, size in enumerate(sizes):
        own = points["size"] == size
        color = colormaps["viridis"](c / max(len(sizes) - 1, 1))
        k, mean = points["k"][own], points["mean"][own]
        spread = np.sqrt(np.nan_to_num(points["variance"][own]))
        axes.errorbar(k, mean, spread, fmt="o", ms=3, color=color, lw=0.8)
        axes.plot(k, fitted[own], color=color, lw=1, label=f"{size:.2g}M")
    axes.plot(
        told["k"],
        told["larger_model"]["offset"],
        "k--",
        lw=1,
        label="largest,\nforecast",
    )
    axes.set_xlabel("experts merged, k")
    axes.grid(alpha=0.25)


def _errors(axes: Any, method: dict[str, Any]) -> None:
    for c, name in enumerate(FORECASTERS):
        errors = [method["errors"][what][name] for what in method["errors"]]
        at = np.arange(len(errors)) + 0.2 * (c - 1.5)
        axes.bar(at, errors, 0.18, color=f"C{c}", label=label_of(name))
    axes.set_xticks([0, 1], ["larger k", "larger model"], fontsize=8)
    axes.grid(alpha=0.25, axis="y")
