"""Arcee Fusion: one model merged into its base, where its changes stand out."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxmerge import ranks
from jaxmerge._arithmetic import accumulate, product
from jaxmerge._types import Leaf, pytree, static

# What is added to every probability, as in mergekit.
_LEAST = 1e-8


def _excess(x: Array) -> Array:
    """`(1 + x) log(1 + x) - x`, at least 0; by its series where that cancels."""
    small = jnp.abs(x) < 0.02
    series = x * x * (1 / 2 - x * (1 / 6 - x * (1 / 12 - x / 20)))
    far = jnp.where(small, 0.0, x)
    return jnp.where(small, series, (1 + far) * jnp.log1p(far) - far)


def row_divergence(
    base: Float[Array, "*lead column"], delta: Float[Array, "*lead column"]
) -> Float[Array, "*lead 1"]:
    r"""How far each row moves as a softmax: a Kullback-Leibler divergence.

        KL = sum_j p_j log(p_j / q_j),    p = softmax(base + delta),  q = softmax(base)

    with 1e-8 added to every probability. It is computed from p - q, term by term at
    least 0, so that it has all its digits however small the delta is; the sum as it
    stands cancels, and in float32 is noise for usual fine-tunings.

    Args:
      base: rows, along the last axis.
      delta: what is added to them.

    Returns:
      The divergence of each row, its axis kept.

    Example:
      >>> moved = row_divergence(jnp.zeros((1, 2)), jnp.array([[2e-4, 0.0]]))
      >>> f"{float(moved[0, 0]):.3e}"
      '5.000e-09'
    """
    q = jax.nn.softmax(base, axis=-1)
    shift = jnp.log1p(jnp.sum(q * jnp.expm1(delta), axis=-1, keepdims=True))
    change = q * jnp.expm1(delta - shift)
    floored = q + _LEAST
    return jnp.sum(floored * _excess(change / floored), axis=-1, keepdims=True)


@pytree
class ImportantEntries:
    r"""Keeps the entries of one delta whose importance is an outlier.

        importance_i = |d_i| * KL of its row,    see `row_divergence`
        delta_i      = d_i where importance_i >= median + 1.5 (q_3 - q_1), else 0

    A row is the last axis. Quantiles are exact, the entries at `floor(q (n - 1))` of
    the sorted tensor; mergekit draws a million entries of larger ones. For normal
    numbers some 9 % are kept.
    """

    frame: str = static(default="delta")
    uses_shape = True

    def check_experts(self, num: int) -> None:
        if num != 1:
            raise ValueError(
                f"arcee_fusion merges one model into its base and was given {num}; "
                "merge more with ram or ties"
            )

    def lift(self, delta: Array, weight: Array, leaf: Leaf) -> Array:
        if leaf.base is None:
            raise ValueError(
                "arcee_fusion compares a model with its base and was given none; give "
                "base="
            )
        rows = delta.reshape(1) if delta.ndim == 0 else delta
        base = leaf.base.reshape(rows.shape)
        moved = jnp.abs(rows) * row_divergence(base, rows)
        importance = lax.stop_gradient(moved).reshape(delta.shape)
        size = delta.size
        places = np.array([size - int(q * (size - 1)) for q in (0.25, 0.5, 0.75)])
        first, median, third = ranks.from_bits(ranks.kth_largest(importance, places))
        kept = importance >= median + 1.5 * (third - first)
        return jnp.where(kept, product(weight, delta), 0.0)

    def join(self, a: Any, b: Any) -> Any:
        return accumulate(a, b)

    def finish(self, state: Array, leaf: Leaf) -> Array:
        del leaf
        return state
