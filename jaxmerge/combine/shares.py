"""MetaGPT with the norms of each tensor: a sum that its own norms weight."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxmerge._arithmetic import product, safe_divide
from jaxmerge._types import Leaf, pytree, static
from jaxmerge.transforms.shares import scaled_norm


@pytree
class NormSharedSum:
    r"""The mean of the deltas, each weighted by the square of its own norm.

        delta = sum_t w_t |d_t|^2 d_t / sum_t |d_t|^2

    with norms of this tensor alone; 0 where all deltas are 0. A state is the two sums,
    divided by the square of the largest norm in it, so that they never underflow.

    References:
      Zhou et al., MetaGPT, 2024, whose norms are those of whole models.
    """

    frame: str = static(default="delta")

    def lift(self, delta: Array, weight: Array, leaf: Leaf) -> Any:
        del leaf
        norm = scaled_norm(delta)
        peak = jax.lax.stop_gradient(norm)
        share = jnp.square(safe_divide(norm, peak))  # 1, with the norm's gradient
        return product(weight * share, delta), share, peak

    def join(self, a: Any, b: Any) -> Any:
        peak = jnp.maximum(a[2], b[2])
        first, second = (jnp.square(safe_divide(x[2], peak)) for x in (a, b))
        total = product(first, a[0]) + product(second, b[0])
        return total, product(first, a[1]) + product(second, b[1]), peak

    def finish(self, state: Any, leaf: Leaf) -> Array:
        del leaf
        total, shares, _ = state
        return safe_divide(total, shares)
