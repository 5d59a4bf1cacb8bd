"""PCB-Merging: entries weighted by what they win against their own and other tasks."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array

from jaxmerge import ranks
from jaxmerge._arithmetic import accumulate, safe_divide
from jaxmerge._checks import is_concrete
from jaxmerge._types import Coef, Leaf, coefficient, pytree, static
from jaxmerge.combine.sphere import into_slot, sum_of_slots

# The share of magnitudes that is clamped at either end, and the least sum of scores.
_OUTLIERS, _LEAST = 1e-4, 1e-12
# exp of this and of minus this are far inside float32.
_EXPONENT = 60


def _unit_range(x: Array) -> Array:
    """Shifted and scaled to [0, 1]; 0 where all entries are equal."""
    # By the largest first, whose gradient cancels: others have no extreme squares.
    x = safe_divide(x, lax.stop_gradient(jnp.max(jnp.abs(x))))
    lowest = jnp.min(x)
    return safe_divide(x - lowest, jnp.max(x) - lowest)


def _sorted(x: Array) -> Array:
    """All entries in order; those of a sharded tensor are gathered to be sorted."""
    mesh = jax.typeof(x).sharding.mesh
    if not mesh.empty:
        whole = NamedSharding(mesh, PartitionSpec(*[None] * x.ndim))
        x = jax.sharding.reshard(x, whole)
    return jnp.sort(x.reshape(-1))


def _clamped(delta: Array) -> Array:
    """Magnitudes between two of the sorted ones, so that outliers do not count."""
    size, magnitude = delta.size, jnp.abs(delta)
    ordered = _sorted(magnitude)
    low = ordered[int(size * _OUTLIERS)]
    return jnp.clip(magnitude, low, ordered[int(size * (1 - _OUTLIERS) - 1)])


@pytree
class ParameterCompetition:
    r"""PCB: a mean in which each entry has the score that it wins in two competitions.

    Of a tensor of n entries, with a = |d_t| clamped to the order statistics 1e-4 n and
    (1 - 1e-4) n, and `unit` shifting and scaling to [0, 1]:

        score_t = exp(T unit(a_t)^2) * tanh(d_t * sum_s d_s)
        score_t = unit(max(score_t, its order statistic (1 - ratio) n))
        delta   = sum_t w_t score_t sign(d_t) a_t / sum_t score_t

    Where no entry wins anything (no score, or all equal) the result is 0. The state has
    a slot for each expert.

    Attributes:
      ratio: the share of entries that keep a score, in (0, 1].
      losers: how many do not; set by `bind`, from a ratio in float64.

    References:
      Du et al., Parameter Competition Balancing for Model Merging, 2024, section 3; the
      order statistics are those of the authors' code.
    """

    ratio: Coef = coefficient(default=0.1)
    losers: Coef = coefficient(default=None)
    frame: str = static(default="delta")
    holds_all = True

    def bind(self, size: int) -> "ParameterCompetition":
        if size >= 2**31:
            raise ValueError(
                f"pcb sorts a tensor's entries, and one has {size}, which is more than "
                "an int32 counts; merge it in parts"
            )
        share: Any = self.ratio
        share = np.asarray(share, np.float64) if is_concrete(share) else share
        return dataclasses.replace(self, losers=ranks.count(1 - share, size))

    def lift(self, delta: Array, weight: Array, leaf: Leaf) -> Any:
        return into_slot(delta, leaf), into_slot(weight, leaf)

    def join(self, a: Any, b: Any) -> Any:
        return accumulate(a, b)

    def finish(self, state: Any, leaf: Leaf) -> Array:
        del leaf
        deltas, weights = state
        if deltas.size == 0:
            return deltas[0]
        clamped = jax.vmap(_clamped)(deltas)
        losers = jnp.broadcast_to(jnp.asarray(self.losers), weights.shape)
        score = functools.partial(_score, total=sum_of_slots(deltas), num=len(deltas))
        scores = jax.vmap(score)(deltas, clamped, losers)
        taken = sum_of_slots(scores * jnp.sign(deltas) * clamped, weights)
        return taken / jnp.maximum(sum_of_slots(scores), _LEAST)


def _score(
    delta: Array, clamped: Array, losers: Array, *, total: Array, num: int
) -> Array:
    # All scores may have one factor, here one that keeps exp(num) in range.
    within = jnp.exp(num * jnp.square(_unit_range(clamped)) - max(num - _EXPONENT, 0))
    score = within * jnp.tanh(delta * total)
    floor = _sorted(score)[jnp.minimum(losers, delta.size - 1)]
    return _unit_range(jnp.maximum(score, floor))
