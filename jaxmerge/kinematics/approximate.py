"""The approximate kinematic formula: bounds that need only statistical dimensions.

With codimensions c_i = d - delta_i, everything depends on how much room T randomly
rotated cones leave, and on a variance,

    excess = d - sum c_i,        theta^2 = sum min(delta_i, c_i).

Where the excess is well above 0 the cones share a ray, where it is well below they do
not; the statements below differ only in how they measure "well". From loose to tight:
published and preprint constants, McCoy-Tropp, Bennett, and the central limit theorem,
which is no bound but the best prediction. `windows` has the same statements solved for
the width of the transition.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr
from jaxtyping import Array

from jaxmerge._checks import check_values
from jaxmerge._types import pytree, static
from jaxmerge.kinematics._inputs import (
    Numbers,
    as_floats,
    check_at_most,
    check_cones,
    subtract,
)
from jaxmerge.kinematics._moments import bennett


@pytree
class ProbabilityBounds:
    """What a statement says of the probability that the cones share a ray.

    Attributes:
      lower: the probability is at least this.
      upper: the probability is at most this.
      statement: which theorem says so.
    """

    lower: Any
    upper: Any
    statement: str = static()


def _room(
    dimension: Numbers, statistical_dimensions: Numbers
) -> tuple[Array, Array, Array]:
    """The dimension, the excess and theta^2."""
    check_cones(dimension, statistical_dimensions)
    if np.ndim(statistical_dimensions) != 1:
        raise ValueError(
            "statistical_dimensions has shape "
            f"{np.shape(statistical_dimensions)}; expected `(task,)`, one per cone"
        )
    d, delta = as_floats(dimension, statistical_dimensions)
    codimensions = subtract(dimension, statistical_dimensions).astype(delta.dtype)
    theta = jnp.sum(jnp.minimum(delta, codimensions))
    return d, d - jnp.sum(codimensions), theta


def _bounds(excess: Array, tail: Array, statement: str) -> ProbabilityBounds:
    """A tail that holds on either side; trivial where the excess is 0."""
    tail = jnp.minimum(tail, 1.0)
    lower = jnp.where(excess > 0, 1 - tail, jnp.zeros_like(tail))
    upper = jnp.where(excess < 0, tail, jnp.ones_like(tail))
    return ProbabilityBounds(lower, upper, statement)


def _two_cones(
    dimension: Numbers, statistical_dimensions: Numbers, factor: float, statement: str
) -> ProbabilityBounds:
    num = np.shape(statistical_dimensions)
    if num != (2,):
        raise ValueError(
            f"statistical_dimensions has shape {num}; this statement is about two "
            "cones, `(2,)`: use `mccoy_tropp_bounds` or `bennett_bounds` for more"
        )
    dimension, excess, _ = _room(dimension, statistical_dimensions)
    tail = 4 * jnp.exp(-excess * excess / (factor * dimension))
    return _bounds(excess, tail, statement)


def published_bounds(
    dimension: Numbers, statistical_dimensions: Numbers
) -> ProbabilityBounds:
    """Two cones, with the published constant sqrt(8 log(4 / eta)).

        delta(C) + delta(K) <= d - a sqrt(d)  =>  P{C ∩ QK ≠ {0}} <= eta
        delta(C) + delta(K) >= d + a sqrt(d)  =>  P{C ∩ QK ≠ {0}} >= 1 - eta

    with a = sqrt(8 log(4 / eta)); solved for eta, the tail is 4 exp(-excess^2 / 8d).

    Args:
      dimension: the ambient dimension d.
      statistical_dimensions: of the two cones, `(2,)`, in [0, d].

    Returns:
      Bounds on the probability that the cones share a ray.

    Raises:
      ValueError: for another number of cones, or a concrete value out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> float(published_bounds(100, jnp.array([80.0, 80.0])).lower) > 0.95
      True

    References:
      Amelunxen, Lotz, McCoy, Tropp, Living on the edge, 2014, Theorem I.
    """
    return _two_cones(dimension, statistical_dimensions, 8.0, "Living on the edge, I")


def preprint_bounds(
    dimension: Numbers, statistical_dimensions: Numbers
) -> ProbabilityBounds:
    """Two cones, with the looser constant 4 sqrt(log(4 / eta)) of early preprints.

    As `published_bounds` with the tail 4 exp(-excess^2 / 16d): a factor sqrt(2) wider.

    Args:
      dimension: the ambient dimension d.
      statistical_dimensions: of the two cones, `(2,)`, in [0, d].

    Returns:
      Bounds on the probability that the cones share a ray.

    Raises:
      ValueError: for another number of cones, or a concrete value out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> f"{preprint_bounds(100, jnp.array([95.0, 95.0])).lower:.3f}"
      '0.975'

    References:
      Amelunxen, Lotz, McCoy, Tropp, Living on the edge, preprint of 2013, Theorem I.
    """
    return _two_cones(dimension, statistical_dimensions, 16.0, "preprint, I")


def subspace_bounds(
    dimension: Numbers, statistical_dimension: Numbers, subspace_dimension: Numbers
) -> ProbabilityBounds:
    """One cone and a random subspace: far sharper where the cone is small or large.

        |n + delta - d| >= lambda  =>  one tail is at most
        p(lambda) = 4 exp(-(lambda^2 / 8) / (min(delta, d - delta) + lambda))

    Args:
      dimension: the ambient dimension d.
      statistical_dimension: delta of the cone, in [0, d]; a number.
      subspace_dimension: n, in [0, d]; a number.

    Returns:
      Bounds on the probability that the subspace meets the cone.

    Raises:
      ValueError: if a concrete value is out of range.

    Example:
      >>> f"{subspace_bounds(1000, 10.0, 950.0).upper:.3f}"
      '0.073'

    References:
      Amelunxen, Lotz, McCoy, Tropp, Living on the edge, 2014, Theorem 7.1.
    """
    check_cones(dimension, statistical_dimension)
    check_at_most("subspace_dimension", subspace_dimension, "dimension", dimension)
    d, delta, n = as_floats(dimension, statistical_dimension, subspace_dimension)
    excess = n - (d - delta)
    variance = jnp.minimum(delta, d - delta)
    return _bounds(excess, _mccoy_tropp_tail(excess, variance), "edge, 7.1")


def _mccoy_tropp_tail(excess: Array, variance: Array) -> Array:
    size = jnp.abs(excess)
    scale = variance + size
    exponent = size * size / (8 * jnp.where(scale > 0, scale, jnp.ones_like(scale)))
    return 4 * jnp.exp(-exponent)


def mccoy_tropp_bounds(
    dimension: Numbers, statistical_dimensions: Numbers
) -> ProbabilityBounds:
    """Any number of cones: 4 exp(-(excess^2 / 8) / (theta^2 + |excess|)).

    Args:
      dimension: the ambient dimension d.
      statistical_dimensions: of the cones, `(task,)`, in [0, d].

    Returns:
      Bounds on the probability that the cones share a ray.

    Raises:
      ValueError: if a concrete value is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> bounds = mccoy_tropp_bounds(200, jnp.full((3,), 190.0))
      >>> float(bounds.lower) > 0.999, float(bounds.upper)
      (True, 1.0)

    References:
      McCoy, Tropp, The achievable performance of convex demixing, 2013, Theorem A;
      McCoy, Tropp, From Steiner formulas for cones to concentration of intrinsic
      volumes, 2014, Section 4.
    """
    _, excess, theta = _room(dimension, statistical_dimensions)
    return _bounds(excess, _mccoy_tropp_tail(excess, theta), "McCoy-Tropp")


def bennett_bounds(
    dimension: Numbers, statistical_dimensions: Numbers
) -> ProbabilityBounds:
    """Any number of cones, without a prefactor; a reconstruction.

        tail = exp(-theta^2 psi(|excess| / theta^2) / 2),
        psi(u) = (1 + u) log(1 + u) - u

    Ours: the moment generating function of an intrinsic-volume variable is at most that
    of a Poisson-like one (McCoy and Tropp); chained over the factors of the product
    cone, Chernoff's bound and the interlacing of tails and half-tails give the above.
    Never violated by exact circular cones in our tests.

    Args:
      dimension: the ambient dimension d.
      statistical_dimensions: of the cones, `(task,)`, in [0, d].

    Returns:
      Bounds on the probability that the cones share a ray.

    Raises:
      ValueError: if a concrete value is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> bounds = bennett_bounds(200, jnp.full((7,), 174.25))
      >>> f"{bounds.lower:.2f} {bounds.upper:.2f}"
      '0.41 1.00'

    References:
      McCoy, Tropp, From Steiner formulas for cones to concentration of intrinsic
      volumes, 2014 (the bound on the moment generating function).
    """
    _, excess, theta = _room(dimension, statistical_dimensions)
    size = jnp.abs(excess)
    spread = theta > 0
    safe = jnp.where(spread, theta, jnp.ones_like(theta))
    tail = jnp.exp(-safe * bennett(size / safe) / 2)
    # Subspaces only: no spread, a step.
    tail = jnp.where(spread, tail, (size == 0).astype(tail.dtype))
    return _bounds(excess, tail, "Bennett")


def central_limit_probability(
    dimension: Numbers, statistical_dimensions: Numbers, variances: Numbers
) -> Array:
    """The prediction of the central limit theorem; not a bound.

        P ≈ Phi(excess / sqrt(sum Var V_i)),        excess = d - sum (d - delta_i)

    No shift by one half: 2 h_(k+1) lies between the tails from k + 1 and from k. For
    circular cones its largest error is .026, .013, .006 and .002 at d = 8, 50, 200 and
    1000.

    Args:
      dimension: the ambient dimension d.
      statistical_dimensions: means of the intrinsic-volume variables, `(task,)`.
      variances: their variances Var V_i = Var |Pi_C g|^2 - 2 delta, `(task,)`.

    Returns:
      A probability; a step where all variances are 0.

    Raises:
      ValueError: if a concrete value is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> p = central_limit_probability(
      ...     200, jnp.full((7,), 174.25), jnp.full((7,), 43.31)
      ... )
      >>> f"{p:.3f}"
      '0.872'

    References:
      Goldstein, Nourdin, Peccati, Gaussian phase transitions and conic intrinsic
      volumes: Steining the Steiner formula, 2017 (central limit theorem).
    """
    check_values("variances", variances, lambda x: x >= 0, "numbers of at least 0")
    if np.shape(variances) != np.shape(statistical_dimensions):
        raise ValueError(
            f"variances has shape {np.shape(variances)} and statistical_dimensions "
            f"{np.shape(statistical_dimensions)}; expected one of each per cone"
        )
    _, _, variances = as_floats(dimension, statistical_dimensions, variances)
    _, excess, _ = _room(dimension, statistical_dimensions)
    excess = excess.astype(variances.dtype)
    total = jnp.sum(variances)
    spread = total > 0
    safe = jnp.where(spread, total, jnp.ones_like(total))
    step = (excess > 0).astype(total.dtype)
    return jnp.where(spread, ndtr(excess / jnp.sqrt(safe)), step)
