"""A forecast of the whole curve in k before any merge, with a calibrated band.

The mean over subsets of an expansion of third order is the forecast, and its distance
from the expansion of second order says how much higher orders matter. How many times
that distance the error was, in families of toy experts, makes the band.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from jaxmerge.laws.designs import all_subsets
from jaxmerge.laws.expansion import Expansion
from jaxmerge.laws.fit import Fit, fit_curve
from jaxmerge.laws.tables import curve_points

# Of the error over `scale_of_error`, in the 36 families of experiments/forecast that
# are for calibration: quantiles that hold in 95 % of bootstrap samples of families.
# `python -m experiments.forecast` prints them; its other 20 families test them.
QUANTILES = {0.5: 0.12, 0.8: 0.37, 0.9: 0.53, 0.95: 0.70}
# Where second and third order agree by chance, this share of the drop since k = 1.
_SHARE = 0.02
_ENUMERATED = 12  # experts whose 2^M subsets are all predicted


@dataclasses.dataclass(frozen=True)
class CurveForecast:
    """The loss of a mean merge of k experts, before any was made.

    Attributes:
      k: 1 to M.
      mean: forecast of the mean loss over subsets; at k = 1 it is measured.
      lower: lower end of the band of the mean.
      upper: its upper end.
      spread: forecast of the standard deviation over subsets; beyond 12 experts to
        first order only.
      level: share of points that the band is calibrated to hold.
      fit: the law, fitted to the forecast; None with fewer than three experts.
    """

    k: np.ndarray
    mean: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    spread: np.ndarray
    level: float
    fit: Fit | None

    @property
    def gains(self) -> np.ndarray:
        """L(k) - L(k + 1) as forecast, for k from 1 to M - 1."""
        return -np.diff(self.mean)


def scale_of_error(third: Any, second: Any) -> np.ndarray:
    """The unit of errors: how far apart the orders are, and a share of the drop.

    Args:
      third: the forecast of third order, `(k,)`, from k = 1.
      second: that of second order.
    """
    third, second = np.asarray(third, np.float64), np.asarray(second, np.float64)
    rounding = 8 * np.finfo(np.float32).eps * np.abs(third)
    return np.abs(third - second) + _SHARE * np.abs(third - third[0]) + rounding


@jax.jit
def _means(expansion: Expansion, k: Any, scale: Any) -> tuple[Any, Any, Any]:
    second, third = (expansion.mean(k, scale=scale, order=n) for n in (2, 3))
    return third, second, expansion.variance(k, scale=scale)


_predict = jax.jit(Expansion.predict)


def _spread(
    expansion: Expansion, k: np.ndarray, scale: Any, variance: np.ndarray
) -> np.ndarray:
    pool = expansion.pool
    if pool > _ENUMERATED:
        return np.sqrt(np.maximum(variance, 0.0))
    masks = all_subsets(pool).masks
    losses = np.asarray(_predict(expansion, masks, scale=scale), np.float64)
    groups = [losses[masks.sum(axis=1) == n] for n in k]
    return np.array([g.std(ddof=1) if len(g) > 1 else 0.0 for g in groups])


def forecast_curve(
    expansion: Expansion, *, scale: Any = 1.0, level: float = 0.9
) -> CurveForecast:
    """Forecasts the mean loss over all subsets of k, for k = 1 to M.

    Args:
      expansion: from `expand`, of the base, the experts and a loss.
      scale: c, what the merge's coefficients sum to: 1 for an average.
      level: of the band: 0.5, 0.8, 0.9 or 0.95. It was calibrated on small networks;
        elsewhere it is a guess that `experiments/forecast` shows how to check.

    Returns:
      The forecast, on the host.

    Raises:
      ValueError: if the level has no calibration, or the loss is not finite at an
        expert.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmerge.laws import expand
      >>> square = lambda x: 1 + jnp.sum((x - 1) ** 2)
      >>> expansion = expand(square, jnp.zeros(3), list(3 * jnp.eye(3)))
      >>> [round(float(x), 4) for x in forecast_curve(expansion).mean]
      [7.0, 2.5, 1.0]

    References:
      A reconstruction: see `jaxmerge.laws.expansion`. The band is a split conformal
      one (Vovk, Gammerman, Shafer, Algorithmic Learning in a Random World, 2005).
    """
    if level not in QUANTILES:
        known = ", ".join(map(str, QUANTILES))
        raise ValueError(f"level is {level:g}; it is calibrated for {known}")
    losses = np.asarray(expansion.losses)
    if not np.all(np.isfinite(losses)):
        bad = int(np.flatnonzero(~np.isfinite(losses))[0])
        where = "the base" if bad == expansion.pool else f"expert {bad}"
        raise ValueError(f"the loss of {where} is {losses[bad]}; expected finite ones")
    k = np.arange(1, expansion.pool + 1)
    third, second, variance = (
        np.asarray(x, np.float64) for x in _means(expansion, k, scale)
    )
    half = QUANTILES[level] * scale_of_error(third, second)
    fit = None
    if len(k) > 2 and np.all(third >= 0):
        fit = fit_curve(curve_points(k, third), weights="none")
    return CurveForecast(
        k=k,
        mean=third,
        lower=third - half,
        upper=third + half,
        spread=_spread(expansion, k, scale, variance),
        level=level,
        fit=fit,
    )
