"""Thresholds T* for experts whose cones are oriented at random.

| definition | question | more experts |
|---|---|---|
| `intersection_capacity` | how many experts' cones still share a direction? | hurt |
| `transition` | where is that an even bet, and how wide is the change? | hurt |
| `span_saturation` | how many cones does it take to cover the space? | add nothing |
| `random_direction` | how many random directions hit one cone? | **help** |

Two more need no random orientation: `marginal_gain` and `gram_capacity`. Each returns a
`Threshold`. No angle, dimension, tolerance or probability has a default: what is
missing is refused by a sentence that says where it comes from.

Experts that differ are given in the order in which they are merged, as arrays of shape
`(task,)`; between two whole numbers the next expert counts in part, and a threshold
beyond the experts given is infinite. A single number stands for experts that are alike,
or for their mean, where the order is random.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri
from jaxtyping import Array

from jaxmerge._checks import check_values
from jaxmerge.kinematics._budgets import (
    CURVATURE,
    DIMENSION,
    USER,
    WEIGHTS,
    budget_threshold,
    partial_sum,
    require_cones,
)
from jaxmerge.kinematics._inputs import (
    Numbers,
    as_floats,
    check_at_most,
    check_dimension,
    check_eta,
    require,
    subtract,
)
from jaxmerge.kinematics.solver import (
    Root,
    Threshold,
    monotone_root,
    whole_above,
    whole_below,
)
from jaxmerge.kinematics.windows import bernstein_window


def intersection_capacity(
    *,
    dimension: Numbers = None,
    statistical_dimensions: Numbers = None,
    eta: Numbers = None,
) -> Threshold:
    """How many experts' cones still share a direction, if they are oriented at random.

        T* = max { T : c_1 + ... + c_T <= d },    c_i = d - delta_i

    (d / (d - delta) for experts that are alike). With more experts success becomes
    impossible. That this is a sharp threshold is a theorem, the kinematic formula; that
    orientations are random is an assumption, which correlated experts break: see
    `gram_capacity`.

    Args:
      dimension: the ambient dimension d.
      statistical_dimensions: delta_i of each expert's cone of acceptable directions,
        `(task,)` in merging order, or one number for all; in [0, d]. Of very large d
        give both as Python or float64 numbers: float32 cannot hold d - 1 at d = 10^9.
      eta: the probability with which the interval's claims may fail, in (0, 1).

    Returns:
      The threshold; `integer` is rounded down. With `lower` experts the cones share a
      ray with probability at least 1 - eta, with `upper` experts they do with
      probability at most eta (`capacity_window`, a reconstruction).

    Raises:
      ValueError: if an input is missing, or a concrete one out of range.

    Example:
      >>> t = intersection_capacity(
      ...     dimension=1000, statistical_dimensions=800.0, eta=0.05
      ... )
      >>> float(t.value), [f"{end:.1f}" for end in (t.lower, t.upper)]
      (5.0, ['4.5', '5.6'])

    References:
      Amelunxen, Lotz, McCoy, Tropp, Living on the edge, 2014, Theorem I; McCoy, Tropp,
      The achievable performance of convex demixing, 2013, Theorem A.
    """
    name = "intersection_capacity"
    require_cones(name, dimension, statistical_dimensions, eta)
    d, delta, eta = as_floats(dimension, statistical_dimensions, eta)
    needed = ("dimension: user", "statistical_dimensions: curvature", "eta: user")
    return budget_threshold(
        subtract(dimension, statistical_dimensions).astype(delta.dtype),
        d,
        eta,
        last=True,
        definition=name,
        needed=needed,
    )


def _shortage(count: Array, args: tuple[Array, ...]) -> Array:
    """Codimension beyond what fits, and beyond some standard deviations."""
    codimensions, variances, dimension, shift = args
    total = partial_sum(variances, count)
    some = total > 0
    spread = jnp.where(some, jnp.sqrt(jnp.where(some, total, 1.0)), 0.0)
    return partial_sum(codimensions, count) - dimension - shift * spread


def transition(
    *,
    dimension: Numbers = None,
    statistical_dimensions: Numbers = None,
    variances: Numbers = None,
    eta: Numbers = None,
) -> Threshold:
    """Where success is an even bet, and between which numbers of experts it changes.

        P(T) ≈ Phi((d - sum c_i) / sqrt(sum Var V_i)),    T_50 = d / c if alike,
        width ≈ 2 z sqrt(T_50 Var V) / c,    Phi(-z) = eta

    The prediction that experiments should be compared with; its interval is several
    times narrower than the bounds of `intersection_capacity` and is not a bound.

    Args:
      dimension: the ambient dimension d.
      statistical_dimensions: delta_i, `(task,)` in merging order, or one number.
      variances: Var V_i of the intrinsic-volume variables, of the same shape.
      eta: success is predicted with 1 - eta at `lower` and eta at `upper`; (0, 1/2).

    Returns:
      The threshold T_50; `integer` is rounded down.

    Raises:
      ValueError: if an input is missing, or a concrete one out of range.

    Example:
      >>> t = transition(
      ...     dimension=200, statistical_dimensions=174.25, variances=43.31, eta=0.05
      ... )
      >>> [f"{number:.2f}" for number in (t.lower, t.value, t.upper)]
      ['6.68', '7.77', '9.03']

    References:
      Goldstein, Nourdin, Peccati, Gaussian phase transitions and conic intrinsic
      volumes: Steining the Steiner formula, 2017 (central limit theorem).
    """
    name = "transition"
    require_cones(name, dimension, statistical_dimensions, eta)
    require(name, "variances", variances, CURVATURE)
    check_values("variances", variances, lambda x: x >= 0, "numbers of at least 0")
    check_values("eta", eta, lambda x: x < 0.5, "a probability in (0, 1/2)")
    if np.shape(variances) != np.shape(statistical_dimensions):
        raise ValueError(
            f"variances has shape {np.shape(variances)} and statistical_dimensions "
            f"{np.shape(statistical_dimensions)}; expected one of each per expert"
        )
    d, delta, variances, eta = as_floats(
        dimension, statistical_dimensions, variances, eta
    )

    def crossing(shift: Array) -> Root:
        args = codimensions, variances, d, shift
        start = jnp.zeros_like(d)
        return monotone_root(_shortage, args, lower=start, upper=start + 1, last=True)

    codimensions = subtract(dimension, statistical_dimensions).astype(delta.dtype)
    z = -ndtri(eta)
    root = jax.vmap(crossing)(jnp.stack([jnp.zeros_like(z), -z, z]))
    value, low, high = root.value
    return Threshold(
        value,
        whole_below(value),
        low,
        high,
        root.residual[0],
        root.converged[0],
        name,
        (
            "dimension: user",
            "statistical_dimensions: curvature",
            "variances: curvature",
            "eta: user",
        ),
    )


def span_saturation(
    *,
    dimension: Numbers = None,
    statistical_dimensions: Numbers = None,
    eta: Numbers = None,
) -> Threshold:
    """How many randomly oriented cones it takes until their sum is the whole space.

        T* = min { T : delta_1 + ... + delta_T >= d };    alike: d / delta; rays: 2d

    The capacity of an intersection, by polarity. Before the threshold each expert adds
    its full dimension, so "rapid saturation" is false there; after it, nothing.

    Args:
      dimension: the ambient dimension d.
      statistical_dimensions: delta_i of the cone that each expert spans, `(task,)` in
        merging order, or one number for all; 1/2 for a ray, k for a subspace.
      eta: the probability with which the interval's claims may fail, in (0, 1).

    Returns:
      The threshold; `integer` is rounded up. With `lower` experts the sum is not the
      whole space with probability at least 1 - eta, with `upper` experts it is.

    Raises:
      ValueError: if an input is missing, or a concrete one out of range.

    Example:
      >>> t = span_saturation(dimension=512, statistical_dimensions=16.0, eta=0.05)
      >>> float(t.value)
      32.0

    References:
      As for `intersection_capacity`; for rays, Cover, Geometrical and statistical
      properties of systems of linear inequalities, 1965.
    """
    name = "span_saturation"
    require_cones(name, dimension, statistical_dimensions, eta, source=WEIGHTS)
    d, delta, eta = as_floats(dimension, statistical_dimensions, eta)
    needed = ("dimension: user", "statistical_dimensions: weights", "eta: user")
    return budget_threshold(delta, d, eta, last=False, definition=name, needed=needed)


def random_direction(
    *,
    dimension: Numbers = None,
    statistical_dimension: Numbers = None,
    eta: Numbers = None,
) -> Threshold:
    """How many random directions it takes to hit one cone: here more experts help.

        T* = d - delta(C)

    The opposite sign of the other definitions: experts are the random directions in
    which a merge may move, the cone is where one task's loss is low, and fewer than T*
    directions miss it. It is the threshold training dimension of Larsen and others.

    Args:
      dimension: the ambient dimension d.
      statistical_dimension: delta of the one cone, in [0, d].
      eta: the probability with which the interval's claims may fail, in (0, 1).

    Returns:
      The threshold; `integer` is rounded up. `lower` directions miss the cone with
      probability at least 1 - eta, `upper` directions hit it (`bernstein_window`, a
      reconstruction).

    Raises:
      ValueError: if an input is missing, or a concrete one out of range.

    Example:
      >>> t = random_direction(dimension=200, statistical_dimension=89.0, eta=0.05)
      >>> float(t.value), [f"{end:.0f}" for end in (t.lower, t.upper)]
      (111.0, ['76', '146'])

    References:
      Amelunxen, Lotz, McCoy, Tropp, Living on the edge, 2014, Theorem 7.1; Larsen,
      Fort, Becker, Ganguli, How many degrees of freedom do we need to train deep
      networks: a loss landscape perspective, 2022.
    """
    name = "random_direction"
    require(name, "dimension", dimension, DIMENSION)
    require(name, "statistical_dimension", statistical_dimension, CURVATURE)
    require(name, "eta", eta, USER)
    check_dimension("dimension", dimension)
    check_eta(eta)
    check_values(
        "statistical_dimension", statistical_dimension, lambda x: x >= 0, "at least 0"
    )
    check_at_most(
        "statistical_dimension", statistical_dimension, "dimension", dimension
    )
    d, delta, eta = as_floats(dimension, statistical_dimension, eta)
    value = subtract(dimension, statistical_dimension).astype(d.dtype)
    half_width = bernstein_window(jnp.minimum(delta, value), eta)
    return Threshold(
        value,
        whole_above(value),
        jnp.maximum(value - half_width, 0.0),
        jnp.minimum(value + half_width, d),
        jnp.zeros_like(value),
        jnp.isfinite(value),
        name,
        ("dimension: user", "statistical_dimension: curvature", "eta: user"),
    )
