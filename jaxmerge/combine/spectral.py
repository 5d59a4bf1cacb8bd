"""Spectra of the merged delta: isotropic merging, in one space and in several."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from jaxmerge._arithmetic import accumulate, product, quotient
from jaxmerge._types import Leaf, pytree, static
from jaxmerge.combine.decompositions import (
    polar,
    thin_svd,
    whole,
)
from jaxmerge.combine.sphere import into_slot


@pytree
class Isotropic:
    r"""Iso-C: the sum of the deltas with its spectrum made flat.

        delta = mean(s) * U V^T,      U diag(s) V^T = sum_t w_t d_t

    The mean is over all `min(out, in)` singular values, as in the paper; directions
    that are rounding noise are left at zero instead of being raised to the mean, which
    differs from the paper only for sums of low rank (a few LoRAs). Leaves that are no
    matrices get the weighted mean, as in the authors' code.

    Attributes:
      polar: how U V^T is computed; see `polar`.

    References:
      Marczak et al., No Task Left Behind: Isotropic Model Merging with Common and
      Task-Specific Subspaces, 2025, algorithm 1.
    """

    polar: str = static(default="svd")
    frame: str = static(default="delta")
    uses_shape = True

    def lift(self, delta: Array, weight: Array, leaf: Leaf) -> Any:
        del leaf
        return product(weight, delta), weight

    def join(self, a: Any, b: Any) -> Any:
        return accumulate(a, b)

    def finish(self, state: Any, leaf: Leaf) -> Array:
        total, weight = state
        if leaf.matrix is None:
            return quotient(total, weight)
        matrix = whole(total)
        factor = polar(matrix, self.polar)
        # The sum of the singular values is <polar, matrix>.
        nuclear = jnp.sum(factor * matrix, axis=(-2, -1), keepdims=True)
        return (nuclear / min(matrix.shape[-2:])) * factor


@pytree
class CommonSpace:
    r"""The first pass of Iso-CTS: the leading singular vectors of the summed delta.

    Of `r = min(out, in)` directions, `s = round((r - floor(common r)) / T)` are left
    to each of the T experts; the common space has the other `r - T s`. Its result is
    the basis `(U, s, V)` of that space; of leaves that are no matrices the mean.

    Attributes:
      common: the share of directions that are common, in (0, 1].
    """

    common: float | int = static(default=0.8)
    frame: str = static(default="delta")
    uses_shape = True
    holds_all = True  # The number of directions depends on the number of experts.

    def lift(self, delta: Array, weight: Array, leaf: Leaf) -> Any:
        del leaf
        return product(weight, delta), weight

    def join(self, a: Any, b: Any) -> Any:
        return accumulate(a, b)

    def finish(self, state: Any, leaf: Leaf) -> Any:
        total, weight = state
        if leaf.matrix is None:
            return quotient(total, weight)
        u, s, v = thin_svd(whole(total))
        slots = leaf.slots or 1
        kept = s.shape[-1] - slots * _own(self.common, s.shape[-1], slots)
        return u[..., :kept], s[..., :kept], v[..., :kept]


def _own(common: float | int, rank: int, num_experts: int | None) -> int:
    """How many directions each expert has to itself."""
    assert num_experts is not None, "a combine that holds_all"
    each = round((rank - int(common * rank)) / num_experts)
    return min(each, rank // num_experts)


@pytree
class IsotropicSubspaces:
    r"""Iso-CTS, second pass: common and task-specific directions, one flat spectrum.

        delta = mean(s) * polar([U_c, U_1, ..., U_T]) polar([V_c, V_1, ..., V_T])^T

    with `U_t, V_t` the leading singular vectors of what expert t has outside of the
    common space, `d_t - U_c U_c^T d_t`, and the mean over all singular values kept.

    Attributes:
      common: as in `CommonSpace`.

    References:
      Marczak et al., No Task Left Behind: Isotropic Model Merging with Common and
      Task-Specific Subspaces, 2025, algorithm 2.
    """

    common: float | int = static(default=0.8)
    frame: str = static(default="delta")
    uses_shape = True
    holds_all = True

    def lift(self, delta: Array, weight: Array, leaf: Leaf) -> Any:
        if leaf.matrix is None:
            return jnp.zeros_like(delta)
        matrix = whole(product(weight, delta))
        basis, _, _ = leaf.stats
        rest = matrix - basis @ (jnp.swapaxes(basis, -1, -2) @ matrix)
        u, s, v = thin_svd(rest)
        kept = _own(self.common, s.shape[-1], leaf.slots)
        parts = u[..., :kept], s[..., :kept], v[..., :kept]
        return tuple(into_slot(x, leaf) for x in parts)

    def join(self, a: Any, b: Any) -> Any:
        return accumulate(a, b)

    def finish(self, state: Any, leaf: Leaf) -> Array:
        if leaf.matrix is None:
            return leaf.stats
        (own_u, own_s, own_v), (u, s, v) = state, leaf.stats
        left = jnp.concatenate([u, side_by_side(own_u)], axis=-1)
        right = jnp.concatenate([v, side_by_side(own_v)], axis=-1)
        num = s.shape[-1] + own_s.shape[0] * own_s.shape[-1]
        total = jnp.sum(s, axis=-1) + jnp.sum(own_s, axis=(0, -1))
        flat = polar(left) @ jnp.swapaxes(polar(right), -1, -2)
        return (total / num)[..., None, None] * flat


def side_by_side(slots: Array) -> Array:
    """Columns of all experts: `(task, ..., row, k)` to `(..., row, task * k)`."""
    moved = jnp.moveaxis(slots, 0, -2)
    return moved.reshape(*moved.shape[:-2], -1)
