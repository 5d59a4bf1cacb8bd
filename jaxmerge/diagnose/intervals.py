"""How far a number about T experts is known: over layers, and over experts.

A statistic is a function of weights on layers and on experts. Resampling layers (they
differ, and a model has many) gives one interval, leaving out each expert in turn
another; what is told is the wider of the two. Neither is a guarantee: layers of one
model are not independent, and a jackknife over a handful of experts is coarse.
"""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from jaxmerge._types import PRNGKey

Statistic = Callable[[np.ndarray, np.ndarray], float]
_LEVEL = 0.95
_NORMAL = 1.959963984540054


@dataclasses.dataclass(frozen=True)
class Interval:
    """A number with a 95 % interval.

    Attributes:
      value: the number; NaN where it is not defined.
      lower: of the interval; -inf where nothing is known.
      upper: of the interval.
      over_layers: standard error by the bootstrap over layers; NaN with one layer.
      over_experts: standard error by leaving out experts; NaN with fewer than three.
    """

    value: float
    lower: float
    upper: float
    over_layers: float = np.nan
    over_experts: float = np.nan

    @property
    def defined(self) -> bool:
        """Whether there is a number."""
        return bool(np.isfinite(self.value))

    def crosses(self, neutral: float) -> bool:
        """Whether the interval holds a value, or there is no number at all.

        >>> Interval(1.2, 0.9, 1.5).crosses(1.0), Interval(1.2, 1.1, 1.3).crosses(1.0)
        (True, False)
        """
        return not self.defined or self.lower <= neutral <= self.upper


def _drawn_layers(key: PRNGKey, resamples: int, layers: int) -> np.ndarray:
    drawn = np.asarray(jax.random.randint(key, (resamples, layers), 0, layers))
    counts = np.zeros((resamples, layers))
    np.add.at(counts, (np.arange(resamples)[:, None], drawn), 1.0)
    return counts


def interval(
    statistic: Statistic,
    layers: int,
    experts: int,
    *,
    key: PRNGKey,
    resamples: int = 1000,
) -> Interval:
    """A statistic with its interval.

    Args:
      statistic: of weights on layers, `(L,)`, and on experts, `(T,)`; NaN where it is
        not defined.
      layers: L.
      experts: T.
      key: a typed key, for the bootstrap.
      resamples: how often layers are drawn anew.

    Returns:
      The wider of the percentile interval over layers and `+- 1.96` standard errors
      of the jackknife over experts; infinite if there is neither.

    Example:
      >>> mean = lambda layers, experts: float(layers @ [1.0, 2.0, 3.0] / layers.sum())
      >>> found = interval(mean, 3, 1, key=jax.random.key(0))
      >>> found.value, 1 <= found.lower < 2 < found.upper <= 3
      (2.0, True)

    References:
      Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 11 and 13.
    """
    all_layers, all_experts = np.ones(layers), np.ones(experts)
    value = statistic(all_layers, all_experts)
    lower, upper, over_layers, over_experts = np.inf, -np.inf, np.nan, np.nan
    if layers > 1:
        counts = _drawn_layers(key, resamples, layers)
        drawn = np.array([statistic(weights, all_experts) for weights in counts])
        drawn = drawn[np.isfinite(drawn)]
        if drawn.size > 1:
            tail = (1 - _LEVEL) / 2
            lower, upper = np.quantile(drawn, [tail, 1 - tail])
            over_layers = float(drawn.std(ddof=1))
    if experts > 2:
        without = 1 - np.eye(experts)
        left = np.array([statistic(all_layers, weights) for weights in without])
        if np.isfinite(left).all() and np.isfinite(value):
            scale = (experts - 1) / experts
            over_experts = float(np.sqrt(scale * ((left - left.mean()) ** 2).sum()))
            lower = min(lower, value - _NORMAL * over_experts)
            upper = max(upper, value + _NORMAL * over_experts)
    if lower > upper:
        lower, upper = -np.inf, np.inf
    return Interval(value, float(lower), float(upper), over_layers, over_experts)
