"""The other sign: how many random directions it takes to hit a set.

In the intersection of experts' cones every expert takes room away. In Gordon's and
Larsen's setting every direction adds some: a random subspace of T dimensions misses a
small set, and hits it once T plus the set's dimension exceed the ambient one. A
threshold from this file is a *lower* limit, "at least so many directions"; it must not
be confused with the capacity of an intersection, which is an upper one.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxmerge._checks import check_values
from jaxmerge.kinematics._inputs import (
    Numbers,
    as_floats,
    check_at_most,
    check_dimension,
)
from jaxmerge.kinematics._moments import chi_mean


def escape_probability(width: Numbers, codimension: Numbers) -> Array:
    """How likely a random subspace misses a set on the sphere, at least.

        P{ L ∩ S = ∅ } >= 1 - exp(-(a_m - w)^2 / 2)    where w < a_m = E |g_m|

    Args:
      width: Gaussian width w of a closed set S on the unit sphere, at least 0.
      codimension: m, of the random subspace L.

    Returns:
      A lower bound on the probability; 0 where w >= a_m, which proves nothing.

    Raises:
      ValueError: if a concrete value is out of range.

    Example:
      >>> f"{escape_probability(5.0, 60.0):.3f}"
      '0.975'

    References:
      Gordon, On Milman's inequality and random subspaces which escape through a mesh
      in R^n, 1988; with the comparison of minima and the concentration of a
      1-Lipschitz function.
    """
    check_values("width", width, lambda x: x >= 0, "numbers of at least 0")
    width, codimension = as_floats(width, codimension)
    gap = jnp.maximum(chi_mean(codimension) - width, 0.0)
    return -jnp.expm1(-gap * gap / 2)


def gordon_escape_probability(width: Numbers, codimension: Numbers) -> Array:
    """Gordon's own constants for `escape_probability`; weaker.

        P{ L ∩ S = ∅ } >= 1 - 3.5 exp(-(m / sqrt(m + 1) - w)^2 / 18)

    Args:
      width: Gaussian width w of a closed set S on the unit sphere, at least 0.
      codimension: m, of the random subspace L.

    Returns:
      A lower bound on the probability; 0 where it proves nothing.

    Raises:
      ValueError: if a concrete value is out of range.

    Example:
      >>> f"{gordon_escape_probability(5.0, 200.0):.3f}"
      '0.965'

    References:
      Gordon, On Milman's inequality and random subspaces which escape through a mesh
      in R^n, 1988.
    """
    check_values("width", width, lambda x: x >= 0, "numbers of at least 0")
    width, m = as_floats(width, codimension)
    gap = jnp.maximum(m / jnp.sqrt(m + 1) - width, 0.0)
    return jnp.maximum(1 - 3.5 * jnp.exp(-gap * gap / 18), 0.0)


def _shares(
    spectrum: Numbers, epsilon: Numbers, radius: Numbers, multiplicities: Numbers
) -> tuple[Array, Array]:
    """The terms r_i^2 / (R^2 + r_i^2) and how often each counts."""
    check_values(
        "spectrum",
        spectrum,
        lambda x: (x >= 0) & np.isfinite(x),
        "nonnegative finite eigenvalues (the well is convex; take the positive part or "
        "the magnitude of what Lanczos found, and say which)",
    )
    check_values("epsilon", epsilon, lambda x: x > 0, "a positive loss")
    check_values("radius", radius, lambda x: x >= 0, "a distance of at least 0")
    if multiplicities is None:
        multiplicities = np.ones(np.shape(spectrum), np.int32)
    elif np.shape(multiplicities) != np.shape(spectrum):
        raise ValueError(
            f"multiplicities has shape {np.shape(multiplicities)} and spectrum "
            f"{np.shape(spectrum)}; expected one of each per eigenvalue"
        )
    check_values(
        "multiplicities", multiplicities, lambda x: x >= 0, "numbers of at least 0"
    )
    spectrum, epsilon, radius, counts = as_floats(
        spectrum, epsilon, radius, multiplicities
    )
    return 2 * epsilon / (spectrum * radius * radius + 2 * epsilon), counts


def local_angular_dimension_approx(
    spectrum: Numbers,
    epsilon: Numbers,
    radius: Numbers,
    *,
    multiplicities: Numbers = None,
) -> Array:
    """Larsen's dimension of a quadratic well seen from a distance; an approximation.

        d_local ≈ sum_i r_i^2 / (R^2 + r_i^2),        r_i^2 = 2 epsilon / lambda_i

    The well is { w : w'Hw / 2 <= epsilon }, seen from |w_0| = R. Good only for r_i much
    smaller than R and a dimension much larger than 1: the exact object is the
    ellipsoidal cone at w_0, whose statistical dimension is 89.0 where this says 61.5
    (unit ball of R^200 from R = 1.5), 22.9 for 20.0 (R = 3), 2.93 for 1.98 (R = 10).

    Args:
      spectrum: eigenvalues lambda_i of the Hessian, nonnegative; 0 is a flat direction.
      epsilon: the loss that is tolerated.
      radius: R, the distance to the minimum.
      multiplicities: how many directions have each eigenvalue, as a spectral density
        gives them (weights times the dimension); one each by default.

    Returns:
      A dimension between 0 and that of the space.

    Raises:
      ValueError: if a concrete value is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> f"{local_angular_dimension_approx(jnp.ones(200), 0.5, 3.0):.1f}"
      '20.0'

    References:
      Larsen, Fort, Becker, Ganguli, How many degrees of freedom do we need to train
      deep networks: a loss landscape perspective, 2022 (quadratic wells).
    """
    shares, counts = _shares(spectrum, epsilon, radius, multiplicities)
    return jnp.sum(counts * shares)


def angular_width_bounds(
    spectrum: Numbers,
    epsilon: Numbers,
    radius: Numbers,
    *,
    multiplicities: Numbers = None,
) -> tuple[Array, Array]:
    """Larsen's bounds of the width of a projected quadratic well, up to constants.

        sqrt(2 / pi) sqrt(d_local) ≲ w ≲ sqrt(d_local)

    Args:
      spectrum: as for `local_angular_dimension_approx`.
      epsilon: the loss that is tolerated.
      radius: the distance to the minimum.
      multiplicities: how many directions have each eigenvalue.

    Returns:
      The two widths.

    Raises:
      ValueError: if a concrete value is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> lower, upper = angular_width_bounds(jnp.ones(200), 0.5, 3.0)
      >>> f"{lower:.2f} {upper:.2f}"
      '3.57 4.47'

    References:
      Larsen, Fort, Becker, Ganguli, How many degrees of freedom do we need to train
      deep networks: a loss landscape perspective, 2022 (quadratic wells).
    """
    width = jnp.sqrt(
        local_angular_dimension_approx(
            spectrum, epsilon, radius, multiplicities=multiplicities
        )
    )
    return (2 / np.pi) ** 0.5 * width, width


def threshold_training_dimension(
    dimension: Numbers, local_angular_dimension: Numbers
) -> Array:
    """How many random directions it takes to reach a well: d* = D - d_local.

    A lower limit: fewer directions fail, more succeed.

    Args:
      dimension: D, the number of parameters.
      local_angular_dimension: w^2 of the well projected onto the sphere around the
        start, or its cone's statistical dimension; in [0, D].

    Returns:
      d*, of the same shape.

    Raises:
      ValueError: if a concrete value is out of range.

    Example:
      >>> float(threshold_training_dimension(200, 20.0))
      180.0

    References:
      Larsen, Fort, Becker, Ganguli, How many degrees of freedom do we need to train
      deep networks: a loss landscape perspective, 2022 (threshold training
      dimension).
    """
    check_dimension("dimension", dimension)
    check_at_most(
        "local_angular_dimension", local_angular_dimension, "dimension", dimension
    )
    dimension, local = as_floats(dimension, local_angular_dimension)
    return dimension - local
