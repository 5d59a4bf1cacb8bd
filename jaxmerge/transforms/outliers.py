"""Model Breadcrumbs: of each tensor neither the largest entries nor the smallest.

Both cuts are exact and by counting, as in `jaxmerge.ranks`, so tensors on disk come in
pieces. There is one transform for each cut; `breadcrumbs` chains the two.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from jaxmerge import _limbs, ranks
from jaxmerge._types import Coef, Leaf, coefficient, pytree, static
from jaxmerge.transforms.rescale import match_norm

# Below this l1 norm mergekit does not rescale.
_L1_FLOOR = 1e-7


def _outliers(density: Coef, gamma: Coef, size: int) -> tuple[Any, Any]:
    """How many entries are left, and how many above them are outliers."""
    left, outliers = ranks.count(density, size), ranks.count(gamma, size)
    if not isinstance(left, tuple):
        traced = isinstance(left, Tracer) or isinstance(outliers, Tracer)
        minimum = jnp.minimum if traced else np.minimum
        return left, minimum(outliers, np.int32(size) - left)
    left, outliers = _limbs.split(left), _limbs.split(outliers)
    room = _limbs.subtract(_limbs.split(size), left)
    return left, _limbs.where(_limbs.at_least(outliers, room), room, outliers)


@pytree
class DropExtreme:
    r"""Drops one end of the magnitudes: the outliers, or the smallest.

    With `left = floor(density n)` and `out = min(floor(gamma n), n - left)`:

        "smallest":  y_i = x_i if |x_i| is among the left + out largest, else 0
        "largest":   y_i = 0   if |x_i| is among the out largest,        else x_i

    One after the other they leave `left` entries. Of equal magnitudes those of lowest
    flat index count as the larger.

    Attributes:
      density: the share of entries that both leave, in [0, 1]. A delta whose density is
        1 stays as it is, outliers too, as in mergekit. The mask has no gradient.
      gamma: the share of outliers, in [0, 1). With 0, or in a tensor of fewer than
        `1 / gamma` entries, there are none, and the largest entries stay. (Old versions
        of mergekit made the whole delta of such a tensor zero.)
      count: how many entries are on the larger side of the cut; set by `bind`.
      drops: `"largest"` or `"smallest"`.
      rescale: `"none"`, or `"l1"`, which restores the l1 norm.
    """

    density: Coef = coefficient(default=1.0)
    gamma: Coef = coefficient(default=0.0)
    count: Coef = coefficient(default=None)
    drops: str = static(default="largest")
    rescale: str = static(default="none")
    ties = "first"
    cuts_leaf = True

    @property
    def elementwise(self) -> bool:
        return self.rescale == "none"

    def bind(self, size: int) -> "DropExtreme":
        # Beyond 31 bits a count is a pair of limbs, which is no coefficient.
        if size >= 2**31:
            return self
        return dataclasses.replace(self, count=self.kept(size))

    def kept(self, size: int) -> Any:
        """How many entries are on the larger side, as `ranks.count` gives it."""
        if self.count is not None:
            return self.count
        left, outliers = _outliers(self.density, self.gamma, size)
        if self.drops == "largest":
            return outliers
        if isinstance(left, tuple):
            return _limbs.add(left, outliers)
        return left + outliers

    def __call__(self, delta: Array, leaf: Leaf) -> Array:
        cut = leaf.stats
        if cut is None:
            cut = ranks.largest_cut(delta, self.kept(delta.size))
        larger = cut.mask(delta)
        kept = larger if self.drops == "smallest" else ~larger
        y = match_norm(
            jnp.where(kept, delta, 0.0), delta, self.rescale, floor=_L1_FLOOR
        )
        return jnp.where(jnp.asarray(self.density) >= 1, delta, y)


def breadcrumbs(
    density: Coef, gamma: Coef, *, rescale: str = "none"
) -> tuple[DropExtreme, DropExtreme]:
    """The two cuts of Model Breadcrumbs, to be applied in their order.

    Args:
      density: the share of entries that are left, in [0, 1].
      gamma: the share of outliers that are dropped, in [0, 1).
      rescale: `"none"`, or `"l1"`, which restores each tensor's l1 norm.

    Returns:
      A pair of transforms.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmerge._types import Leaf
      >>> x = jnp.array([9.0, -3.0, 2.0, 0.1])
      >>> for transform in breadcrumbs(density=0.5, gamma=0.25):
      ...     x = transform(x, Leaf())
      >>> x.tolist()
      [0.0, -3.0, 2.0, 0.0]

    References:
      Davari and Belilovsky, Model Breadcrumbs: Scaling Multi-Task Model Merging with
      Sparse Masks, 2023.
    """
    return (
        DropExtreme(density, gamma, drops="smallest", rescale=rescale),
        DropExtreme(density, gamma, drops="largest", rescale=rescale),
    )
