"""SCE: select entries by variance, weight experts by energy, erase minorities."""

from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxmerge import ranks
from jaxmerge._arithmetic import accumulate, product, safe_divide
from jaxmerge._types import Coef, Leaf, coefficient, pytree, static

# mergekit's floors: below this energy all experts count alike; the least divisor.
_FLOOR = 1e-6


@pytree
class VaryingEntries:
    r"""The entries in which experts differ most: the first pass of SCE.

        v_i = variance over t of d_ti;    the floor(share * #{i : v_i != 0}) largest

    The state is a number, a mean and a sum of squares about it, joined by Chan's
    formula, in which equal experts have a variance of exactly zero. If no entry varies
    (experts that are all equal) there is nothing to rank and all entries are selected.

    Attributes:
      share: of the entries that vary at all, in [0, 1]; 1 selects every entry. The
        product is taken in float32, as mergekit does.
      compat: `"paper"`, or `"mergekit"`, which selects nothing if no entry varies.
    """

    share: Coef = coefficient(default=1.0)
    compat: str = static(default="paper")
    frame: str = static(default="delta")

    def lift(self, delta: Array, weight: Array, leaf: Leaf) -> Any:
        del leaf
        return jnp.ones_like(weight), delta, jnp.zeros_like(delta)

    def join(self, a: Any, b: Any) -> Any:
        (na, mean_a, rest_a), (nb, mean_b, rest_b) = a, b
        num, apart = na + nb, mean_b - mean_a
        mean = mean_a + product(nb / num, apart)
        rest = product(na * (nb / num), apart * apart)
        return num, mean, rest_a + rest_b + rest

    def finish(self, state: Any, leaf: Leaf) -> Array:
        del leaf
        num, _, rest = state
        variance = lax.stop_gradient(rest / num)
        varying = jnp.sum(variance != 0, dtype=jnp.uint32)
        share = jnp.asarray(self.share).astype(variance.dtype)
        kept = jnp.floor(share * varying.astype(variance.dtype)).astype(jnp.uint32)
        selected = ranks.largest_mask(variance, kept)
        every = share >= 1
        if self.compat != "mergekit":
            every = every | (varying == 0)
        return selected | every


@pytree
class EnergyWeightedElection:
    r"""The second pass of SCE: an election of signs, weighted by each expert's energy.

    With the entries S that the first pass selected (all, if there was none),
    `x_t = d_t` in S and 0 elsewhere, and `q_t = mean_i x_ti^2`:

        delta_i = sum_{t in A_i} q_t x_ti / sum_{t in A_i} q_t

    where A_i are the experts whose x_ti has the sign of `sum_t x_ti` (plus, if that is
    zero). The state does not grow with the experts.

    Attributes:
      compat: `"paper"`, or `"mergekit"`: where the energies add up to less than 1e-6,
        which usual fine-tunings do, all experts count alike; and the sum of the shares
        that is divided by is at least 1e-6.
    """

    compat: str = static(default="paper")
    frame: str = static(default="delta")

    def lift(self, delta: Array, weight: Array, leaf: Leaf) -> Any:
        del weight
        if leaf.stats is not None:
            delta = jnp.where(leaf.stats, delta, 0.0)
        energy = jnp.mean(delta * delta)
        one = jnp.ones_like(energy)
        state = {"energy": energy, "vote": delta, "weighted": _sides(delta, energy)}
        if self.compat == "mergekit":
            state["alike"] = _sides(delta, one)
        return state

    def join(self, a: Any, b: Any) -> Any:
        return accumulate(a, b)

    def finish(self, state: Any, leaf: Leaf) -> Array:
        del leaf
        up = state["vote"] >= 0
        value, share = (jnp.where(up, *side) for side in state["weighted"])
        if self.compat != "mergekit":
            return safe_divide(value, share)
        energy = state["energy"]
        few = jnp.abs(energy) < _FLOOR
        whole = jnp.where(few, jnp.ones_like(energy), energy)
        merged = (value / whole) / jnp.maximum(share / whole, _FLOOR)
        alike, count = (jnp.where(up, *side) for side in state["alike"])
        return jnp.where(few, alike / jnp.maximum(count, 1.0), merged)


def _sides(x: Array, weight: Array) -> Any:
    """`weight * x` and the weight, where x is positive and where it is negative."""
    value = product(weight, x)
    return tuple(
        (jnp.where(x > 0, y, 0.0), jnp.where(x < 0, y, 0.0)) for y in (value, weight)
    )
