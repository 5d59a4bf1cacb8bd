"""How wide the transition is: the same statements, solved for the excess.

Each function gives a half-width lambda: once |excess| is at least lambda, the cones
share a ray (or do not) with probability at least 1 - eta. At d = theta^2 = 100 and eta
= 0.05 they are 83.7 (preprint), 79.3 (McCoy-Tropp), 59.2 (published, two cones), 36.7
(Bernstein), 36.6 (Bennett) and 11.6 (central limit, variance 50): the true transition
is several times narrower than what any of the bounds can promise.
"""

import jax.numpy as jnp
from jax.scipy.special import ndtri
from jaxtyping import Array

from jaxmerge._checks import check_values
from jaxmerge.kinematics._inputs import (
    Numbers,
    as_floats,
    check_dimension,
    check_eta,
)
from jaxmerge.kinematics._moments import bennett
from jaxmerge.kinematics.solver import monotone_root


def published_constant(eta: Numbers) -> Array:
    """The constant a of the published formula: sqrt(8 log(4 / eta)).

    The half-width for two cones is a sqrt(d).

    Args:
      eta: failure probability, in (0, 1); a number or an array.

    Returns:
      a, of the same shape.

    Raises:
      ValueError: if a concrete eta is out of range.

    Example:
      >>> f"{published_constant(0.01):.2f} {published_constant(0.001):.2f}"
      '6.92 8.15'

    References:
      Amelunxen, Lotz, McCoy, Tropp, Living on the edge, 2014, Theorem I.
    """
    check_eta(eta)
    (eta,) = as_floats(eta)
    return jnp.sqrt(8 * jnp.log(4 / eta))


def preprint_constant(eta: Numbers) -> Array:
    """The constant of early preprints: 4 sqrt(log(4 / eta)), sqrt(2) times wider.

    Args:
      eta: failure probability, in (0, 1); a number or an array.

    Returns:
      The constant, of the same shape.

    Raises:
      ValueError: if a concrete eta is out of range.

    Example:
      >>> f"{preprint_constant(0.01):.2f} {preprint_constant(0.001):.2f}"
      '9.79 11.52'

    References:
      Amelunxen, Lotz, McCoy, Tropp, Living on the edge, preprint of 2013, Theorem I.
    """
    check_eta(eta)
    (eta,) = as_floats(eta)
    return 4 * jnp.sqrt(jnp.log(4 / eta))


def sharper_constant(eta: Numbers) -> Array:
    """The constant that `bennett_bounds` gives: 2 sqrt(log(1 / eta)); a reconstruction.

    For two cones on both sides of the transition, for more on the side where they
    share a ray: there theta^2 + |excess| <= d.

    Args:
      eta: failure probability, in (0, 1); a number or an array.

    Returns:
      The constant, of the same shape.

    Raises:
      ValueError: if a concrete eta is out of range.

    Example:
      >>> f"{sharper_constant(0.01):.2f} {sharper_constant(0.001):.2f}"
      '4.29 5.26'

    References:
      Rests on McCoy, Tropp, From Steiner formulas for cones to concentration of
      intrinsic volumes, 2014 (the bound on the moment generating function).
    """
    check_eta(eta)
    (eta,) = as_floats(eta)
    return 2 * jnp.sqrt(jnp.log(1 / eta))


def mccoy_tropp_window(theta_squared: Numbers, eta: Numbers) -> Array:
    """Half-width for T cones: 4 L + sqrt(16 L^2 + 8 L theta^2), L = log(4 / eta).

    Args:
      theta_squared: sum of min(delta_i, d - delta_i); a number or an array.
      eta: failure probability, in (0, 1).

    Returns:
      The half-width lambda at which `mccoy_tropp_bounds` has the tail eta.

    Raises:
      ValueError: if a concrete value is out of range.

    Example:
      >>> f"{mccoy_tropp_window(100.0, 0.05):.1f}"
      '79.3'

    References:
      McCoy, Tropp, The achievable performance of convex demixing, 2013, Theorem A.
    """
    theta, log = _variance_and_log("theta_squared", theta_squared, eta, 4.0)
    return 4 * log + jnp.sqrt(16 * log * log + 8 * log * theta)


def bernstein_window(theta_squared: Numbers, eta: Numbers) -> Array:
    """Half-width in closed form: 2L/3 + sqrt(4 L^2 / 9 + 4 L theta^2), L = log(1/eta).

    A reconstruction: `bennett_window` with psi(u) >= u^2 / (2 + 2u/3).

    Args:
      theta_squared: sum of min(delta_i, d - delta_i); a number or an array.
      eta: failure probability, in (0, 1).

    Returns:
      The half-width lambda.

    Raises:
      ValueError: if a concrete value is out of range.

    Example:
      >>> f"{bernstein_window(100.0, 0.05):.1f}"
      '36.7'

    References:
      Rests on McCoy, Tropp, From Steiner formulas for cones to concentration of
      intrinsic volumes, 2014 (the bound on the moment generating function).
    """
    theta, log = _variance_and_log("theta_squared", theta_squared, eta, 1.0)
    return 2 * log / 3 + jnp.sqrt(4 * log * log / 9 + 4 * log * theta)


