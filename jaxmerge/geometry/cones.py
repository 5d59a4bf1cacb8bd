"""Cones with a projection in closed form: subspaces, orthants, circular cones."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from jaxmerge._checks import check_values, is_concrete
from jaxmerge._types import pytree, static
from jaxmerge.geometry.cone import Cone, Data, Number
from jaxmerge.geometry.convex import norm


@pytree
class LinearSubspace(Cone):
    """A linear subspace, the cone that is its own span.

        project(g) = basis^T basis g,    statistical dimension k

    `Subspace` is the unit ball of one.

    Attributes:
      basis: orthonormal rows, `(k, dimension)`; k may be 0.

    Example:
      >>> import jax.numpy as jnp
      >>> LinearSubspace(jnp.array([[0.6, 0.8]])).project(jnp.array([5.0, 0.0]))
      Array([1.8000001, 2.4      ], dtype=float32)
    """

    basis: Data

    @property
    def shape(self) -> tuple[int, ...]:
        if jnp.ndim(self.basis) != 2:
            raise ValueError(
                f"the basis has shape {jnp.shape(self.basis)}; expected "
                "(k, dimension), a basis vector in each row"
            )
        return jnp.shape(self.basis)[1:]

    def _project(self, g: Array) -> Array:
        if is_concrete(self.basis):
            rows = np.asarray(self.basis, np.float64)
            error = np.max(np.abs(rows @ rows.T - np.eye(len(rows))), initial=0.0)
            if not error < 1e-3:
                raise ValueError(
                    f"the basis of the subspace is not orthonormal, by {error:.1e}; "
                    "take the transposed Q of jnp.linalg.qr(vectors.T)"
                )
        basis = jnp.asarray(self.basis, g.dtype)
        along = jnp.matmul(basis, g, precision=lax.Precision.HIGHEST)
        return jnp.matmul(along, basis, precision=lax.Precision.HIGHEST)


@pytree
class Orthant(Cone):
    """The points whose coordinates are all at least 0; statistical dimension d / 2.

    Attributes:
      dimension: of the space, d.

    Example:
      >>> import jax.numpy as jnp
      >>> Orthant(2).project(jnp.array([3.0, -4.0]))
      Array([3., 0.], dtype=float32)
    """

    dimension: int = static()

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.dimension,)

    def _project(self, g: Array) -> Array:
        return jnp.maximum(g, 0.0)


def _onto_circular(along: Array, across: Array, cosine: Any, sine: Any) -> Any:
    """The projection's coordinate on the axis and its factor on what is across it."""
    radius = norm(across)
    reach = jnp.maximum(cosine * along + sine * radius, 0.0)  # on the nearest ray
    # Programs may round `reach` here in one way and there in another, so nothing may
    # depend on its sign: at the polar's boundary both ways are nearly 0.
    inside = (sine * along >= cosine * radius) & (along >= 0) & (reach > 0)
    scale = sine * reach / jnp.where(radius > 0, radius, 1.0)
    return (
        jnp.where(inside, along, cosine * reach),
        jnp.where(inside, 1.0, scale),
    )


@pytree
class CircularCone(Cone):
    r"""The points within an angle of an axis.

        C = {x : <x, axis> >= |x| |axis| cos(angle)}

    Its statistical dimension is close to `d sin^2 angle + cos 2 angle`.

    Attributes:
      dimension: of the space, d.
      angle: between the axis and the boundary, in radians, in [0, pi / 2]: from a ray
        to a half-space.
      axis: any nonzero vector, `(dimension,)`; None for the first coordinate's.

    Example:
      >>> import jax.numpy as jnp
      >>> CircularCone(2, jnp.pi / 4).project(jnp.array([0.0, 2.0])).round(5)
      Array([1., 1.], dtype=float32)
    """

    dimension: int = static()
    angle: Number
    axis: Any = None

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.dimension,)

    def _project(self, g: Array) -> Array:
        check_values(
            "the angle of the circular cone",
            self.angle,
            lambda x: (x >= 0) & (x <= math.pi / 2 * (1 + 1e-6)),
            "radians in [0, pi / 2]",
        )
        angle = jnp.asarray(self.angle, g.dtype)
        cosine, sine = jnp.maximum(jnp.cos(angle), 0.0), jnp.sin(angle)
        if self.axis is None:
            along, scale = _onto_circular(g[0], g[1:], cosine, sine)
            return jnp.concatenate([along[None], scale * g[1:]])
        if jnp.shape(self.axis) != self.shape:
            raise ValueError(
                f"the axis of the circular cone has shape {jnp.shape(self.axis)}; "
                f"expected {self.shape}, that of its points"
            )
        check_values(
            "the axis of the circular cone",
            self.axis,
            lambda x: np.all(np.isfinite(x)) and np.any(x != 0),
            "a nonzero finite vector",
        )
        axis = jnp.asarray(self.axis, g.dtype)
        axis = axis / norm(axis)
        across = g - jnp.sum(g * axis) * axis
        along, scale = _onto_circular(jnp.sum(g * axis), across, cosine, sine)
        return along * axis + scale * across


@pytree
class SecondOrderCone(Cone):
    r"""The points with |(x_2, ..., x_d)| <= x_1; statistical dimension d / 2.

    It is the circular cone of the angle pi / 4, and its own dual.

    Attributes:
      dimension: of the space, d.

    Example:
      >>> import jax.numpy as jnp
      >>> SecondOrderCone(3).project(jnp.array([0.0, 0.0, 2.0])).round(5)
      Array([1., 0., 1.], dtype=float32)
    """

    dimension: int = static()

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.dimension,)

    def _project(self, g: Array) -> Array:
        along, scale = _onto_circular(g[0], g[1:], 0.5**0.5, 0.5**0.5)
        return jnp.concatenate([along[None], scale * g[1:]])
