"""The cone of positive semidefinite matrices."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxmerge._types import pytree, static
from jaxmerge.geometry.cone import Cone


def _product(*factors: Array) -> Array:
    result = factors[0]
    for factor in factors[1:]:
        result = jnp.matmul(result, factor, precision=lax.Precision.HIGHEST)
    return result


def _positive_part(matrix: Array) -> tuple[Array, Array, Array]:
    values, vectors = jnp.linalg.eigh(matrix, symmetrize_input=False)
    part = _product(vectors * jnp.maximum(values, 0.0), vectors.T)
    return part, values, vectors


@jax.custom_jvp
def _onto_semidefinite(matrix: Array) -> Array:
    return _positive_part(matrix)[0]


@_onto_semidefinite.defjvp
def _onto_semidefinite_jvp(
    primals: tuple[Array], tangents: tuple[Array]
) -> tuple[Array, Array]:
    # Loewner's formula: in the eigenbasis the derivative is an entrywise product with
    # divided differences of max(x, 0), which repeated eigenvalues do not make infinite.
    (matrix,), (change,) = primals, tangents
    part, values, vectors = _positive_part(matrix)
    positive = jnp.maximum(values, 0.0)
    size = jnp.abs(values)
    total = size[:, None] + size[None, :]
    ratio = (positive[:, None] + positive[None, :]) / jnp.where(total > 0, total, 1.0)
    inner = _product(vectors.T, change, vectors)
    return part, _product(vectors, ratio * inner, vectors.T)


@pytree
class PSDCone(Cone):
    r"""The symmetric positive semidefinite matrices, with the Frobenius norm.

    It is a cone in the space of all n x n matrices: a matrix is first replaced by its
    symmetric part, which is its projection onto the symmetric ones. The symmetric part
    of a matrix of independent standard normal numbers is the standard normal symmetric
    matrix (variance 1 on the diagonal, 1/2 off it), so that nothing has to be said
    about coordinates. The statistical dimension is n (n + 1) / 4, and that of the
    polar, which holds all antisymmetric matrices, n^2 minus this.

    Attributes:
      order: n, the number of rows.

    Example:
      >>> import jax.numpy as jnp
      >>> PSDCone(2).project(jnp.array([[0.0, 2.0], [0.0, 0.0]])).round(5)
      Array([[0.5, 0.5],
             [0.5, 0.5]], dtype=float32)

    References:
      Amelunxen, Lotz, McCoy, Tropp, Living on the edge, 2014, table 3.1.
    """

    order: int = static()

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.order, self.order)

    @property
    def workspace(self) -> int:
        return 4 * self.order**2

    def _project(self, g: Array) -> Array:
        return _onto_semidefinite(0.5 * (g + g.T))
