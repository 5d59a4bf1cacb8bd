"""Cutting a tensor at its k-th largest magnitude, by counting.

A pass over the tensor counts the elements at or above a few pivots at once, and finds
the ends of the values inside the bracket. The bracket around the k-th largest narrows
to the nearest pivots and values: to one value, or until exactly k elements are above
it. One to nine passes did, 3.3 on average, for a million floats of seven distributions,
tied or not.
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
_SHORT_ROW = 1024  # below this, counts by row cost more than what they save
# Where the pivots of a pass lie: at the interpolated rank, give or take so many of its
# standard deviations, and halfway, which bounds the worst case. Just above the least
# value tells whether it is the k-th, which is likely where many elements have it.
_FEW = ((-1.5, -0.4, 0.4, 1.5), (0.0, 0.5))
_MANY = ((-0.8, 0.8), (0.5,))
_FIRST = (-3.5, -1.0, 0.0, 1.0, 3.5)

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
    short = math.prod(x.shape[1:]) < _SHORT_ROW
    if x.ndim and short and not is_sharded(x):
        divides = (r for r in range(8, 64) if x.size % r == 0 and x.size // r < 2**32)
        x = x.reshape(next(divides, 1), -1)
    lead = min(1, max(x.ndim - 1, 0))
    while math.prod(x.shape[lead:]) >= 2**32 - 1:
        lead += 1
    return x, tuple(range(lead, x.ndim))


def count_by_row(values: Array, axes: tuple[int, ...], pivots: Array) -> Array:
    """How many values of each row are at or above each of several pivots.

    All counts have to be used, for a reduce of one operand is the slow one.
    """
    hits = [(values >= pivot).astype(jnp.uint32) for pivot in pivots]
    add = lambda a, b: [p + q for p, q in zip(a, b, strict=True)]
    return jnp.stack(lax.reduce(hits, [np.uint32(0)] * len(hits), add, axes))


def count_at_least(values: Array, axes: tuple[int, ...], pivots: Array) -> Limbs:
    """How many values are at or above each pivot, in one pass."""
    found, _, _ = _one_pass(values, axes, pivots.reshape(-1), [])
    return found[0].reshape(pivots.shape), found[1].reshape(pivots.shape)


def _one_pass(
    values: Array,
    axes: tuple[int, ...],
    pivots: Array,
    brackets: list[tuple[Array, Array]],
) -> tuple[Limbs, list[Array], list[Array]]:
    """Counts at or above each pivot, and the ends of the values in each bracket."""
    zero = np.zeros((), values.dtype)
    most = np.array(np.iinfo(values.dtype).max, values.dtype)
    hits = [(values >= pivot).astype(jnp.uint32) for pivot in pivots]
    inside = [(values >= low) & (values < high) for low, high in brackets]
    operands = [
        *hits,
        *(jnp.where(here, values, most) for here in inside),
        *(jnp.where(here, values, zero) for here in inside),
    ]
    join = [*[lax.add] * len(hits), *[lax.min] * len(inside), *[lax.max] * len(inside)]
    starts = [*[np.uint32(0)] * len(hits), *[most] * len(inside), *[zero] * len(inside)]
    # One reduce of several operands: XLA's CPU backend fuses the comparisons into it,
    # where it would materialise those of a single integer sum.
    counted = lax.reduce(
        operands,
        starts,
        lambda a, b: [f(p, q) for f, p, q in zip(join, a, b, strict=True)],
        axes,
    )
    rows = jnp.stack(counted[: len(hits)])
    found = _limbs.total(rows, tuple(range(1, rows.ndim)), values.size)
    first = [jnp.min(row) for row in counted[len(hits) : len(hits) + len(inside)]]
    last = [jnp.max(row) for row in counted[len(hits) + len(inside) :]]
    return found, first, last


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
    width = (high - low)[:, None].astype(jnp.float32)
    steps = jnp.clip(jnp.concatenate(shares, axis=1), 0.0, 1.0) * width
    one = jnp.ones((), low.dtype)
    last = jnp.maximum(high, low + one) - one
    pivots = low[:, None] + steps.astype(low.dtype)
    return jnp.minimum(
        jnp.clip(pivots, (low + one)[:, None], last[:, None]), high[:, None]
    )


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
    digit: Callable[[Array, Array], Array],
    k: Limbs,
    bracket: Bracket,
    first: Array | None = None,
    *,
    to_value: bool = False,
) -> tuple[Array, Limbs, Limbs]:
    """Cuts values into those surely, perhaps and surely not among the k largest.

    Args:
      x: a tensor.
      axes: the axes within a row of x.
      digit: from x to unsigned integers. It is also given a zero, which XLA cannot
        know: with it, what does not depend on x is not computed once and kept.
      k: limbs of shape `(target,)`.
      bracket: `(low, high, above_low, above_high)`: at least k values are at or above
        low, and fewer are at or above high (or k is 0).
      first: the pivots of the first pass, `(target, pivot)`, or None.
      to_value: whether to go on until the k-th largest itself is known.

    Returns:
      `(cut, need, tied)`: values at or above the cut are among the k largest; of those
      just below it, `cut - 1`, there are `tied` and `need` of them are. With
      `to_value`, `cut` is the k-th largest (and the rest means nothing).
    """
    low, high, above_low, above_high = bracket
    low = jnp.where(_limbs.equal(k, _limbs.split(0)), high, low)
    above_low = _limbs.where(_limbs.equal(k, _limbs.split(0)), k, above_low)
    bracket = low, high, above_low, above_high

    def unfinished(state):
        (low, high, above_low, _), _ = state
        wide = high - low > 1
        return jnp.any(wide if to_value else wide & ~_limbs.equal(above_low, k))

    def one_pass(state):
        bracket, pivots = state
        # Without the barrier, XLA computes the digit once and keeps it: slower to read
        # back than to compute.
        fresh, zero, pivots = lax.optimization_barrier((x, jnp.uint32(0), pivots))
        low, high, above_low, above_high = bracket
        found, first, last = _one_pass(
            digit(fresh, zero),
            axes,
            pivots.reshape(-1),
            list(zip(low, high, strict=True)),
        )
        found = found[0].reshape(pivots.shape), found[1].reshape(pivots.shape)
        # Values that tie are few, and bits that no value has are many: so the bracket
        # moves to values.
        some = low < high
        low = jnp.where(some, jnp.stack(first), low)
        high = jnp.where(some, jnp.stack(last) + 1, high)
        bracket = _narrow((low, high, above_low, above_high), k, pivots, found)
        return bracket, _propose(bracket, k)

    start = _propose(bracket, k) if first is None else first
    bracket, _ = lax.while_loop(unfinished, one_pass, (bracket, start))
    low, high, above_low, above_high = bracket
    exact = _limbs.equal(above_low, k)
    need = _limbs.where(exact, _limbs.split(0), _limbs.subtract(k, above_high))
    cut = low if to_value else jnp.where(exact, low, high)
    return cut, need, _limbs.subtract(above_low, above_high)


def _sample_pivots(x: Array, k: Limbs) -> Array | None:
    """Pivots for the first pass around the k-th largest of a strided sample."""
    if x.size <= 2 * _SAMPLE or is_sharded(x):
        return None
    share = _SAMPLE ** (1 / max(sum(size > 1 for size in x.shape), 1))
    strides = [max(1, round(size / share)) | 1 for size in x.shape]
    sample = x[tuple(slice(None, None, stride) for stride in strides)]
    sample = jnp.sort(magnitude_bits(sample.reshape(-1)))
    fraction = 1.0 - _limbs.to_float(k)[:, None] / np.float32(x.size)
    spread = jnp.sqrt(fraction * (1.0 - fraction) / np.float32(sample.size))
    offsets = np.array(_FIRST if k[0].size == 1 else _FIRST[::2], np.float32)
    at = (fraction + offsets * spread) * np.float32(sample.size)
    pivots = sample[jnp.clip(at.astype(jnp.int32), 0, sample.size - 1)]
    if k[0].size > 1:
        return pivots
    # Between a value and the next pattern is one where many elements have that value.
    middle = pivots[:, len(_FIRST) // 2, None]
    return jnp.concatenate([pivots, middle + jnp.ones_like(middle)], axis=1)


def magnitude_digit(x: Array, zero: Array) -> Array:
    """`magnitude_bits` as a digit for `search`."""
    return magnitude_bits(x)


def search_magnitudes(
    x: Array, axes: tuple[int, ...], k: Limbs, *, to_value: bool = False
) -> tuple[Array, Limbs, Limbs]:
    """`search` over the magnitudes of x, for `k` of shape `(target,)`."""
    wide = x.dtype == jnp.float64
    low = jnp.zeros(k[0].shape, jnp.uint64 if wide else jnp.uint32)
    top = jnp.full_like(low, above_all(low.dtype))
    none = jnp.zeros_like(k[0]), jnp.zeros_like(k[0])
    bracket = low, top, _limbs.add(none, _limbs.split(x.size)), none
    first = _sample_pivots(x, k)
    return search(x, axes, magnitude_digit, k, bracket, first, to_value=to_value)
