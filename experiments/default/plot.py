"""Our default among all other methods, a column for each family of models."""

from typing import Any

from matplotlib.figure import Figure

from experiments.common.figures import mark_outside, over_counts, retention_limits
from experiments.common.methods import METHODS
from experiments.default.report import OURS, data_free

_ROWS = (
    ("published", "retention"),
    ("tuned", "retention"),
    ("published", "pooled_loss"),
)
_NAMES = {"retention": "share of gains kept", "pooled_loss": "pooled test loss"}
_HIGHLIGHTED = {
    "average": {"color": "0.2", "ls": "--"},
    "tsv_m": {"color": "C2"},
    "dc_merge": {"color": "C4"},
    "model_stock": {"color": "C1"},
    "magmax": {"color": "C5"},
    "swudi": {"color": "C9"},
    "ace": {"color": "C0", "ls": "--"},
    "actmat": {"color": "C6", "ls": "--"},
    "regmean": {"color": "C8", "ls": ":"},
    OURS: {"color": "C3", "lw": 2.2},
}


def draw(found: dict[str, Any]) -> Figure:
    """Curves in k; what is not named in the legend is grey."""
    models = found["families"]
    figure = Figure(
        figsize=(2.5 * len(models) + 1.4, 2.3 * len(_ROWS)), layout="constrained"
    )
    grid = figure.subplots(len(_ROWS), len(models), sharex="col", squeeze=False)
    for j, (name, model) in enumerate(models.items()):
        for i, (column, functional) in enumerate(_ROWS):
            _panel(grid[i, j], model[column], functional)
            if j == 0:
                label = f"{column}\n{_NAMES[functional]}"
                grid[i, j].set_ylabel(label, fontsize=9)
        grid[0, j].set_title(f"{name}\n{model['label']}", fontsize=9)
        grid[-1, j].set_xlabel("experts merged, k")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside right center", fontsize=8, frameon=False
    )
    return figure


def _panel(axes: Any, methods: dict[str, Any], functional: str) -> None:
    bounds = []
    for method in METHODS:
        if method.name not in methods:
            continue
        curve = methods[method.name][functional]
        counts = sorted(curve, key=int)
        style = {"color": "0.8", "lw": 0.8, "zorder": 1}
        if method.name in _HIGHLIGHTED:
            style = {"lw": 1.4, "zorder": 3, **_HIGHLIGHTED[method.name]}
            style["label"] = method.label
            bounds += [curve[k][0] for k in counts]
        xs, ys = [int(k) for k in counts], [curve[k][0] for k in counts]
        axes.plot(xs, ys, **style)
        if method.name == OURS:
            low, high = ([curve[k][side] for k in counts] for side in (1, 2))
            axes.fill_between(xs, low, high, color="C3", alpha=0.15, lw=0)
    if functional == "pooled_loss" and bounds:
        space = 0.08 * (max(bounds) - min(bounds))
        axes.set_ylim(min(bounds) - space, max(bounds) + space)
    elif functional == "retention":
        axes.set_ylim(*retention_limits(bounds))
    mark_outside(axes)
    over_counts(axes)


def draw_regret(found: dict[str, Any]) -> Figure:
    """Each method's largest distance, over families, from the family's best."""
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    grid = figure.subplots(1, 2)
    labels = {method.name: method.label for method in METHODS}
    for axes, (column, regrets) in zip(grid, found["regrets"].items(), strict=True):
        names = sorted(data_free(list(regrets)), key=lambda n: -regrets[n]["worst"])
        worst = [100 * min(regrets[n]["worst"], 2.0) for n in names]
        mean = [100 * min(regrets[n]["mean"], 2.0) for n in names]
        colors = ["C3" if n == OURS else "0.7" for n in names]
        axes.barh([labels[n] for n in names], worst, color=colors)
        axes.plot(mean, range(len(names)), "k|", markersize=9, label="mean")
        axes.set_title(f"{column}: points of retention behind the best", fontsize=9)
        cut = any(regrets[n]["worst"] > 2.0 for n in names)
        axes.set_xlabel(
            "largest over families" + (" (200 and more are cut)" if cut else "")
        )
        axes.tick_params(labelsize=8)
        axes.legend(fontsize=8, frameon=False, loc="upper right")
    return figure