def _missing_tail(u: Array, args: tuple[Array, Array]) -> Array:
    theta, log = args
    return theta * bennett(u) / 2 - log


def bennett_window(theta_squared: Numbers, eta: Numbers) -> Array:
    """Half-width at which `bennett_bounds` has the tail eta; a reconstruction.

        theta^2 psi(lambda / theta^2) / 2 = log(1 / eta)

    Args:
      theta_squared: sum of min(delta_i, d - delta_i), positive; a number or an array.
      eta: failure probability, in (0, 1).

    Returns:
      The half-width lambda, found by `monotone_root` and differentiable.

    Raises:
      ValueError: if a concrete value is out of range.

    Example:
      >>> f"{bennett_window(100.0, 0.05):.1f}"
      '36.6'

    References:
      Rests on McCoy, Tropp, From Steiner formulas for cones to concentration of
      intrinsic volumes, 2014 (the bound on the moment generating function).
    """
    check_values("theta_squared", theta_squared, lambda x: x > 0, "positive numbers")
    theta, log = _variance_and_log("theta_squared", theta_squared, eta, 1.0)
    theta, log = jnp.broadcast_arrays(theta, log)

    root = monotone_root(
        _missing_tail,
        (theta, log),
        lower=jnp.zeros_like(theta),
        upper=jnp.ones_like(theta),
    )
    return theta * root.value


def central_limit_window(variance: Numbers, eta: Numbers) -> Array:
    """Half-width by the central limit theorem: z sqrt(Var), Phi(-z) = eta; no bound.

    Args:
      variance: sum of the variances Var V_i; a number or an array.
      eta: the probability left on either side, in (0, 1/2).

    Returns:
      The half-width of the excess.

    Raises:
      ValueError: if a concrete value is out of range.

    Example:
      >>> f"{central_limit_window(50.0, 0.05):.1f}"
      '11.6'

    References:
      Goldstein, Nourdin, Peccati, Gaussian phase transitions and conic intrinsic
      volumes: Steining the Steiner formula, 2017 (central limit theorem).
    """
    check_values("eta", eta, lambda x: (x > 0) & (x < 0.5), "a probability in (0, 1/2)")
    variance, _ = _variance_and_log("variance", variance, eta, 1.0)
    (eta,) = as_floats(eta)
    return -ndtri(eta).astype(variance.dtype) * jnp.sqrt(variance)


def capacity_window(dimension: Numbers, eta: Numbers) -> tuple[Array, Array]:
    """How much codimension fits for sure, and how much for sure does not.

        sum c_i <= d - 2 sqrt(d L)                          =>  P >= 1 - eta
        sum c_i >= d + 8L/3 + sqrt(64 L^2 / 9 + 4 d L)      =>  P <= eta

    with L = log(1 / eta); a reconstruction. It needs no theta^2: that of T cones is at
    most sum c_i, so `bernstein_window` can be solved for sum c_i itself. With
    statistical dimensions in place of codimensions it says (by polarity) when the sum
    of the cones is not, or is, the whole space.

    Args:
      dimension: d, or the dimension of the subspace that is searched.
      eta: failure probability, in (0, 1).

    Returns:
      The two limits of sum c_i; the lower one is 0 where nothing is sure.

    Raises:
      ValueError: if a concrete value is out of range.

    Example:
      >>> lower, upper = capacity_window(1e4, 0.05)
      >>> f"{lower:.0f} {upper:.0f}"
      '9654 10354'

    References:
      Rests on McCoy, Tropp, From Steiner formulas for cones to concentration of
      intrinsic volumes, 2014 (the bound on the moment generating function).
    """
    check_dimension("dimension", dimension)
    d, log = _variance_and_log("dimension", dimension, eta, 1.0)
    lower = jnp.maximum(d - 2 * jnp.sqrt(d * log), 0.0)
    return lower, d + 8 * log / 3 + jnp.sqrt(64 * log * log / 9 + 4 * d * log)


def _variance_and_log(
    name: str, variance: Numbers, eta: Numbers, prefactor: float
) -> tuple[Array, Array]:
    check_values(name, variance, lambda x: x >= 0, "numbers of at least 0")
    check_eta(eta)
    variance, eta = as_floats(variance, eta)
    return variance, jnp.log(prefactor / eta)
