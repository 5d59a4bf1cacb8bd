"""Statistics of T deltas as functions of weights on layers and on experts.

Sums over layers and experts come first, ratios last, so that a bootstrap over layers
and leaving out experts are new weights and nothing else.
"""

import dataclasses
from typing import Any

import numpy as np

from jaxmerge.diagnose.intervals import Statistic
from jaxmerge.diagnose.measure import Measurements, Measures


def _divide(a: float, b: float) -> float:
    return float(a / b) if b > 0 else np.nan


def dilution(grams: np.ndarray) -> Statistic:
    r"""What the mean keeps of an expert's own component.

        s = mean over t of <M, tau_t> / |tau_t|^2

    1 for equal experts, 1 / T for orthogonal ones. Experts that do not differ from the
    base are left out.

    Args:
      grams: of each layer, `(L, T, T)`.

    Example:
      >>> dilution(np.eye(4)[None])(np.ones(1), np.ones(4))
      0.25
    """

    def statistic(layers: np.ndarray, experts: np.ndarray) -> float:
        gram = np.tensordot(layers, grams, 1)
        own = np.diagonal(gram)
        used = (experts > 0) & (own > 0)
        if not used.any():
            return np.nan
        inner = gram @ experts / experts.sum()
        return float((inner[used] / own[used]).mean())

    return statistic


def over_accumulation(logs: np.ndarray, energies: np.ndarray) -> Statistic:
    r"""How much less of the space the sum fills than sums with random signs do.

        R = exp(mean over matrices, by their energy, of log(p(sum_t e_t tau_t) / p(S)))

    where p is the participation rank (sum s^2)^2 / sum s^4 and e are random signs: 1 if
    nothing accumulates but by chance, above 1 if directions that experts share are
    amplified and the rest is not. Equal experts have 1: there a scale is all it takes.

    Args:
      logs: the logarithms of each layer, averaged over signs, `(L,)`.
      energies: of each layer, the weights, `(L,)`.
    """

    def statistic(layers: np.ndarray, experts: np.ndarray) -> float:
        if not experts.all():  # sums of all experts do not tell it of fewer
            return np.nan
        used = np.isfinite(logs) & (energies > 0)
        weights = np.where(used, layers * energies, 0.0)
        total = _divide(float(weights @ np.where(used, logs, 0.0)), weights.sum())
        return float(np.exp(total))

    return statistic


def capacity(filled: np.ndarray, energies: np.ndarray) -> Statistic:
    r"""How often the experts' directions fill the space there is.

        rho = mean over matrices, by their energy, of sum_t r_t / min(out, in)

    with r_t the number of singular values that hold 90 % of |tau_t|^2. Above 1 not all
    of them fit side by side.

    Args:
      filled: of each layer, `r_t / min(out, in)` averaged over its matrices, `(L, T)`.
      energies: of each layer, `(L,)`.
    """
    num = filled.shape[1]

    def statistic(layers: np.ndarray, experts: np.ndarray) -> float:
        weights = layers * energies
        each = filled @ experts / experts.sum()
        return num * _divide(weights @ each, weights.sum())

    return statistic


def directional_conflict(
    signal: np.ndarray, cross: np.ndarray, interference: np.ndarray
) -> Statistic:
    r"""What no scale of the sum gives back of the experts' own responses.

        c = min over lambda of  sum_t |(lambda S - tau_t) tau_t^T|^2 / |tau_t|^2
                               ------------------------------------------------
                                     sum_t |tau_t tau_t^T|^2 / |tau_t|^2

    An expert's delta stands for the inputs that it was trained on, as in WUDI. 0 if
    experts read from different directions, or are equal; 1 if they cancel.

    Args:
      signal: `|tau_t tau_t^T|^2 / |tau_t|^2` of each layer, `(L, T)`.
      cross: `<S tau_t^T, tau_t tau_t^T> / |tau_t|^2`, `(L, T)`.
      interference: `|S tau_t^T|^2 / |tau_t|^2`, `(L, T)`.

    References:
      Cheng et al., Whoever Started the Interference Should End It: Guiding Data-Free
      Model Merging via Task Vectors, 2025, the objective. The ratio is ours.
    """

    def statistic(layers: np.ndarray, experts: np.ndarray) -> float:
        a, b, c = (float(layers @ x @ experts) for x in (signal, cross, interference))
        if a <= 0:
            return np.nan
        return float(np.clip(1 - (b * b / (a * c) if c > 0 else 0.0), 0.0, 1.0))

    return statistic


def least_interference(cross: np.ndarray, interference: np.ndarray) -> Statistic:
    """The lambda of `directional_conflict`: the scale of the sum that it asks for.

    1 if experts read from different directions, 1 / T if they are equal.

    Args:
      cross: as for `directional_conflict`.
      interference: as for `directional_conflict`.
    """

    def statistic(layers: np.ndarray, experts: np.ndarray) -> float:
        b, c = (float(layers @ x @ experts) for x in (cross, interference))
        return _divide(b, c)

    return statistic


