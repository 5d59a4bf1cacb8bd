"""Widths of unions as their number grows: what one more expert adds.

From one batch of samples `h[i, t]`, the support function of set t in direction i, come
the widths of the hulls of all unions at once: the hull's support function is a maximum.
The average over all k-subsets of a pool needs no subset: sort each row, and weight the
j-th smallest by the share of subsets in which it is the largest.
"""

import math

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from jaxmerge.geometry.estimate import Estimate


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def subset_weights(num: int) -> Float[np.ndarray, "num num"]:
    """The weights of order statistics in the mean of the largest of a random subset.

        W[k-1, j-1] = C(j - 1, k - 1) / C(num, k)

    Args:
      num: the pool's size.

    Returns:
      In float64; the rows sum to 1.

    Example:
      >>> subset_weights(2).tolist()
      [[0.5, 0.5], [0.0, 1.0]]
    """
    weights = np.zeros((num, num))
    for k in range(1, num + 1):
        for j in range(k, num + 1):
            log_share = _log_choose(j - 1, k - 1) - _log_choose(num, k)
            weights[k - 1, j - 1] = math.exp(log_share)
    return weights / weights.sum(axis=1, keepdims=True)


def _check_pool(samples: Array) -> None:
    if samples.ndim != 2 or samples.shape[1] < 1:
        raise ValueError(
            f"samples have shape {samples.shape}; expected (num_samples, num_sets), as "
            "width_samples gives them for a sequence of sets"
        )


def _subset_means(samples: Array, weights: np.ndarray, method: str) -> Estimate:
    rows = jnp.sort(samples, axis=1) @ jnp.asarray(weights.T, samples.dtype)
    return Estimate.from_samples(rows, method=method)


def subset_width(samples: Float[Array, "n T"]) -> Estimate:
    r"""The width of the union of k sets, averaged over all k-subsets of the pool.

        W(k) = E sum_j C(j - 1, k - 1) / C(T, k) h_(j)

    It is nondecreasing and concave in k, whatever the sets are: the width of a union is
    a monotone submodular function. (A reconstruction of "strictly concave marginal
    gain"; for one fixed order it is false, see `order_width`.)

    Args:
      samples: from `width_samples` of T sets.

    Returns:
      W(1) to W(T), with standard errors.

    Example:
      >>> import jax.numpy as jnp
      >>> subset_width(jnp.array([[0.0, 1.0], [2.0, 1.0]])).mean.tolist()
      [1.0, 1.5]
    """
    _check_pool(samples)
    return _subset_means(samples, subset_weights(samples.shape[1]), "order statistics")


def marginal_gains(samples: Float[Array, "n T"]) -> Estimate:
    r"""What one more set adds on average: `W(k + 1) - W(k)` for k = 1 to T - 1.

    The differences are taken within each sample, which makes them thousands of times
    less noisy than differences of widths that are estimated apart.

    Args:
      samples: from `width_samples` of T sets.

    Example:
      >>> import jax.numpy as jnp
      >>> marginal_gains(jnp.array([[0.0, 1.0], [2.0, 1.0]])).mean.tolist()
      [0.5]
    """
    _check_pool(samples)
    gains = np.diff(subset_weights(samples.shape[1]), axis=0)
    return _subset_means(samples, gains, "order statistics")


def order_width(samples: Float[Array, "n T"]) -> Estimate:
    """The width of the union of the first k sets, in the order given.

    It need not be concave in k: duplicates that come first add nothing, and what comes
    later does.

    Args:
      samples: from `width_samples` of T sets.

    Example:
      >>> import jax.numpy as jnp
      >>> order_width(jnp.array([[0.0, 1.0], [2.0, 1.0]])).mean.tolist()
      [1.0, 1.5]
    """
    _check_pool(samples)
    return Estimate.from_samples(
        lax.cummax(samples, axis=1), method="common directions"
    )


def greedy_order(samples: Float[Array, "n T"]) -> tuple[Int[Array, " T"], Array]:
    """The order in which each next set adds the most width, and the widths on the way.

    The first k sets have at least 1 - 1/e of the width of the best k sets, if the
    supports are not negative (as those of symmetric sets).

    Args:
      samples: from `width_samples` of T sets.

    Returns:
      The order, and the sample means of the widths of its first k sets. These are
      slightly optimistic: the order was chosen on the same samples.

    Example:
      >>> import jax.numpy as jnp
      >>> greedy_order(jnp.array([[0.0, 1.0, 0.5], [0.0, 1.0, 2.0]]))[0].tolist()
      [2, 1, 0]
    """
    _check_pool(samples)
    num = samples.shape[1]

    def step(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], Array]:
        reached, left = carry
        widths = jnp.mean(jnp.maximum(samples, reached[:, None]), axis=0)
        best = jnp.argmax(jnp.where(left, widths, -jnp.inf))
        reached = jnp.maximum(reached, samples[:, best])
        return (reached, left.at[best].set(False)), best

    start = jnp.full(samples.shape[:1], -jnp.inf, samples.dtype), jnp.ones(num, bool)
    _, order = lax.scan(step, start, None, length=num)
    return order, jnp.mean(lax.cummax(samples[:, order], axis=1), axis=0)
