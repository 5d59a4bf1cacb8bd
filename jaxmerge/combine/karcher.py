"""The Karcher mean of tensors' directions, iterated among their inner products only."""

import functools
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxmerge._arithmetic import accumulate, safe_divide
from jaxmerge._types import Coef, Leaf, coefficient, pytree, static
from jaxmerge.combine.sphere import into_slot, safe_root, sum_of_slots

# A cosine this close to -1 is that of opposite vectors: no shortest arc joins them.
_OPPOSITE = 1e-6

_dot = functools.partial(jnp.dot, precision=lax.Precision.HIGHEST)


def _length(c: Float[Array, " task"], gram: Float[Array, "task task"]) -> Array:
    """The norm of `sum_t c_t u_t`."""
    return safe_root(jnp.maximum(_dot(c, _dot(gram, c)), 0.0))


def _tangent(
    c: Float[Array, " task"],
    gram: Float[Array, "task task"],
    weights: Float[Array, " task"],
    tol: Any,
) -> Float[Array, " task"]:
    """The mean of the experts' logarithms at `sum_t c_t u_t`, as coefficients."""
    cosine = jnp.clip(_dot(gram, c), -1.0, 1.0)
    apart = (cosine < 1.0) & (cosine > -1.0 + _OPPOSITE)
    angle = jnp.arccos(jnp.where(apart, cosine, 0.0))
    stretch = jnp.where(apart & (angle >= tol), weights * angle / jnp.sin(angle), 0.0)
    return stretch - _dot(stretch, cosine) * c


def karcher_coefficients(
    gram: Float[Array, "task task"],
    weights: Float[Array, " task"],
    *,
    max_iter: int,
    tol: Any,
) -> Float[Array, " task"]:
    r"""The Karcher mean of unit vectors as a linear combination of them.

        u <- exp_u(sum_t w_t log_u(u_t)),    from the normalised mean

    Every iterate lies in the span of the vectors, so their Gram matrix is all that the
    iteration needs: its cost does not depend on their length. A vector opposite to u
    has no logarithm and is left out of that step.

    Args:
      gram: the inner products of the vectors; of norm 1, or 0 if they do not count.
      weights: their weights, with sum 1; 0 for those that do not count.
      max_iter: the most steps, at least 0.
      tol: the iteration stops once the mean logarithm is shorter than this. Where the
        vectors cancel their mean has no direction, and the iteration starts from the
        first that counts: if it is shorter than tol, or than the root of the rounding
        of inner products (1e-3 in float32), which tell no shorter length.

    Returns:
      c with `u = sum_t c_t u_t` of norm 1 (0 if no vector counts).

    Example:
      >>> karcher_coefficients(jnp.eye(2), jnp.full(2, 0.5), max_iter=10, tol=1e-5)
      Array([0.70710677, 0.70710677], dtype=float32)
    """
    counts = (jnp.diag(gram) > 0) & (weights != 0)
    first = (jnp.arange(len(weights)) == jnp.argmax(counts)) & counts
    length = _length(weights, gram)
    least = jnp.maximum(jnp.sqrt(8 * jnp.finfo(gram.dtype).eps), tol)
    start = jnp.where(
        length < least, first.astype(gram.dtype), safe_divide(weights, length)
    )

    def step(c: Array, _: None) -> tuple[Array, None]:
        tangent = _tangent(c, gram, weights, tol)
        length = _length(tangent, gram)
        moved = jnp.cos(length) * c + safe_divide(jnp.sin(length), length) * tangent
        moved = safe_divide(moved, _length(moved, gram))
        return jnp.where(length < tol, c, moved), None

    return lax.scan(step, start, length=max_iter)[0]


@pytree
class KarcherMean:
    r"""The Karcher mean of the tensors' directions, with the mean of their norms.

        merged = (sum_t w_t |x_t|) * argmin_{|u| = 1} sum_t w_t angle(u, x_t)^2

    by at most `max_iter` steps, weights divided by their sum. A tensor of norm `tol` or
    less has no direction but counts in the mean norm. The state holds all tensors, for
    each step depends on all of them; the steps themselves work on their T×T Gram
    matrix (a rearrangement of ours, equal in exact arithmetic).

    Attributes:
      max_iter: the most steps.
      tol: see `karcher_coefficients`.
      frame: `"absolute"` for the weights of the models, or `"delta"`.
    """

    max_iter: int = static(default=10)
    tol: Coef = coefficient(default=1e-5)
    frame: str = static(default="absolute")
    holds_all = True
    normalize_weights = True

    def lift(self, delta: Array, weight: Array, leaf: Leaf) -> Any:
        return into_slot(delta, leaf), into_slot(weight, leaf)

    def join(self, a: Any, b: Any) -> Any:
        return accumulate(a, b)

    def finish(self, state: Any, leaf: Leaf) -> Array:
        del leaf
        tensors, weights = state
        tol = jnp.asarray(self.tol).astype(tensors.dtype)
        axes = tuple(range(1, tensors.ndim))
        # Sums of products instead of a matrix product, for tensors may be sharded.
        products = lax.map(lambda x: jnp.sum(tensors * x, axis=axes), tensors)
        norms = safe_root(jnp.diag(products))
        counts = norms > tol
        inverse = jnp.where(counts, 1 / jnp.where(counts, norms, 1.0), 0.0)
        gram = inverse[:, None] * products * inverse
        shares = jnp.where(counts, weights, 0.0)
        shares = safe_divide(shares, jnp.sum(shares))
        c = karcher_coefficients(gram, shares, max_iter=self.max_iter, tol=tol)
        size = jnp.sum(weights * norms) / jnp.sum(weights)
        return sum_of_slots(tensors, size * c * inverse)
