"""NearSwap: the second model, but never further than a step from the base."""

import jax.numpy as jnp
from jaxtyping import Array

from jaxmerge._arithmetic import accumulate, product
from jaxmerge._types import Coef, Leaf, coefficient, pytree, static


@pytree
class ClippedDelta:
    r"""NearSwap: one expert's delta, clipped entry by entry.

        delta = clip(x, -t, t)

    It is published as an interpolation whose weight is `min(t / |x|, 1)`: an entry that
    is closer to the base than t is swapped, another moves by t. (Where both t and |x|
    are below 1e-6, mergekit moves it by less.)

    Attributes:
      t: the longest step of an entry, in the unit of the weights; at least 0.
    """

    t: Coef = coefficient(default=1e-4)
    frame: str = static(default="delta")
    elementwise = True

    def check_experts(self, num: int) -> None:
        if num != 1:
            raise ValueError(
                f"nearswap merges one model into its base and was given {num}; merge "
                "more with ram or ties"
            )

    def lift(self, delta: Array, weight: Array, leaf: Leaf) -> Array:
        del leaf
        t = jnp.asarray(self.t).astype(delta.dtype)
        return product(weight, jnp.clip(delta, -t, t))

    def join(self, a: Array, b: Array) -> Array:
        return accumulate(a, b)

    def finish(self, state: Array, leaf: Leaf) -> Array:
        del leaf
        return state
