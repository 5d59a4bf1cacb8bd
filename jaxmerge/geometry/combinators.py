"""Sets made of sets, exactly: each operation is one of support functions."""

import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from jaxmerge._types import pytree
from jaxmerge.geometry.convex import ConvexSet, Data, Number, Real, norm


def _one_shape(sets: tuple[Any, ...], what: str) -> tuple[int, ...]:
    if not sets:
        raise ValueError(f"a {what} needs at least one set")
    shapes = {s.shape for s in sets}
    if len(shapes) > 1:
        raise ValueError(
            f"a {what} is of sets in one space; these have points of shapes "
            f"{sorted(shapes)}"
        )
    return sets[0].shape


@pytree
class Scale(ConvexSet):
    r"""`factor` times a set: h(g) = h_S(factor g).

    Attributes:
      set: S.
      factor: any number; a negative one also reflects.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmerge.geometry.sets import Simplex
      >>> Scale(Simplex(2), -2.0).support(jnp.array([1.0, 3.0]))
      Array(-2., dtype=float32)
    """

    set: Any
    factor: Number

    @property
    def shape(self) -> tuple[int, ...]:
        return self.set.shape

    @property
    def radius(self) -> Any:
        return abs(self.factor) * self.set.radius

    @property
    def extreme(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.set.extreme

    def _support(self, g: Array) -> Real:
        return self.set.support(self.factor * g)


@pytree
class Translate(ConvexSet):
    r"""A set moved by a vector: h(g) = h_S(g) + <g, offset>.

    Attributes:
      set: S.
      offset: of the set's shape.
    """

    set: Any
    offset: Data

    @property
    def shape(self) -> tuple[int, ...]:
        return self.set.shape

    @property
    def radius(self) -> Any:
        return self.set.radius + norm(self.offset)

    @property
    def extreme(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.set.extreme

    def _support(self, g: Array) -> Real:
        return self.set.support(g) + jnp.sum(g * self.offset)


@pytree
class LinearImage(ConvexSet):
    r"""The image of a set under a matrix: h(g) = h_S(matrix^T g).

    Attributes:
      set: S, of vectors of length p.
      matrix: `(dimension, p)`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmerge.geometry.sets import Ball
      >>> LinearImage(Ball(1), jnp.array([[3.0], [4.0]])).support(jnp.array([0.0, 1.0]))
      Array(4., dtype=float32)
    """

    set: Any
    matrix: Data

    @property
    def shape(self) -> tuple[int, ...]:
        return self.matrix.shape[:1]

    @property
    def radius(self) -> Any:
        return jnp.linalg.norm(self.matrix, 2) * self.set.radius

    def _support(self, g: Array) -> Real:
        return self.set.support(self.matrix.T @ g)


@pytree
class MinkowskiSum(ConvexSet):
    r"""All sums of one point of each set: h(g) = sum_i h_i(g).

    Attributes:
      sets: a tuple of sets in one space.
    """

    sets: tuple[Any, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return _one_shape(self.sets, "Minkowski sum")

    @property
    def radius(self) -> Any:
        return sum(s.radius for s in self.sets)

    @property
    def extreme(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return any(s.extreme for s in self.sets)

    def _support(self, g: Array) -> Real:
        return jnp.sum(jnp.stack([s.support(g) for s in self.sets]))


@pytree
class ConvexUnion(ConvexSet):
    r"""The convex hull of sets: h(g) = max_i h_i(g).

    Attributes:
      sets: a tuple of sets in one space.
    """

    sets: tuple[Any, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return _one_shape(self.sets, "convex union")

    @property
    def radius(self) -> Any:
        return jnp.max(jnp.stack([jnp.asarray(s.radius) for s in self.sets]))

    @property
    def extreme(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return any(s.extreme for s in self.sets)

    def _support(self, g: Array) -> Real:
        return jnp.max(jnp.stack([s.support(g) for s in self.sets]))


@pytree
class Difference(ConvexSet):
    r"""All differences of two points of a set: h(g) = h_S(g) + h_S(-g).

    Its width is twice that of S.

    Attributes:
      set: S.
    """

    set: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return self.set.shape

    @property
    def radius(self) -> Any:
        return 2 * self.set.radius

    @property
    def extreme(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.set.extreme

    def _support(self, g: Array) -> Real:
        return self.set.support(g) + self.set.support(-g)


@pytree
class Product(ConvexSet):
    r"""All concatenations of one point of each set: h(g_1, g_2, ...) = sum_i h_i(g_i).

    Attributes:
      sets: a tuple; points are flattened and concatenated.
    """

    sets: tuple[Any, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return (sum(math.prod(s.shape) for s in self.sets),)

    @property
    def radius(self) -> Any:
        return norm(jnp.stack([jnp.asarray(s.radius) for s in self.sets]))

    @property
    def extreme(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return any(s.extreme for s in self.sets)

    def _support(self, g: Array) -> Real:
        total, at = jnp.zeros((), g.dtype), 0
        for s in self.sets:
            size = math.prod(s.shape)
            total += s.support(g[at : at + size].reshape(s.shape))
            at += size
        return total
