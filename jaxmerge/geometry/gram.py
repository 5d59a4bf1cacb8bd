"""The Gram matrix of vectors the size of models, and what is read off it.

For T vectors of a billion entries, hulls, zonotopes and spans have a geometry of T
dimensions: their Gram matrix. It is a sum over leaves and pieces, each a product of
matrices in float32; the sums over pieces are compensated, so that the result is as
exact as one product however many pieces there are.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from jaxmerge._types import pytree
from jaxmerge.geometry.convex import Data

_COLUMNS = 1 << 22


@pytree
class GramSum:
    """A sum of Gram matrices, with what rounding left out of it.

    Attributes:
      total: `(T, T)`.
      lost: to be added to it.
    """

    total: Data
    lost: Data

    @classmethod
    def zero(cls, num: int, dtype: Any = jnp.float32) -> "GramSum":
        """The empty sum for `num` vectors."""
        zeros = jnp.zeros((num, num), dtype)
        return cls(zeros, zeros)

    def add(self, rows: Float[Array, "T n"]) -> "GramSum":
        """The sum with `rows rows^T` added, by Neumaier's compensated addition.

        Args:
          rows: some coordinates of all vectors, in any float dtype.
        """
        rows = rows.astype(self.total.dtype)
        part = jnp.matmul(rows, rows.T, precision=lax.Precision.HIGHEST)
        # The barrier keeps compilers from simplifying the rounding error to zero.
        total = lax.optimization_barrier(self.total + part)
        larger = jnp.abs(self.total) >= jnp.abs(part)
        lost = jnp.where(
            larger, (self.total - total) + part, (part - total) + self.total
        )
        return GramSum(total, self.lost + lost)

    @property
    def value(self) -> Float[Array, "T T"]:
        """The Gram matrix."""
        return self.total + self.lost


def _leaf_rows(leaves: Sequence[Any], base: Any, dtype: Any) -> Array:
    rows = jnp.stack([jnp.ravel(leaf).astype(dtype) for leaf in leaves])
    return rows if base is None else rows - jnp.ravel(base).astype(dtype)


def gram(vectors: Sequence[PyTree], base: PyTree = None) -> Float[Array, "T T"]:
    r"""The Gram matrix of models, or of their differences from a base.

        K_st = <x_s - base, x_t - base>

    Args:
      vectors: T trees of one structure, of floats.
      base: a tree of that structure, or None for the vectors themselves.

    Returns:
      In float32, or float64 if a leaf is.

    Raises:
      ValueError: with no vectors, or if a leaf's shapes differ.

    Example:
      >>> import jax.numpy as jnp
      >>> gram([{"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([0.0, 1.0])}]).tolist()
      [[5.0, 2.0], [2.0, 1.0]]
    """
    if not vectors:
        raise ValueError("no vectors were given; a Gram matrix needs at least one")
    trees = [jax.tree_util.tree_flatten_with_path(tree)[0] for tree in vectors]
    starts = [None] * len(trees[0]) if base is None else jax.tree.leaves(base)
    dtypes = [jnp.asarray(x).dtype for tree in trees for _, x in tree]
    dtype = jnp.float64 if jnp.float64 in dtypes else jnp.float32
    total = GramSum.zero(len(vectors), dtype)
    for start, *leaves in zip(starts, *trees, strict=True):
        path = jax.tree_util.keystr(leaves[0][0])
        shapes = {jnp.shape(leaf) for _, leaf in leaves}
        if start is not None:
            shapes.add(jnp.shape(start))
        if len(shapes) > 1:
            raise ValueError(f"{path} has shapes {sorted(shapes)}; expected one shape")
        rows = _leaf_rows([leaf for _, leaf in leaves], start, dtype)
        for at in range(0, rows.shape[1], _COLUMNS):
            total = total.add(rows[:, at : at + _COLUMNS])
    return total.value


def cosines(gram: Float[Array, "T T"]) -> Float[Array, "T T"]:
    """The cosines between vectors; 0 with a vector of zeros, 1 with itself.

    Args:
      gram: their Gram matrix.

    Example:
      >>> import jax.numpy as jnp
      >>> cosines(jnp.array([[4.0, 2.0], [2.0, 4.0]])).tolist()
      [[1.0, 0.5], [0.5, 1.0]]
    """
    norms = jnp.sqrt(jnp.maximum(jnp.diagonal(gram), 0.0))
    products = norms[:, None] * norms[None, :]
    ratio = jnp.where(products > 0, gram / jnp.where(products > 0, products, 1.0), 0.0)
    return jnp.where(jnp.eye(len(norms), dtype=bool), 1.0, jnp.clip(ratio, -1.0, 1.0))


@pytree
class EffectiveRanks:
    """How many directions vectors fill, by several counts.

    With s the singular values of the vectors (the roots of the Gram's eigenvalues):

    Attributes:
      rank: how many s^2 are above `T eps` of the largest.
      participation: (sum s^2)^2 / sum s^4.
      entropy: exp of the entropy of s^2 / sum s^2.
      stable: sum s^2 / max s^2.
    """

    rank: Data
    participation: Data
    entropy: Data
    stable: Data


def effective_ranks(gram: Float[Array, "T T"]) -> EffectiveRanks:
    """Effective ranks of vectors from their Gram matrix; all zero for zero vectors.

    Example:
      >>> import jax.numpy as jnp
      >>> ranks = effective_ranks(jnp.diag(jnp.array([2.0, 2.0, 0.0])))
      >>> [round(float(r), 3) for r in (ranks.rank, ranks.participation, ranks.entropy)]
      [2.0, 2.0, 2.0]
    """
    values = jnp.maximum(jnp.linalg.eigvalsh(gram), 0.0)
    total, largest = jnp.sum(values), values[-1]
    some = total > 0
    share = values / jnp.where(some, total, 1.0)
    safe = jnp.where(share > 0, share, 1.0)
    least = gram.shape[0] * float(jnp.finfo(gram.dtype).eps) * largest
    squares = jnp.sum(share * share)
    zero = jnp.zeros_like(total)
    return EffectiveRanks(
        rank=jnp.sum(values > least),
        participation=jnp.where(some, 1 / jnp.where(some, squares, 1.0), zero),
        entropy=jnp.where(some, jnp.exp(-jnp.sum(share * jnp.log(safe))), zero),
        stable=jnp.where(some, total / jnp.where(some, largest, 1.0), zero),
    )
