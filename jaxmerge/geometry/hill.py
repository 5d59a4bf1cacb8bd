"""Hill's estimator: the exponent of a power law, if there is one.

The largest magnitudes of a power law are, in logarithms, exponential: their mean above
a threshold is the reciprocal of the exponent, whatever the threshold. For a law without
a power law's tail it falls with the threshold all the way, so that no single number
means anything: the plot over thresholds is the answer.
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, PyTree

from jaxmerge import ranks
from jaxmerge._types import pytree
from jaxmerge.geometry.convex import Data
from jaxmerge.geometry.tails import float_leaves

_SORTED = 1 << 16  # up to so many elements sorting is cheaper than to compile counting
_SPREAD = 1.25  # a tail index that changes less than this over a decade is stable
_HEAVY = 5.0
_FIRST, _PER_DECADE = 50, 8


@pytree
class HillPlot:
    """Hill's estimate of a tail's exponent at several depths.

    Attributes:
      ks: how many of the largest magnitudes each estimate has.
      index: the estimates; 0 where fewer than k + 1 elements are not zero, infinite
        where the k + 1 largest are equal.
      lower: of the interval that holds the exponent with 95 %, were the law an exact
        power law beyond the threshold.
      upper: of that interval.
      threshold: the (k + 1)-th largest magnitude.
    """

    ks: Data
    index: Data
    lower: Data
    upper: Data
    threshold: Data

    @property
    def _decades(self) -> tuple[Array, Array]:
        """For every k, the spread of the estimates up to 10 k, and their largest."""
        far = self.ks[None, :] >= 10 * self.ks[:, None]
        # From each k to the first that is ten times as large.
        within = (self.ks[None, :] >= self.ks[:, None]) & (
            jnp.cumsum(far.astype(jnp.int32), axis=1) <= far.astype(jnp.int32)
        )
        least = jnp.min(jnp.where(within, self.index, jnp.inf), axis=1)
        largest = jnp.max(jnp.where(within, self.index, 0.0), axis=1)
        known = jnp.any(far, axis=1) & (least > 0) & jnp.isfinite(largest)
        spread = largest / jnp.where(least > 0, least, 1.0)
        return jnp.where(known, spread, jnp.inf), largest

    @property
    def is_heavy(self) -> Bool[Array, ""]:
        """Whether a power law is seen: a stable exponent below 5.

        Stable means within 25 % over a decade of k. The estimates for a normal or a
        Laplace law fall all the way: a small one at one k says nothing. False says
        that none was seen; less than a decade of `ks` cannot show one.
        """
        spread, largest = self._decades
        return jnp.any((spread <= _SPREAD) & (largest < _HEAVY))

    @property
    def tail_index(self) -> Float[Array, ""]:
        """The exponent where it is most stable; infinite unless `is_heavy`."""
        spread, largest = self._decades
        heavy = (spread <= _SPREAD) & (largest < _HEAVY)
        best = jnp.argmin(jnp.where(heavy, spread, jnp.inf))
        end = jnp.argmax(self.ks >= 10 * self.ks[best])
        return jnp.where(jnp.any(heavy), self.index[end], jnp.inf)


def _depths(size: int) -> list[int]:
    """From 50 to a tenth of the elements, eight to a decade."""
    last = size // 10
    if last < _FIRST:
        return [max(1, last)]
    steps = math.floor(math.log10(last / _FIRST) * _PER_DECADE + 1e-9)
    return [round(_FIRST * 10 ** (i / _PER_DECADE)) for i in range(steps + 1)]


def _mean_logs(x: Array, ks: list[int]) -> tuple[Array, Array]:
    """The (k + 1)-th largest magnitude, and the mean log of larger ones over it."""
    counts = jnp.asarray(ks).astype(x.dtype)
    magnitudes = jnp.abs(x)
    if x.size <= _SORTED:
        magnitudes = lax.top_k(magnitudes.reshape(-1), max(ks) + 1)[0]
        threshold = magnitudes[np.asarray(ks)]
    else:
        bits = ranks.kth_largest(x, np.asarray(ks) + 1)
        threshold = ranks.from_bits(bits).astype(x.dtype)
    # Elements at the threshold and below it add log 1, so ties need no care.
    total = lambda t: jnp.sum(jnp.log(jnp.maximum(magnitudes, t) / t))
    logs = lax.map(total, jnp.where(threshold > 0, threshold, 1.0))
    return threshold, logs / counts


def hill(tree: PyTree, ks: Sequence[int] | None = None) -> HillPlot:
    r"""Hill's estimates of a tail's exponent, `P(|x| > t) ~ t^-alpha`.

        alpha(k) = k / sum_{i <= k} log(x_(i) / x_(k+1)),
        with 95 % in alpha(k) (1 +- 1.96 / sqrt(k))

    Plot `index` over `ks`: a power law is a plateau, and only that is one.

    Args:
      tree: an array or a tree of floats; of several leaves a flat copy is made.
      ks: numbers of largest magnitudes, from 1 to less than the elements; if None,
        eight to a decade from 50 to a tenth of the elements. Static.

    Returns:
      The plot's data, with its verdict.

    Raises:
      ValueError: if a k is not below the number of elements.

    Example:
      >>> import jax
      >>> x = jax.random.pareto(jax.random.key(0), 2.0, (50_000,))
      >>> plot = hill(x)
      >>> bool(plot.is_heavy), round(float(plot.tail_index), 1)
      (True, 2.0)

    References:
      Hill, A simple general approach to inference about the tail of a distribution,
      1975, equation 2.
    """
    leaves = float_leaves(tree)
    wide = any(leaf.dtype == jnp.float64 for leaf in leaves)
    leaves = [leaf.astype(jnp.float64 if wide else jnp.float32) for leaf in leaves]
    x = leaves[0]
    if len(leaves) > 1:
        x = jnp.concatenate([leaf.reshape(-1) for leaf in leaves])
    chosen = sorted({int(k) for k in (_depths(x.size) if ks is None else ks)})
    if not chosen or chosen[0] < 1 or chosen[-1] >= x.size:
        raise ValueError(
            f"ks are {chosen}; each has to be at least 1 and below the number of "
            f"elements, {x.size}: k magnitudes are compared with the next one"
        )
    threshold, mean = _mean_logs(x, chosen)
    spread = mean > 0
    index = jnp.where(spread, 1 / jnp.where(spread, mean, 1.0), jnp.inf)
    index = jnp.where(threshold > 0, index, 0.0)
    numbers = jnp.asarray(chosen)
    half = 1.96 / jnp.sqrt(numbers.astype(index.dtype))
    lower = jnp.where(half < 1, index * (1 - half), 0.0)
    return HillPlot(numbers, index, lower, index * (1 + half), threshold)
