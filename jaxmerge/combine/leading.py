"""The leading singular directions of a matrix, for less than the price of all."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxmerge.combine.decompositions import matmul, thin_svd

LEADING_METHODS = ("svd", "gram", "randomized")
_MORE, _POWERS = 16, 2  # columns of the sketch beyond k, and rounds of power iteration


def leading_svd(
    matrix: Array, k: int, method: str = "svd"
) -> tuple[Array, Array, Array]:
    r"""`U, s, V` of the k leading singular directions.

    Args:
      matrix: `[out, in]`, float32 or float64.
      k: how many, at most `min(out, in)`.
      method: `"svd"`, which is differentiable; `"gram"`, from the eigenvectors of the
        smaller Gram matrix, whose error grows as `eps (s_1 / s_k)^2`; or
        `"randomized"`, a sketch of k + 16 columns and two rounds of power iteration,
        whose error is `(s_(k+17) / s_k)^5` for the last direction: for spectra that
        fall. The sketch is the same at every call.

    Returns:
      `[out, k]`, `[k]`, `[in, k]`; s falls. Directions of rounding are zero.

    Raises:
      ValueError: if there is no such method.

    >>> u, s, v = leading_svd(jnp.diag(jnp.array([1.0, 3.0, 2.0])), 2, "gram")
    >>> [f"{x:.3f}" for x in s], jnp.abs(u).round(3).tolist()
    (['3.000', '2.000'], [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])

    References:
      Halko, Martinsson, Tropp, Finding Structure with Randomness, 2011, algorithms 4.4
      and 5.1.
    """
    if method not in LEADING_METHODS:
        raise ValueError(
            f"singular vectors by {method!r}; expected one of {LEADING_METHODS}"
        )
    if method == "randomized" and k + _MORE < min(matrix.shape):
        basis = _sketched_range(matrix, k + _MORE)
        u, s, v = thin_svd(matmul(basis.T, matrix))
        return matmul(basis, u[:, :k]), s[:k], v[:, :k]
    if method == "gram":
        if matrix.shape[0] < matrix.shape[1]:
            v, s, u = _by_gram(matrix.T, k)
            return u, s, v
        return _by_gram(matrix, k)
    u, s, v = thin_svd(matrix)
    return u[:, :k], s[:k], v[:, :k]


def _by_gram(matrix: Array, k: int) -> tuple[Array, Array, Array]:
    """Of a tall matrix, from the eigenvectors of `matrix^T matrix`."""
    values, vectors = jnp.linalg.eigh(matmul(matrix.T, matrix))
    values, v = values[::-1][:k], vectors[:, ::-1][:, :k]
    noise = jnp.finfo(values.dtype).eps * matrix.shape[1]
    keep = values > noise * values[:1]
    s = jnp.where(keep, jnp.sqrt(jnp.where(keep, values, 1.0)), 0.0)
    u = matmul(matrix, v) / jnp.where(keep, s, 1.0)
    kept = keep.astype(matrix.dtype)
    return u * kept, s, v * kept


def _sketched_range(matrix: Array, size: int) -> Array:
    """An orthonormal basis of about the leading left singular space."""
    shape = (matrix.shape[1], size)
    sketch = jax.random.normal(jax.random.key(0), shape, matrix.dtype)
    basis = jnp.linalg.qr(matmul(matrix, sketch))[0]
    for _ in range(_POWERS):
        rows = jnp.linalg.qr(matmul(matrix.T, basis))[0]
        basis = jnp.linalg.qr(matmul(matrix, rows))[0]
    return basis
