"""Means with intervals over seeds and subsets, paired differences, rank correlation."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

RESAMPLES = 2000


class Interval(NamedTuple):
    """A mean and its 95 % percentile interval."""

    mean: float
    lower: float
    upper: float

    def __str__(self) -> str:
        return f"{self.mean:.3g} [{self.lower:.3g}, {self.upper:.3g}]"


def interval(groups: Sequence[Sequence[float]], seed: int = 0) -> Interval:
    """The mean over groups of the mean in each, by a bootstrap of both levels.

    Args:
      groups: the values of each training seed, one a subset. With one seed the
        interval says nothing about other seeds.
      seed: of the resampling: the same draws for all that have the same sizes.

    Raises:
      ValueError: if there is no group, or an empty one.

    >>> interval([[1.0, 1.0], [3.0, 3.0]])
    Interval(mean=2.0, lower=1.0, upper=3.0)
    """
    if not groups or any(len(group) == 0 for group in groups):
        raise ValueError("an interval needs at least one value in every group")
    rng = np.random.default_rng([20261125, seed])
    means = np.zeros(RESAMPLES)
    which = rng.integers(0, len(groups), (RESAMPLES, len(groups)))
    for g, group in enumerate(groups):
        values = np.asarray(group, np.float64)
        draws = values[rng.integers(0, len(values), (RESAMPLES, len(values)))]
        # A group that was drawn twice counts twice, with one draw of its subsets.
        means += draws.mean(axis=1) * (which == g).sum(axis=1) / len(groups)
    middle = float(np.mean([np.mean(group) for group in groups]))
    lower, upper = np.quantile(means, [0.025, 0.975])
    return Interval(middle, float(lower), float(upper))


def paired(
    first: Mapping[int, Mapping[str, float]],
    second: Mapping[int, Mapping[str, float]],
    seed: int = 0,
) -> Interval:
    """The mean difference of two methods over the seeds and subsets that both have.

    Args:
      first: training seed to subset to value.
      second: the same of the other method.
      seed: of the resampling.

    >>> paired({0: {"0-1": 2.0}}, {0: {"0-1": 0.5, "0-2": 9.0}}).mean
    1.5
    """
    groups = []
    for group in [g for g in first if g in second]:
        common = [name for name in first[group] if name in second[group]]
        groups.append([first[group][name] - second[group][name] for name in common])
    return interval([group for group in groups if group], seed)


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rank correlation; infinite values tie; NaN if one is constant.

    >>> float(spearman(np.array([1.0, 2.0, np.inf]), np.array([1.0, 5.0, 7.0])))
    1.0
    """
    a, b = (rankdata(v) - (len(v) + 1) / 2 for v in (x, y))
    scale = np.sqrt((a @ a) * (b @ b))
    return a @ b / scale if scale > 0 else np.nan
