"""Six mechanisms by which more experts fail, each with its measure.

Which mechanisms there are, and what helps against each, is from the literature of
merging; the measures are chosen so that one reading of the checkpoints gives them, and
so that each has a neutral value, at which the mechanism is not at work. Deltas are
tau_t = expert_t - base, M their mean, S their sum; norms are Euclidean.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxmerge._types import PRNGKey
from jaxmerge.diagnose.intervals import Interval, Statistic, interval
from jaxmerge.diagnose.measure import Measurements
from jaxmerge.diagnose.statistics import columns_of, statistics_of

# Norms that differ by less than this factor are of one size. A convention of ours.
UNEQUAL = 1.5
_NEGLIGIBLE = 0.01  # no distance from a neutral value is worth advice below this


@dataclasses.dataclass(frozen=True)
class Mechanism:
    """One mechanism, as far as it can be told.

    Attributes:
      name: `"dilution"` and so on.
      measure: what the number is, in words.
      found: the number and its interval, over the whole model.
      neutral: the value at which the mechanism is not at work.
      worse: 1 if larger numbers are worse, -1 if smaller ones are.
      layers: the number in each layer where it is defined.
      antidote: what helps against it.
      needs: what has to be given for it to be measured; None if it was.
    """

    name: str
    measure: str
    found: Interval
    neutral: float
    worse: int
    layers: Mapping[str, float]
    antidote: str
    needs: str | None = None

    @property
    def verdict(self) -> str:
        """`"at work"`, `"not at work"`, `"undecided"` or `"not measured"`."""
        if self.needs is not None or not self.found.defined:
            return "not measured"
        ends = np.array([self.found.lower, self.found.upper])
        if (np.abs(ends - self.neutral) <= _NEGLIGIBLE).all():
            return "not at work"
        if self.found.crosses(self.neutral):
            return "undecided"
        above = self.found.lower > self.neutral
        return "at work" if above == (self.worse > 0) else "not at work"


_NOTHING = Interval(np.nan, -np.inf, np.inf)


def depth_compounding(drift: np.ndarray) -> Interval:
    """By what factor the error of features grows from one layer to the next.

    Args:
      drift: relative errors of the merged model's features against an expert's, in
        order of depth, `(samples, L)`; at least two samples and two layers.

    Returns:
      exp of the slope of log error over depth, +- 1.96 standard errors over samples.

    Raises:
      ValueError: if a value is not positive and finite, or there are too few.

    Example:
      >>> found = depth_compounding(np.array([[1.0, 2.0, 4.0], [2.0, 4.0, 8.0]]))
      >>> round(found.value, 6)
      2.0
    """
    drift = np.asarray(drift, np.float64)
    if drift.ndim != 2 or min(drift.shape) < 2:
        raise ValueError(
            f"drift has shape {drift.shape}; expected (samples, layers), two of each "
            "at least"
        )
    if not (np.isfinite(drift) & (drift > 0)).all():
        raise ValueError("drift has values that are not positive and finite")
    depth = np.arange(drift.shape[1]) - (drift.shape[1] - 1) / 2
    slopes = np.log(drift) @ depth / (depth @ depth)
    stderr = float(slopes.std(ddof=1) / np.sqrt(len(slopes)))
    mean = float(slopes.mean())
    ends = (float(np.exp(mean + sign * 1.96 * stderr)) for sign in (-1, 1))
    return Interval(float(np.exp(mean)), *ends, over_layers=stderr)


# Name, what the number is, the neutral value, what is worse, and what helps.
_TABLE = (
    (
        "dilution",
        "what the mean of the experts keeps of each one's own component",
        1.0,
        -1,
        "a larger scale than averaging's: task_arithmetic with the scale that is "
        "advised; the mean's norm restored; singular value calibration",
    ),
    (
        "over-accumulation",
        "how much fewer directions the sum fills than sums with random signs",
        1.0,
        1,
        "a flatter spectrum: isotropic; subspace boosting",
    ),
    (
        "capacity",
        "the experts' directions (90 % of the energy) over those there are",
        1.0,
        1,
        "fewer experts, or of lower rank; a model per task, as emr gives if the task "
        "is known; larger models",
    ),
    (
        "directional conflict",
        "the share of the experts' own responses that no scale of the sum gives back",
        0.0,
        1,
        "solving for the least interference (WUDI), masks of directions (DC-Merge)",
    ),
    (
        "depth compounding",
        "the factor by which errors of features grow from layer to layer",
        1.0,
        1,
        "solving layers in forward order; scales that grow with depth (LiNeS)",
    ),
    (
        "heterogeneity",
        "the longest delta over the median one",
        UNEQUAL,
        1,
        "weights that make norms equal; it hurt where they were already",
    ),
)


def mechanisms(
    found: Measurements,
    *,
    key: PRNGKey,
    drift: Any = None,
    resamples: int = 1000,
) -> dict[str, Mechanism]:
    """The six mechanisms, by name.

    Args:
      found: from `measure`.
      key: a typed key, for the bootstrap over layers.
      drift: relative errors of features, `(samples, layers)`, for depth compounding;
        weights alone do not tell it.
      resamples: of the bootstrap.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmerge.diagnose.measure import measure
      >>> base = {"w": jnp.zeros((4, 4))}
      >>> experts = [{"w": jnp.diag(row)} for row in jnp.eye(4)]
      >>> found = mechanisms(measure(base, experts, key=jax.random.key(0)),
      ...                    key=jax.random.key(1))
      >>> found["dilution"].found.value, found["directional conflict"].found.value
      (0.25, 0.0)
      >>> found["depth compounding"].verdict
      'not measured'
    """
    statistics = statistics_of(columns_of(found))
    num, layers = len(found.experts), len(found.layers)
    result = {}
    for i, (name, what, neutral, worse, antidote) in enumerate(_TABLE):
        needs, each, value = None, {}, _NOTHING
        if name == "depth compounding":
            if drift is None:
                needs = "`drift`, errors of features by depth; weights do not tell it"
            else:
                value = depth_compounding(drift)
        else:
            statistic = statistics[name]
            value = interval(
                statistic,
                layers,
                num,
                key=jax.random.fold_in(key, i),
                resamples=resamples,
            )
            each = _by_layer(statistic, tuple(found.layers), num)
            if not value.defined:
                needs = "experts that differ from the base, in a matrix"
        result[name] = Mechanism(
            name, what, value, neutral, worse, each, antidote, needs
        )
    return result


def _by_layer(
    statistic: Statistic, layers: tuple[str, ...], num: int
) -> dict[str, float]:
    values = (statistic(row, np.ones(num)) for row in np.eye(len(layers)))
    pairs = zip(layers, values, strict=True)
    return {name: value for name, value in pairs if np.isfinite(value)}
