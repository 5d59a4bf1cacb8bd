"""Weighted sums and means: averages and task arithmetic."""

from typing import Any

from jaxtyping import Array

from jaxmerge._arithmetic import accumulate, product, quotient
from jaxmerge._types import Leaf, pytree, static


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
    elementwise = True

    def lift(self, delta: Array, weight: Array, leaf: Leaf) -> Any:
        del leaf
        return product(weight, delta), weight

    def join(self, a: Any, b: Any) -> Any:
        return accumulate(a, b)

    def finish(self, state: Any, leaf: Leaf) -> Array:
        del leaf
        total, weight = state
        return quotient(total, weight) if self.normalize else total
