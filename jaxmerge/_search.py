"""Cutting a tensor at its k-th largest magnitude, by counting.

A pass over the tensor counts the elements at or above a few pivots at once, and the
bracket around the k-th largest narrows to the pivots nearest to it: to one bit pattern,
or until exactly k elements are above it. On two cores of an EPYC CPU a pass over 16.8
million floats takes as long as their sum, and six to nine passes do.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from jaxmerge import _limbs
from jaxmerge._limbs import Limbs

_SAMPLE = 4096
# Where the pivots of a pass lie: at the interpolated rank, give or take so many of its
# standard deviations, and at even fractions of the bracket, which bound the worst case.
# Seven pivots cost hardly more than three, but fifteen cost five times as much.
_FEW = ((-2.0, -0.5, 0.5, 2.0), (0.25, 0.5, 0.75))
_MANY = ((-1.0, 1.0), (0.5,))

Bracket = tuple[Array, Array, Limbs, Limbs]


def above_all(dtype: Any) -> int:
    """One more than the largest bit pattern of a magnitude."""
    return 2 ** (jnp.iinfo(dtype).bits - 1)


def magnitude_bits(x: Array) -> Array:
    """The bits of `|x|` as unsigned integers, which are ordered as `|x|` is.

    Args:
      x: floats of any shape. Narrower than float32 is widened first.

    Returns:
      uint32 below 2^31, or uint64 below 2^63 for float64; of x's shape.
    """
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"magnitudes are ranked for floats, not for {x.dtype}")
    if x.dtype == jnp.bfloat16:  # by its bits, so that subnormals survive
        bits = lax.bitcast_convert_type(x, jnp.uint16).astype(jnp.uint32)
        return (bits & np.uint32(0x7FFF)) << np.uint32(16)
    if x.dtype == jnp.float64:
        bits = lax.bitcast_convert_type(x, jnp.uint64)
        return bits & jnp.asarray(2**63 - 1, jnp.uint64)
    bits = lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)
    return bits & np.uint32(0x7FFFFFFF)


def from_bits(bits: Array) -> Array:
    """The magnitude that has these bits: float32, or float64 from uint64."""
    wide = jnp.float64 if bits.dtype == jnp.uint64 else jnp.float32
    return lax.bitcast_convert_type(bits, wide)


def is_sharded(x: Array) -> bool:
    """Whether x has a sharded axis as far as its type says (explicit meshes only)."""
    return any(axis is not None for axis in jax.typeof(x).sharding.spec)


def rows(x: Array) -> tuple[Array, tuple[int, ...]]:
    """The tensor as rows that are counted apart, and the axes within a row.

    Several rows let XLA's CPU backend use all cores, and keep a row's counts in uint32.
    """
    if x.ndim == 1 and not is_sharded(x):
        divides = (r for r in range(8, 64) if x.size % r == 0 and x.size // r < 2**32)
        x = x.reshape(next(divides, 1), -1)
    lead = min(1, max(x.ndim - 1, 0))
    while math.prod(x.shape[lead:]) >= 2**32:
        lead += 1
    return x, tuple(range(lead, x.ndim))


def count_at_least(values: Array, axes: tuple[int, ...], pivots: Array) -> Limbs:
    """How many values are at or above each pivot, in one pass."""
    flat = pivots.reshape(-1)
    hits = [(values >= pivot).astype(jnp.uint32) for pivot in flat]
    # One reduce of several operands: XLA's CPU backend fuses the comparisons into it,
    # where it would materialise those of a single integer sum.
    rows = lax.reduce(
        hits,
        [np.uint32(0)] * len(hits),
        lambda a, b: [p + q for p, q in zip(a, b, strict=True)],
        axes,
    )
    rows = jnp.stack(rows)
    low, high = _limbs.total(rows, tuple(range(1, rows.ndim)), values.size)
    return low.reshape(pivots.shape), high.reshape(pivots.shape)


def _propose(bracket: Bracket, k: Limbs) -> Array:
    """Pivots inside each bracket, `(target, pivot)`."""
    low, high, above_low, above_high = bracket
    around, even = _FEW if low.size == 1 else _MANY
    inside = _limbs.to_float(_limbs.subtract(above_low, above_high))[:, None]
    passed = _limbs.to_float(_limbs.subtract(above_low, k))[:, None] + 0.5
    share = jnp.clip(passed / jnp.maximum(inside, 1.0), 0.0, 1.0)
    spread = jnp.sqrt(share * (1.0 - share) / jnp.maximum(inside, 1.0))
    shares = [share + spread * np.float32(z) for z in around]
    shares += [jnp.full_like(share, z) for z in even]
    width = (high - low)[:, None]
    steps = jnp.clip(jnp.concatenate(shares, axis=1), 0.0, 1.0) * width.astype(
        jnp.float32
    )
    one = jnp.ones((), low.dtype)
    inner = jnp.maximum(width, one + one) - one
    pivots = low[:, None] + jnp.clip(steps.astype(low.dtype), one, inner)
    return jnp.minimum(pivots, high[:, None])


def _narrow(bracket: Bracket, k: Limbs, pivots: Array, found: Limbs) -> Bracket:
    """The bracket between the nearest pivots on either side of the k-th largest."""
    low, high, above_low, above_high = bracket
    row = lambda a, b, c: jnp.concatenate([a[:, None], b, c[:, None]], axis=1)
    points = row(low, pivots, high)
    counts = (
        row(above_low[0], found[0], above_high[0]),
        row(above_low[1], found[1], above_high[1]),
    )
    enough = _limbs.at_least(counts, (k[0][:, None], k[1][:, None]))
    pick = lambda a, at: jnp.take_along_axis(a, at[:, None], axis=1)[:, 0]
    most = jnp.asarray(jnp.iinfo(low.dtype).max, low.dtype)
    below = jnp.argmax(jnp.where(enough, points, jnp.zeros((), low.dtype)), axis=1)
    beyond = jnp.argmin(jnp.where(enough, most, points), axis=1)
    return (
        pick(points, below),
        pick(points, beyond),
        (pick(counts[0], below), pick(counts[1], below)),
        (pick(counts[0], beyond), pick(counts[1], beyond)),
    )


def search(
    x: Array,
    axes: tuple[int, ...],
    digit: Callable[[Array], Array],
    k: Limbs,
    bracket: Bracket,
    first: Array | None = None,
) -> tuple[Array, Limbs, Limbs]:
    """Cuts values `digit(x)` into those surely, perhaps and not among the k largest.

    Args:
      x: a tensor.
      axes: the axes within a row of x.
      digit: from x to unsigned integers.
      k: limbs of shape `(target,)`.
      bracket: `(low, high, above_low, above_high)`: at least k values are at or above
        low, and fewer are at or above high (or k is 0).
      first: the pivots of the first pass, `(target, pivot)`, or None.

    Returns:
      `(cut, need, tied)`: values at or above the cut are among the k largest; of those
      just below it, `cut - 1`, there are `tied` and `need` of them are.
    """
    low, high, above_low, above_high = bracket
    low = jnp.where(_limbs.equal(k, _limbs.split(0)), high, low)
    above_low = _limbs.where(_limbs.equal(k, _limbs.split(0)), k, above_low)
    bracket = low, high, above_low, above_high

    def unfinished(state):
        (low, high, above_low, _), _ = state
        return jnp.any((high - low > 1) & ~_limbs.equal(above_low, k))

    def one_pass(state):
        bracket, pivots = state
        # Without the barrier, XLA computes digit(x) once and keeps it: slower to read
        # back than to compute.
        fresh, pivots = lax.optimization_barrier((x, pivots))
        found = count_at_least(digit(fresh), axes, pivots)
        bracket = _narrow(bracket, k, pivots, found)
        return bracket, _propose(bracket, k)

    start = _propose(bracket, k) if first is None else first
    bracket, _ = lax.while_loop(unfinished, one_pass, (bracket, start))
    low, high, above_low, above_high = bracket
    exact = _limbs.equal(above_low, k)
    need = _limbs.where(exact, _limbs.split(0), _limbs.subtract(k, above_high))
    cut = jnp.where(exact, low, high)
    return cut, need, _limbs.subtract(above_low, above_high)


def _sample_pivots(x: Array, k: Limbs) -> Array | None:
    """Pivots for the first pass around the k-th largest of a strided sample."""
    if x.size <= 2 * _SAMPLE or is_sharded(x):
        return None
    share = _SAMPLE ** (1 / max(sum(size > 1 for size in x.shape), 1))
    strides = [max(1, round(size / share)) | 1 for size in x.shape]
    sample = x[tuple(slice(None, None, stride) for stride in strides)]
    sample = jnp.sort(magnitude_bits(sample.reshape(-1)))
    around, even = _FEW if k[0].size == 1 else _MANY
    offsets = np.linspace(-4.0, 4.0, len(around) + len(even), dtype=np.float32)
    fraction = 1.0 - _limbs.to_float(k)[:, None] / np.float32(x.size)
    spread = jnp.sqrt(fraction * (1.0 - fraction) / np.float32(sample.size))
    at = (fraction + offsets * spread) * np.float32(sample.size)
    return sample[jnp.clip(at.astype(jnp.int32), 0, sample.size - 1)]


def search_magnitudes(
    x: Array, axes: tuple[int, ...], k: Limbs
) -> tuple[Array, Limbs, Limbs]:
    """`search` over the magnitudes of x, for `k` of shape `(target,)`."""
    wide = x.dtype == jnp.float64
    low = jnp.zeros(k[0].shape, jnp.uint64 if wide else jnp.uint32)
    top = jnp.full_like(low, above_all(low.dtype))
    none = jnp.zeros_like(k[0]), jnp.zeros_like(k[0])
    bracket = low, top, _limbs.add(none, _limbs.split(x.size)), none
    return search(x, axes, magnitude_bits, k, bracket, _sample_pivots(x, k))
