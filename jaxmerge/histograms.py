"""Thresholds over a whole model: two histograms of each tensor, joined.

The k-th largest magnitude of a model is found digit by digit, sixteen bits at a time:

    counts = sum over tensors of high_histogram(x)
    high, k = locate(counts, k)
    counts = sum over tensors of low_histogram(x, high)
    low, _ = locate(counts, k)
    threshold = high << 16 | low

and a third read of each tensor keeps `magnitude_bits(x) >= threshold`. Each tensor is
read alone, so a model larger than memory can be streamed. Joined counts may exceed 32
bits: join them in NumPy's int64 on the host, or as limbs (`add_counts`) under jit.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec
from jaxtyping import Array, UInt32

from jaxmerge import _limbs
from jaxmerge._limbs import Limbs
from jaxmerge._search import is_sharded, magnitude_bits
from jaxmerge._types import Coef

_BINS = 2**16


def digit_histogram(x: Array, digit: int, prefix: Coef = 0) -> UInt32[Array, "65536"]:
    """How often each value of a 16-bit digit occurs among the magnitudes of a tensor.

    Args:
      x: floats of any shape, fewer than 2^32.
      digit: 0 for the highest sixteen bits of `magnitude_bits(x)`; up to 1, or 3 for
        float64.
      prefix: only magnitudes are counted whose bits above the digit are these.

    Returns:
      Counts, one for each of the digit's 65536 values.

    Raises:
      ValueError: where a count could exceed 32 bits, or there is no such digit.
    """
    if x.size >= 2**32:
        raise ValueError(
            f"a histogram counts in 32 bits and the tensor has {x.size} elements; "
            "take histograms of its parts and add them"
        )
    if is_sharded(x):
        return _histogram_of_parts(x, digit, prefix)
    bits = magnitude_bits(lax.stop_gradient(x)).reshape(-1)
    width = jnp.iinfo(bits.dtype).bits
    if not 0 <= digit < width // 16:
        raise ValueError(
            f"digit is {digit}; magnitudes of {width} bits have digits 0 "
            f"to {width // 16 - 1}"
        )
    shift = width - 16 * (digit + 1)
    bins = (bits >> jnp.asarray(shift, bits.dtype)) & jnp.asarray(_BINS - 1, bits.dtype)
    ones = jnp.ones((), jnp.uint32)
    if digit:
        above = bits >> jnp.asarray(shift + 16, bits.dtype)
        ones = (above == jnp.asarray(prefix, bits.dtype)).astype(jnp.uint32)
    return jnp.zeros(_BINS, jnp.uint32).at[bins.astype(jnp.int32)].add(ones)


def _histogram_of_parts(x: Array, digit: int, prefix: Coef) -> Array:
    """The histogram of a tensor on an explicit mesh: the sum of its parts'."""
    sharding = jax.typeof(x).sharding
    used = [axis for axis in sharding.spec if axis is not None]
    axes = [a for axis in used for a in (axis if isinstance(axis, tuple) else (axis,))]

    def local(part: Array, prefix: Array) -> Array:
        return lax.psum(digit_histogram(part, digit, prefix), tuple(axes))

    wide = jnp.uint64 if x.dtype == jnp.float64 else jnp.uint32
    return jax.shard_map(
        local,
        mesh=sharding.mesh,
        in_specs=(sharding.spec, PartitionSpec()),
        out_specs=PartitionSpec(),
    )(x, jnp.asarray(prefix).astype(wide))


def high_histogram(x: Array) -> UInt32[Array, "65536"]:
    """How often each value of the high sixteen bits of `|x|` occurs.

    Args:
      x: floats of at most 32 bits, of any shape, fewer than 2^32.
    """
    return digit_histogram(x, 0)


def low_histogram(x: Array, high: Coef) -> UInt32[Array, "65536"]:
    """How often each value of the low sixteen bits occurs among `|x|` of one high bin.

    Args:
      x: floats of at most 32 bits, of any shape, fewer than 2^32.
      high: the bin that `locate` found among the high histograms; may be traced.
    """
    return digit_histogram(x, 1, high)


def locate(counts: Any, k: Any) -> tuple[Any, Any]:
    """The bin that holds the k-th largest element, and its rank within the bin.

    Args:
      counts: how many elements each bin has, `(bin,)`: NumPy integers, a uint32 array,
        or a pair of limbs.
      k: from 1 to the sum of the counts: a Python or NumPy integer for NumPy counts,
        else an integer or a pair of limbs.

    Returns:
      `(bin, rank)`: the largest bin with k elements in it and above it, and k less the
      number above it. Python integers for NumPy counts; else an int32 scalar and a pair
      of limbs. For k = 0 the last bin with rank 0, so that no magnitude is at or above
      the threshold; for k beyond the sum the first bin.

    Example:
      >>> import numpy as np
      >>> locate(np.array([5, 0, 2, 3]), 4)  # three above it, one in it
      (2, 1)
    """
    if isinstance(counts, np.ndarray):
        above = np.cumsum(counts[::-1].astype(np.int64))[::-1]
        bin_ = int(np.flatnonzero(above >= k)[-1]) if above[0] >= k else 0
        return bin_, int(k - (above[bin_] - counts[bin_]))
    pair = counts if isinstance(counts, tuple) else _limbs.split(counts)
    target = _limbs.split(k)
    index = jnp.arange(pair[0].size, dtype=jnp.int32)
    empty = _limbs.split(0)

    def count_from(bin_: Array) -> Limbs:
        low, high = _limbs.where(index >= bin_, pair, empty)
        return jax.lax.reduce((low, high), (np.uint32(0),) * 2, _limbs.add, (0,))

    def try_bit(i: Array, bin_: Array) -> Array:
        higher = bin_ | (jnp.int32(1) << (bits - 1 - i))
        enough = _limbs.at_least(count_from(higher), target)
        return jnp.where(enough & (higher < index.size), higher, bin_)

    bits = (index.size - 1).bit_length()
    bin_ = jax.lax.fori_loop(0, bits, try_bit, jnp.int32(0))
    return bin_, _limbs.subtract(target, count_from(bin_ + 1))
