"""Sets that a few vectors make: hulls, zonotopes and balls of their span.

For T vectors V, `(T, ...)`, each is the image of a simple set A of R^T:

    h(g) = h_A(V g),   and V g is normal with covariance K = V V^T for normal g.

So all that an estimator needs of the vectors is their Gram matrix K. `from_gram` makes
a set of the same law in T dimensions, however many the vectors have; two sets whose
vectors are both in one Gram matrix keep their joint law.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxmerge._types import pytree, static
from jaxmerge.geometry.convex import ConvexSet, Data, Real, norm


def gram_factor(gram: Array) -> Float[Array, "T T"]:
    """Rows of R^T that have a given Gram matrix, also a singular one: its square root.

    Of all such rows the symmetric square root is the one that depends continuously on
    the matrix, so that rounding in it changes no sample by more. Eigenvalues below
    `T * eps` of the largest are rounding; they count as zero.

    Args:
      gram: symmetric and positive semidefinite up to rounding.

    Raises:
      ValueError: if it is not square.

    Example:
      >>> import jax.numpy as jnp
      >>> rows = gram_factor(jnp.array([[4.0, 0.0], [0.0, 0.0]]))
      >>> (rows @ rows.T).tolist()
      [[4.0, 0.0], [0.0, 0.0]]
    """
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1]:
        raise ValueError(f"a Gram matrix is square; this one has shape {gram.shape}")
    values, vectors = jnp.linalg.eigh(gram)
    least = gram.shape[-1] * float(jnp.finfo(gram.dtype).eps) * values[..., -1:]
    roots = jnp.where(
        values > least, jnp.sqrt(jnp.where(values > least, values, 1.0)), 0.0
    )
    return (vectors * roots) @ vectors.T


@pytree
class Spanned(ConvexSet):
    """A set made of vectors; the base class of those below."""

    vectors: Data

    @property
    def shape(self) -> tuple[int, ...]:
        return self.vectors.shape[1:]

    @property
    def gram(self) -> Float[Array, "T T"]:
        """The vectors' Gram matrix."""
        flat = self.vectors.reshape(self.vectors.shape[0], -1)
        return flat @ flat.T

    def products(self, g: Array) -> Float[Array, " T"]:
        """The inner products of g with the vectors."""
        return jnp.tensordot(self.vectors, g, axes=g.ndim)

    def norms(self) -> Float[Array, " T"]:
        """The vectors' norms."""
        axes = tuple(range(1, self.vectors.ndim))
        return jnp.sqrt(jnp.sum(self.vectors * self.vectors, axis=axes))

    @classmethod
    def from_gram(cls, gram: Array, **fields: Any) -> Any:
        """The set of vectors of R^T that have this Gram matrix.

        Args:
          gram: `(T, T)`; rounding may make it slightly indefinite.
          **fields: the set's other fields.

        Raises:
          ValueError: if it is not square.

        Example:
          >>> import jax.numpy as jnp
          >>> Hull.from_gram(jnp.eye(3)).shape
          (3,)
        """
        return cls(vectors=gram_factor(gram), **fields)

    def compressed(self) -> Any:
        """A set of the same law in as many dimensions as there are vectors."""
        return dataclasses.replace(self, vectors=gram_factor(self.gram))


@pytree
class Hull(Spanned):
    r"""The convex hull of vectors: h(g) = max_t <g, v_t>.

    Attributes:
      vectors: `(T, ...)`.

    Example:
      >>> import jax.numpy as jnp
      >>> Hull(jnp.array([[1.0, 0.0], [0.0, 2.0]])).support(jnp.array([3.0, 1.0]))
      Array(3., dtype=float32)
    """

    vectors: Data

    @property
    def radius(self) -> Any:
        return jnp.max(self.norms())

    def _support(self, g: Array) -> Real:
        return jnp.max(self.products(g))


@pytree
class SymmetricHull(Spanned):
    r"""The convex hull of vectors and their negatives: h(g) = max_t |<g, v_t>|.

    Attributes:
      vectors: `(T, ...)`.
    """

    vectors: Data

    @property
    def radius(self) -> Any:
        return jnp.max(self.norms())

    def _support(self, g: Array) -> Real:
        return jnp.max(jnp.abs(self.products(g)))


@pytree
class Zonotope(Spanned):
    r"""The sum of the segments [-v_t, v_t], or of [0, v_t].

        h(g) = sum_t |<g, v_t>|,   or   sum_t max(0, <g, v_t>)

    Attributes:
      vectors: `(T, ...)`.
      symmetric: whether the segments reach to both sides.
    """

    vectors: Data
    symmetric: bool = static(default=True)

    @property
    def radius(self) -> Any:
        return jnp.sum(self.norms())

    def _support(self, g: Array) -> Real:
        products = self.products(g)
        return jnp.sum(
            jnp.abs(products) if self.symmetric else jnp.maximum(products, 0)
        )


@pytree
class SpanBall(Spanned):
    r"""Combinations of vectors with coefficients of norm 1 at most: h(g) = |V g|.

    Attributes:
      vectors: `(T, ...)`.
    """

    vectors: Data

    @property
    def radius(self) -> Any:
        flat = self.vectors.reshape(self.vectors.shape[0], -1)
        return jnp.linalg.norm(flat, 2)

    def _support(self, g: Array) -> Real:
        return norm(self.products(g))


def equicorrelated(num: int, correlation: float) -> np.ndarray:
    """The Gram matrix of unit vectors that all have one cosine with each other.

    Args:
      num: how many vectors.
      correlation: their cosine, from -1 / (num - 1) to 1.

    Example:
      >>> equicorrelated(2, 0.5).tolist()
      [[1.0, 0.5], [0.5, 1.0]]
    """
    return (1 - correlation) * np.eye(num) + correlation * np.ones((num, num))
