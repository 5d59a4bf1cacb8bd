"""Capacities of families of tasks: cones, quadratic wells, conflict; reconstructions.

Why Do More Experts Fail? (2025) derives "a unique optimal threshold" from approximate
kinematics; its statement is not public in full. Three mechanisms give one by standard
theorems: tasks whose cones use up the dimensions of the search (R-3), wells that grow
narrower as they are added up (R-4), and optima that disagree (R-5).
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxmerge._checks import check_values
from jaxmerge.kinematics._budgets import (
    CURVATURE,
    USER,
    budget_threshold,
    require_cones,
)
from jaxmerge.kinematics._inputs import (
    Numbers,
    as_floats,
    check_at_most,
    check_dimension,
    require,
    subtract,
)
from jaxmerge.kinematics.escape import local_angular_dimension_approx
from jaxmerge.kinematics.solver import Threshold, monotone_root, whole_below


def common_direction_capacity(
    *,
    dimension: Numbers = None,
    statistical_dimensions: Numbers = None,
    search_dimension: Numbers = None,
    eta: Numbers = None,
) -> Threshold:
    """How many tasks have a common low-loss direction in a family; R-3.

        T* = max { T : sum of (d - delta_i) <= m };    alike: m / (d - delta)

    A reconstruction: `intersection_capacity` where the merge searches a random subspace
    of m dimensions, which is one more cone. Rests on the kinematic formula for several
    cones. For half-spaces d - delta = 1/2, and 2m is Cover's capacity.

    Args:
      dimension: the ambient dimension d.
      statistical_dimensions: delta_i of each task's low-loss cone at the merge point,
        `(task,)` in merging order, or one number for all; in [0, d].
      search_dimension: m, of the family of merges; at most d.
      eta: the probability with which the interval's claims may fail, in (0, 1).

    Returns:
      The threshold; `integer` is rounded down, the interval is that of
      `intersection_capacity` with m in place of d.

    Raises:
      ValueError: if an input is missing, or a concrete one out of range.

    Example:
      >>> t = common_direction_capacity(
      ...     dimension=100.0,
      ...     statistical_dimensions=99.5,
      ...     search_dimension=30.0,
      ...     eta=0.1,
      ... )
      >>> float(t.value)
      60.0

    References:
      McCoy, Tropp, The achievable performance of convex demixing, 2013, Theorem 3.5.
    """
    name = "common_direction_capacity"
    require_cones(name, dimension, statistical_dimensions, eta)
    require(name, "search_dimension", search_dimension, USER)
    check_dimension("search_dimension", search_dimension)
    check_at_most("search_dimension", search_dimension, "dimension", dimension)
    d, delta, m, eta = as_floats(
        dimension, statistical_dimensions, search_dimension, eta
    )
    needed = (
        "dimension: user",
        "statistical_dimensions: curvature",
        "search_dimension: user",
        "eta: user",
    )
    return budget_threshold(
        subtract(dimension, statistical_dimensions).astype(delta.dtype),
        m,
        eta,
        last=True,
        definition=name,
        needed=needed,
    )


def joint_well_dimension(
    num_experts: Numbers,
    spectrum: Numbers,
    epsilon: Numbers,
    radius: Numbers,
    *,
    multiplicities: Numbers = None,
) -> Array:
    """Larsen's dimension of the joint well of N tasks alike; a reconstruction (R-4).

        delta_N = sum_i 2 epsilon / (N lambda_i R^2 + 2 epsilon)

    The joint loss of N tasks with one Hessian has N times its curvature. Decreasing and
    convex in N. Rests on `local_angular_dimension_approx`, with its limits.

    Args:
      num_experts: N, a number of at least 0.
      spectrum: eigenvalues lambda_i, `(n,)`, nonnegative.
      epsilon: the joint loss that is tolerated.
      radius: R, the distance to the minimum.
      multiplicities: how many directions have each eigenvalue; one each by default.

    Returns:
      delta_N, a scalar.

    Raises:
      ValueError: if a concrete value is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> float(joint_well_dimension(3.0, jnp.ones(8), 0.5, 1.0))
      2.0
    """
    check_values("num_experts", num_experts, lambda x: x >= 0, "a number of at least 0")
    num_experts, radius, spectrum, epsilon = as_floats(
        num_experts, radius, spectrum, epsilon
    )
    return local_angular_dimension_approx(
        spectrum * num_experts, epsilon, radius, multiplicities=multiplicities
    )


def _lost_directions(num: Array, args: tuple[Array, ...]) -> Array:
    spectrum, epsilon, radius, m, counts = args
    curvature = num * spectrum * radius * radius
    # D - delta_N, without subtracting: the directions that the joint well lacks.
    lost = jnp.sum(counts * curvature / (curvature + 2 * epsilon))
    return lost - m


def quadratic_wells_capacity(
    *,
    spectrum: Numbers = None,
    epsilon: Numbers = None,
    radius: Numbers = None,
    search_dimension: Numbers = None,
    multiplicities: Numbers = None,
) -> Threshold:
    """How many tasks' joint well a family of merges still reaches; R-4.

        m + delta_T >= D  up to T*,    delta_T = `joint_well_dimension`

    A reconstruction: delta_T falls with T, so there is one root. Rests on Gordon's
    escape theorem as Larsen and others use it.

    Args:
      spectrum: eigenvalues of one task's Hessian, `(n,)`, nonnegative.
      epsilon: the joint loss that is tolerated.
      radius: R, the distance of the family from the joint minimum.
      search_dimension: m, of the family of merges.
      multiplicities: how many directions have each eigenvalue, one each by default; D
        is their sum.

    Returns:
      The threshold, which may be below 1: then not even one task is reached. `integer`
      is rounded down. Infinite where flat directions leave room for any number. The
      interval is the value: Larsen's bounds have no constants.

    Raises:
      ValueError: if an input is missing, or a concrete one out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> t = quadratic_wells_capacity(
      ...     spectrum=jnp.logspace(-3, 1, 1000),
      ...     epsilon=0.05,
      ...     radius=1.0,
      ...     search_dimension=600.0,
      ... )
      >>> f"{t.value:.2f}"
      '2.57'

    References:
      Larsen, Fort, Becker, Ganguli, How many degrees of freedom do we need to train
      deep networks: a loss landscape perspective, 2022.
    """
    name = "quadratic_wells_capacity"
    require(name, "spectrum", spectrum, CURVATURE)
    require(name, "epsilon", epsilon, USER)
    require(name, "radius", radius, "the distance from the merge point to the minimum")
    require(name, "search_dimension", search_dimension, USER)
    check_dimension("search_dimension", search_dimension)
    if np.ndim(spectrum) != 1:
        raise ValueError(f"spectrum has shape {np.shape(spectrum)}; expected `(n,)`")
    if multiplicities is None:
        multiplicities = np.ones(np.shape(spectrum), np.int32)
    spectrum, epsilon, radius, m, counts = as_floats(
        spectrum, epsilon, radius, search_dimension, multiplicities
    )
    check_at_most("search_dimension", m, "the sum of multiplicities", jnp.sum(counts))
    local_angular_dimension_approx(spectrum, epsilon, radius, multiplicities=counts)

    zero = jnp.zeros_like(m)
    args = spectrum, epsilon, radius, m, counts
    root = monotone_root(_lost_directions, args, lower=zero, upper=zero + 1, last=True)
    return Threshold(
        root.value,
        whole_below(root.value),
        root.value,
        root.value,
        root.residual,
        root.converged,
        name,
        (
            "spectrum: curvature",
            "epsilon: user",
            "radius: weights",
            "search_dimension: user",
        ),
    )


def conflict_floor(disagreement: Numbers, num_experts: Numbers) -> Array:
    """The least joint loss of N tasks whose optima differ; a reconstruction (R-5).

        E min_w (1/N) sum_i (w - w_i)' H (w - w_i) / 2 = v (1 - 1/N),
        v = tr(H Sigma) / 2

    One Hessian H, optima w_i independent with covariance Sigma. Rests on the bias of
    the sample variance.

    Args:
      disagreement: v, at least 0.
      num_experts: N, at least 1.

    Returns:
      The mean floor.

    Raises:
      ValueError: if a concrete value is out of range.

    Example:
      >>> float(conflict_floor(2.0, 4))
      1.5
    """
    check_values("disagreement", disagreement, lambda x: x >= 0, "a loss of at least 0")
    check_values("num_experts", num_experts, lambda x: x >= 1, "at least 1")
    disagreement, num_experts = as_floats(disagreement, num_experts)
    return disagreement * (1 - 1 / num_experts)


def _overshoot(num: Array, args: tuple[Array, Array]) -> Array:
    v, epsilon = args
    return num * (v - epsilon) - v


def conflict_capacity(
    *, disagreement: Numbers = None, tolerance: Numbers = None
) -> Threshold:
    """How many tasks fit below a loss if their optima differ; a reconstruction (R-5).

        v (1 - 1/T) <= epsilon  up to  T* = v / (v - epsilon)

    Of the same form as d / (d - delta), by another mechanism. Rests on the bias of the
    sample variance.

    Args:
      disagreement: v = tr(H Sigma) / 2, positive.
      tolerance: epsilon, the mean loss that is tolerated, at least 0.

    Returns:
      The threshold; `integer` is rounded down. Infinite where epsilon >= v. The
      interval is the value.

    Raises:
      ValueError: if an input is missing, or a concrete one out of range.

    Example:
      >>> float(conflict_capacity(disagreement=2.0, tolerance=1.5).value)
      4.0
    """
    name = "conflict_capacity"
    require(name, "disagreement", disagreement, f"{CURVATURE} and the experts' weights")
    require(name, "tolerance", tolerance, USER)
    check_values("disagreement", disagreement, lambda x: x > 0, "a positive loss")
    check_values("tolerance", tolerance, lambda x: x >= 0, "a loss of at least 0")
    v, epsilon = as_floats(disagreement, tolerance)
    v, epsilon = jnp.broadcast_arrays(v, epsilon)

    one = jnp.ones_like(v)
    root = monotone_root(_overshoot, (v, epsilon), lower=one, upper=one + 1, last=True)
    return Threshold(
        root.value,
        whole_below(root.value),
        root.value,
        root.value,
        root.residual,
        root.converged,
        name,
        ("disagreement: curvature and weights", "tolerance: user"),
    )