def sign_conflict(absolute: np.ndarray, magnitudes: np.ndarray) -> Statistic:
    """`1 - sum |sum_t x_t| / sum sum_t |x_t|`, over entries: what signs cancel.

    Args:
      absolute: `sum |sum_t x_t|` of each layer, `(L,)`.
      magnitudes: `sum |x_t|` of each layer, `(L, T)`.
    """

    def statistic(layers: np.ndarray, experts: np.ndarray) -> float:
        if not experts.all():  # sums of all experts do not tell it of fewer
            return np.nan
        return 1 - _divide(float(layers @ absolute), float((layers @ magnitudes).sum()))

    return statistic


def heterogeneity(grams: np.ndarray) -> Statistic:
    """How much longer the longest delta is than the middle one, of these experts.

    They are the ones to be merged, no sample: none is left out to see what changes.

    Args:
      grams: of each layer, `(L, T, T)`.
    """

    def statistic(layers: np.ndarray, experts: np.ndarray) -> float:
        if not experts.all():
            return np.nan
        energies = layers @ np.diagonal(grams, axis1=1, axis2=2)
        norms = np.sqrt(np.maximum(energies, 0.0))
        return _divide(float(norms.max()), float(np.median(norms)))

    return statistic


def mean_cosine(grams: np.ndarray) -> Statistic:
    """The mean cosine over pairs of experts; experts without a delta are left out.

    Args:
      grams: of each layer, `(L, T, T)`.
    """

    def statistic(layers: np.ndarray, experts: np.ndarray) -> float:
        gram = np.tensordot(layers, grams, 1)
        norms = np.sqrt(np.maximum(np.diagonal(gram), 0.0))
        used = (experts > 0) & (norms > 0)
        num = int(used.sum())
        if num < 2:
            return np.nan
        cosines = gram[used][:, used] / np.outer(norms[used], norms[used])
        return float((cosines.sum() - num) / (num * (num - 1)))

    return statistic


@dataclasses.dataclass(frozen=True)
class Columns:
    """What the statistics are made from, one row a layer."""

    grams: np.ndarray
    absolute: np.ndarray
    magnitudes: np.ndarray
    energies: np.ndarray
    logs: np.ndarray
    filled: np.ndarray
    signal: np.ndarray
    cross: np.ndarray
    interference: np.ndarray


def _weighted(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean over matrices by their energy, where defined; NaN if nowhere is."""
    used = np.isfinite(values) & (weights > 0).reshape(-1, *[1] * (values.ndim - 1))
    shares = np.where(used, weights.reshape(-1, *[1] * (values.ndim - 1)), 0.0)
    total = shares.sum(axis=0)
    summed = (shares * np.where(used, values, 0.0)).sum(axis=0)
    return np.where(total > 0, summed / np.where(total > 0, total, 1.0), np.nan)


def _row(layer: Measures) -> tuple[Any, ...]:
    num = len(layer.gram)
    matrices = layer.matrices
    energies = np.array([m.energies.sum() for m in matrices]).reshape(-1)
    ranks = [[e.energy90 / m.rank for e in m.experts] for m in matrices]
    with np.errstate(divide="ignore"):
        logs = [np.log(m.accumulation).mean() for m in matrices]
    sums = [
        np.sum([getattr(m, name) for m in matrices], axis=0) + np.zeros(num)
        for name in ("signal", "cross", "interference")
    ]
    filled = _weighted(np.array(ranks).reshape(-1, num), energies)
    return (
        layer.gram,
        layer.absolute_sum,
        layer.powers[:, 0],
        energies.sum(),
        _weighted(np.array(logs).reshape(-1), energies),
        np.nan_to_num(filled),
        *sums,
    )


def columns_of(found: Measurements) -> Columns:
    """One row a layer, from which the statistics are made."""
    rows = [_row(layer) for layer in found.layers.values()]
    return Columns(*(np.array(column) for column in zip(*rows, strict=True)))


def statistics_of(columns: Columns) -> dict[str, Statistic]:
    """All statistics of weights on layers and experts, by name."""
    c = columns
    return {
        "dilution": dilution(c.grams),
        "over-accumulation": over_accumulation(c.logs, c.energies),
        "capacity": capacity(c.filled, c.energies),
        "directional conflict": directional_conflict(c.signal, c.cross, c.interference),
        "heterogeneity": heterogeneity(c.grams),
        "mean cosine": mean_cosine(c.grams),
        "sign conflict": sign_conflict(c.absolute, c.magnitudes),
        "least interference": least_interference(c.cross, c.interference),
    }
