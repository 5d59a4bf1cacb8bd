"""Leaves as matrices, and decompositions that are safe to differentiate."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array

POLAR_METHODS = ("svd", "qdwh", "newton_schulz")
_RAISING, _CONVERGING = 8, 7  # steps of Newton and Schulz


def whole(matrix: Array) -> Array:
    """The matrix on every device: an SVD cannot be computed from its parts.

    Only an explicit mesh needs to be told; else the compiler gathers by itself.
    """
    sharding = jax.typeof(matrix).sharding
    if all(axis is None for axis in sharding.spec):
        return matrix
    replicated = NamedSharding(sharding.mesh, PartitionSpec(*[None] * matrix.ndim))
    return jax.sharding.reshard(matrix, replicated)


def transposed(x: Array) -> Array:
    """Each matrix with its axes exchanged."""
    return jnp.swapaxes(x, -1, -2)


def matmul(a: Array, b: Array) -> Array:
    """The product in full precision: accelerators would round Gram matrices away."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _svd(matrix: Array) -> tuple[Array, Array, Array, Array]:
    """Thin SVD with the mask of the singular values that are not rounding.

    LAPACK's divide and conquer gives up, which is NaN, on some matrices of many equal
    singular values, such as the directions of several experts side by side. Then the
    transpose is decomposed, which takes another way to the same.
    """

    def again() -> tuple[Array, Array, Array]:
        v, s, ut = jnp.linalg.svd(transposed(matrix), full_matrices=False)
        return transposed(ut), s, transposed(v)

    found = tuple(jnp.linalg.svd(matrix, full_matrices=False))
    failed = jnp.any(jnp.isnan(found[1])) & jnp.all(jnp.isfinite(matrix))
    u, s, vt = jax.lax.cond(failed, again, lambda: found)
    noise = jnp.finfo(s.dtype).eps * max(matrix.shape[-2:])
    # Of what is NaN all is kept: XLA may make zeros of NaN times a mask.
    return u, s, vt, ~(s <= noise * s[..., :1])


@jax.custom_jvp
def thin_svd(matrix: Array) -> tuple[Array, Array, Array]:
    r"""`U, s, V` with `matrix = U diag(s) V^T`, on its numerical rank.

    Singular values below `eps * max(out, in) * s_max` are zero, and so are their
    vectors: a matrix of low rank does not bring arbitrary directions along. In the
    derivative, pairs of equal singular values do not turn into one another; what does
    not depend on the basis of their space has the right one, and all are finite.

    Args:
      matrix: `[..., out, in]`, float32 or float64.

    Returns:
      `[..., out, r]`, `[..., r]`, `[..., in, r]`, r the smaller of out and in; s falls.

    >>> u, s, v = thin_svd(jnp.array([[2.0, 0.0], [0.0, 0.0]]))
    >>> s.tolist(), u.round(3).tolist()
    ([2.0, 0.0], [[1.0, 0.0], [0.0, 0.0]])
    """
    u, s, vt, keep = _svd(matrix)
    kept = keep.astype(s.dtype)
    return u * kept[..., None, :], s * kept, transposed(vt) * kept[..., None, :]


@thin_svd.defjvp
def _thin_svd_jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
    (matrix,), (tangent,) = primals, tangents
    u, s, v = thin_svd(matrix)
    keep = s > 0
    inner = transposed(u) @ tangent @ v
    change_s = jnp.diagonal(inner, axis1=-2, axis2=-1)
    square = s**2
    gap = square[..., None, :] - square[..., :, None]
    # Equal but for rounding: the basis of their space is anybody's choice.
    noise = 64 * jnp.finfo(s.dtype).eps * square[..., :1, None]
    apart = keep[..., :, None] & keep[..., None, :] & (jnp.abs(gap) > noise)
    f = jnp.where(apart, 1 / jnp.where(apart, gap, 1.0), 0.0)
    scaled, mirrored = inner * s[..., None, :], s[..., :, None] * transposed(inner)
    turn_u = f * (scaled + mirrored)
    turn_v = f * (s[..., :, None] * inner + transposed(inner) * s[..., None, :])
    inverse = jnp.where(keep, 1 / jnp.where(keep, s, 1.0), 0.0)[..., None, :]
    out_u = (tangent @ v - u @ inner) * inverse
    out_v = (transposed(tangent) @ u - v @ transposed(inner)) * inverse
    return (u, s, v), (u @ turn_u + out_u, change_s, v @ turn_v + out_v)


