"""How many of these very experts one direction can please, from their Gram matrix."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxmerge._checks import check_values
from jaxmerge.kinematics._budgets import CURVATURE, USER, WEIGHTS, partial_sum
from jaxmerge.kinematics._hull import nearest_in_hull
from jaxmerge.kinematics._inputs import (
    Numbers,
    as_floats,
    require,
)
from jaxmerge.kinematics.solver import Root, Threshold, monotone_root, whole_below


def _excess_alike(count: Array, args: tuple[Array, Array]) -> Array:
    cosine, limit = args
    # Linear in T, so that the limit 1 / rho of the load itself is no obstacle.
    return count * (1 - limit * cosine) - limit * (1 - cosine)


def _excess_load(count: Array, args: tuple[Array, Array]) -> Array:
    loads, limit = args
    grown = jax.lax.cummax(loads)
    steps = jnp.diff(grown, prepend=jnp.zeros_like(grown[:1]))
    return partial_sum(steps, count) - limit


def _alike_capacity(cosine: Array, limit: Array) -> tuple[Root, Array, Array]:
    """Where T / (1 + (T - 1) rho) reaches the limit."""
    check_values("gram", cosine, lambda x: (x >= 0) & (x <= 1), "a cosine in [0, 1]")
    one = jnp.ones_like(limit)
    root = monotone_root(
        _excess_alike, (cosine, limit), lower=one, upper=one + 1, last=True
    )
    return root, root.value, root.value


def _first_load_above(loads: Array, limit: Array) -> Root:
    zero = jnp.zeros_like(limit)
    return monotone_root(
        _excess_load, (loads, limit), lower=zero, upper=zero + 1, last=True
    )


def _pool_capacity(gram: Array, limit: Array) -> tuple[Root, Array, Array]:
    """Where the load of the first T experts reaches the limit."""
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1]:
        raise ValueError(
            f"gram has shape {gram.shape}; expected `(task, task)`, or one cosine"
        )
    diagonal = jnp.diagonal(gram)
    check_values(
        "gram's diagonal", diagonal, lambda x: x > 0, "positive: no expert is zero"
    )
    lengths = jnp.sqrt(diagonal)
    cosines = gram / (lengths[:, None] * lengths[None, :])
    check_values(
        "gram",
        cosines - cosines.T,
        lambda x: np.abs(x) < 1e-3,
        "a symmetric matrix; this is how far it is from one",
    )
    num = gram.shape[0]
    prefixes = jnp.arange(num)[None, :] <= jnp.arange(num)[:, None]
    _, below, above = jax.vmap(lambda inside: nearest_in_hull(cosines, inside))(
        prefixes
    )
    # A hull that holds the origin has an infinite load; a large number does as well.
    least = jnp.finfo(gram.dtype).eps ** 0.5
    loads = 1 / jnp.maximum(jnp.stack([above, below]), least) ** 2
    roots = jax.vmap(lambda load: _first_load_above(load, limit))(loads)
    root = jax.tree.map(lambda leaf: leaf[0], roots)
    return root, roots.value[1], roots.value[0]


def gram_capacity(*, gram: Numbers = None, half_angle: Numbers = None) -> Threshold:
    """How many of these experts one direction can please; nothing is random.

        success of the first T  iff  max over |u| = 1 of min_i cos(u, v_i) >= cos(alpha)
                                iff  1'l* <= 1 / cos(alpha)^2,
        l* = argmin over l >= 0 of l'Kl / 2 - 1'l

    Each expert accepts directions within the half-angle alpha of its own. Experts that
    are nearly orthogonal have T* = 1 / cos(alpha)^2. With cosines rho between all of
    them the load 1'l* = T / (1 + (T-1) rho) stays below 1/rho, so there is **no limit
    once rho >= cos(alpha)^2**: shared structure removes the ceiling that random
    orientations predict. Report it next to `intersection_capacity`.

    Args:
      gram: the experts' inner products K, `(task, task)`, in merging order (scaled to
        cosines here), or one number: the cosine between any two of them, in [0, 1].
      half_angle: alpha, in radians, in (0, pi/2).

    Returns:
      The threshold; the load is interpolated linearly, `integer` is rounded down.
      Infinite where all experts given succeed. `lower` and `upper` come from bounds of
      the load by duality, so that they show how exactly the problem was solved.

    Raises:
      ValueError: if an input is missing, or a concrete one out of range.

    Example:
      >>> t = gram_capacity(gram=jnp.eye(6), half_angle=jnp.pi / 3)
      >>> f"{t.value:.3f}", int(t.integer)
      ('4.000', 4)
      >>> float(gram_capacity(gram=0.3, half_angle=jnp.pi / 3).value)
      inf

    References:
      A reconstruction; it rests on the duality between the nearest point of a convex
      hull and the widest separating margin.
    """
    name = "gram_capacity"
    require(name, "gram", gram, f"inner products of {WEIGHTS}")
    require(name, "half_angle", half_angle, f"{CURVATURE}, or from {USER}")
    check_values(
        "half_angle",
        half_angle,
        lambda x: (x > 0) & (x < np.pi / 2),
        "an angle in (0, pi/2), in radians",
    )
    gram, half_angle = as_floats(gram, half_angle)
    limit = 1 / jnp.cos(half_angle) ** 2
    solve = _alike_capacity if gram.ndim == 0 else _pool_capacity
    root, low, high = solve(gram, limit)
    return Threshold(
        root.value,
        whole_below(root.value),
        low,
        high,
        root.residual,
        root.converged,
        name,
        ("gram: weights", "half_angle: curvature or user"),
    )
