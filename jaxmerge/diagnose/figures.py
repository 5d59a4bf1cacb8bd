"""The figures of a diagnosis: cosines, norms, spectra, widths, conflicts by depth."""

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxmerge.diagnose.diagnosis import Diagnosis
from jaxmerge.diagnose.saturation_report import figure as width_figure

_NAMES = 24  # more labels than this cannot be read
_CURVES = 12


def _canvas(width: float = 6.4, height: float = 4.0) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(width, height), layout="constrained")
    return canvas, canvas.subplots()


def _short(name: str, most: int = 28) -> str:
    # A dollar sign would start a formula, and the end of a name tells more.
    text = name if len(name) <= most else "…" + name[1 - most :]
    return text.replace("$", r"\$")


def cosines(found: Diagnosis) -> Any:
    """The matrix of cosines between experts."""
    from matplotlib.figure import Figure

    measured = found.measurements
    num = len(measured.experts)
    side = min(3.6 + 0.28 * num, 9.0)
    canvas = Figure(figsize=(side + 1.0, side), layout="constrained")
    axes = canvas.subplots()
    values = np.array(measured.whole.cosines)
    off = np.abs(values[~np.eye(num, dtype=bool)])
    # Experts are nearly orthogonal as a rule: on a scale to 1 nothing could be seen.
    limit = max(float(off.max(initial=0.0)), 0.01)
    shown = np.where(np.eye(num, dtype=bool), np.nan, values)
    image = axes.imshow(shown, cmap="RdBu_r", vmin=-limit, vmax=limit)
    axes.set_facecolor("0.85")
    canvas.colorbar(image, ax=axes, shrink=0.8, label="cosine (the diagonal is 1)")
    if num <= _NAMES:
        names = [_short(name) for name in measured.experts]
        axes.set_xticks(range(num), names, rotation=45, ha="right", fontsize=7)
        axes.set_yticks(range(num), names, fontsize=7)
    if num <= 12:
        for s, t in np.argwhere(~np.eye(num, dtype=bool)):
            dark = abs(values[s, t]) > 0.6 * limit
            axes.text(
                *(t, s, f"{values[s, t]:+.2f}"),
                ha="center",
                va="center",
                fontsize=6,
                color="white" if dark else "black",
            )
    axes.set_title("Cosines between the experts' deltas", fontsize=10)
    return canvas


def norms(found: Diagnosis) -> Any:
    """The experts' norms, with the median."""
    measured = found.measurements
    num = len(measured.experts)
    canvas, axes = _canvas(height=min(1.6 + 0.25 * num, 8.0))
    values = measured.whole.norms
    axes.barh(range(num), values, height=0.7)
    axes.axvline(np.median(values), color="C1", linestyle="--")
    if num <= _NAMES:
        axes.set_yticks(range(num), [_short(n) for n in measured.experts], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("norm of expert - base (dashed: the median)")
    axes.set_title("How far each expert is from the base", fontsize=10)
    return canvas


def spectra(found: Diagnosis) -> Any:
    """Singular values of the heaviest matrix: each expert's, and the mean's."""
    canvas, axes = _canvas()
    matrices = found.measurements.whole.matrices
    if not matrices:
        axes.text(0.5, 0.5, "there are no matrices", ha="center")
        axes.set_axis_off()
        return canvas
    heaviest = max(matrices, key=lambda m: m.energies.sum())
    for t, one in enumerate(heaviest.experts[:_CURVES]):
        index = np.arange(1, len(one.values) + 1)
        label = _short(found.measurements.experts[t])
        axes.plot(index, one.values, linewidth=1, alpha=0.6, label=label)
    mean = heaviest.mean.values
    index = np.arange(1, len(mean) + 1)
    axes.plot(index, mean, color="black", linewidth=2, label="mean of the experts")
    if max(float(mean.max(initial=0.0)), 0.0) > 0:
        axes.set_yscale("log")
        top = max(float(e.values.max(initial=0.0)) for e in heaviest.experts)
        axes.set_ylim(top * 1e-3, top * 1.5)
    axes.set_xlabel("number")
    axes.set_ylabel("singular value")
    sketched = "" if heaviest.exact else ", of a sketch"
    axes.set_title(
        f"Spectra of {_short(heaviest.name, 40)} (32 largest{sketched})", fontsize=10
    )
    axes.legend(frameon=False, fontsize=6, ncols=2)
    return canvas


def widths(found: Diagnosis) -> Any:
    """The width of k experts with T*."""
    canvas = width_figure(found.saturation)
    canvas.axes[0].set_title("How much space k experts fill", fontsize=10)
    return canvas


def gains(found: Diagnosis) -> Any:
    """What each expert added, and what the next ones are predicted to add."""
    from matplotlib.ticker import MaxNLocator

    canvas, axes = _canvas()
    ahead = found.prospects
    known, k = len(ahead.gains), np.arange(2, len(ahead.kept) + 1)
    axes.errorbar(
        k[:known],
        ahead.gains,
        2 * ahead.gain_errors,
        marker="o",
        markersize=4,
        capsize=2,
        label="measured gain of width",
    )
    if known:
        axes.errorbar(
            k[known:],
            ahead.next_gains,
            2 * ahead.next_errors,
            marker="o",
            markersize=4,
            linestyle=":",
            color="C0",
            fillstyle="none",
            label="predicted, for experts like these",
        )
    every = np.arange(1, len(ahead.kept) + 1)
    axes.plot(every, ahead.kept, color="C1", label="kept of each expert by averaging")
    axes.axvline(known + 1, color="0.6", linewidth=1, linestyle="--")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("number of experts")
    axes.set_ylabel("share of the first")
    axes.set_title("What one more expert adds, and what it costs", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    return canvas


def conflicts(found: Diagnosis) -> Any:
    """Sign conflict, and what no scale gives back, by layer."""
    canvas, axes = _canvas(width=7.4)
    layers = found.measurements.layers
    names = list(layers)
    place = np.arange(len(names))
    signs = [layer.sign_conflict for layer in layers.values()]
    axes.plot(place, signs, marker="o", markersize=3, label="sign conflict")
    lost = found.mechanisms["directional conflict"].layers
    axes.plot(
        [i for i, name in enumerate(names) if name in lost],
        [lost[name] for name in names if name in lost],
        marker="s",
        markersize=3,
        label="directional conflict",
    )
    num = len(found.measurements.experts)
    axes.axhline(
        1 - num**-0.5,
        color="0.6",
        linestyle=":",
        label="sign conflict of independent deltas",
    )
    step = max(1, len(names) // _NAMES)
    labels = [_short(name, 20) for name in names[::step]]
    axes.set_xticks(place[::step], labels, rotation=45, ha="right", fontsize=7)
    axes.set_ylim(0, 1)
    axes.set_ylabel("share")
    axes.set_title("Conflict by layer, in the order of names", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    return canvas


FIGURES: dict[str, Callable[[Diagnosis], Any]] = {
    "cosines": cosines,
    "norms": norms,
    "spectra": spectra,
    "widths": widths,
    "gains": gains,
    "conflicts": conflicts,
}
