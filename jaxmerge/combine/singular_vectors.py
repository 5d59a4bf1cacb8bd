"""Singular vectors of each task, made orthogonal to those of the others."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from jaxmerge._arithmetic import accumulate, product, quotient
from jaxmerge._types import Leaf, pytree, static
from jaxmerge.combine.decompositions import polar, whole
from jaxmerge.combine.leading import leading_svd
from jaxmerge.combine.spectral import side_by_side
from jaxmerge.combine.sphere import into_slot


def directions_each(rank: int, slots: int | None, compat: str) -> int:
    """How many of the singular directions of a matrix each expert keeps."""
    assert slots is not None, "a combine that holds_all"
    each = rank // slots
    return each if compat == "reference" else max(1, each)


@pytree
class TaskSingularVectors:
    r"""TSV-M: each task's leading singular directions, whitened against the others.

        d_t = U_t S_t V_t^T  cut to k = max(1, floor(r / T)) of r = min(out, in)
        delta = polar([U_1, ..., U_T]) diag(S_1, ..., S_T) polar([V_1, ..., V_T])^T

    The state has r directions whatever T is (T, where there are more experts than r).
    Leaves that are no matrices get the weighted mean, as in the authors' code.

    Attributes:
      compat: `"paper"`, or `"reference"`, whose k is floor(r / T): a matrix of rank
        below T is lost.
      polar: how the polar factors are computed; see `polar`.
      svd: how the leading directions are computed; see `leading_svd`.

    References:
      Gargiulo et al., Task Singular Vectors: Reducing Task Interference in Model
      Merging, 2025, section 4.2.
    """

    compat: str = static(default="paper")
    polar: str = static(default="svd")
    svd: str = static(default="svd")
    frame: str = static(default="delta")
    uses_shape = True
    holds_all = True

    def lift(self, delta: Array, weight: Array, leaf: Leaf) -> Any:
        if leaf.matrix is None:
            return product(weight, delta), weight
        matrix = whole(product(weight, delta))
        k = directions_each(min(matrix.shape), leaf.slots, self.compat)
        parts = leading_svd(matrix, k, self.svd)
        return tuple(into_slot(x, leaf) for x in parts)

    def join(self, a: Any, b: Any) -> Any:
        return accumulate(a, b)

    def finish(self, state: Any, leaf: Leaf) -> Array:
        if leaf.matrix is None:
            return quotient(*state)
        u, s, v = state
        left, right = (polar(side_by_side(x), self.polar) for x in (u, v))
        values = side_by_side(s[..., None, :])
        return (left * values) @ jnp.swapaxes(right, -1, -2)
