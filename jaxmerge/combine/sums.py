"""Weighted sums and means: averages and task arithmetic."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxmerge._types import Leaf, pytree, static


def safe_divide(numerator: Array, denominator: Array, otherwise: float = 0.0) -> Array:
    """`numerator / denominator`, and `otherwise` where the denominator is zero.

    Both branches are finite, so that gradients are too.
    """
    zero = denominator == 0
    quotient = numerator / jnp.where(zero, jnp.ones_like(denominator), denominator)
    return jnp.where(zero, jnp.asarray(otherwise, quotient.dtype), quotient)


def accumulate(a: Any, b: Any) -> Any:
    """Adds two states, leaf by leaf, the later one first.

    The order is for the compiler: in `w1*d1 + w0*d0` it contracts the first product
    into a fused multiply-add. With the newer product first, that is the same
    contraction as when the older sum was computed by an earlier program, so that the
    streamed and the in-memory fold agree bit for bit.
    """
    return jax.tree.map(lambda x, y: y + x, a, b)


@pytree
class WeightedSum:
    r"""The sum of weighted deltas, or their mean.

    `sum_t w_t d_t`, divided by `sum_t w_t` if `normalize`.

    Attributes:
      normalize: whether to divide by the sum of the weights.
      frame: `"delta"`, or `"absolute"` for a mean of the weights themselves.
    """

    normalize: bool = static(default=False)
    frame: str = static(default="delta")

    def lift(self, delta: Array, weight: Array, leaf: Leaf) -> Any:
        del leaf
        return weight * delta, weight

    def join(self, a: Any, b: Any) -> Any:
        return accumulate(a, b)

    def finish(self, state: Any, leaf: Leaf) -> Array:
        del leaf
        total, weight = state
        return total / weight if self.normalize else total
