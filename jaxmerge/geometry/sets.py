"""Balls, boxes, simplices, ellipsoids and sparse vectors, about the origin."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxmerge import ranks
from jaxmerge._types import pytree, static
from jaxmerge.geometry.convex import ConvexSet, Data, Number, Real, norm

# Up to so many entries sorting them all is faster than counting, when many are sorted.
_SORTED = 1 << 12


@pytree
class Ball(ConvexSet):
    r"""The Euclidean ball: h(g) = radius |g|.

    Attributes:
      dimension: of the space.
      radius: at least 0.

    Example:
      >>> import jax.numpy as jnp
      >>> Ball(2, 3.0).support(jnp.array([3.0, 4.0]))
      Array(15., dtype=float32)
    """

    dimension: int = static()
    radius: Number = 1.0  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.dimension,)

    def _support(self, g: Array) -> Real:
        return self.radius * norm(g)


@pytree
class Subspace(ConvexSet):
    r"""The ball of a linear subspace: h(g) = radius |basis g|.

    Attributes:
      basis: orthonormal rows, `(k, dimension)`.
      bound: the ball's radius.

    Example:
      >>> import jax.numpy as jnp
      >>> Subspace(jnp.array([[1.0, 0.0]])).support(jnp.array([3.0, 4.0]))
      Array(3., dtype=float32)
    """

    basis: Data
    bound: Number = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.basis.shape[1:]

    @property
    def radius(self) -> Number:
        return self.bound

    def _support(self, g: Array) -> Real:
        return self.bound * norm(self.basis @ g)


@pytree
class Box(ConvexSet):
    r"""The product of the intervals [-a_i, a_i]: h(g) = sum_i a_i |g_i|.

    Attributes:
      half_widths: a, at least 0, of any shape.

    Example:
      >>> import jax.numpy as jnp
      >>> Box(jnp.array([1.0, 2.0])).support(jnp.array([-3.0, 4.0]))
      Array(11., dtype=float32)
    """

    half_widths: Data

    @property
    def shape(self) -> tuple[int, ...]:
        return self.half_widths.shape

    @property
    def radius(self) -> Number:
        return norm(self.half_widths)

    def _support(self, g: Array) -> Real:
        return jnp.sum(self.half_widths * jnp.abs(g))


@pytree
class LpBall(ConvexSet):
    r"""The ball of an l_p norm: h(g) = radius ||g||_q with 1/p + 1/q = 1.

    Attributes:
      dimension: of the space.
      p: from 1 (the cross-polytope) to infinity (a cube).
      bound: of the l_p norm of its points.

    Example:
      >>> import jax.numpy as jnp
      >>> LpBall(3, 1.0).support(jnp.array([1.0, -4.0, 2.0]))
      Array(4., dtype=float32)
    """

    dimension: int = static()
    p: float = static()
    bound: Number = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.dimension,)

    @property
    def extreme(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.p < 2

    @property
    def radius(self) -> Number:
        return self.bound * self.dimension ** max(0.0, 0.5 - 1 / self.p)

    def _support(self, g: Array) -> Real:
        if not self.p >= 1:
            raise ValueError(f"p is {self.p}; an l_p ball is convex from p = 1 on")
        magnitudes = jnp.abs(g)
        largest = jnp.max(magnitudes)
        if self.p == 1:
            return self.bound * largest
        q = 1.0 if self.p == float("inf") else self.p / (self.p - 1)
        scale = jnp.where(largest > 0, largest, 1.0)
        powers = jnp.sum((magnitudes / scale) ** q)
        some = powers > 0
        root = jnp.where(some, powers, 1.0) ** (1 / q)
        return self.bound * jnp.where(some, scale * root, 0.0)


@pytree
class WeightedL1Ball(ConvexSet):
    r"""The hull of the points ±a_i e_i: h(g) = max_i a_i |g_i|.

    Attributes:
      semi_axes: a, at least 0, of any shape.

    Example:
      >>> import jax.numpy as jnp
      >>> WeightedL1Ball(jnp.array([1.0, 3.0])).support(jnp.array([4.0, 2.0]))
      Array(6., dtype=float32)
    """

    semi_axes: Data
    extreme = True

    @property
    def shape(self) -> tuple[int, ...]:
        return self.semi_axes.shape

    @property
    def radius(self) -> Number:
        return jnp.max(self.semi_axes)

    def _support(self, g: Array) -> Real:
        return jnp.max(self.semi_axes * jnp.abs(g))


@pytree
class Simplex(ConvexSet):
    r"""The hull of the unit vectors: h(g) = bound max_i g_i.

    Attributes:
      dimension: how many there are.
      bound: what they are multiplied by.

    Example:
      >>> import jax.numpy as jnp
      >>> Simplex(3).support(jnp.array([1.0, -4.0, 2.0]))
      Array(2., dtype=float32)
    """

    dimension: int = static()
    bound: Number = 1.0
    extreme = True

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.dimension,)

    @property
    def radius(self) -> Number:
        return self.bound

    def _support(self, g: Array) -> Real:
        return self.bound * jnp.max(g)


@pytree
class Ellipsoid(ConvexSet):
    r"""The ellipsoid of semi-axes r along the coordinates: h(g) = |r g|.

    A turned one is `LinearImage(Ball(k), matrix)`.

    Attributes:
      semi_axes: r, at least 0, of any shape.

    Example:
      >>> import jax.numpy as jnp
      >>> Ellipsoid(jnp.array([3.0, 2.0])).support(jnp.array([1.0, 2.0]))
      Array(5., dtype=float32)
    """

    semi_axes: Data

    @property
    def shape(self) -> tuple[int, ...]:
        return self.semi_axes.shape

    @property
    def radius(self) -> Number:
        return jnp.max(jnp.abs(self.semi_axes))

    def _support(self, g: Array) -> Real:
        return norm(self.semi_axes * g)


@pytree
class SparseBall(ConvexSet):
    r"""The hull of the unit vectors with at most k entries: h(g) = |g's k largest|.

    Attributes:
      dimension: of the space.
      k: how many entries may differ from zero, at least 1.
      bound: the radius.

    Example:
      >>> import jax.numpy as jnp
      >>> SparseBall(3, 2).support(jnp.array([1.0, -4.0, 3.0]))
      Array(5., dtype=float32)
    """

    dimension: int = static()
    k: int = static()
    bound: Number = 1.0
    extreme = True

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.dimension,)

    @property
    def radius(self) -> Number:
        return self.bound

    def _support(self, g: Array) -> Real:
        if not 1 <= self.k <= self.dimension:
            raise ValueError(f"k is {self.k}; expected 1 to {self.dimension} entries")
        if self.dimension <= _SORTED:
            return self.bound * norm(lax.top_k(jnp.abs(g), self.k)[0])
        return self.bound * norm(jnp.where(ranks.largest_mask(g, self.k), g, 0.0))
