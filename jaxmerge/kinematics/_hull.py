"""The point of a convex hull nearest to the origin, from the Gram matrix alone.

For vectors v_1, ..., v_T with Gram matrix K, the largest product that one unit
direction can have with all of them is the distance of their hull from the origin,

    max over |u| = 1 of min_i <v_i, u>  =  min over the simplex of sqrt(x'Kx)  =: r.

The simplex is traded for the orthant: min over l >= 0 of l'Kl + w (1'l - 1)^2 is
reached at l = x w / (r^2 + w), and is bounded even where the origin is in the hull.
"""

import jax.numpy as jnp
from jaxtyping import Array

from jaxmerge.geometry._nnls import nonnegative_least_squares


def nearest_in_hull(gram: Array, inside: Array) -> tuple[Array, Array, Array]:
    """Weights of the hull's point nearest to the origin, with a certificate.

    Args:
      gram: inner products, `(task, task)`.
      inside: which vectors span the hull, `(task,)` booleans, at least one.

    Returns:
      Weights x of the simplex, `(task,)`, zero outside; and bounds of the distance r:
      below, min_i (Kx)_i / sqrt(x'Kx), by the direction of that point, and above,
      sqrt(x'Kx), by the point itself.

    Example:
      >>> x, low, high = nearest_in_hull(jnp.eye(3), jnp.array([True, True, False]))
      >>> [f"{number:.4f}" for number in (*x, low, high)]
      ['0.5000', '0.5000', '0.0000', '0.7071', '0.7071']
    """
    pair = inside[:, None] & inside[None, :]
    gram = jnp.where(pair, gram, 0.0)
    # A weight of about the squared distance keeps the problem well conditioned.
    weight = 1 / jnp.sum(inside).astype(gram.dtype)
    matrix = gram + jnp.where(pair, weight, 0.0)
    target = jnp.where(inside, weight, 0.0)
    loads = nonnegative_least_squares(matrix, target).coefficients
    x = loads / jnp.maximum(jnp.sum(loads), jnp.finfo(gram.dtype).tiny)
    image = jnp.matmul(gram, x, precision="highest")
    high = jnp.sqrt(jnp.maximum(x @ image, 0.0))
    lowest = jnp.min(jnp.where(inside, image, jnp.inf))
    low = jnp.where(high > 0, lowest / jnp.where(high > 0, high, 1.0), 0.0)
    return x, jnp.clip(low, 0.0, high), high
