"""Descent cones of norms: the directions along which a norm does not grow.

    D(f, x) = closure of {u : f(x + t u) <= f(x) for some t > 0}

Their polars are the cones of the subdifferentials (Rockafellar), so a projection has
one unknown, the multiple of the subdifferential that is nearest:

    |g - project(g)|  =  min over tau >= 0 of the distance from g to tau df(x)
"""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxmerge._checks import check_values
from jaxmerge._types import pytree, static
from jaxmerge.geometry.cone import Cone, Data, Real


def _nearest_multiple(forced: Real, count: Array, sizes: Float[Array, " n"]) -> Real:
    """The multiple tau of a subdifferential that is nearest to a point.

    It minimises over tau >= 0

        count tau^2 - 2 tau forced + sum_i (sizes_i - tau)_+^2

    Half the derivative, count tau - forced - sum_i (sizes_i - tau)_+, grows with tau,
    so that the sizes above its root are those at which it is positive.

    Args:
      forced: the sum of the coordinates that the subdifferential fixes at tau.
      count: of these coordinates.
      sizes: magnitudes of those that it only bounds by tau; negative ones do not count.
    """
    order = -jnp.sort(-sizes)
    counted = order >= 0
    sums = jnp.cumsum(jnp.where(counted, order, 0.0))
    kept = jnp.arange(1, sizes.shape[0] + 1).astype(sizes.dtype)
    slope = (count + kept) * order - forced - sums
    above = jnp.sum((counted & (slope > 0)).astype(jnp.int32))
    total = forced + jnp.where(above > 0, sums[above - 1], 0.0)
    number = count + above.astype(sizes.dtype)
    root = total / jnp.where(number > 0, number, 1.0)
    # Where nothing is forced the norm is at its minimum, and every point is a multiple.
    return jnp.maximum(jnp.where(number > 0, root, order[0]), 0.0)


def _check_point(point: Data) -> tuple[int, ...]:
    shape = jnp.shape(point)
    if len(shape) != 1 or shape[0] == 0:
        raise ValueError(
            f"the point has shape {shape}; expected (dimension,), at least 1"
        )
    return shape


@pytree
class L1DescentCone(Cone):
    r"""The directions in which the l1 norm of a point does not grow.

    A projection takes one sort. The statistical dimension only depends on the number of
    nonzero coordinates; `l1_descent_dimension` is close to it, and never below it.

    Attributes:
      point: `(dimension,)`; only its signs matter. At the origin the cone is {0}.

    Example:
      >>> import jax.numpy as jnp
      >>> cone = L1DescentCone(jnp.array([1.0, 0.0]))
      >>> cone.project(jnp.array([0.0, 2.0])).round(5)
      Array([-1.,  1.], dtype=float32)

    References:
      Amelunxen, Lotz, McCoy, Tropp, Living on the edge, 2014, section 4.
    """

    point: Data

    @property
    def shape(self) -> tuple[int, ...]:
        return _check_point(self.point)

    def _project(self, g: Array) -> Array:
        check_values("the point", self.point, np.isfinite, "finite numbers")
        signs = jnp.sign(jnp.asarray(self.point, g.dtype))
        fixed = signs != 0
        count = jnp.sum(jnp.abs(signs))
        sizes = jnp.where(fixed, -1.0, jnp.abs(g))
        tau = _nearest_multiple(jnp.sum(signs * g), count, sizes)
        return jnp.where(fixed, g - tau * signs, g - jnp.clip(g, -tau, tau))


@pytree
class LInfDescentCone(Cone):
    r"""The directions in which the largest magnitude of a point does not grow.

    Where s coordinates of the point have it, the cone is, up to signs, the product of
    an orthant of s dimensions and a space: its statistical dimension is d - s / 2.

    Attributes:
      point: `(dimension,)`. Coordinates have the largest magnitude if they equal it
        exactly. At the origin the cone is {0}.

    Example:
      >>> import jax.numpy as jnp
      >>> cone = LInfDescentCone(jnp.array([1.0, -1.0, 0.5]))
      >>> cone.project(jnp.array([2.0, 2.0, 2.0]))
      Array([0., 2., 2.], dtype=float32)
    """

    point: Data

    @property
    def shape(self) -> tuple[int, ...]:
        return _check_point(self.point)

    def _project(self, g: Array) -> Array:
        check_values("the point", self.point, np.isfinite, "finite numbers")
        point = jnp.asarray(self.point)
        size = jnp.abs(point)
        signs = jnp.sign(point).astype(g.dtype)
        outward = jnp.maximum(signs * g, 0.0) * signs
        largest = jnp.max(size)
        inside = jnp.where(size == largest, g - outward, g)
        return jnp.where(largest > 0, inside, 0.0)


@pytree
class NuclearDescentCone(Cone):
    r"""The directions in which the nuclear norm of a matrix does not grow.

    All matrices of one shape and rank have the same cone up to rotations. This is the
    one at the matrix with ones at the first places of the diagonal, and zeros.

    Attributes:
      rows: m.
      columns: n.
      rank: of the matrix, from 1 to min(m, n).

    Example:
      >>> import jax.numpy as jnp
      >>> cone = NuclearDescentCone(2, 2, 1)
      >>> cone.project(jnp.array([[0.0, 5.0], [0.0, 2.0]])).round(5)
      Array([[-1.,  5.],
             [ 0.,  1.]], dtype=float32)

    References:
      Amelunxen, Lotz, McCoy, Tropp, Living on the edge, 2014, proposition 4.7.
    """

    rows: int = static()
    columns: int = static()
    rank: int = static()

    @property
    def shape(self) -> tuple[int, ...]:
        if not 1 <= self.rank <= min(self.rows, self.columns):
            raise ValueError(
                f"the rank is {self.rank}; expected 1 to "
                f"{min(self.rows, self.columns)}, the lesser side of the matrix"
            )
        return (self.rows, self.columns)

    @property
    def workspace(self) -> int:
        return 2 * (self.rows**2 + self.columns**2)

    def _project(self, g: Array) -> Array:
        r = self.rank
        forced = jnp.trace(g[:r, :r])
        count = jnp.asarray(r, g.dtype)
        eye = jnp.eye(self.rows, self.columns, dtype=g.dtype)
        ones = jnp.where(jnp.arange(self.rows)[:, None] < r, eye, 0.0)
        if r == min(self.rows, self.columns):
            return g - jnp.maximum(forced / count, 0.0) * ones
        left, values, right = jnp.linalg.svd(g[r:, r:], full_matrices=False)
        tau = _nearest_multiple(forced, count, values)
        rest = jnp.matmul(
            left * jnp.maximum(values - tau, 0.0),
            right,
            precision=lax.Precision.HIGHEST,
        )
        return (g - tau * ones).at[r:, r:].set(rest)
