"""The threshold of a curve with diminishing gains."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxmerge._checks import check_values
from jaxmerge.geometry.estimate import Estimate
from jaxmerge.kinematics._budgets import USER, WEIGHTS, partial_sum
from jaxmerge.kinematics._inputs import (
    Numbers,
    as_floats,
    require,
)
from jaxmerge.kinematics.solver import Root, Threshold, monotone_root, whole_above


def _reached(count: Array, values: Array) -> Array:
    # The running maximum crosses zero in the same place, and never goes back.
    rises = jnp.diff(jax.lax.cummax(values))
    return values[0] + partial_sum(rises, count - 1)


def _first_crossing(values: Array) -> Root:
    """Where values at 1, 2, ..., interpolated, first reach zero."""
    one = jnp.ones((), values.dtype)
    return monotone_root(_reached, values, lower=one, upper=one + 1)


def marginal_gain(
    *,
    gains: Estimate | Numbers = None,
    tolerance: Numbers = None,
    relative: bool = True,
) -> Threshold:
    """When one more expert adds no more than a share of what the first addition did.

        T* = min { T : F(T + 1) - F(T) <= tolerance * (F(2) - F(1)) }

    F is a width, a statistical dimension, or any measure of coverage. The threshold is
    unique given the tolerance if the gains never increase; that holds for gains
    averaged over orders (a maximum of numbers is submodular), not for one fixed order.
    What tolerance to take is a convention: for hulls the curve has no knee. An
    absolute tolerance is a price: T* then maximises F(T) - tolerance * T.

    Args:
      gains: F(T + 1) - F(T) for T = 1, 2, ..., `(task - 1,)`, or an `Estimate` of them.
      tolerance: at least 0; with experts that are all the same the gains are 0 and the
        threshold is 1 whatever the tolerance.
      relative: whether the tolerance is a share of the first gain, or a gain itself.

    Returns:
      The threshold; gains are interpolated linearly, `integer` is rounded up. Infinite
      where the gains given are all larger. `lower` and `upper` move the gains by one
      standard error (both are `value` without one). `converged` is False also where a
      gain exceeds the one before by more than four standard errors: then the first
      crossing is returned, but gains rise again later.

    Raises:
      ValueError: if an input is missing or malformed.

    Example:
      >>> t = marginal_gain(gains=jnp.array([1.0, 0.5, 0.25, 0.125]), tolerance=0.3)
      >>> f"{t.value:.2f}", int(t.integer), bool(t.converged)
      ('2.80', 3, True)

    References:
      A reconstruction of the unique threshold in: Why Do More Experts Fail? A
      Theoretical Analysis of Model Merging, 2025.
    """
    name = "marginal_gain"
    require(name, "gains", gains, f"widths or dimensions measured from {WEIGHTS}")
    require(name, "tolerance", tolerance, USER)
    check_values("tolerance", tolerance, lambda x: x >= 0, "a number of at least 0")
    mean = gains.mean if isinstance(gains, Estimate) else gains
    error = gains.stderr if isinstance(gains, Estimate) else 0.0
    check_values("gains", mean, np.isfinite, "finite numbers")
    if np.ndim(mean) != 1 or np.shape(mean)[0] < 1:
        raise ValueError(
            f"gains has shape {np.shape(mean)}; expected `(task - 1,)`, the "
            "differences of a curve over the number of experts"
        )
    mean, error, tolerance = as_floats(mean, error, tolerance)
    error = jnp.broadcast_to(error, mean.shape)
    unit, unit_error = (mean[0], error[0]) if relative else (1.0, 0.0)
    missing = tolerance * unit - mean
    spread = error + tolerance * unit_error
    rounding = 8 * jnp.finfo(mean.dtype).eps * jnp.max(jnp.abs(mean))
    rises = jnp.diff(mean) > 4 * (error[1:] + error[:-1]) + rounding
    root = jax.vmap(_first_crossing)(
        jnp.stack([missing, missing + spread, missing - spread])
    )
    value, low, high = root.value
    return Threshold(
        value,
        whole_above(value),
        low,
        high,
        root.residual[0],
        root.converged[0] & ~jnp.any(rises),
        name,
        ("gains: weights", "tolerance: user"),
    )
