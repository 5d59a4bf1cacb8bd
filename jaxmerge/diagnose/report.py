"""A diagnosis as plain data, and as lines of text."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxmerge.diagnose.advice import Advice
from jaxmerge.diagnose.diagnosis import Diagnosis
from jaxmerge.diagnose.intervals import Interval
from jaxmerge.diagnose.measure import Measurements, Measures
from jaxmerge.diagnose.mechanisms import Mechanism
from jaxmerge.diagnose.record import record, sentence
from jaxmerge.diagnose.saturation_report import as_data as saturation_data
from jaxmerge.diagnose.spectra import MatrixMeasures, Spectrum

_SHOWN = 40
_ROUNDING = 1e-9  # of the ratios and shares that have intervals


def number(value: float, digits: int = 3) -> str:
    """A number for people, `-` if there is none.

    >>> number(0.12345), number(float("nan"))
    ('0.123', '-')
    """
    return f"{value:.{digits}g}" if np.isfinite(value) else "-"


def interval_text(found: Interval) -> str:
    """A number with its interval.

    >>> known, half_known = Interval(1.0, 0.5, 2.0), Interval(1.0, -np.inf, 9.0)
    >>> interval_text(known), interval_text(half_known)
    ('1 (0.5 to 2)', '1 (interval unknown)')
    """
    if not found.defined:
        return "-"
    if not np.isfinite([found.lower, found.upper]).all():
        return f"{number(found.value)} (interval unknown)"
    numbers = (found.value, found.lower, found.upper)
    value, lower, upper = (number(x if abs(x) > _ROUNDING else 0.0) for x in numbers)
    return f"{value} ({lower} to {upper})"


def _plain(value: Any) -> Any:
    """JSON has neither NaN nor infinity: None, and a string."""
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, float | np.floating):
        if np.isnan(value):
            return None
        return float(value) if np.isfinite(value) else str(float(value))
    return value.item() if isinstance(value, np.integer | np.bool_) else value


def _spectrum(found: Spectrum) -> dict[str, Any]:
    return {
        "singular_values": found.values,
        "participation": found.participation,
        "entropy": found.entropy,
        "energy90": found.energy90,
        "head": found.head,
        "retained": found.retained,
    }


def _matrix(found: MatrixMeasures) -> dict[str, Any]:
    return {
        "name": found.name,
        "shape": list(found.shape),
        "exact": found.exact,
        "experts": [_spectrum(one) for one in found.experts],
        "mean": _spectrum(found.mean),
        "accumulation": found.accumulation,
        "signal": found.signal,
        "cross": found.cross,
        "interference": found.interference,
    }


def _measures(found: Measures) -> dict[str, Any]:
    return {
        "parameters": found.parameters,
        "norms": found.norms,
        "cosines": found.cosines,
        "mean_cosine": found.mean_cosine,
        "sign_conflict": found.sign_conflict,
        "opposed_share": found.opposed_share,
        "overlap": found.overlap,
        "sampled": found.sampled,
        "kurtosis": found.kurtosis,
        "participation": found.participation,
        "matrices": [_matrix(one) for one in found.matrices],
    }


def _interval(found: Interval) -> dict[str, float]:
    names = ("value", "lower", "upper", "over_layers", "over_experts")
    return {name: getattr(found, name) for name in names}


def _mechanism(found: Mechanism) -> dict[str, Any]:
    return {
        "measure": found.measure,
        **_interval(found.found),
        "neutral": found.neutral,
        "verdict": found.verdict,
        "needs": found.needs,
        "antidote": found.antidote,
        "layers": dict(found.layers),
    }


def _advice(found: Advice) -> dict[str, Any]:
    return {
        "topic": found.topic,
        "text": found.text,
        "number": found.number,
        **_interval(found.found),
        "neutral": found.neutral,
        "abstains": found.abstains,
    }


def tail_indices(found: Measurements) -> np.ndarray:
    """Of each expert's entries by Hill's plot; infinite where no power law is seen."""
    if found.hill is None:
        return np.full(len(found.experts), np.inf)
    return np.array([float(plot.tail_index) for plot in found.hill])


def as_data(found: Diagnosis) -> dict[str, Any]:
    """All of it, ready for `json.dumps`.

    Args:
      found: from `diagnose`.
    """
    measured, ahead = found.measurements, found.prospects
    return _plain(
        {
            "experts": list(measured.experts),
            "bytes_read": measured.bytes_read,
            "density": measured.density,
            "whole": _measures(measured.whole),
            "tail_index": tail_indices(measured),
            "layers": {n: _measures(x) for n, x in measured.layers.items()},
            "mechanisms": {n: _mechanism(x) for n, x in found.mechanisms.items()},
            "saturation": saturation_data(found.saturation),
            "prospects": {
                name: getattr(ahead, name)
                for name in (
                    *("gains", "gain_errors", "next_gains", "next_errors", "kept"),
                )
            },
            "choice": {"method": found.choice.method, "scale": found.choice.scale},
            "advice": [_advice(one) for one in found.advice],
            "friendliness": found.friendliness.as_data(),
            "record": record(),
        }
    )


# --- tables


def experts_table(found: Measurements) -> list[list[str]]:
    """A row for each expert."""
    whole = found.whole
    num = len(found.experts)
    others = (whole.cosines.sum(axis=1) - 1) / max(num - 1, 1)
    overlap = (whole.overlap.sum(axis=1) - np.diagonal(whole.overlap)) / max(num - 1, 1)
    index = tail_indices(found)
    rows = [["", "norm", "mean cosine", "overlap", "kurtosis", "tail exponent"]]
    for t, name in enumerate(found.experts):
        alone = num == 1
        rows.append(
            [
                name,
                number(whole.norms[t]),
                "-" if alone else f"{others[t]:+.3f}",
                "-" if alone else f"{overlap[t]:.2f}",
                number(whole.kurtosis[t]),
                number(index[t]) if np.isfinite(index[t]) else "none seen",
            ]
        )
    return rows


def _layer_row(name: str, layer: Measures) -> list[str]:
    weight = np.array([m.energies.sum() for m in layer.matrices])
    mean = lambda values: (
        number(float(weight @ values / weight.sum())) if weight.sum() > 0 else "-"
    )
    each = [np.mean([e.participation for e in m.experts]) for m in layer.matrices]
    filled = [np.mean([e.energy90 for e in m.experts]) for m in layer.matrices]
    joint = [m.mean.participation for m in layer.matrices]
    return [
        name,
        number(layer.norms.mean()),
        f"{layer.mean_cosine:+.3f}",
        f"{layer.sign_conflict:.2f}",
        mean(np.array(each)),
        mean(np.array(joint)),
        mean(np.array(filled)),
        mean(np.array([m.rank for m in layer.matrices], float)),
    ]


def layers_table(found: Measurements) -> list[list[str]]:
    """A row for the whole model and for each layer; the first forty."""
    head = [
        *("", "mean norm", "mean cosine", "sign conflict"),
        *("rank of one", "of the mean", "90 % rank", "of"),
    ]
    rows = [head, _layer_row("whole model", found.whole)]
    layers = list(found.layers.items())
    rows += [_layer_row(name, layer) for name, layer in layers[:_SHOWN]]
    if len(layers) > _SHOWN:
        rows.append([f"and {len(layers) - _SHOWN} more", *[""] * (len(head) - 1)])
    return rows


def mechanisms_table(found: Diagnosis) -> list[list[str]]:
    """A row for each mechanism."""
    rows = [["mechanism", "verdict", "number (95 %)", "neutral", "the number is"]]
    for name, one in found.mechanisms.items():
        measured = one.needs is None
        rows.append(
            [
                name,
                one.verdict,
                interval_text(one.found) if measured else "-",
                number(one.neutral),
                one.measure if measured else f"needs {one.needs}",
            ]
        )
    return rows


def advice_lines(found: Sequence[Advice]) -> list[str]:
    """Each piece of advice with the number behind it."""
    lines = []
    for one in found:
        behind = f"{one.number} {interval_text(one.found)}, neutral {one.neutral:g}"
        said = f"no advice: {one.text}" if one.abstains else one.text
        lines.append(f"{one.topic}: {said} [{behind}]")
    return lines


def threshold_lines(found: Diagnosis) -> list[str]:
    """Every T* that the inputs determine, and what the others lack."""
    lines = []
    for name, one in found.saturation.thresholds.items():
        value = float(one.value)
        if np.isfinite(value):
            ends = f"{float(one.lower):.4g} to {float(one.upper):.4g}"
            lines.append(f"T* by {name}: {value:.4g} ({ends})")
        else:
            num = len(found.measurements.experts)
            lines.append(f"T* by {name}: more than these {num} experts")
    missing = found.saturation.missing
    return lines + [f"no T*: {sentence}" for sentence in missing.values()]


def gains_table(found: Diagnosis) -> list[list[str]]:
    """What each expert added and the next ones are predicted to add."""
    ahead = found.prospects
    known = len(ahead.gains)
    rows = [["experts", "gain of the last, % of the first", "averaging keeps, %"]]
    gains = np.concatenate([ahead.gains, ahead.next_gains])
    for k, kept in enumerate(ahead.kept, start=1):
        gain = "-" if k == 1 or known == 0 else f"{100 * gains[k - 2]:.0f}"
        mark = " (predicted)" if k > known + 1 else ""
        rows.append([f"{k}{mark}", gain, f"{100 * kept:.0f}"])
    return rows


def record_line() -> str:
    """How good the advice has been."""
    return sentence(record())
