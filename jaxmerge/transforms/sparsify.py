"""Transforms that keep some entries of a delta: the largest, or random ones.

Each may make up for what it drops. `rescale` says how: `"density"` divides by the
density (or by a divisor of its own), `"l1"` and `"l2"` restore the norm. A density of 1
or more leaves the delta untouched, whatever the rescaling.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxmerge import _random, ranks
from jaxmerge._checks import is_concrete
from jaxmerge._limbs import split
from jaxmerge._types import Coef, Leaf, coefficient, pytree, static
from jaxmerge.transforms._domains import check_each
from jaxmerge.transforms.rescale import match_norm

# Below this l1 norm mergekit does not rescale.
_L1_FLOOR = 1e-7


def check_density(value: Coef, name: str) -> None:
    """Refuses a density outside (0, 1], entry by entry; traced entries pass.

    Args:
      value: a density in any form that a coefficient may have.
      name: what it is called, for the error.

    Raises:
      ValueError: naming the entry.

    Example:
      >>> check_density({"mlp": 0.2, "attention": [0.5, 1.0]}, "density")
    """
    check_each(
        value, name, lambda v: (v > 0) & (v <= 1), "a number above 0 and at most 1"
    )


def _count(density: Coef, size: int, at_least: int) -> Any:
    """`ranks.count`, but never fewer than `at_least` of a tensor that has so many."""
    kept = ranks.count(density, size)
    least = min(at_least, size)
    if isinstance(kept, tuple):
        low, high = (jnp.asarray(limb) for limb in kept)
        return jnp.where(high == 0, low.clip(min=least), low), high
    return kept.clip(min=least)


def _bound_count(density: Coef, size: int, at_least: int) -> Any:
    """The count of a concrete density, or None where `__call__` has to take it."""
    # Beyond 31 bits a count is a pair of limbs, which is no coefficient.
    if density is None or size >= 2**31:
        return None
    return _count(density, size, at_least)


def _drop(
    delta: Array, kept: Array, density: Array, rescale: str, divisor: Coef
) -> Array:
    """The kept entries, rescaled; all entries as they are if the density is 1."""
    y = jnp.where(kept, delta, 0.0)
    if rescale == "density":
        by = density if divisor is None else jnp.asarray(divisor).astype(delta.dtype)
        # A division by what is seen to be one number is compiled to a product with its
        # reciprocal, which rounds otherwise than the codes that divide.
        y = y / jnp.where(kept & (by != 0), by, 1.0)
    elif rescale == "l1":
        y = match_norm(y, delta, "l1", floor=_L1_FLOOR)
    elif rescale == "l2":
        y = match_norm(y, delta, "l2")
    elif rescale != "none":
        raise ValueError(
            f'rescale is {rescale!r}; expected "none", "density", "l1" or "l2"'
        )
    return jnp.where(density >= 1, delta, y)


@pytree
class KeepLargest:
    r"""Keeps the entries of largest magnitude.

        y_i = x_i / divisor   if |x_i| is among the floor(density n) largest, else 0

    Attributes:
      density: the share that is kept, in (0, 1]. The mask has no gradient, so neither
        has the density except through the division by it.
      divisor: what the rest is divided by under `rescale="density"`; the density if
        None.
      count: how many entries are kept; set by `bind`, from a density in float64.
      rescale: `"none"` (TIES); `"density"` (RHT divides by the density itself, not by
        count / n); `"l1"`, as mergekit's, which leaves deltas of norm below 1e-7 as
        they are; `"l2"`.
      scope: `"leaf"`, or `"tree"`: the largest of the whole model, by a threshold that
        a survey of all leaves finds. In float64, `"tree"` ranks magnitudes rounded to
        float32.
      ties: `"first"` keeps exactly `count` entries, of equal magnitudes those of lowest
        flat index; `"all"` keeps all that are as large as the last. `"tree"` always
        keeps all.
      at_least: how many entries are kept whatever the density; mergekit keeps 1, so
        that no tensor, however small, loses its whole delta.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmerge._types import Leaf
      >>> KeepLargest(0.5)(jnp.array([1.0, -4.0, 3.0, 0.5]), Leaf())
      Array([ 0., -4.,  3.,  0.], dtype=float32)

    References:
      Yadav et al., TIES-Merging: Resolving Interference When Merging Models, 2023,
      section 4.1.
    """

    density: Coef = coefficient(default=1.0)
    divisor: Coef = coefficient(default=None)
    count: Coef = coefficient(default=None)
    rescale: str = static(default="none")
    scope: str = static(default="leaf")
    ties: str = static(default="first")
    at_least: int = static(default=0)

    def bind(self, size: int) -> "KeepLargest":
        if self.scope == "tree":
            return self
        count = _bound_count(self.density, size, self.at_least)
        return dataclasses.replace(self, count=count)

    def __call__(self, delta: Array, leaf: Leaf) -> Array:
        density = jnp.asarray(self.density).astype(delta.dtype)
        kept = self._keep(delta, leaf)
        return _drop(delta, kept, density, self.rescale, self.divisor)

    @property
    def elementwise(self) -> bool:
        return self.rescale in ("none", "density")

    @property
    def cuts_leaf(self) -> bool:
        return self.scope == "leaf"

    def kept(self, size: int) -> Any:
        """How many of so many entries are kept, as `ranks.count` gives it."""
        if self.count is not None:
            return self.count
        return _count(self.density, size, self.at_least)

    def _keep(self, delta: Array, leaf: Leaf) -> Bool[Array, "..."]:
        if self.scope == "leaf" and leaf.stats is not None:
            return leaf.stats.mask(delta)
        if self.scope == "leaf":
            return ranks.largest_mask(delta, self.kept(delta.size), ties=self.ties)
        if self.scope != "tree":
            raise ValueError(f'scope is {self.scope!r}; expected "leaf" or "tree"')
        if leaf.stats is None:
            raise ValueError(
                'KeepLargest(scope="tree") needs the threshold of the whole model in '
                "leaf.stats; run it in a Merger, which surveys the model first"
            )
        return _single_bits(delta) >= leaf.stats

    # --- the survey of a whole model: two histograms of each leaf, then the threshold

    @property
    def survey_rounds(self) -> int:
        return 2 if self.scope == "tree" else 0

    def measure(self, delta: Array, found: Any) -> Any:
        single = delta.astype(jnp.float32)
        if found is None:
            counts = ranks.high_histogram(single)
        else:
            counts = ranks.low_histogram(single, found[0])
        return counts, jnp.zeros_like(counts)

    def join(self, a: Any, b: Any) -> Any:
        return ranks.add_counts(a, b)

    def conclude(self, total: Any, size: int, found: Any) -> Any:
        if is_concrete(total[0]) and is_concrete(self.density):  # no compilation
            low, high = (np.asarray(limb, np.int64) for limb in total)
            total = low + (high << 32)
        rank = found[1] if found is not None else self.kept(size)
        if isinstance(total, np.ndarray):
            rank = rank if np.ndim(rank) == 0 else int(rank[0]) + (int(rank[1]) << 32)
        bin_, rank = ranks.locate(total, rank)
        if found is None:
            return jnp.asarray(bin_, jnp.int32), split(rank)
        return (found[0].astype(jnp.uint32) << np.uint32(16)) | jnp.asarray(
            bin_, jnp.uint32
        )


def _single_bits(delta: Float[Array, "..."]) -> Array:
    return ranks.magnitude_bits(lax.stop_gradient(delta).astype(jnp.float32))


@pytree
class DropRandom:
    r"""Keeps each entry with a probability, independently: DARE.

        y_i = m_i x_i / divisor,    m_i ~ Bernoulli(density)

    Attributes:
      density: the probability of being kept, in (0, 1]. It has no gradient except
        through the division by it.
      divisor: what the rest is divided by under `rescale="density"`; the density if
        None.
      rescale: `"density"`, DARE's; `"l1"`, mergekit's, which leaves deltas of norm
        below 1e-7 as they are; `"l2"`; or `"none"`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxmerge._types import Leaf
      >>> dare = DropRandom(0.5, rescale="density")
      >>> dare(jnp.ones(8), Leaf(key=jax.random.key(0))).tolist()
      [0.0, 0.0, 2.0, 2.0, 0.0, 2.0, 2.0, 0.0]

    References:
      Yu et al., Language Models are Super Mario: Absorbing Abilities from Homologous
      Models as a Free Lunch, 2024, equation 2.
    """

    density: Coef = coefficient(default=1.0)
    divisor: Coef = coefficient(default=None)
    rescale: str = static(default="none")
    random = True

    @property
    def elementwise(self) -> bool:
        return self.rescale in ("none", "density")

    def __call__(self, delta: Array, leaf: Leaf) -> Array:
        if leaf.key is None:
            raise ValueError(
                "DropRandom draws a random mask and was given no key; "
                "call the merge with key=jax.random.key(seed)"
            )
        density = jnp.asarray(self.density).astype(delta.dtype)
        offset = 0 if leaf.offset is None else leaf.offset
        kept = _random.bernoulli(leaf.key, density, delta.shape, offset=offset)
        return _drop(delta, kept, density, self.rescale, self.divisor)
