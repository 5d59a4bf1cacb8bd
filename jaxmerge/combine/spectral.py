"""Spectra of the merged delta: the polar factor, and isotropic merging."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array

from jaxmerge._arithmetic import accumulate, product, quotient
from jaxmerge._types import Leaf, MatrixSpec, pytree, static


def to_matrix(x: Array, spec: MatrixSpec) -> Array:
    """Moves a leaf's output and input axes last: `[..., out, in]`."""
    return jnp.moveaxis(x, (spec.out, spec.in_), (-2, -1))


def from_matrix(x: Array, spec: MatrixSpec) -> Array:
    """The inverse of `to_matrix`."""
    return jnp.moveaxis(x, (-2, -1), (spec.out, spec.in_))


def _whole(matrix: Array) -> Array:
    """The matrix on every device: an SVD cannot be computed from its parts.

    Only an explicit mesh needs to be told; else the compiler gathers by itself.
    """
    sharding = jax.typeof(matrix).sharding
    if all(axis is None for axis in sharding.spec):
        return matrix
    replicated = NamedSharding(sharding.mesh, PartitionSpec(*[None] * matrix.ndim))
    return jax.sharding.reshard(matrix, replicated)


def _svd(matrix: Array) -> tuple[Array, Array, Array, Array]:
    """Thin SVD with the mask of the singular values that are not rounding."""
    u, s, vt = jnp.linalg.svd(matrix, full_matrices=False)
    noise = jnp.finfo(s.dtype).eps * max(matrix.shape[-2:])
    return u, s, vt, s > noise * s[..., :1]


@jax.custom_jvp
def polar(matrix: Array) -> Array:
    r"""The orthogonal polar factor `U V^T` of each matrix, on its numerical rank.

    Singular directions below `eps * max(out, in) * s_max` are left out, so that a
    matrix of low rank has a polar factor of that rank (and zero has zero). The
    derivative is the polar factor's own, finite at repeated singular values, where the
    SVD's is not.

    Args:
      matrix: `[..., out, in]`, float32 or float64.

    Returns:
      `[..., out, in]`.

    >>> polar(jnp.array([[3.0, 0.0], [0.0, 2.0]])).round(3).tolist()
    [[1.0, 0.0], [0.0, 1.0]]

    References:
      Higham, Functions of Matrices, 2008, chapter 8.
    """
    u, _, vt, keep = _svd(matrix)
    return (u * keep[..., None, :].astype(u.dtype)) @ vt


@polar.defjvp
def _polar_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (matrix,), (tangent,) = primals, tangents
    u, s, vt, keep = _svd(matrix)
    kept = keep.astype(s.dtype)
    u, v = u * kept[..., None, :], jnp.swapaxes(vt, -1, -2) * kept[..., None, :]
    ut, vt = jnp.swapaxes(u, -1, -2), jnp.swapaxes(v, -1, -2)
    factor = u @ vt
    # Within the range: U [ (U'EV - V'E'U)_ij / (s_i + s_j) ] V'. Across it: the parts
    # of E outside the left and the right range, divided by s.
    inner = ut @ tangent @ v
    both = keep[..., :, None] & keep[..., None, :]
    sums = jnp.where(both, s[..., :, None] + s[..., None, :], 1.0)
    skew = jnp.where(both, (inner - jnp.swapaxes(inner, -1, -2)) / sums, 0.0)
    inverse = jnp.where(keep, 1 / jnp.where(keep, s, 1.0), 0.0)
    left = tangent @ v - u @ inner
    right = ut @ tangent - inner @ vt
    change = u @ skew @ vt
    change = change + (left * inverse[..., None, :]) @ vt
    change = change + u @ (inverse[..., :, None] * right)
    return factor, change


@pytree
class Isotropic:
    r"""Iso-C: the sum of the deltas with its spectrum made flat.

        delta = mean(s) * U V^T,      U diag(s) V^T = sum_t w_t d_t

    The mean is over all `min(out, in)` singular values, as in the paper; directions
    that are rounding noise are left at zero instead of being raised to the mean, which
    differs from the paper only for sums of low rank (a few LoRAs). Leaves that are no
    matrices get the weighted mean, as in the authors' code.

    References:
      Marczak et al., No Task Left Behind: Isotropic Model Merging with Common and
      Task-Specific Subspaces, 2025, algorithm 1.
    """

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
        matrix = _whole(to_matrix(total, leaf.matrix))
        factor = polar(matrix)
        # The sum of the singular values is <polar, matrix>.
        nuclear = jnp.sum(factor * matrix, axis=(-2, -1), keepdims=True)
        flat = (nuclear / min(matrix.shape[-2:])) * factor
        return from_matrix(flat, leaf.matrix)
