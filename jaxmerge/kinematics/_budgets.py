"""Counting experts until their (co)dimensions fill a space."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxmerge.kinematics._inputs import check_cones, check_eta, require
from jaxmerge.kinematics.solver import (
    Root,
    Threshold,
    monotone_root,
    whole_above,
    whole_below,
)
from jaxmerge.kinematics.windows import capacity_window

USER = "the user: it is a choice, so it has no default"
DIMENSION = "the number of parameters, or of those in which the experts may differ"
CURVATURE = "the curvature at the merge point (each expert's low-loss cone)"
WEIGHTS = "the experts' weights"


def require_cones(
    name: str, dimension: Any, delta: Any, eta: Any, source: str = CURVATURE
) -> None:
    """Refuses cones that are missing or impossible."""
    require(name, "dimension", dimension, DIMENSION)
    require(name, "statistical_dimensions", delta, source)
    require(name, "eta", eta, USER)
    check_cones(dimension, delta)
    check_eta(eta)


def partial_sum(terms: Array, count: Array) -> Array:
    """The sum of the first `count` terms, for a real count.

    Args:
      terms: one number for terms that are alike, or `(task,)`.
      count: a scalar of at least 0.

    Returns:
      A scalar, linear between whole numbers; past the terms given it is constant.

    Example:
      >>> float(partial_sum(jnp.array([1.0, 2.0, 4.0]), jnp.array(2.5)))
      5.0
    """
    if terms.ndim == 0:
        return terms * count
    position = jnp.arange(terms.shape[0]).astype(terms.dtype)
    return jnp.sum(terms * jnp.clip(count - position, 0.0, 1.0))


def _overrun(count: Array, args: tuple[Array, Array]) -> Array:
    return partial_sum(args[0], count) - args[1]


def _count_until(terms: Array, limits: Array, *, last: bool) -> Root:
    """How many terms it takes to reach each of several limits."""

    def solve(limit: Array) -> Root:
        start = jnp.zeros_like(limit)
        return monotone_root(
            _overrun, (terms, limit), lower=start, upper=start + 1, last=last
        )

    return jax.vmap(solve)(limits)


def budget_threshold(
    terms: Array,
    budget: Array,
    eta: Array,
    *,
    last: bool,
    definition: str,
    needed: tuple[str, ...],
) -> Threshold:
    """How many experts' (co)dimensions a space of dimension `budget` has room for.

    Args:
      terms: each expert's codimension (or dimension), `()` or `(task,)`.
      budget: the dimension that they fill.
      eta: probability that the interval's claims fail.
      last: whether the threshold is the last count that fits, or the first that fills.
      definition: the threshold's name.
      needed: what went in.

    Returns:
      The threshold, with the interval of `capacity_window`.

    Example:
      >>> t = budget_threshold(
      ...     jnp.array(4.0),
      ...     jnp.array(20.0),
      ...     jnp.array(0.1),
      ...     last=True,
      ...     definition="",
      ...     needed=(),
      ... )
      >>> float(t.value)
      5.0
    """
    lower, upper = capacity_window(budget, eta)
    root = _count_until(terms, jnp.stack([budget, lower, upper]), last=last)
    value, low, high = root.value
    whole = whole_below(value) if last else whole_above(value)
    residual, converged = root.residual[0], root.converged[0]
    return Threshold(value, whole, low, high, residual, converged, definition, needed)
