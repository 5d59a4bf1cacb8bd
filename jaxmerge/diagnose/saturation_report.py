"""A saturation as plain data, as lines of text and as a figure."""

from typing import Any

import numpy as np

from jaxmerge.diagnose.saturation import Layer, Saturation
from jaxmerge.geometry import Estimate
from jaxmerge.kinematics import Threshold

_LAYERS_SHOWN = 40


def _numbers(values: Any) -> Any:
    """JSON has no infinity; it becomes a string."""
    if isinstance(values, list):
        return [_numbers(value) for value in values]
    return values if np.isfinite(values) else str(values)


def _estimate(estimate: Estimate | None) -> dict[str, Any] | None:
    if estimate is None:
        return None
    return {
        "mean": _numbers(np.asarray(estimate.mean).tolist()),
        "stderr": _numbers(np.asarray(estimate.stderr).tolist()),
        "num_samples": estimate.num_samples,
        "method": estimate.method,
    }


def _threshold(threshold: Threshold) -> dict[str, Any]:
    names = ("value", "integer", "lower", "upper", "residual")
    return {
        **{name: _numbers(float(getattr(threshold, name))) for name in names},
        "converged": bool(threshold.converged),
        "needed": list(threshold.needed),
    }


def _layer(layer: Layer) -> dict[str, Any]:
    names = ("rank", "participation", "entropy", "stable")
    return {
        "gram": layer.gram.tolist(),
        "norms": layer.norms.tolist(),
        "ranks": {name: float(getattr(layer.ranks, name)) for name in names},
        "width": _estimate(layer.width),
        "gains": _estimate(layer.gains),
    }


def as_data(found: Saturation) -> dict[str, Any]:
    """All of it, ready for `json.dumps`.

    Args:
      found: from `saturation`.
    """
    return {
        "experts": list(found.experts),
        "parameters": found.parameters,
        "whole": _layer(found.whole),
        "layers": {name: _layer(layer) for name, layer in found.layers.items()},
        "order": [found.experts[t] for t in found.order],
        "order_width": found.order_width.tolist(),
        "ceiling": found.ceiling,
        "thresholds": {n: _threshold(t) for n, t in found.thresholds.items()},
        "missing": dict(found.missing),
        "statistical_dimensions": _estimate(found.statistical_dimensions),
    }


def _mean_cosine(layer: Layer) -> float:
    num = len(layer.gram)
    return float((layer.cosines.sum() - num) / max(num * (num - 1), 1))


def _row(name: str, layer: Layer) -> list[str]:
    width = np.asarray(layer.width.mean)
    gains = np.asarray(layer.gains.mean)
    share = gains[-1] / gains[0] if len(gains) > 1 and gains[0] > 0 else np.nan
    return [
        name,
        f"{layer.norms.mean():.3g}",
        f"{_mean_cosine(layer):+.3f}",
        f"{float(layer.ranks.participation):.2f}",
        f"{width[-1]:.3g}",
        "-" if np.isnan(share) else f"{100 * share:.0f}%",
    ]


def summary(found: Saturation) -> tuple[list[list[str]], list[str]]:
    """What a person wants to read.

    Args:
      found: from `saturation`.

    Returns:
      A table of the whole model and its layers (the first row is its head), and lines
      on the order of experts and the thresholds.
    """
    head = ["", "mean norm", "mean cosine", "eff. rank", "width", "last gain"]
    shown = list(found.layers.items())[:_LAYERS_SHOWN]
    table = [head, _row("whole model", found.whole)]
    table += [_row(name, layer) for name, layer in shown]
    more = len(found.layers) - len(shown)
    lines = [f"and {more} more layers"] if more else []
    lines.append("greedy order: " + ", ".join(found.experts[t] for t in found.order))
    for name, threshold in found.thresholds.items():
        ends = f"{float(threshold.lower):.4g} to {float(threshold.upper):.4g}"
        text = f"T* by {name}: {float(threshold.value):.4g} ({ends})"
        if not np.isfinite(threshold.value):
            text = f"T* by {name}: more than these {len(found.experts)} experts"
        lines.append(text)
    lines += [f"no T*: {sentence}" for sentence in found.missing.values()]
    return table, lines


def figure(found: Saturation) -> Any:
    """The width of k experts, with its error, and the thresholds on it.

    Args:
      found: from `saturation`.

    Returns:
      A matplotlib figure.

    Raises:
      ModuleNotFoundError: without matplotlib.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    width = np.asarray(found.whole.width.mean)
    error = 2 * np.asarray(found.whole.width.stderr)
    k = np.arange(1, len(width) + 1)
    canvas = Figure(figsize=(7, 4.2), layout="constrained")
    axes = canvas.subplots()
    axes.fill_between(k, width - error, width + error, alpha=0.3, linewidth=0)
    axes.plot(k, width, marker="o", markersize=3, label="mean over subsets (± 2 s.e.)")
    axes.plot(k, found.order_width, "--", linewidth=1, label="greedy order")
    right = float(max(k[-1], 2))
    beyond = []
    for i, (name, threshold) in enumerate(found.thresholds.items()):
        value = float(threshold.value)
        if value > right or not np.isfinite(value):
            beyond.append(f"{name}")
            continue
        colour = f"C{i + 2}"
        axes.axvline(
            value, color=colour, linestyle=":", label=f"T* by {name}: {value:.3g}"
        )
        ends = float(threshold.lower), min(float(threshold.upper), right)
        if ends[1] > ends[0]:
            axes.axvspan(*ends, color=colour, alpha=0.1, linewidth=0)
    if beyond:
        axes.plot([], [], " ", label="T* beyond: " + ", ".join(beyond))
    axes.set_xlim(0.9, right + 0.1)
    axes.set_xlabel("number of experts k")
    axes.set_ylabel("Gaussian width of their hull")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=8, frameon=False)
    return canvas
