"""Ranks and thresholds by counting: the k largest magnitudes of a tensor, exactly.

The bits of `|x|`, read as an unsigned integer, order floats as their magnitudes do. So
the k-th largest magnitude is the largest bit pattern t with at least k elements at or
above it, and is found by counting: each pass over the tensor counts the elements above
a few pivots at once and narrows the bracket around t. Nothing is sorted but a sample of
4096 elements that places the first pivots (and tensors that are no larger), nothing is
copied, and sharded tensors stay where they are: only counts travel.

Ties go to the lowest flat index: they are counted by row, and one row is searched for
the position of the last that is kept. That is the same search once more: the k largest
pairs of (magnitude, reversed index) in lexicographic order.

NaN has the largest bit patterns and so counts as the largest magnitude.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Bool

from jaxmerge import _limbs, _search, _sorting
from jaxmerge._limbs import Limbs, add as add_counts
from jaxmerge._search import from_bits, magnitude_bits
from jaxmerge._ties import Cut, first_ties
from jaxmerge._types import Coef
from jaxmerge.histograms import high_histogram, locate, low_histogram

__all__ = [
    "Cut",
    "add_counts",
    "count",
    "count_above",
    "from_bits",
    "high_histogram",
    "kth_largest",
    "largest_cut",
    "largest_mask",
    "locate",
    "low_histogram",
    "magnitude_bits",
]


def _as_count(limbs: Limbs, size: int) -> Any:
    """A count of at most `size` elements in the form that `count` gives it."""
    return limbs[0].astype(jnp.int32) if size < 2**31 else limbs


def count(density: Coef, size: int) -> Any:
    """How many of `size` elements a density keeps: `floor(density * size)`.

    Args:
      density: a fraction, clipped to [0, 1]; a number or an array of numbers.
      size: the number of elements, at least 0.

    Returns:
      An int32 where `size < 2**31`, else a pair `(low, high)` of uint32 limbs. A
      concrete density is multiplied on the host in float64 and gives NumPy numbers,
      which may be passed to jitted functions as data. A traced density is multiplied in
      its own dtype: in float32 the count may differ by one, or by `size / 2**24` if
      that is more. A density of 1 always keeps all.

    Example:
      >>> int(count(0.29, 100))  # as int(0.29 * 100)
      28
    """
    if not isinstance(density, Tracer):
        share = np.asarray(density).astype(np.float64)
        if np.isnan(share).any():
            raise ValueError(f"density is {density}; expected a number in [0, 1]")
        kept = np.floor(np.clip(share, 0.0, 1.0) * size).astype(np.uint64)
        if size < 2**31:
            return kept.astype(np.int32)[()]
        low = (kept & np.uint64(0xFFFFFFFF)).astype(np.uint32)
        return low[()], (kept >> np.uint64(32)).astype(np.uint32)[()]
    share = jnp.clip(jnp.asarray(density), 0.0, 1.0)
    kept = jnp.floor(share * jnp.asarray(size, share.dtype))
    high = jnp.floor(kept / 2.0**32)
    limbs = (kept - high * 2.0**32).astype(jnp.uint32), high.astype(jnp.uint32)
    everything = _limbs.split(size)
    full = (share >= 1.0) | _limbs.at_least(limbs, everything)
    return _as_count(_limbs.where(full, everything, limbs), size)


def _targets(k: Coef, size: int) -> tuple[Limbs, tuple[int, ...]]:
    """Ranks clipped to the size, as limbs of shape `(target,)`, and their own shape."""
    limbs = _limbs.split(k)
    everything = _limbs.split(size)
    limbs = _limbs.where(_limbs.at_least(limbs, everything), everything, limbs)
    return (limbs[0].reshape(-1), limbs[1].reshape(-1)), limbs[0].shape


def kth_largest(x: Array, k: Coef) -> Array:
    """The k-th largest magnitude of a tensor, as bits.

        t = max { t : |{ i : bits(|x_i|) >= t }| >= k }

    Several `k` share each pass over the tensor. The result has no gradient.

    Args:
      x: floats of any shape.
      k: 1 for the largest up to `x.size` for the smallest; a number, an integer array
        of any shape, or a pair of limbs as `count` gives it; may be traced. More than
        `x.size` is as `x.size`.

    Returns:
      Bits as `magnitude_bits` gives them, of k's shape; `from_bits` makes them floats.
      For k = 0, one more than the largest pattern: no element is at or above it.

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.array([1.0, -4.0, 3.0, 2.0])
      >>> from_bits(kth_largest(x, jnp.array([1, 2])))
      Array([4., 3.], dtype=float32)
    """
    x = lax.stop_gradient(x)
    targets, shape = _targets(k, x.size)
    if _sorting.is_small(x):
        return _sorting.kth_largest(x, targets[0]).reshape(shape)
    x, axes = _search.rows(x)
    bits, _, _ = _search.search_magnitudes(x, axes, targets, to_value=True)
    return bits.reshape(shape)


def count_above(x: Array, bits: Array) -> Any:
    """How many magnitudes are strictly above a threshold given as bits.

    Args:
      x: floats of any shape.
      bits: a scalar as `kth_largest` gives it.

    Returns:
      An int32, or a pair of limbs where `x.size >= 2**31`, as `count` gives it.
    """
    x, axes = _search.rows(lax.stop_gradient(x))
    # Both counts are used, for a reduce of one operand is the slow one.
    pivots = jnp.stack([bits, bits + 1])
    low, high = lax.optimization_barrier(
        _search.count_at_least(magnitude_bits(x), axes, pivots)
    )
    return _as_count((low[1], high[1]), x.size)


def largest_cut(x: Array, k: Coef, *, ties: str = "first") -> Cut:
    """Where the k elements of largest magnitude end; what `largest_mask` needs to know.

    Args:
      x: floats of any shape.
      k: from 0 to `x.size`, as for `kth_largest` but a scalar.
      ties: as for `largest_mask`.

    Returns:
      A `Cut`, a few numbers; `cut.mask(x)` is the mask.
    """
    if ties not in ("first", "all"):
        raise ValueError(f'ties is {ties!r}; expected "first" or "all"')
    x = lax.stop_gradient(x)
    targets, target_shape = _targets(k, x.size)
    if target_shape != ():
        raise ValueError(f"k has shape {target_shape}; expected one number")
    if x.size == 0:
        return Cut(jnp.zeros(1, jnp.uint32))
    if _sorting.is_small(x):
        return _sorting.largest_cut(x, targets[0][0], ties=ties)
    x, axes = _search.rows(x)
    cut, need, tied = _search.search_magnitudes(x, axes, targets)
    if ties == "first":
        return first_ties(x, axes, cut, need, tied)
    some = ~_limbs.equal(need, _limbs.split(0))
    return Cut(cut - some.astype(cut.dtype))


def largest_mask(x: Array, k: Coef, *, ties: str = "first") -> Bool[Array, "..."]:
    """Which elements are the k of largest magnitude.

    Args:
      x: floats of any shape.
      k: from 0 to `x.size`, as for `kth_largest` but a scalar.
      ties: `"first"` keeps exactly k elements, of equal magnitudes those of lowest flat
        index; `"all"` keeps every element as large as the k-th.

    Returns:
      Booleans of x's shape.

    Example:
      >>> import jax.numpy as jnp
      >>> largest_mask(jnp.array([1.0, -2.0, 2.0, 3.0]), 2)
      Array([False,  True, False,  True], dtype=bool)
      >>> largest_mask(jnp.array([1.0, -2.0, 2.0, 3.0]), 2, ties="all")
      Array([False,  True,  True,  True], dtype=bool)
    """
    return largest_cut(x, k, ties=ties).mask(x)
