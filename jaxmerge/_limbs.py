"""Non-negative integers up to 2^64 as pairs of uint32 arrays, low limb first.

A tensor may have more elements than an int32, or a uint32, can count, and JAX has no
64-bit integers unless the user asks for them. So a count that may be large is a pair
`(low, high)` that stands for `low + 2**32 * high`; both limbs have the count's shape.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

Limbs = tuple[Array, Array]
_HALF = np.uint32(0xFFFF)


def split(value: Any) -> Limbs:
    """The limbs of a non-negative integer, a NumPy or JAX integer array, or a pair.

    Negative entries become zero. A float is refused.
    """
    if isinstance(value, tuple):
        low, high = value
        return jnp.asarray(low, jnp.uint32), jnp.asarray(high, jnp.uint32)
    if not isinstance(value, jax.Array):
        wide = np.asarray(value)
        if wide.dtype.kind not in "iu":
            raise TypeError(f"a count is an integer, not {wide.dtype}: {value!r}")
        wide = np.maximum(wide, 0).astype(np.uint64)
        return (
            jnp.asarray((wide & np.uint64(0xFFFFFFFF)).astype(np.uint32)),
            jnp.asarray((wide >> np.uint64(32)).astype(np.uint32)),
        )
    if not jnp.issubdtype(value.dtype, jnp.integer):
        raise TypeError(f"a count is an integer, not {value.dtype}")
    value = jnp.maximum(value, jnp.zeros((), value.dtype))
    low = value.astype(jnp.uint32)
    if jnp.iinfo(value.dtype).bits < 64:
        return low, jnp.zeros_like(low)
    return low, (value >> jnp.asarray(32, value.dtype)).astype(jnp.uint32)


def add(a: Limbs, b: Limbs) -> Limbs:
    """`a + b`, elementwise, modulo 2^64; associative and commutative."""
    low = a[0] + b[0]
    return low, a[1] + b[1] + (low < b[0]).astype(jnp.uint32)


def subtract(a: Limbs, b: Limbs) -> Limbs:
    """`a - b`, elementwise, for `a >= b`."""
    return a[0] - b[0], a[1] - b[1] - (a[0] < b[0]).astype(jnp.uint32)


def at_least(a: Limbs, b: Limbs) -> Array:
    """`a >= b`, elementwise."""
    return (a[1] > b[1]) | ((a[1] == b[1]) & (a[0] >= b[0]))


def equal(a: Limbs, b: Limbs) -> Array:
    """`a == b`, elementwise."""
    return (a[1] == b[1]) & (a[0] == b[0])


def where(condition: Array, a: Limbs, b: Limbs) -> Limbs:
    """`a` where the condition holds, else `b`."""
    return jnp.where(condition, a[0], b[0]), jnp.where(condition, a[1], b[1])


def times(a: Array, b: int) -> Limbs:
    """The product of a uint32 array and a Python integer below 2^32."""
    b_low, b_high = np.uint32(b & 0xFFFF), np.uint32(b >> 16)
    a_low, a_high = a & _HALF, a >> np.uint32(16)
    middle = a_high * b_low + ((a_low * b_low) >> np.uint32(16))
    other = a_low * b_high + (middle & _HALF)
    high = a_high * b_high + (middle >> np.uint32(16)) + (other >> np.uint32(16))
    return a * np.uint32(b), high


def total(counts: Array, axes: tuple[int, ...], bound: int) -> Limbs:
    """The exact sum of uint32 counts over `axes`, known to be at most `bound`."""
    if bound < 2**32:
        low = jnp.sum(counts, axis=axes, dtype=jnp.uint32)
        return low, jnp.zeros_like(low)
    zero = np.uint32(0)
    low, high = jax.lax.reduce(
        (counts, jnp.zeros_like(counts)), (zero, zero), add, axes
    )
    return low, high


def to_float(a: Limbs) -> Array:
    """The nearest float32 or so: for guesses, never for decisions."""
    return a[0].astype(jnp.float32) + np.float32(2**32) * a[1].astype(jnp.float32)
