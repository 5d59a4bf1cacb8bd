"""Sets of matrices, and of vectors in groups."""

import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from jaxmerge._types import pytree, static
from jaxmerge.geometry.convex import ConvexSet, Data, Number, Real, norm


@pytree
class GroupL1Ball(ConvexSet):
    r"""Vectors whose groups' norms sum to 1 at most: h(g) = bound max_i |g_i|.

    Attributes:
      groups: how many.
      group_size: entries of each; points have shape `(groups, group_size)`.
      bound: of the sum.

    Example:
      >>> import jax.numpy as jnp
      >>> GroupL1Ball(2, 2).support(jnp.array([[3.0, 4.0], [0.0, 1.0]]))
      Array(5., dtype=float32)
    """

    groups: int = static()
    group_size: int = static()
    bound: Number = 1.0
    extreme = True

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.groups, self.group_size)

    @property
    def radius(self) -> Number:
        return self.bound

    def _support(self, g: Array) -> Real:
        squares = jnp.max(jnp.sum(g * g, axis=-1))
        some = squares > 0
        root = jnp.sqrt(jnp.where(some, squares, 1.0))
        return self.bound * jnp.where(some, root, 0.0)


@pytree
class NuclearBall(ConvexSet):
    r"""Matrices whose singular values sum to 1 at most: h(G) = bound sigma_1(G).

    Attributes:
      rows: of the matrices.
      columns: of the matrices.
      bound: of the nuclear norm.

    Example:
      >>> import jax.numpy as jnp
      >>> float(NuclearBall(2, 2).support(jnp.diag(jnp.array([3.0, 1.0]))))
      3.0
    """

    rows: int = static()
    columns: int = static()
    bound: Number = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.rows, self.columns)

    @property
    def radius(self) -> Number:
        return self.bound

    def _support(self, g: Array) -> Real:
        return self.bound * jnp.linalg.svd(g, compute_uv=False)[0]

    def support_point(self, g: Array) -> Array:
        """The product of the first singular vectors."""
        u, _, v = jnp.linalg.svd(g, full_matrices=False)
        return self.bound * jnp.outer(u[:, 0], v[0])


@pytree
class OperatorBall(ConvexSet):
    r"""Matrices whose singular values are 1 at most: h(G) = bound sum_i sigma_i(G).

    Attributes:
      rows: of the matrices.
      columns: of the matrices.
      bound: of the largest singular value.

    Example:
      >>> import jax.numpy as jnp
      >>> float(OperatorBall(2, 2).support(jnp.diag(jnp.array([3.0, 1.0]))))
      4.0
    """

    rows: int = static()
    columns: int = static()
    bound: Number = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.rows, self.columns)

    @property
    def radius(self) -> Number:
        return self.bound * math.sqrt(min(self.rows, self.columns))

    def _support(self, g: Array) -> Real:
        return self.bound * jnp.sum(jnp.linalg.svd(g, compute_uv=False))

    def support_point(self, g: Array) -> Array:
        """The nearest orthogonal matrix."""
        u, _, v = jnp.linalg.svd(g, full_matrices=False)
        return self.bound * (u @ v)


@pytree
class Spectraplex(ConvexSet):
    r"""Positive semidefinite matrices of trace 1: h(G) = lambda_max((G + G^T) / 2).

    Attributes:
      order: the matrices' number of rows.

    Example:
      >>> import jax.numpy as jnp
      >>> float(Spectraplex(2).support(jnp.diag(jnp.array([-3.0, 1.0]))))
      1.0
    """

    order: int = static()

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.order, self.order)

    @property
    def radius(self) -> Number:
        return 1.0

    def _support(self, g: Array) -> Real:
        return jnp.linalg.eigvalsh((g + g.T) / 2)[-1]

    def support_point(self, g: Array) -> Array:
        """The projector on the eigenvector of the largest eigenvalue."""
        _, vectors = jnp.linalg.eigh((g + g.T) / 2)
        return jnp.outer(vectors[:, -1], vectors[:, -1])


@pytree
class QuadraticSublevel(ConvexSet):
    r"""The points where a quadratic loss is at most epsilon above its minimum.

        {x : (x - c)^T H (x - c) / 2 <= epsilon}
        h(g) = <g, c> + sqrt(2 epsilon g^T H^-1 g)

    Attributes:
      center: c, the minimiser, `(dimension,)`.
      hessian: H, positive definite: its diagonal, a matrix, or a `LowRankHessian`.
      epsilon: at least 0.

    Example:
      >>> import jax.numpy as jnp
      >>> well = QuadraticSublevel(jnp.zeros(2), jnp.array([1.0, 4.0]), 2.0)
      >>> well.support(jnp.array([0.0, 1.0]))
      Array(1., dtype=float32)
    """

    center: Data
    hessian: Any
    epsilon: Number

    @property
    def shape(self) -> tuple[int, ...]:
        return self.center.shape

    @property
    def radius(self) -> Number:
        if isinstance(self.hessian, LowRankHessian):
            least = self.hessian.least
        elif self.hessian.ndim == 1:
            least = jnp.min(self.hessian)
        else:
            least = jnp.linalg.eigvalsh(self.hessian)[0]
        return norm(self.center) + jnp.sqrt(2 * self.epsilon / least)

    def _inverse_product(self, g: Array) -> Array:
        if isinstance(self.hessian, LowRankHessian):
            return self.hessian.solve(g)
        if self.hessian.ndim == 1:
            return g / self.hessian
        return jnp.linalg.solve(self.hessian, g)

    def _support(self, g: Array) -> Real:
        square = 2 * self.epsilon * jnp.sum(g * self._inverse_product(g))
        some = square > 0
        root = jnp.where(some, jnp.sqrt(jnp.where(some, square, 1.0)), 0.0)
        return jnp.sum(g * self.center) + root


@pytree
class LowRankHessian:
    r"""H = damping I + U diag(values) U^T, whose inverse costs two thin products.

    Attributes:
      damping: of the directions outside U, above 0.
      vectors: U, orthonormal columns, `(dimension, rank)`.
      values: what is added inside, `(rank,)`, above -damping.
    """

    damping: Number
    vectors: Data
    values: Data

    @property
    def least(self) -> Array:
        """The smallest eigenvalue."""
        return self.damping + jnp.minimum(jnp.min(self.values), 0.0)

    def solve(self, g: Array) -> Array:
        """`H^-1 g`, by Woodbury's identity."""
        shrunk = self.values / (self.values + self.damping)
        return (g - self.vectors @ (shrunk * (self.vectors.T @ g))) / self.damping
