"""Which law the variance over subsets follows: a population's, or a pool's."""

import dataclasses

import numpy as np

from jaxmerge.laws.curves import Curve, FinitePool
from jaxmerge.laws.guards import Caution
from jaxmerge.laws.tables import Points


@dataclasses.dataclass(frozen=True)
class VarianceFit:
    """Both laws of the variance, and which is closer.

    Attributes:
      population: `V* + A / (k + b)`, the paper's.
      finite_pool: `A (1 / k - 1 / M)`.
      errors: root mean squared error of the logarithm of each, by name, at k < M.
      better: the name of the closer one.
      cautions: what to beware of.
    """

    population: Curve
    finite_pool: FinitePool
    errors: dict[str, float]
    better: str
    cautions: tuple[Caution, ...]


def fit_variance(points: Points, pool: int) -> VarianceFit:
    """Fits both laws to the variances over subsets of one size.

    Fitted to logarithms: variances span orders of magnitude, and their errors are
    proportional to them.

    Args:
      points: of one size, with variances; those that are NaN are left out.
      pool: M, how many experts subsets were drawn from.

    Returns:
      The fits.

    Raises:
      ValueError: if fewer than two k have a variance.

    Example:
      >>> from jaxmerge.laws import curve_points
      >>> k = np.arange(1, 9)
      >>> points = curve_points(k, 1.0, variance=FinitePool(2.0, 9)(k))
      >>> fit_variance(points, pool=9).better
      'finite_pool'

    References:
      Model Merging Scaling Laws in Large Language Models, 2025, App. H.2; the finite
      pool is ours, see `FinitePool`.
    """
    if len(points.sizes) > 1:
        raise ValueError(
            f"the points have {len(points.sizes)} sizes; fit the variance of one"
        )
    keep = np.isfinite(points.variance) & (points.variance > 0) & (points.k < pool)
    k, log = points.k[keep], np.log(points.variance[keep])
    if len(np.unique(k)) < 2:
        raise ValueError(
            f"{len(np.unique(k))} k below the pool's {pool} have a variance; expected "
            "two or more, of several subsets each"
        )
    limited = FinitePool(float(np.exp(np.mean(log - np.log(1 / k - 1 / pool)))), pool)
    open_ended = _population(k, log)
    errors = {
        "population": _log_error(open_ended(k), log),
        "finite_pool": _log_error(limited(k), log),
    }
    return VarianceFit(
        open_ended,
        limited,
        errors,
        min(errors, key=errors.__getitem__),
        _cautions(k, log),
    )


def _population(k: np.ndarray, log: np.ndarray) -> Curve:
    """`A / (k + b)` with the best b >= 0; V* is 0, as in every fit of the paper."""
    offsets = np.concatenate([[0.0], np.geomspace(1e-3, 100, 400)])
    tails = np.log(1 / (k + offsets[:, None]))
    levels = np.mean(log - tails, axis=1)
    best = int(np.argmin(np.sum((log - tails - levels[:, None]) ** 2, axis=1)))
    return Curve(0.0, float(np.exp(levels[best])), float(offsets[best]))


def _log_error(fitted: np.ndarray, log: np.ndarray) -> float:
    return float(np.sqrt(np.mean((np.log(fitted) - log) ** 2)))


def _cautions(k: np.ndarray, log: np.ndarray) -> tuple[Caution, ...]:
    if log[np.argmin(k)] >= log.max() - np.log(1.2):
        return ()
    text = (
        "the variance grows with k at first, as that of a sum with a fixed scale does; "
        "both laws are of merges whose weights sum to one"
    )
    return (Caution("variance_grows", text),)
