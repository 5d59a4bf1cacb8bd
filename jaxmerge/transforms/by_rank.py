"""DELLA's MagPrune: entries are kept at random, large ones with more probability."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxmerge import _random
from jaxmerge._arithmetic import product
from jaxmerge._checks import is_concrete
from jaxmerge._search import magnitude_bits
from jaxmerge._types import Coef, Leaf, coefficient, pytree, static
from jaxmerge.transforms.rescale import match_norm

# Below this l1 norm mergekit does not rescale.
_L1_FLOOR = 1e-7


def row_ranks(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The rank of each magnitude in its row (the last axis), from 0 to 1.

    The smallest has 0 and the largest 1; equal magnitudes share the lowest of their
    ranks. The only entry of a row has 1/2. It sorts every row, by bits, which costs
    more than any other transform.

    Example:
      >>> row_ranks(jnp.array([[3.0, -1.0, 2.0], [0.0, 0.0, 5.0]])).tolist()
      [[1.0, 0.0, 0.5], [0.0, 0.0, 1.0]]
    """
    length = x.shape[-1] if x.ndim else 1
    if length == 1:
        return jnp.full_like(x, 0.5)
    bits = magnitude_bits(lax.stop_gradient(x))
    whole = jax.typeof(x).sharding.mesh.empty
    rank = (_ranks_by_search if whole else _ranks_by_sorts)(bits)
    return rank.astype(x.dtype) / (length - 1)


def _ranks_by_search(bits: Array) -> Array:
    """How many of its row are smaller, by bisection of the sorted row."""
    rows = bits.reshape(-1, bits.shape[-1])
    count = lambda row: jnp.searchsorted(jnp.sort(row), row, side="left")
    return jax.vmap(count)(rows).reshape(bits.shape)


def _ranks_by_sorts(bits: Array) -> Array:
    """The same without looking anything up, for tensors that may be sharded."""
    axis = bits.ndim - 1
    place = lax.broadcasted_iota(jnp.int32, bits.shape, axis)
    ordered, origin = lax.sort((bits, place), dimension=axis, num_keys=1)
    first = jnp.concatenate(
        [
            jnp.zeros_like(place[..., :1]),
            jnp.where(
                ordered[..., 1:] == ordered[..., :-1], jnp.int32(0), place[..., 1:]
            ),
        ],
        axis=axis,
    )
    lowest = lax.cummax(first, axis=axis)
    _, rank = lax.sort((origin, lowest), dimension=axis, num_keys=1)
    return rank


def check_window(density: Any, epsilon: Any) -> None:
    """Refuses probabilities outside (0, 1), where they are concrete; 1 may drop none.

    Raises:
      ValueError: naming the density and epsilon.

    Example:
      >>> check_window(0.5, 0.1)
    """
    if not (is_concrete(density) and is_concrete(epsilon)):
        return
    density = np.asarray(density, np.float64)
    epsilon = np.asarray(epsilon, np.float64)
    inside = (density - epsilon > 0) & (density + epsilon < 1) & (epsilon >= 0)
    if not np.all(inside | (density >= 1)):
        raise ValueError(
            f"density is {density.tolist()} and epsilon {epsilon.tolist()}: entries "
            "are kept with probabilities from density - epsilon to density + epsilon, "
            "which have to be above 0 and below 1; make epsilon smaller"
        )


@pytree
class DropByRank:
    r"""Keeps each entry with a probability that grows with its rank in its row: DELLA.

        p_i = density - epsilon + 2 epsilon * rank_i,    rank_i in [0, 1]
        y_i = m_i x_i / p_i,    m_i ~ Bernoulli(p_i)

    A row is the last axis; a vector is one row. Over a row without equal magnitudes the
    mean of p is the density.

    Attributes:
      density: the mean probability of being kept; 1 or more keeps all.
      epsilon: how far the probabilities are from it at the ends, with `density ±
        epsilon` inside (0, 1).
      rescale: `"probability"` divides by p_i, so that the expectation is the delta;
        `"l1"`, mergekit's, restores the tensor's l1 norm and leaves deltas of norm
        below 1e-7 as they are; or `"none"`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxmerge._types import Leaf
      >>> drop = DropByRank(0.5, 0.3, rescale="none")
      >>> drop(jnp.arange(1.0, 7.0), Leaf(key=jax.random.key(3))).tolist()
      [1.0, 0.0, 0.0, 0.0, 5.0, 6.0]

    References:
      Deep, Bhardwaj and Poria, DELLA-Merging: Reducing Interference in Model Merging
      through Magnitude-Based Sampling, 2024; the probabilities are those of the
      authors' code.
    """

    density: Coef = coefficient(default=1.0)
    epsilon: Coef = coefficient(default=0.0)
    rescale: str = static(default="probability")
    random = True
    uses_shape = True

    def bind(self, size: int) -> "DropByRank":
        del size
        check_window(self.density, self.epsilon)
        return self

    def __call__(self, delta: Array, leaf: Leaf) -> Array:
        if leaf.key is None:
            raise ValueError(
                "DropByRank draws a random mask and was given no key; "
                "call the merge with key=jax.random.key(seed)"
            )
        density = jnp.asarray(self.density).astype(delta.dtype)
        epsilon = jnp.asarray(self.epsilon).astype(delta.dtype)
        spread = product(2.0 * epsilon, row_ranks(delta))
        probability = jnp.clip(density - epsilon + spread, 0.0, 1.0)
        kept = _random.bernoulli(leaf.key, probability, delta.shape)
        y = jnp.where(kept, delta, 0.0)
        if self.rescale == "probability":
            y = y / jnp.where(kept & (probability > 0), probability, 1.0)
        elif self.rescale == "l1":
            y = match_norm(y, delta, "l1", floor=_L1_FLOOR)
        elif self.rescale != "none":
            raise ValueError(
                f'rescale is {self.rescale!r}; expected "probability", "l1" or "none"'
            )
        return jnp.where(density >= 1, delta, y)
