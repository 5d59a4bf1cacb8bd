"""Ellipsoidal cones: what an ellipsoid looks like from a point outside.

Near a minimum the acceptable weights of a task are an ellipsoid, and seen from other
weights it fills an ellipsoidal cone. Its statistical dimension says how many random
directions are needed to hit it. A sum over the spectrum approximates it, for ellipsoids
that are far away; here is the cone itself.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from jaxmerge._checks import check_values, is_concrete
from jaxmerge._types import pytree
from jaxmerge.geometry.cone import Cone, Data, Real
from jaxmerge.geometry.convex import norm


def _reach(height: Real, axes: Array, along: Real, across: Array) -> Array:
    """What is across, by coordinate, in units of the cone's width at a height.

    It is the point that is stationary for the Lagrangian with this height, and falls as
    the height grows: at the projection the squares sum to 1.
    """
    return axes * across / (height * (1 + axes * axes) - along)


def _height(along: Real, across: Array, axes: Array) -> Real:
    """The projection's height, by bisection; for points outside cone and polar."""
    highest = jnp.sqrt(along * along + jnp.sum(across * across))

    def halve(_: Any, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = 0.5 * (low + high)
        above = jnp.sum(_reach(middle, axes, along, across) ** 2) > 1
        return jnp.where(above, middle, low), jnp.where(above, high, middle)

    steps = jnp.finfo(along.dtype).nmant + 2
    start = (jnp.maximum(along, 0.0), highest)
    return lax.fori_loop(0, steps, halve, start)[1]


def _differentiable_height(along: Real, across: Array, axes: Array) -> Real:
    """The height again, by a Newton step that has the derivatives of the root.

    The step is on (sum of squares)^(-1/2), which is nearly linear in the height.
    """
    fixed = lax.stop_gradient(_height(*lax.stop_gradient((along, across, axes))))
    reach = _reach(fixed, axes, along, across)
    least = jnp.finfo(along.dtype).tiny
    square = jnp.maximum(jnp.sum(reach * reach), least)
    still_axes, still_along = lax.stop_gradient((axes, along))
    falls = (1 + still_axes**2) / (fixed * (1 + still_axes**2) - still_along)
    slope = jnp.maximum(jnp.sum(lax.stop_gradient(reach) ** 2 * falls), least)
    total = lax.stop_gradient(square)
    # d(s^(-1/2)) = slope s^(-3/2) d(height), and s = 1 is where to go.
    return fixed + (1 - lax.rsqrt(square)) * total**1.5 / slope


@pytree
class EllipsoidalCone(Cone):
    r"""The cone over an ellipsoid at height 1 above the origin.

        C = {x : sum_i (y_i / semi_axes_i)^2 <= z^2, z >= 0},    (z, y) = basis^T x

    Attributes:
      semi_axes: of the ellipsoid at height 1, positive, `(dimension - 1,)`.
      basis: an orthogonal matrix whose columns are the axis and the directions of the
        semi-axes, `(dimension, dimension)`; None for the coordinates themselves.
      everything: whether it is not that cone but the whole space; a boolean, for cones
        that are seen from a point that may lie inside an ellipsoid.

    Example:
      >>> import jax.numpy as jnp
      >>> cone = EllipsoidalCone(jnp.array([1.0, 2.0]))
      >>> cone.project(jnp.array([0.0, 2.0, 0.0])).round(4)
      Array([1., 1., 0.], dtype=float32)
    """

    semi_axes: Data
    basis: Any = None
    everything: Any = False

    @property
    def shape(self) -> tuple[int, ...]:
        shape = jnp.shape(self.semi_axes)
        if len(shape) != 1 or shape[0] == 0:
            raise ValueError(
                f"the semi-axes have shape {shape}; expected (dimension - 1,), with a "
                "dimension of at least 2"
            )
        dimension = shape[0] + 1
        if self.basis is not None and jnp.shape(self.basis) != (dimension, dimension):
            raise ValueError(
                f"the basis has shape {jnp.shape(self.basis)}; expected "
                f"{(dimension, dimension)}, for {shape[0]} semi-axes and the axis"
            )
        return (dimension,)

    def _project(self, g: Array) -> Array:
        if not (is_concrete(self.everything) and np.all(np.asarray(self.everything))):
            check_values(
                "a semi-axis",
                self.semi_axes,
                lambda x: (x > 0) & np.isfinite(x),
                "positive finite numbers",
            )
        if self.basis is None:
            return self._project_canonical(g)
        highest = lax.Precision.HIGHEST
        basis = jnp.asarray(self.basis, g.dtype)
        point = self._project_canonical(jnp.matmul(g, basis, precision=highest))
        return jnp.matmul(basis, point, precision=highest)

    def _project_canonical(self, g: Array) -> Array:
        axes = jnp.asarray(self.semi_axes, g.dtype)
        along, across = g[0], g[1:]
        inside = along >= norm(across / axes)
        polar = -along >= norm(across * axes)
        # Points on the axis have no height. Others have one that holds on to what is
        # inside and to the polar, where it does not matter how their bounds round.
        lone = jnp.sum(across * across) <= 1e-24 * along * along
        z = jnp.where(lone, 0.0, along)
        y = jnp.where(lone, 1.0, across)
        height = _differentiable_height(z, y, axes)
        nearest = height * axes * _reach(height, axes, z, y)
        found = jnp.concatenate([height[None], nearest])
        keep = inside | jnp.asarray(self.everything)
        return jnp.where(keep, g, jnp.where(polar, 0.0, found))


def ellipsoid_cone(
    semi_axes: Array,
    apex: Array,
    *,
    rotated: bool = True,
) -> EllipsoidalCone:
    r"""The cone that an ellipsoid about the origin fills, seen from a point.

        S = {x : sum_i (x_i / semi_axes_i)^2 <= 1},    C = closure of pos(S - apex)

    From inside of S that is the whole space, from its surface a half-space.

    Args:
      semi_axes: positive, `(dimension,)`. The acceptable set of a quadratic loss
        `w^T H w / 2 <= epsilon` has `sqrt(2 epsilon / eigenvalues of H)`, along the
        eigenvectors.
      apex: where it is seen from, in the same coordinates.
      rotated: whether the cone lies as it does in these coordinates, for which the
        eigenvectors of a `dimension x dimension` matrix are kept. Its statistical
        dimension does not need them.

    Returns:
      The cone; its statistical dimension is differentiable in both arguments.

    Raises:
      ValueError: if the shapes differ or a semi-axis is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> ball, apex = jnp.ones(3), jnp.array([2.0, 0.0, 0.0])
      >>> cone = ellipsoid_cone(ball, apex)  # half-angle: asin(1 / 2)
      >>> [f"{axis:.4f}" for axis in cone.semi_axes]  # its tangent
      ['0.5774', '0.5774']

    References:
      Reconstruction: y is polar to S - apex where its support function is not positive,
      |diag(semi_axes) y| <= <apex, y>, a cone over an ellipsoid again.
    """
    if jnp.ndim(semi_axes) != 1 or jnp.shape(semi_axes) != jnp.shape(apex):
        raise ValueError(
            f"the semi-axes have shape {jnp.shape(semi_axes)} and the apex has "
            f"{jnp.shape(apex)}; expected both to be (dimension,)"
        )
    check_values(
        "a semi-axis", semi_axes, lambda x: (x > 0) & np.isfinite(x), "positive numbers"
    )
    check_values("the apex", apex, np.isfinite, "finite numbers")
    squares = semi_axes * semi_axes
    above_surface = jnp.sum(apex * apex / squares) - 1
    everything = above_surface < 0
    # The polar cone is {y : y^T N y >= 0, <y, apex> >= 0}. Its matrix has one positive
    # eigenvalue, and unlike the cone's own it loses short semi-axes to rounding first.
    matrix = jnp.outer(apex, apex) - jnp.diag(squares)
    if rotated:
        values, vectors = jnp.linalg.eigh(matrix)
        # The axis points from the apex to the ellipsoid.
        flip = jnp.where(jnp.sum(vectors[:, -1] * apex) > 0, -1.0, 1.0)
        basis = jnp.concatenate([flip * vectors[:, -1:], vectors[:, :-1]], axis=1)
    else:
        values, basis = jnp.linalg.eigvalsh(matrix), None
    rounding = jnp.finfo(values.dtype).eps
    least = rounding * jnp.max(jnp.abs(values))
    positive = jnp.where(everything, 1.0, jnp.maximum(values[-1], least))
    ratio = jnp.where(everything, 1.0, -values[:-1] / positive)
    axes = jnp.sqrt(jnp.maximum(ratio, rounding**2))
    return EllipsoidalCone(axes, basis, everything)
