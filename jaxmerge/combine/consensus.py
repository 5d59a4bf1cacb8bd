"""Agreement between experts: elected signs, and masks that several tasks share."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from jaxmerge._arithmetic import accumulate, product, quotient, safe_divide
from jaxmerge._types import Coef, Leaf, coefficient, pytree, static


@pytree
class SignElectedMean:
    r"""The mean of the experts that agree with the elected sign, entry by entry.

    With `e = +1` where `vote >= 0`, else `-1`, and `A` the experts whose contribution
    has the sign e (a zero never agrees):

        delta = sum_{t in A} w_t d_t / divisor

    A vote of exactly zero elects +1. Where nobody agrees the result is 0.

    Attributes:
      vote: what is summed for the election: `"weighted"` (w_t d_t, as mergekit does),
        `"total"` (d_t, as the paper and PEFT do) or `"frequency"` (the sign of d_t).
        With `"weighted"` an expert of negative weight agrees with its flipped sign.
      divisor: `"weight"` (the agreeing experts' weights), `"count"` (their number) or
        `"none"` (the disjoint sum).
      normalize_weights: whether the weights are first divided by their sum.
    """

    vote: str = static(default="weighted")
    divisor: str = static(default="weight")
    normalize_weights: bool = static(default=False)
    frame: str = static(default="delta")
    elementwise = True

    def lift(self, delta: Array, weight: Array, leaf: Leaf) -> Any:
        del leaf
        value = product(weight, delta)
        side = value if self.vote == "weighted" else delta
        zero = jnp.zeros_like(delta)
        share = weight if self.divisor == "weight" else jnp.ones_like(weight)
        state = {
            "positive": jnp.where(side > 0, value, zero),
            "negative": jnp.where(side < 0, value, zero),
            "weight": weight,
        }
        if self.divisor != "none":
            state["positive_share"] = jnp.where(side > 0, share, zero)
            state["negative_share"] = jnp.where(side < 0, share, zero)
        if self.vote == "total":
            state["vote"] = delta
        elif self.vote == "frequency":
            state["vote"] = jnp.sign(delta)
        return state

    def join(self, a: Any, b: Any) -> Any:
        return accumulate(a, b)

    def finish(self, state: Any, leaf: Leaf) -> Array:
        del leaf
        positive, negative = state["positive"], state["negative"]
        up = (state["vote"] if "vote" in state else positive + negative) >= 0
        merged = jnp.where(up, positive, negative)
        if self.divisor != "none":
            shares = jnp.where(up, state["positive_share"], state["negative_share"])
            merged = merged / jnp.where(shares == 0, jnp.ones_like(shares), shares)
        if self.normalize_weights:
            merged = quotient(merged, state["weight"])
        return merged


def _needed(delta: Array, total: Array, threshold: Coef) -> Array:
    """Where a task needs the multi-task vector."""
    return jnp.abs(delta) >= jnp.asarray(threshold) * jnp.abs(total - delta)


@pytree
class ConsensusMask:
    r"""The second pass of Consensus merging: keeps what enough tasks need.

    With the multi-task vector `m` of the pass before, task t needs the entries where

        |d_t| >= threshold * |m - d_t|

    and the result is m where at least `min_tasks` tasks do, else 0.

    Attributes:
      threshold: lambda, at least 0; the larger, the fewer entries a task needs.
      min_tasks: k, from 0 to T.

    References:
      Wang et al., Localizing Task Information for Improved Model Merging and
      Compression, 2024, eq. 4 and 6.
    """

    threshold: Coef = coefficient(default=0.4)
    min_tasks: Coef = coefficient(default=2)
    frame: str = static(default="delta")
    elementwise = True

    def lift(self, delta: Array, weight: Array, leaf: Leaf) -> Array:
        del weight
        return _needed(delta, leaf.stats, self.threshold).astype(delta.dtype)

    def join(self, a: Array, b: Array) -> Array:
        return accumulate(a, b)

    def finish(self, state: Array, leaf: Leaf) -> Array:
        needed = jnp.asarray(self.min_tasks).astype(state.dtype)
        return jnp.where(state >= needed, leaf.stats, jnp.zeros_like(leaf.stats))


@pytree
class TallMasks:
    r"""What TALL masks keep for each task: where it needs the multi-task vector m.

        mask_t = |d_t| >= threshold * |m - d_t|

    The number of a task is the share of the model's entries that its mask keeps.

    Attributes:
      threshold: lambda, at least 0; the larger, the fewer entries a mask keeps.

    References:
      Wang et al., Localizing Task Information for Improved Model Merging and
      Compression, 2024, eq. 4.
    """

    threshold: Coef = coefficient(default=0.4)

    def emit(self, delta: Array, leaf: Leaf) -> Any:
        """Returns this tensor's mask, packed, and its entries: those kept, and all."""
        mask = _needed(delta, leaf.stats, self.threshold)
        kept = jnp.sum(mask.astype(delta.dtype))
        statistic = jnp.stack([kept, jnp.asarray(mask.size, delta.dtype)])
        return jnp.packbits(mask.reshape(-1)), statistic

    def summarise(self, statistic: Array) -> Array:
        """The share of entries kept, from the counts summed over the tensors."""
        return safe_divide(statistic[0], statistic[1])

    def apply(self, shared: Array, record: Array, task: Array) -> Array:
        """The delta of one task from the shared one."""
        del task
        return _masked(shared, record)


def _masked(shared: Array, record: Array) -> Array:
    """A tensor where its packed mask is set, else 0."""
    mask = jnp.unpackbits(record, count=shared.size).reshape(shared.shape)
    return jnp.where(mask == 1, shared, jnp.zeros_like(shared))


@pytree
class UnifiedTaskVector:
    r"""EMR's elected vector: the largest magnitude among those with the elected sign.

    With `s = sum_t d_t`: `max_t d_t` clipped at 0 where s > 0, else `min_t d_t`
    clipped at 0.

    References:
      Huang et al., EMR-Merging: Tuning-Free High-Performance Model Merging, 2024,
      section 3.2.
    """

    frame: str = static(default="delta")
    elementwise = True

    def lift(self, delta: Array, weight: Array, leaf: Leaf) -> Any:
        del leaf
        value = product(weight, delta)
        zero = jnp.zeros_like(value)
        return value, jnp.maximum(value, zero), jnp.minimum(value, zero)

    def join(self, a: Any, b: Any) -> Any:
        return b[0] + a[0], jnp.maximum(a[1], b[1]), jnp.minimum(a[2], b[2])

    def finish(self, state: Any, leaf: Leaf) -> Array:
        del leaf
        total, largest, smallest = state
        return jnp.where(total > 0, largest, smallest)


@pytree
class SignMasks:
    r"""What EMR keeps for each task: a mask, and one number to rescale it.

    The mask of task t is where the unified vector has the sign of d_t. The rescaler is

        sum over the model of |d_t|  /  sum over the model of |mask * unified|

    Attributes:
      compat: `"paper"`, or `"reference"`: each tensor's mean in place of its sum, as in
        FusionBench and the authors' script for eight tasks.

    References:
      Huang et al., EMR-Merging, 2024, section 3.2.
    """

    compat: str = static(default="paper")

    def emit(self, delta: Array, leaf: Leaf) -> Any:
        """Returns this tensor's record for one task and its part of the statistic."""
        mask = delta * leaf.stats > 0
        kept = jnp.where(mask, jnp.abs(leaf.stats), jnp.zeros_like(leaf.stats))
        reduce = jnp.mean if self.compat == "reference" else jnp.sum
        statistic = jnp.stack([reduce(jnp.abs(delta)), reduce(kept)])
        return jnp.packbits(mask.reshape(-1)), statistic

    def summarise(self, statistic: Array) -> Array:
        """The task's rescaler from the statistic summed over the tensors."""
        return safe_divide(statistic[0], statistic[1], otherwise=1.0)

    def apply(self, shared: Array, record: Array, task: Array) -> Array:
        """The delta of one task from the shared one."""
        return jnp.asarray(task).astype(shared.dtype) * _masked(shared, record)
