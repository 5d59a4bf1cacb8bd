"""MetaGPT's coefficients: each expert's share of all squared norms."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxmerge._arithmetic import product, safe_divide
from jaxmerge._types import Leaf, pytree


def scaled_norm(x: Array) -> Array:
    """The Euclidean norm of a whole tensor, with gradient 0 at 0.

    The entries are divided by the largest first, so that no square of a small one is
    lost and none of a large one overflows.

    Example:
      >>> scaled_norm(jnp.array([3e-30, 4e-30])).item() > 4.9e-30
      True
    """
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), initial=0.0))
    unit = safe_divide(x, largest)
    square = jnp.sum(unit * unit)
    root = jnp.sqrt(jnp.where(square == 0, jnp.ones_like(square), square))
    return largest * jnp.where(square == 0, jnp.zeros_like(root), root)


def _hypot(a: Array, b: Array) -> Array:
    """`sqrt(a^2 + b^2)`, with gradient 0 at 0 and 0."""
    zero = (a == 0) & (b == 0)
    return jnp.where(zero, jnp.zeros_like(a), jnp.hypot(jnp.where(zero, 1.0, a), b))


def norm_shares(norms: Array) -> Array:
    """`n_t^2 / sum_k n_k^2`; all 0 where all norms are.

    Args:
      norms: `(task,)`.

    Example:
      >>> [round(x, 4) for x in norm_shares(jnp.array([3.0, 1.0])).tolist()]
      [0.9, 0.1]
    """
    largest = jax.lax.stop_gradient(jnp.max(norms))
    squares = jnp.square(safe_divide(norms, largest))
    return safe_divide(squares, jnp.sum(squares))


@pytree
class ScaleByNormShare:
    r"""Scales a delta by its expert's share of the squared norms of all experts.

        y = d_t * |d_t|^2 / sum_k |d_k|^2

    The norms are over the whole model, so a survey finds them first, and comparing the
    experts is its last step: such a merge cannot leave experts out by `members=`. Where
    no delta differs from zero the shares are 0. `combine.NormSharedSum` is the same
    with the norms of each tensor.

    References:
      Zhou et al., MetaGPT: Merging Large Language Models Using Model Exclusive Task
      Arithmetic, 2024, the closed form of section 4.
    """

    elementwise = True
    survey_rounds = 1

    def __call__(self, delta: Array, leaf: Leaf) -> Array:
        if leaf.stats is None:
            raise ValueError(
                "ScaleByNormShare needs its expert's share in leaf.stats; run it in a "
                "Merger, which surveys the model first"
            )
        return product(jnp.asarray(leaf.stats).astype(delta.dtype), delta)

    # --- the survey: one norm of each leaf, of each model, then all models together

    def measure(self, delta: Array, found: Any) -> Array:
        del found
        return scaled_norm(delta).astype(jnp.result_type(float))

    def join(self, a: Array, b: Array) -> Array:
        return _hypot(a, b)

    def conclude(self, total: Array, size: int, found: Any) -> Array:
        del size, found
        return total

    def compare(self, found: list[Array]) -> list[Array]:
        """Each expert's share, from the norms of all."""
        return list(norm_shares(jnp.stack(found)))
