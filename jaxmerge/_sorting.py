"""Cutting a small tensor at its k-th largest magnitude, by sorting.

A sort of a few thousand integers takes one to three times as long as counting them a
few times, and compiles in a third of the time or less; models have many shapes, most of
them small.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from jaxmerge import _search
from jaxmerge._ties import Cut

# As many as larger tensors sort of a sample.
MOST = 4096


def is_small(x: Array) -> bool:
    """Whether the tensor is to be sorted. What is sharded by its type is counted."""
    return 0 < x.size <= MOST and not _search.is_sharded(x)


def _sorted(x: Array) -> Array:
    """The bits of the magnitudes from the largest, between one that none has and 0.

    Only a sort of one integer operand has a fast path on CPU; the complement turns its
    order around.
    """
    bits = ~lax.sort(~_search.magnitude_bits(x).reshape(-1))
    beyond = jnp.full(1, _search.above_all(bits.dtype), bits.dtype)
    return jnp.concatenate([beyond, bits, jnp.zeros_like(beyond)])


def kth_largest(x: Array, k: Array) -> Array:
    """The bits of the k-th largest magnitude, for uint32 `k` of any shape up to size.

    For k = 0, one more than the largest pattern.
    """
    return _sorted(x)[k.astype(jnp.int32)]


def largest_cut(x: Array, k: Array, *, ties: str) -> Cut:
    """Where the k largest magnitudes end, for a uint32 `k` up to size; see `Cut`."""
    order, at = _sorted(x), k.astype(jnp.int32)
    kth, following = order[at], order[at + 1]
    # Halfway to the next, for whoever computes x again may round it differently.
    between = jnp.where(k == x.size, following, kth - (kth - following) // 2)
    if ties == "all":
        return Cut(between)
    nowhere = jnp.full((), x.size + 1, jnp.uint32)

    def last_of_ties() -> tuple[Array, Array]:
        """Of as many as are needed, from the first; positions count from the end."""
        bits = _search.magnitude_bits(x).reshape(-1)
        index = lax.iota(jnp.uint32, x.size)
        behind = lax.sort(jnp.where(bits == kth, index, np.uint32(x.size)))
        need = at - jnp.sum(bits > kth, dtype=jnp.int32)
        return kth + jnp.ones_like(kth), np.uint32(x.size) - behind[need - 1]

    split = (kth == following) & (k < x.size)
    cut, position = lax.cond(split, last_of_ties, lambda: (between, nowhere))
    return Cut(cut, (position,))
