"""The entry of largest magnitude among the experts."""

import jax.numpy as jnp
from jaxtyping import Array

from jaxmerge._arithmetic import product
from jaxmerge._types import Leaf, pytree, static


@pytree
class LargestMagnitude:
    r"""MagMax: of each entry the expert's that is largest; the first on a tie.

    References:
      Marczak et al., MagMax: Leveraging Model Merging for Seamless Continual Learning,
      2024, eq. 3.
    """

    frame: str = static(default="delta")
    elementwise = True

    def lift(self, delta: Array, weight: Array, leaf: Leaf) -> Array:
        del leaf
        return product(weight, delta)

    def join(self, a: Array, b: Array) -> Array:
        return jnp.where(jnp.abs(b) > jnp.abs(a), b, a)

    def finish(self, state: Array, leaf: Leaf) -> Array:
        del leaf
        return state
