"""The figure: which terms rank merges, and where the bound says nothing."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.stability.config import Config, merges
from experiments.stability.report import gather
from experiments.theory import style
from jaxmerge.stability.bound import TERMS

_SIMPLE = ("length", "chi_squared", "dispersion", "cosine", "samples")
_SHOWN = (*TERMS, "total", *_SIMPLE)
_LABELS = {
    "length": "length Σαηk",
    "chi_squared": "χ² of lengths",
    "cosine": "mean cosine",
    "samples": "training samples n",
}
_SERIES = (
    ("matched", "correlations", style.BLUE, "one setting for all experts"),
    ("matched", "at equal length", style.GREEN, "… compared at equal η and K"),
    ("mixed", "correlations", style.RED, "a setting of its own for each"),
)
_NAMES = {"softmax": "softmax regression", "mlp": "perceptron"}
_OUTCOMES = {"risk": "excess risk", "tuned": "risk, tuned scale", "gap": "gap"}


def _ranks(axes: Axes, parts: Mapping[str, Any], outcome: str) -> None:
    for i, (kind, which, color, label) in enumerate(_SERIES):
        for row, name in enumerate(_SHOWN):
            found = parts[kind][which][name][outcome]
            if found is None:
                continue
            reach = [[found["mean"] - found["low"]], [found["high"] - found["mean"]]]
            axes.errorbar(
                found["mean"],
                row + 0.24 * (i - 1),
                xerr=np.maximum(reach, 0),
                fmt="o",
                color=color,
                markersize=3.2,
                linewidth=1.1,
                label=label if name == "total" else None,
            )
    axes.axvline(0, color=style.GREY, linewidth=0.8)
    for edge in (len(TERMS), len(TERMS) + 1):
        axes.axhline(edge - 0.5, color="#cccccc", linewidth=0.8)
    axes.set_xlim(-1.05, 1.05)
    axes.set_ylim(len(_SHOWN) - 0.5, -0.5)
    axes.set_yticks(range(len(_SHOWN)))
    axes.set_yticklabels([_LABELS.get(n, n.replace("_", " ")) for n in _SHOWN])


def _curves(
    axes: Axes, config: Config, rows: Mapping[str, Any], vacuous: Mapping[str, Any]
) -> None:
    """Means over groups at the largest batch and n, by A L; a line for each eta."""
    cells = gather(config, rows["predicted"], rows["measured"], "matched")
    chosen = merges(config, 0, "matched")[:, 0]
    mean = lambda source, name: np.mean([c[source][name] for c in cells], axis=0)
    length = mean("predictors", "length") * rows["smoothness"]
    base = float(np.mean([cell["base"] for cell in cells]))
    lines = (
        ("merged model", mean("outcomes", "risk"), style.BLUE),
        ("… with tuned scale", mean("outcomes", "tuned"), style.SKY),
        ("the bound's total", mean("predictors", "total"), style.ORANGE),
    )
    last = (chosen[:, 1] == chosen[:, 1].max()) & (chosen[:, 3] == chosen[:, 3].max())
    for rate in range(len(config.learning_rates)):
        own = np.flatnonzero(last & (chosen[:, 0] == rate))
        for label, y, color in lines:
            known = own[np.isfinite(y[own])]
            axes.plot(
                length[known],
                y[known],
                "o-",
                ms=3,
                lw=0.9,
                color=color,
                label=None if rate else label,
            )
    axes.axhline(base, color=style.BLACK, lw=0.9, ls="--", label="base")
    beside = [row["beside"]["multitask"] for row in rows["measured"]]
    multitask = float(np.mean(beside))
    axes.axhline(multitask, color=style.GREEN, lw=0.9, ls="--", label="multitask model")
    from_here = [b["from"] for b in vacuous["by_length"] if b["vacuous"] == 1.0]
    if from_here:
        edge = max(min(from_here), length.min())
        axes.axvspan(edge, length.max() * 1.5, color="#eeeeee", zorder=0)
        axes.text(
            edge * 1.15, 0.06, "every bound is vacuous", fontsize=7.5, color="#555"
        )
    axes.set_xscale("log")
    axes.set_ylim(0, 1.7 * base)


def draw(
    config: Config,
    found: Mapping[str, Mapping[str, Any]],
    summary: Mapping[str, Mapping[str, Any]],
) -> Figure:
    """A row of panels for each model."""
    figure = Figure(figsize=(15.5, 4.6 * len(summary)), layout="constrained")
    panels = figure.subplots(len(summary), 4, squeeze=False)
    for row, model in zip(panels, summary, strict=True):
        for axes in row:
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(labelsize=8)
        for axes, (outcome, what) in zip(row, _OUTCOMES.items(), strict=False):
            _ranks(axes, summary[model], outcome)
            axes.grid(axis="x", color="#eeeeee", linewidth=0.6)
            style.label(axes, "Spearman correlation", "", f"{_NAMES[model]}: {what}")
        for axes in row[1:3]:
            axes.set_yticklabels([])
        _curves(row[3], config, found[model], summary[model]["matched"]["vacuity"])
        style.label(
            row[3],
            "length of training times smoothness, A L",
            "loss on the test set",
            f"{_NAMES[model]}: mean over groups",
        )
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, fontsize=8)
    style.legend(panels[0][3], loc="upper right")
    return figure
