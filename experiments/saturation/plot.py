"""Curves in k: a row for each family of methods, a column for each family of models."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from experiments.common.figures import (
    COLORS,
    mark_outside,
    over_counts,
    retention_limits,
)
from experiments.common.methods import FAMILIES, METHODS

_LABELS = {"pooled_loss": "pooled test loss", "retention": "share of gains kept"}


def _line(axes: Any, curve: dict[Any, Sequence[float]], **style: Any) -> None:
    counts = sorted(curve, key=int)
    ks = [int(k) for k in counts]
    middle, lower, upper = zip(*(curve[k] for k in counts), strict=True)
    (line,) = axes.plot(ks, middle, marker="o", markersize=3, **style)
    axes.fill_between(ks, lower, upper, color=line.get_color(), alpha=0.1, lw=0)


def draw(found: dict[str, Any], functional: str, column: str) -> Figure:
    """One functional in one column, for all families.

    Args:
      found: the summary.
      functional: `"pooled_loss"` or `"retention"`.
      column: `"published"` or `"tuned"`.
    """
    models = found["families"]
    rows = [f for f in FAMILIES if any(m.family == f for m in _present(found))]
    figure = Figure(
        figsize=(3 * len(models) + 1.6, 2.7 * len(rows) + 0.6), layout="constrained"
    )
    grid = figure.subplots(
        len(rows), len(models), sharex="col", sharey="col", squeeze=False
    )
    for i, family in enumerate(rows):
        methods = [m for m in _present(found) if m.family == family]
        for j, (name, model) in enumerate(models.items()):
            axes = grid[i, j]
            for c, method in enumerate(methods):
                curve = model["methods"][method.name][column][functional]
                _line(axes, curve, color=COLORS[c], label=method.label, lw=1.3)
            _background(axes, model, functional)
            over_counts(axes)
            if i == 0:
                axes.set_title(f"{name}\n{model['label']}", fontsize=9)
            if i == len(rows) - 1:
                axes.set_xlabel("experts merged, k")
        grid[i, 0].set_ylabel(f"{family}\n{_LABELS[functional]}", fontsize=9)
        handles = grid[i, 0].get_legend_handles_labels()
        grid[i, -1].legend(
            *handles, fontsize=7, loc="center left", bbox_to_anchor=(1.02, 0.5)
        )
    for j, model in enumerate(models.values()):
        grid[0, j].set_ylim(*_limits(model, functional, column))
        for axes in grid[:, j]:
            mark_outside(axes)
    return figure


def _present(found: dict[str, Any]) -> list[Any]:
    names = next(iter(found["families"].values()))["methods"]
    return [method for method in METHODS if method.name in names]


def _background(axes: Any, model: dict[str, Any], functional: str) -> None:
    """What every panel has: the tuned average, the ensemble, and the references."""
    average = model["methods"].get("average")
    if average:
        curve = average["tuned"][functional]
        _line(axes, curve, color="black", lw=1, ls="--", label="tuned average")
    ensemble = model["ensemble"]["published"][functional]
    _line(axes, ensemble, color="black", lw=1, ls=":", label="logit ensemble")
    if functional == "pooled_loss":
        for key, style in (("base", "-."), ("multitask", "-")):
            if key in model["references"]:
                axes.axhline(
                    model["references"][key], color="0.5", lw=1.5, ls=style, label=key
                )
    else:
        axes.axhline(0, color="0.5", lw=1.5, ls="-.", label="base")


def _limits(model: dict[str, Any], functional: str, column: str) -> tuple[float, float]:
    """Of most curves, the average's among them.

    One method that diverges must not flatten all others.
    """
    curves = [m[column][functional] for m in model["methods"].values()]
    values = [i[0] for curve in curves for i in curve.values()]
    if functional == "retention":
        return retention_limits(values)
    ref = model["references"]
    low = min([*values, *(x for key, x in ref.items() if key != "own_expert")])
    average = model["methods"]["average"][column][functional].values()
    seen = max(ref["base"] + 0.6 * (ref["base"] - low), *(i[0] for i in average))
    high = min(max(values), seen)
    return low - 0.05 * (high - low), high + 0.05 * (high - low)


def draw_population(rows: Sequence[dict[str, Any]], label: str) -> Figure:
    """The spread of all sets at each k, a panel with its own scale for each method.

    Bands hold half, nine tenths and all of the sets, the line is their mean.
    """
    figure = Figure(figsize=(2.6 * len(rows), 2.8), layout="constrained")
    grid = figure.subplots(1, len(rows), squeeze=False)
    for axes, row in zip(grid[0], rows, strict=True):
        ks = [point["k"] for point in row["curve"]]
        bands = list(zip(*(point["quantiles"] for point in row["curve"]), strict=True))
        for low, high, alpha in ((0, 6, 0.12), (1, 5, 0.2), (2, 4, 0.3)):
            axes.fill_between(
                ks, bands[low], bands[high], color="C0", alpha=alpha, lw=0
            )
        axes.plot(ks, [point["mean"] for point in row["curve"]], color="C0", lw=1.5)
        title = next(m.label for m in METHODS if m.name == row["method"])
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("experts merged, k")
        axes.grid(alpha=0.25)
    grid[0, 0].set_ylabel("pooled test loss")
    figure.suptitle(label, fontsize=9)
    return figure
