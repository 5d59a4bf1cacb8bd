"""Fractional returns of measured curves: what share of the gain k experts bring."""

import dataclasses
from typing import Any

import numpy as np

from jaxmerge.laws._numbers import Real, Reals, whole_above

_SLACK = 1e-9


def envelope(loss: Any) -> np.ndarray:
    """The running minimum of a curve: the best of the first k means.

    Args:
      loss: `(..., k)`, by ascending k.

    >>> envelope([3.0, 1.0, 2.0]).tolist()
    [3.0, 1.0, 1.0]
    """
    return np.minimum.accumulate(np.asarray(loss, np.float64), axis=-1)


def fractional_return(loss: Any) -> np.ndarray:
    """The share of the whole improvement that is there at each k.

        R(k) = (E(1) - E(k)) / (E(1) - E(K)),    E the envelope of the curve

    Args:
      loss: `(..., k)`, by ascending k; the last is K.

    Returns:
      `(..., k)`, from 0 to 1; NaN for a curve that never improves.

    Example:
      >>> fractional_return([1.0, 0.6, 0.5]).tolist()
      [0.0, 0.8, 1.0]

    References:
      Model Merging Scaling Laws in Large Language Models, 2025, section 3.3.3.
    """
    best = envelope(loss)
    whole = best[..., :1] - best[..., -1:]
    gained = best[..., :1] - best
    return np.where(whole > 0, gained / np.where(whole > 0, whole, 1.0), np.nan)


def first_reaching(k: Any, returns: Any, share: Real) -> float:
    """The smallest k whose return is at least a share; NaN if there is none.

    Args:
      k: `(k,)`, ascending.
      returns: `(k,)`.
      share: such as 0.9, which gives the paper's k90.

    >>> first_reaching([1, 2, 3], [0.0, 0.8, 1.0], 0.8)
    2.0
    """
    k, returns = np.asarray(k, np.float64), np.asarray(returns, np.float64)
    reached = np.flatnonzero(returns >= share - _SLACK)
    return float(k[reached[0]]) if reached.size else float("nan")


@dataclasses.dataclass(frozen=True)
class ReturnSummary:
    """Returns over several series, such as domains and sizes.

    Attributes:
      k: `(k,)`.
      median: of R(k) over the series, `(k,)`.
      lower: first quartile.
      upper: third quartile.
      k80: of each series.
      k90: of each series.
    """

    k: np.ndarray
    median: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    k80: np.ndarray
    k90: np.ndarray


def summarise_returns(k: Reals, losses: Any) -> ReturnSummary:
    """Median and quartiles of fractional returns over series.

    Args:
      k: `(k,)`, ascending.
      losses: `(series, k)`. A series that never improves has no return, and is left
        out of the quartiles.

    Raises:
      ValueError: if no series improves, or the shapes do not fit.
    """
    losses = np.asarray(losses, np.float64)
    if losses.ndim != 2 or losses.shape[1] != len(k):
        raise ValueError(
            f"losses has shape {losses.shape}; expected (series, {len(k)})"
        )
    returns = fractional_return(losses)
    improving = returns[np.isfinite(returns[:, -1])]
    if not len(improving):
        raise ValueError("no series improves from the first k on; there is no return")
    lower, median, upper = np.quantile(improving, [0.25, 0.5, 0.75], axis=0)
    at = lambda share: np.array([first_reaching(k, row, share) for row in returns])
    return ReturnSummary(
        np.asarray(k, np.float64), median, lower, upper, at(0.8), at(0.9)
    )


def law_return(offset: Any, k: Any, most: Real | None = None) -> Any:
    """The return of the law itself, which depends on b alone.

        R_K(k) = (k - 1) (K + b) / ((K - 1) (k + b)),   R_inf(k) = 1 - (1 + b) / (k + b)

    Args:
      offset: b.
      k: how many experts.
      most: K, the pool; an unlimited population if None.

    Example:
      >>> float(law_return(0.0, 5, most=9))
      0.9
    """
    offset, k = np.asarray(offset, np.float64), np.asarray(k, np.float64)
    if most is None:
        return 1 - (1 + offset) / (k + offset)
    if most == 1:
        return np.ones_like(offset * k)
    return (k - 1) * (most + offset) / ((most - 1) * (k + offset))


def experts_for_return(offset: Real, share: Real, most: Real | None = None) -> int:
    """The smallest k with a return of at least a share.

        k = ceil(((K + b) + rho (K - 1) b) / ((K + b) - rho (K - 1)))
        k = ceil((1 + rho b) / (1 - rho))                       without a pool

    Args:
      offset: b, at least 0.
      share: rho, in [0, 1); up to 1 with a pool.
      most: K, the pool; an unlimited population if None.

    Raises:
      ValueError: if the share is out of range.

    Example:
      >>> experts_for_return(0.5, 0.9, most=9), experts_for_return(0.0, 0.9)
      (6, 10)
    """
    if not (0 <= share < 1 or (share == 1 and most is not None)):
        raise ValueError(
            f"share is {share:g}; expected at least 0 and below 1 (1 is never reached "
            "but in a pool)"
        )
    if most is None:
        return max(1, whole_above((1 + share * offset) / (1 - share)))
    reach = share * (most - 1)
    value = ((most + offset) + reach * offset) / ((most + offset) - reach)
    return max(1, min(whole_above(value), int(most)))