def polar(matrix: Array, method: str = "svd") -> Array:
    r"""The orthogonal polar factor `U V^T` of each matrix, on its numerical rank.

    Singular directions below `eps * max(out, in) * s_max` are left out, so that a
    matrix of low rank has a polar factor of that rank (and zero has zero). The
    derivative is the polar factor's own, finite at repeated singular values, where the
    SVD's is not.

    Iterations of matrix products serve accelerators better than an SVD does. They do
    not know the numerical rank: directions of rounding come out at any size up to 1, so
    they are for matrices of full rank.

    Args:
      matrix: `[..., out, in]`, float32 or float64.
      method: `"svd"`; `"qdwh"` (one matrix, no derivative), or `"newton_schulz"`
        (products only; singular values below 1e-4 of the norm do not reach 1).

    Returns:
      `[..., out, in]`.

    Raises:
      ValueError: if there is no such method.

    >>> polar(jnp.array([[3.0, 0.0], [0.0, 2.0]])).round(3).tolist()
    [[1.0, 0.0], [0.0, 1.0]]

    References:
      Higham, Functions of Matrices, 2008, chapter 8. Nakatsukasa, Bai, Gygi,
      Optimizing Halley's Iteration for Computing the Matrix Polar Decomposition, 2010.
    """
    if method == "svd":
        return _polar_by_svd(matrix)
    if method not in POLAR_METHODS:
        raise ValueError(f"polar method {method!r}; expected one of {POLAR_METHODS}")
    iterate = _qdwh if method == "qdwh" else _newton_schulz
    square = jnp.sum(matrix * matrix, axis=(-2, -1), keepdims=True)
    some = square > 0
    unit = matrix / jnp.sqrt(jnp.where(some, square, 1.0))
    tall = matrix.shape[-2] >= matrix.shape[-1]
    factor = iterate(unit) if tall else transposed(iterate(transposed(unit)))
    return jnp.where(some, factor, jnp.zeros_like(factor))


def _qdwh(x: Array) -> Array:
    return jax.scipy.linalg.polar(x, method="qdwh")[0]


def _newton_schulz(x: Array) -> Array:
    """Steps that raise small singular values fast, then steps that converge to 1."""
    for step in range(_RAISING + _CONVERGING):
        gram = matmul(transposed(x), x)
        if step < _RAISING:  # Keller Jordan's coefficients, as in Muon
            inner = -4.7750 * gram + 2.0315 * matmul(gram, gram)
            x = 3.4445 * x + matmul(x, inner)
        else:
            x = 1.5 * x - 0.5 * matmul(x, gram)
    return x


@jax.custom_jvp
def _polar_by_svd(matrix: Array) -> Array:
    u, _, vt, keep = _svd(matrix)
    return (u * keep[..., None, :].astype(u.dtype)) @ vt


@_polar_by_svd.defjvp
def _polar_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (matrix,), (tangent,) = primals, tangents
    u, s, vt, keep = _svd(matrix)
    kept = keep.astype(s.dtype)
    u, v = u * kept[..., None, :], transposed(vt) * kept[..., None, :]
    ut, vt = transposed(u), transposed(v)
    factor = u @ vt
    # Within the range: U [ (U'EV - V'E'U)_ij / (s_i + s_j) ] V'. Across it: the parts
    # of E outside the left and the right range, divided by s.
    inner = ut @ tangent @ v
    both = keep[..., :, None] & keep[..., None, :]
    sums = jnp.where(both, s[..., :, None] + s[..., None, :], 1.0)
    skew = jnp.where(both, (inner - transposed(inner)) / sums, 0.0)
    inverse = jnp.where(keep, 1 / jnp.where(keep, s, 1.0), 0.0)
    left = tangent @ v - u @ inner
    right = ut @ tangent - inner @ vt
    change = u @ skew @ vt
    change = change + (left * inverse[..., None, :]) @ vt
    change = change + u @ (inverse[..., :, None] * right)
    return factor, change
