"""Statistical dimensions as smooth functions: circular and l1 descent cones."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import ndtr
from jax.scipy.stats.norm import pdf
from jaxtyping import Array

from jaxmerge._checks import check_values
from jaxmerge._types import Coef

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)
_DEVIATIONS = 9.0  # of the angle to the axis, beyond which there is nothing in float64


def _floats(x: Coef) -> Array:
    x = jnp.asarray(x)
    floating = jnp.issubdtype(x.dtype, jnp.floating)
    return x if floating else x.astype(jnp.asarray(0.0).dtype)


def circular_dimension(dimension: int, angle: Coef) -> Array:
    r"""The statistical dimension of a circular cone, differentiable in its angle.

        d E [cos^2 (theta - angle)_+ ; theta < angle + pi / 2]

    for the angle theta between a uniform direction and the axis, whose density is
    proportional to sin^(d-2) theta: quadrature of 64 nodes on each side of the
    boundary. It is close to `d sin^2 angle + cos 2 angle`.

    Args:
      dimension: d, at least 2.
      angle: in radians, in [0, pi / 2]; an array of any shape.

    Returns:
      The dimension, of the same shape.

    Example:
      >>> import jax.numpy as jnp
      >>> f"{circular_dimension(10, jnp.pi / 6):.3f}"
      '2.984'

    References:
      Amelunxen, Lotz, McCoy, Tropp, Living on the edge, 2014, proposition 3.4.
    """
    if dimension < 2:
        raise ValueError(f"the dimension is {dimension}; expected at least 2")
    check_values(
        "the angle",
        angle,
        lambda x: (x >= 0) & (x <= np.pi / 2 * (1 + 1e-6)),
        "radians in [0, pi / 2]",
    )
    angle = _floats(angle)
    # The angle to the equator of the axis, where the mass is.
    end = min(np.pi / 2, _DEVIATIONS / max(dimension - 2, 1) ** 0.5)
    boundary = jnp.clip(angle - np.pi / 2, -end, end)
    last = jnp.clip(angle, -end, end)
    nodes = jnp.asarray(_NODES, angle.dtype)
    weights = jnp.asarray(_WEIGHTS, angle.dtype)

    def integral(low: Any, high: Any, height: Any) -> Array:
        half, middle = (high - low) / 2, (high + low) / 2
        u = middle[..., None] + half[..., None] * nodes
        square = jnp.minimum(jnp.sin(u) ** 2, 1 - jnp.finfo(u.dtype).eps)
        density = jnp.exp(0.5 * (dimension - 2) * jnp.log1p(-square))
        return half * jnp.sum(weights * density * height(u), axis=-1)

    ends = jnp.full_like(angle, end)
    one = lambda u: jnp.ones_like(u)
    falling = lambda u: jnp.sin(angle[..., None] - u) ** 2
    total = integral(-ends, 0 * ends, one) + integral(0 * ends, ends, one)
    covered = integral(-ends, boundary, one) + integral(boundary, last, falling)
    return dimension * covered / total


def l1_descent_dimension(fraction: Coef) -> Array:
    r"""The statistical dimension of an l1 descent cone, per dimension, in the limit.

        psi(rho) = min over tau >= 0 of
          rho (1 + tau^2) + (1 - rho) 2 [(1 + tau^2) Phi(-tau) - tau phi(tau)]

    At a point with s of d coordinates not zero, d psi(s / d) is an upper bound, at most
    2 sqrt(d / s) too large. It is the number of random measurements per unknown at
    which basis pursuit begins to recover sparse signals.

    Args:
      fraction: rho = s / d, in [0, 1]; an array of any shape.

    Returns:
      psi, of the same shape, between 0 and 1; differentiable.

    Example:
      >>> import jax.numpy as jnp
      >>> f"{l1_descent_dimension(0.1):.4f}"
      '0.3288'

    References:
      Amelunxen, Lotz, McCoy, Tropp, Living on the edge, 2014, proposition 4.5.
    """
    check_values(
        "the fraction",
        fraction,
        lambda x: (x >= 0) & (x <= 1),
        "a part of the coordinates, in [0, 1]",
    )
    rho = _floats(fraction)
    fixed = lax.stop_gradient(rho)

    def halve(_: Any, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        tau = 0.5 * (low + high)
        slope = fixed * tau - (1 - fixed) * 2 * (pdf(tau) - tau * ndtr(-tau))
        return jnp.where(slope < 0, tau, low), jnp.where(slope < 0, high, tau)

    # Above 12, the normal tail is 0 to rounding whatever the fraction.
    bracket = (jnp.zeros_like(rho), jnp.full_like(rho, 12.0))
    tau = lax.fori_loop(0, 60, halve, bracket)[1]
    excess = 2 * ((1 + tau**2) * ndtr(-tau) - tau * pdf(tau))
    # The minimiser's own derivative does not matter at a minimum.
    return jnp.clip(rho * (1 + tau**2) + (1 - rho) * excess, 0.0, 1.0)
