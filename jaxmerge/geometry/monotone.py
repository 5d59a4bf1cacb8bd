"""The cone of monotone sequences, by pooling adjacent violators.

The projection onto it replaces runs of a sequence by their means. Blocks are kept on a
stack: a step either pools the last two, where their means fall, or pushes the next
number. So 2 d - 1 steps are enough whatever the numbers, and the program has one shape.
"""

from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxmerge._types import pytree, static
from jaxmerge.geometry.cone import Cone


def _pooled_blocks(g: Array) -> Array:
    """The index of the block that each number belongs to in the monotone fit."""
    d = g.shape[0]

    def step(_: Any, state: tuple[Array, ...]) -> tuple[Array, ...]:
        read, top, sums, counts = state
        last, before = top - 1, top - 2
        number, count = sums[last], counts[last]
        fall = sums[before] * count > number * counts[before]
        pool = (top >= 2) & fall
        push = ~pool & (read < d)
        slot = jnp.where(pool, before, jnp.where(push, top, d))  # d is no slot at all
        sums = sums.at[slot].set(
            jnp.where(pool, sums[before] + number, g[jnp.minimum(read, d - 1)]),
            mode="drop",
        )
        counts = counts.at[slot].set(
            jnp.where(pool, counts[before] + count, 1.0), mode="drop"
        )
        top = top + push.astype(jnp.int32) - pool.astype(jnp.int32)
        return read + push.astype(jnp.int32), top, sums, counts

    none = jnp.zeros_like(g[0], dtype=jnp.int32)
    start = (none, none, jnp.zeros_like(g), jnp.ones_like(g))
    _, top, _, counts = lax.fori_loop(0, 2 * d - 1, step, start)
    index = jnp.arange(d, dtype=jnp.int32)
    sizes = jnp.where(index < top, counts.astype(jnp.int32), 0)
    ends = jnp.cumsum(sizes, dtype=jnp.int32)
    return jnp.searchsorted(ends, index, side="right")


@pytree
class MonotoneCone(Cone):
    r"""The sequences x_1 <= x_2 <= ... <= x_d.

    Its statistical dimension is the harmonic number H_d; half of that where the
    sequences are also nonnegative. A projection takes 2 d - 1 steps of O(1).

    Attributes:
      dimension: of the space, d.
      nonnegative: whether x_1 >= 0 as well.

    Example:
      >>> import jax.numpy as jnp
      >>> MonotoneCone(4).project(jnp.array([1.0, 4.0, 2.0, 9.0]))
      Array([1., 3., 3., 9.], dtype=float32)

    References:
      Amelunxen, Lotz, McCoy, Tropp, Living on the edge, 2014, section 3.5 (chambers of
      finite reflection groups).
      Barlow, Bartholomew, Bremner, Brunk, Statistical Inference under Order
      Restrictions, 1972 (pooling).
    """

    dimension: int = static()
    nonnegative: bool = static(default=False)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.dimension,)

    def _project(self, g: Array) -> Array:
        # Where the blocks are found is not differentiated: the projection is linear in
        # g as long as they stay.
        block = _pooled_blocks(lax.stop_gradient(g))
        zeros = jnp.zeros_like(g)
        sums = zeros.at[block].add(g)
        sizes = zeros.at[block].add(1.0)
        fit = (sums / jnp.maximum(sizes, 1.0))[block]
        return jnp.maximum(fit, 0.0) if self.nonnegative else fit
