"""Ceilings of what linear merges can reach, and what raises them; reconstructions.

Why Do More Experts Fail? (2025) states its theorems without constants that are public.
What is here is ours: each function says which standard theorem it rests on.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxmerge._checks import check_values
from jaxmerge.geometry.estimate import Estimate
from jaxmerge.kinematics._budgets import USER
from jaxmerge.kinematics._inputs import (
    Numbers,
    as_floats,
    require,
)
from jaxmerge.kinematics.gains import marginal_gain
from jaxmerge.kinematics.solver import Threshold, whole_above


def width_ceiling(radius: Numbers, num_experts: Numbers, rank: Numbers) -> Array:
    """Upper bound of the width of all averages of the experts; a reconstruction (R-0).

        w(conv{tau_1, ..., tau_N}) <= R min(sqrt(2 log N), sqrt(rank))

    A merge that is linear in the experts stays in their span, so however many there
    are, the width is at most R sqrt(rank). Rests on the maximal inequality for normal
    variables, and on w(R B ∩ L) <= R sqrt(dim L).

    Args:
      radius: R, the largest norm of a task vector.
      num_experts: N, at least 1.
      rank: dimension of the task vectors' span, at most N.

    Returns:
      The bound, of the shape that the inputs broadcast to.

    Raises:
      ValueError: if a concrete value is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> [f"{w:.2f}" for w in width_ceiling(1.0, jnp.array([2.0, 16.0, 1e3]), 4)]
      ['1.18', '2.00', '2.00']

    References:
      Boucheron, Lugosi, Massart, Concentration Inequalities, 2013, Section 2.5.
    """
    check_values("radius", radius, lambda x: x >= 0, "a length of at least 0")
    check_values("num_experts", num_experts, lambda x: x >= 1, "at least 1")
    check_values("rank", rank, lambda x: x >= 0, "a number of at least 0")
    radius, num_experts, rank = as_floats(radius, num_experts, rank)
    finite = jnp.sqrt(2 * jnp.log(num_experts))
    return radius * jnp.minimum(finite, jnp.sqrt(rank))


def adapter_saturation(rank: Numbers, rows: Numbers, columns: Numbers) -> Threshold:
    """How many low-rank adapters fill a layer; a reconstruction (R-0).

        T* = min(rows, columns) / rank

    The sum of T updates of one rank has at most T times that rank, and the layer has no
    more than min(rows, columns): a hard ceiling. Rests on the subadditivity of ranks.

    Args:
      rank: of each adapter, at least 1.
      rows: outputs of the layer.
      columns: inputs of the layer.

    Returns:
      The threshold; `integer` is rounded up. It is exact: the interval is the value.

    Raises:
      ValueError: if a concrete value is out of range.

    Example:
      >>> float(adapter_saturation(8, 2304, 2048).value)
      256.0
    """
    for name, value in (("rank", rank), ("rows", rows), ("columns", columns)):
        check_values(name, value, lambda x: x >= 1, "at least 1")
    rank, rows, columns = as_floats(rank, rows, columns)
    value = jnp.minimum(rows, columns) / rank
    needed = ("rank: weights", "rows: weights", "columns: weights")
    return _exact(value, "adapter_saturation", needed)


def _exact(value: Array, definition: str, needed: tuple[str, ...]) -> Threshold:
    return Threshold(
        value,
        whole_above(value),
        value,
        value,
        jnp.zeros_like(value),
        jnp.isfinite(value),
        definition,
        needed,
    )


def scaling_law_threshold(
    *, amplitude: Numbers = None, offset: Numbers = None, tolerance: Numbers = None
) -> Threshold:
    """When the merging scaling law promises less than a tolerance; R-6.

        E[loss | k] = L + A / (k + b)
        gain of one more = A / ((k + b) (k + b + 1)) <= t
        T* = sqrt(1/4 + A / t) - b - 1/2

    A reconstruction of a threshold from a published empirical law.

    Args:
      amplitude: A of a fitted law, at least 0.
      offset: b of a fitted law, above -1.
      tolerance: t, a loss, positive.

    Returns:
      The threshold, at least 1; `integer` is rounded up. The interval is the value: the
      fit's own errors are not known here.

    Raises:
      ValueError: if an input is missing, or a concrete one out of range.

    Example:
      >>> float(scaling_law_threshold(amplitude=1.0, offset=0.0, tolerance=0.05).value)
      4.0

    References:
      Model Merging Scaling Laws in Large Language Models, 2025.
    """
    name = "scaling_law_threshold"
    source = "a fit of the merging scaling law to losses over numbers of experts"
    require(name, "amplitude", amplitude, source)
    require(name, "offset", offset, source)
    require(name, "tolerance", tolerance, USER)
    check_values("amplitude", amplitude, lambda x: x >= 0, "a number of at least 0")
    check_values("offset", offset, lambda x: x > -1, "a number above -1")
    check_values("tolerance", tolerance, lambda x: x > 0, "a positive loss")
    amplitude, offset, tolerance = as_floats(amplitude, offset, tolerance)
    value = jnp.sqrt(0.25 + amplitude / tolerance) - offset - 0.5
    needed = ("amplitude: fit", "offset: fit", "tolerance: user")
    return _exact(jnp.maximum(value, 1.0), name, needed)


def rescaled_gain_threshold(
    *,
    gains: Estimate | Numbers = None,
    density: Numbers = None,
    tolerance: Numbers = None,
) -> Threshold:
    """The marginal threshold of experts divided by a density; a reconstruction (R-7).

        T* = min { T : (F(T + 1) - F(T)) / rho <= t }

    Widths are positively homogeneous: division by rho <= 1 multiplies each gain by
    1 / rho, so the threshold at a fixed *absolute* tolerance can only grow. A relative
    one does not move, and neither does multiplying all experts by a constant need any
    trimming. This is the only link between the published operator (trim, then divide)
    and coverage that is a theorem.

    Args:
      gains: of a width, for experts that are trimmed but not yet divided,
        `(task - 1,)`, or an `Estimate`.
      density: rho, in (0, 1].
      tolerance: t, an absolute gain, at least 0.

    Returns:
      The threshold, as `marginal_gain` gives it.

    Raises:
      ValueError: if an input is missing, or a concrete one out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> gains = jnp.array([1.0, 0.5, 0.25, 0.125])
      >>> [
      ...     float(
      ...         rescaled_gain_threshold(gains=gains, density=rho, tolerance=0.5).value
      ...     )
      ...     for rho in (1.0, 0.5)
      ... ]
      [2.0, 3.0]
    """
    name = "rescaled_gain_threshold"
    require(name, "gains", gains, "widths of the trimmed experts")
    require(name, "density", density, USER)
    require(name, "tolerance", tolerance, USER)
    check_values("density", density, lambda x: (x > 0) & (x <= 1), "a share in (0, 1]")
    check_values("tolerance", tolerance, lambda x: x >= 0, "a number of at least 0")
    mean = gains.mean if isinstance(gains, Estimate) else gains
    check_values("gains", mean, np.isfinite, "finite numbers")
    mean, density, tolerance = as_floats(mean, density, tolerance)
    # The same crossing, without touching the gains or their errors.
    found = marginal_gain(gains=gains, tolerance=tolerance * density, relative=False)
    return Threshold(
        found.value,
        found.integer,
        found.lower,
        found.upper,
        found.residual / density,
        found.converged,
        name,
        ("gains: weights", "density: user", "tolerance: user"),
    )
