"""RAM: means over the experts that changed an entry, not over all of them."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from jaxmerge._arithmetic import accumulate, product
from jaxmerge._types import Coef, Leaf, coefficient, pytree, static


@pytree
class ActiveMean:
    r"""RAM: the mean of each entry over the experts that changed it.

        delta_i = sum_{t in A_i} w_t d_ti / |A_i|,    A_i = {t : |d_ti| > threshold}

    Published as a sum where one expert is active and a mean where several are: one
    formula. Entries that no expert changed stay. The state is a sum and a count.

    Attributes:
      threshold: the smallest change, in the unit of the weights; at least 0.
    """

    threshold: Coef = coefficient(default=1e-5)
    frame: str = static(default="delta")
    elementwise = True

    def active(self, delta: Array) -> Bool[Array, "..."]:
        return jnp.abs(delta) > jnp.asarray(self.threshold).astype(delta.dtype)

    def lift(self, delta: Array, weight: Array, leaf: Leaf) -> Any:
        del leaf
        active = self.active(delta)
        value = jnp.where(active, product(weight, delta), 0.0)
        return {"total": value, "count": active.astype(delta.dtype)}

    def join(self, a: Any, b: Any) -> Any:
        return accumulate(a, b)

    def finish(self, state: Any, leaf: Leaf) -> Array:
        del leaf
        return state["total"] / jnp.maximum(state["count"], 1.0)


def _how_many(mask: Bool[Array, "..."], dtype: Any) -> Array:
    # Counted as integers: a float32 sum of ones stops at 2^24.
    return jnp.sum(mask, dtype=jnp.uint32).astype(dtype)


@pytree
class AmplifiedActiveMean(ActiveMean):
    r"""RAM+: as RAM, with what only one expert changed made larger.

        delta_i = factor_t d_ti    where t alone changed the entry,
        factor_t = 1 + r * min(shared_t / unique_t, limit)

    with the numbers of entries of this tensor that t changed together with others, and
    alone. Besides RAM's state: whose entry it is where there is one owner, and a number
    for each expert, so that one reading is enough.

    Attributes:
      r: how much the ratio counts, at least 0.
      limit: the most that the ratio counts as; alpha of the paper, at least 0.
    """

    r: Coef = coefficient(default=0.1)
    limit: Coef = coefficient(default=0.2)
    elementwise = False
    holds_all = True

    def lift(self, delta: Array, weight: Array, leaf: Leaf) -> Any:
        state = super().lift(delta, weight, leaf)
        active = self.active(delta)
        assert leaf.slots is not None, "a combine that holds_all"
        mine = jnp.arange(leaf.slots, dtype=jnp.int32) == leaf.t
        number = _how_many(active, delta.dtype)
        return {
            **state,
            "owner": jnp.where(active, jnp.asarray(leaf.t, jnp.int32), 0),
            "active": jnp.where(mine, number, 0.0),
        }

    def finish(self, state: Any, leaf: Leaf) -> Array:
        merged = super().finish(state, leaf)
        alone, owner, active = state["count"] == 1, state["owner"], state["active"]
        experts = jnp.arange(active.size, dtype=jnp.int32)
        unique = jax.lax.map(
            lambda t: _how_many(alone & (owner == t), merged.dtype), experts
        )
        ratio = (active - unique) / jnp.maximum(unique, 1.0)
        limit = jnp.asarray(self.limit).astype(merged.dtype)
        r = jnp.asarray(self.r).astype(merged.dtype)
        factors = 1.0 + r * jnp.clip(ratio, 0.0, limit)

        # One expert at a time: a table lookup is ambiguous for sharded tensors.
        def own(factor: Array, t: Array) -> tuple[Array, None]:
            return jnp.where(alone & (owner == t), factors[t], factor), None

        factor, _ = jax.lax.scan(own, jnp.ones_like(merged), experts)
        return product(factor, merged)
