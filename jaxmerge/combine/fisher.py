"""Means weighted by how much each expert's loss depends on each parameter."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from jaxmerge._arithmetic import accumulate, product
from jaxmerge._types import Coef, Leaf, MatrixSpec, coefficient, pytree, static


@pytree
class FisherMean:
    r"""Fisher merging: the mean of the deltas, entry by entry, by diagonal Fishers.

        delta = sum_t w_t max(F_t, floor) d_t  /  sum_t w_t max(F_t, floor)

    with `F_t` the mean squared gradients of expert t's loss at its own weights. Of
    experts with one base, the mean of the deltas is that of the weights. Leaves without
    a Fisher get the weighted mean.

    Attributes:
      floor: the least that an entry counts, at least 0. Where all count 0, the base
        stays.
      compat: `"paper"`, or `"reference"`: the floor is added, as in FusionBench.

    References:
      Matena, Raffel, Merging Models with Fisher-Weighted Averaging, 2022, eq. 4.
    """

    floor: Coef = coefficient(default=1e-6)
    compat: str = static(default="paper")
    frame: str = static(default="delta")
    normalize = True
    elementwise = True
    needs = "fisher"

    def side_shape(
        self, shape: tuple[int, ...], matrix: MatrixSpec | None
    ) -> tuple[int, ...]:
        """That of the leaf."""
        del matrix
        return shape

    def lift(self, delta: Array, weight: Array, leaf: Leaf) -> Any:
        if leaf.side is None:
            return product(weight, delta), jnp.broadcast_to(weight, delta.shape)
        floor = jnp.asarray(self.floor).astype(delta.dtype)
        added = self.compat == "reference"
        counted = leaf.side + floor if added else jnp.maximum(leaf.side, floor)
        share = product(weight, counted)
        return product(share, delta), share

    def join(self, a: Any, b: Any) -> Any:
        return accumulate(a, b)

    def finish(self, state: Any, leaf: Leaf) -> Array:
        del leaf
        total, share = state
        none = share == 0
        mean = total / jnp.where(none, jnp.ones_like(share), share)
        return jnp.where(none, jnp.zeros_like(total), mean)
