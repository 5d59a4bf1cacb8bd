"""Frequencies with their error, claims that are checked, and shared predictions."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize

from jaxmerge import kinematics


def frequency(hits: int, trials: int) -> dict[str, Any]:
    """How often something happened; the error is not 0 at 0 or 1."""
    shrunk = (hits + 0.5) / (trials + 1)
    stderr = math.sqrt(shrunk * (1 - shrunk) / trials)
    return {"mean": hits / trials, "stderr": stderr, "trials": trials}


def deviation(measured: dict[str, Any], exact: float) -> float:
    """How many of its own standard errors a frequency is from what it should be."""
    exact = min(max(float(exact), 0.0), 1.0)
    stderr = math.sqrt(exact * (1 - exact) / measured["trials"])
    # Where the exact value is 0 or 1 up to rounding, one hit more counts as one.
    stderr = max(stderr, 1 / measured["trials"])
    return (measured["mean"] - exact) / stderr


def claim(text: str, value: float, limit: float) -> dict[str, Any]:
    """A claim that `value` is at most `limit`, to be printed and checked."""
    value = float(value)
    return {"claim": text, "value": value, "limit": limit, "holds": value <= limit}


def share_a_ray(normals: np.ndarray) -> bool:
    """Whether half-spaces {x : <normal, x> >= 0} share a ray, by a linear program.

    Args:
      normals: `(number, dimension)`, in general position.
    """
    number, dimension = normals.shape
    # max t with <normal, x> >= t and |x_i| <= 1: positive iff they share a ray.
    program = optimize.linprog(
        np.r_[np.zeros(dimension), -1.0],
        A_ub=np.c_[-normals, np.ones(number)],
        b_ub=np.zeros(number),
        bounds=[(-1, 1)] * dimension + [(0, 1)],
        method="highs",
    )
    return bool(-program.fun > 1e-9)


@jax.jit
def gram_capacities(grams: jax.Array, half_angle: jax.Array) -> jax.Array:
    """How many of the first experts one direction pleases, for many Gram matrices.

    Args:
      grams: `(trials, task, task)`.
      half_angle: within which an expert accepts, in radians.
    """

    def one(gram: jax.Array) -> jax.Array:
        return kinematics.gram_capacity(gram=gram, half_angle=half_angle).integer

    return jax.lax.map(one, grams, batch_size=64)


def unit_rows(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Uniform unit vectors along the last axis."""
    x = rng.standard_normal(shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def half_angle(sec_squared: float) -> float:
    """The half-angle with 1 / cos^2 = sec_squared, in radians."""
    return math.acos(sec_squared**-0.5)


_MOST = 26  # cones; all curves are computed for as many, by one compiled program


@jax.jit
def _predictions(dimension: Any, deltas: Any, variances: Any) -> dict[str, Any]:
    def one(delta: Any, variance: Any) -> dict[str, Any]:
        bennett = kinematics.bennett_bounds(dimension, delta)
        published = kinematics.mccoy_tropp_bounds(dimension, delta)
        return {
            "clt": kinematics.central_limit_probability(dimension, delta, variance),
            "bennett_lower": bennett.lower,
            "bennett_upper": bennett.upper,
            "published_lower": published.lower,
            "published_upper": published.upper,
        }

    return jax.vmap(one)(deltas, variances)


def predictions(
    dimension: int, delta: float, variance: float, most: int
) -> dict[str, list[float]]:
    """What statistical dimensions say of T = 1, ..., most cones that are alike.

    Returns:
      The central limit theorem's probability, and the two bounds' lower and upper ends.
    """
    # A cone that is the whole space changes nothing, so that all T have one shape.
    used = np.tri(_MOST)
    with jax.enable_x64(True):
        found = _predictions(
            jnp.float64(dimension),
            jnp.asarray(np.where(used, delta, float(dimension))),
            jnp.asarray(np.where(used, variance, 0.0)),
        )
    return {name: np.asarray(x)[:most].tolist() for name, x in found.items()}


_intersection_probabilities = jax.jit(kinematics.intersection_probabilities)


def exact_probabilities(volumes: np.ndarray, most: int) -> list[float]:
    """That T = 1, ..., most cones with these intrinsic volumes share a ray."""
    with jax.enable_x64(True):
        stack = jnp.asarray(np.broadcast_to(volumes, (_MOST, len(volumes))))
        return np.asarray(_intersection_probabilities(stack))[:most].tolist()


def crossing(probabilities: Sequence[float]) -> float:
    """Where probabilities at T = 1, 2, ... fall through one half, between whole T."""
    p = np.asarray(probabilities)
    last = int(np.flatnonzero(p >= 0.5)[-1])
    return float(last + 1 + (p[last] - 0.5) / (p[last] - p[last + 1]))
