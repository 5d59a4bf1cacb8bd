"""What a closed convex cone is here: its projection.

    project(g) = argmin_{x in C} |g - x|

Everything else follows. What a projection leaves over is the projection onto the polar
cone (Moreau), so cones come in pairs; the mean of |project(g)|^2 over normal g is the
statistical dimension, which for a subspace is its dimension.
"""

import abc
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxmerge._types import pytree
from jaxmerge.geometry.convex import Data, Number, Real

__all__ = ["Cone", "Data", "Number", "Polar", "ProductCone", "Real"]


class Cone(abc.ABC):
    """A closed convex cone; the base class of all of them.

    Attributes:
      shape: of its points.
      size: the dimension of the space.
      workspace: how many floats a projection holds beyond a few copies of its point.

    Example:
      >>> import jax.numpy as jnp
      >>> class Line(Cone):
      ...     shape = (2,)
      ...
      ...     def _project(self, g):
      ...         return g.at[1].set(0.0)
      >>> Line().project(jnp.array([3.0, -4.0]))
      Array([3., 0.], dtype=float32)
    """

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, ...]: ...

    @abc.abstractmethod
    def _project(self, g: Array) -> Array: ...

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def workspace(self) -> int:
        return 0

    def project(self, g: Array) -> Array:
        """The point of the cone nearest to g.

        Args:
          g: one point, of the cone's shape and a float dtype.

        Raises:
          TypeError: if g is not of floats.
          ValueError: if g has another shape.
        """
        if jnp.shape(g) != self.shape:
            raise ValueError(
                f"{type(self).__name__} holds points of shape {self.shape}; "
                f"g has shape {jnp.shape(g)}. Project many points with jax.vmap"
            )
        g = jnp.asarray(g)
        if not jnp.issubdtype(g.dtype, jnp.floating):
            raise TypeError(f"g is {g.dtype}; a projection needs floats")
        return self._project(g)

    def squared_norm(self, g: Array) -> Real:
        """|project(g)|^2, as 2 <g, p> - |p|^2.

        For p in the cone this is never above the true value, and its error is quadratic
        in the error of p. The same holds for its gradient.
        """
        p = self.project(g)
        return jnp.sum((2 * g - p) * p)


@pytree
class Polar(Cone):
    """The polar cone, of all points at a right angle or more to each of the cone's.

        project(g) = g - cone.project(g)

    Attributes:
      cone: whose polar it is.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmerge.geometry import Orthant
      >>> Polar(Orthant(2)).project(jnp.array([3.0, -4.0]))
      Array([ 0., -4.], dtype=float32)

    References:
      Moreau, Décomposition orthogonale d'un espace hilbertien, 1962.
    """

    cone: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return self.cone.shape

    @property
    def workspace(self) -> int:
        return self.cone.workspace

    def _project(self, g: Array) -> Array:
        return g - self.cone.project(g)

    def squared_norm(self, g: Array) -> Real:
        return jnp.maximum(jnp.sum(g * g) - self.cone.squared_norm(g), 0.0)


@pytree
class ProductCone(Cone):
    """The product of cones, whose points are the factors' points one after the other.

    Attributes:
      cones: the factors, at least one; a point of a factor is read in row-major order.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmerge.geometry import Orthant
      >>> pair = ProductCone((Orthant(2), Polar(Orthant(1))))
      >>> pair.project(jnp.array([3.0, -4.0, 5.0]))
      Array([3., 0., 0.], dtype=float32)
    """

    cones: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return (sum(cone.size for cone in self.cones),)

    @property
    def workspace(self) -> int:
        return sum(cone.workspace for cone in self.cones)

    def _split(self, g: Array) -> list[Array]:
        ends = np.cumsum([cone.size for cone in self.cones])[:-1].tolist()
        parts = jnp.split(g, ends)
        return [
            part.reshape(cone.shape)
            for part, cone in zip(parts, self.cones, strict=True)
        ]

    def _project(self, g: Array) -> Array:
        pairs = zip(self.cones, self._split(g), strict=True)
        return jnp.concatenate([cone.project(part).ravel() for cone, part in pairs])

    def squared_norm(self, g: Array) -> Real:
        pairs = zip(self.cones, self._split(g), strict=True)
        return jnp.sum(jnp.stack([cone.squared_norm(part) for cone, part in pairs]))
