"""Linear merges of sets of experts: one matrix product, or one addition a prefix."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from jaxmerge._checks import check_values
from jaxmerge._types import pytree, static
from jaxmerge.laws.theory import task_vectors


@pytree
class LinearMerge:
    r"""A merge that is linear in the task vectors, as a function of who takes part.

        theta = theta_0 + c sum_{t in K} w_t v_t   (divided by sum_{t in K} w_t)

    Called with a mask over experts it merges them; under `jax.vmap` over masks each
    leaf costs one matrix product of masks and task vectors. `start`, `add` and `finish`
    are the same merge one expert at a time. See `linear_merge`.

    Attributes:
      base: theta_0.
      vectors: v, leaves `(task, ...)`.
      weights: w, `(task,)`.
      scale: c.
      mean: whether to divide by the weights of those that take part.
    """

    base: PyTree
    vectors: PyTree
    weights: Any
    scale: Any = 1.0
    mean: bool = static(default=True)

    def __call__(self, members: Any) -> PyTree:
        """The merge of the experts at which a mask `(task,)` is true."""
        weights = jnp.where(jnp.asarray(members), self.weights, 0)
        factors = self._factor(jnp.sum(weights)) * weights

        def merged(base: Array, vectors: Array) -> Array:
            highest = jax.lax.Precision.HIGHEST
            own = factors.astype(base.dtype)
            return base + jnp.tensordot(own, vectors, axes=1, precision=highest)

        return jax.tree.map(merged, self.base, self.vectors)

    def _factor(self, weight: Array) -> Array:
        scale = jnp.asarray(self.scale).astype(weight.dtype)
        return scale / weight if self.mean else scale

    def start(self) -> Any:
        """The state before any expert: the sums of vectors and of weights."""
        return jax.tree.map(jnp.zeros_like, self.base), jnp.zeros_like(self.weights[0])

    def add(self, state: Any, t: Any) -> Any:
        """The state with expert `t`: one addition."""
        total, weight = state
        own = self.weights[t]

        def added(x: Array, vectors: Array) -> Array:
            return x + own.astype(x.dtype) * vectors[t]

        return jax.tree.map(added, total, self.vectors), weight + own

    def finish(self, state: Any) -> PyTree:
        """The merge of those that were added."""
        total, weight = state
        factor = self._factor(weight)
        return jax.tree.map(
            lambda base, x: base + factor.astype(base.dtype) * x, self.base, total
        )


def linear_merge(
    base: PyTree,
    experts: Sequence[PyTree],
    *,
    scale: Any = 1.0,
    weights: Any = None,
    mean: bool = True,
) -> LinearMerge:
    r"""Averages and task arithmetic of sets of experts.

    Average: `linear_merge(base, experts)`. Task arithmetic as the scaling law has it,
    equal-normalised: `scale=0.8`. As it was published, a plain sum: `mean=False`.

    Args:
      base: a pytree of float32 or float64 arrays.
      experts: models of the base's structure.
      scale: c, one finite number.
      weights: w, `(task,)`; 1 each if None.
      mean: whether to divide by the weights of those that take part.

    Raises:
      TypeError: if a leaf is not of float32 or float64.
      ValueError: if trees do not fit, or a number is not finite.

    >>> experts = [{"w": jnp.ones(2)}, {"w": 3 * jnp.ones(2)}]
    >>> merge = linear_merge({"w": jnp.zeros(2)}, experts)
    >>> merge(jnp.array([True, True]))["w"].tolist()
    [2.0, 2.0]

    References:
      Model Merging Scaling Laws in Large Language Models, 2025, eq. 2.
    """
    base, vectors = task_vectors(base, experts)
    dtype = jnp.result_type(*jax.tree.leaves(base))
    given = jnp.ones(len(experts)) if weights is None else jnp.asarray(weights)
    if given.shape != (len(experts),):
        raise ValueError(
            f"weights have shape {given.shape}; expected one for each of the "
            f"{len(experts)} experts"
        )
    for name, value in (("weights", given), ("scale", scale)):
        check_values(name, value, jnp.isfinite, "finite numbers")
    return LinearMerge(base, vectors, given.astype(dtype), scale, mean)
