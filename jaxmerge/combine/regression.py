"""Regression of all experts' outputs on their inputs: means by Gram matrices."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from jaxmerge._arithmetic import accumulate, product, safe_divide
from jaxmerge._parts import Parts
from jaxmerge._types import Coef, Leaf, MatrixSpec, coefficient, pytree, static
from jaxmerge.combine.ace import divide_by_spd
from jaxmerge.combine.decompositions import matmul, whole
from jaxmerge.combine.interference import filters


def divide_by_gram(numerator: Array, gram: Array) -> Array:
    """`numerator @ inv(gram)`, where an input that was never seen gives zero.

    The Gram matrix is brought to a diagonal of ones first: some inputs of a language
    model are a thousand times larger than others.

    Args:
      numerator: `[out, in]`, zero in the columns of inputs that were never seen.
      gram: `[in, in]`, positive definite but for rows and columns of zeros.
    """
    diagonal = jnp.diagonal(gram)
    seen = diagonal > 0
    scale = 1 / jnp.sqrt(jnp.where(seen, diagonal, 1.0))
    unit = gram * scale[:, None] * scale[None, :]
    unit = unit + jnp.diag(jnp.where(seen, 0.0, 1.0).astype(gram.dtype))
    return divide_by_spd(numerator * scale, unit) * scale


def divide_by_pseudo_inverse(numerator: Array, gram: Array) -> Array:
    """`numerator @ pinv(gram)`; eigenvalues below `eps * in` of the largest are 0."""
    one = jnp.ones((), gram.dtype)
    return matmul(numerator, filters(gram, one, "all", 1.0)[1])


@pytree
class GramMean:
    r"""RegMean: the delta whose outputs on all experts' inputs are closest to theirs.

        delta = (sum_t w_t d_t G_t) inv(sum_t w_t G_t)

    the minimiser of `sum_t w_t |X_t (m - d_t)^T|^2` with `G_t = X_t^T X_t`, whose
    off-diagonal entries are scaled first. Of experts with one base it is the same on
    deltas as on weights, where the inverse exists; where it does not, inputs that were
    never seen keep the base's weights. Leaves without a Gram matrix get the weighted
    mean.

    Attributes:
      off_diagonal: what multiplies off-diagonal entries, in [0, 1].
      solver: `"cholesky"`, for `off_diagonal` below 1; `"pinv"` for any.
      vectors: whether a vector's statistic is used, the diagonal of the Gram matrix of
        what it multiplies (LOT); else vectors get the mean.

    References:
      Jin et al., Dataless Knowledge Fusion by Merging Weights of Language Models, 2023,
      eq. 2 and section 3.3.
    """

    off_diagonal: Coef = coefficient(default=0.9)
    solver: str = static(default="cholesky")
    vectors: bool = static(default=False)
    frame: str = static(default="delta")
    normalize = True
    uses_shape = True
    needs = "gram"

    def side_shape(
        self, shape: tuple[int, ...], matrix: MatrixSpec | Parts | None
    ) -> tuple[int, ...] | None:
        """`[in, in]` for each matrix; a vector's own shape, where vectors have some."""
        return gram_side_shape(shape, matrix, vectors=self.vectors)

    def lift(self, delta: Array, weight: Array, leaf: Leaf) -> Any:
        if leaf.side is None:
            return product(weight, delta), weight
        if leaf.matrix is None:
            share = product(weight, leaf.side)
            return product(share, delta), share
        gram = product(weight, self._scaled(whole(leaf.side)))
        return matmul(whole(delta), gram), gram

    def _scaled(self, gram: Array) -> Array:
        factor = jnp.asarray(self.off_diagonal).astype(gram.dtype)
        eye = jnp.eye(gram.shape[-1], dtype=gram.dtype)
        return gram * (factor + (1 - factor) * eye)

    def join(self, a: Any, b: Any) -> Any:
        return accumulate(a, b)

    def finish(self, state: Any, leaf: Leaf) -> Array:
        total, share = state
        if leaf.matrix is None or share.ndim < 2:
            return safe_divide(total, jnp.broadcast_to(share, total.shape))
        cholesky = self.solver == "cholesky"
        solve = divide_by_gram if cholesky else divide_by_pseudo_inverse
        return solve(total, share)


def gram_shape(shape: tuple[int, ...], matrix: MatrixSpec | Parts) -> tuple[int, ...]:
    """The shape of the Gram matrices of a leaf's inputs: `[*batch, in, in]`."""
    parts = matrix if isinstance(matrix, Parts) else Parts(matrix, shape)
    size = parts.matrix_shape[1]
    return (*parts.batch_shape, size, size)


def gram_side_shape(
    shape: tuple[int, ...], matrix: MatrixSpec | Parts | None, *, vectors: bool
) -> tuple[int, ...] | None:
    """What a leaf's Gram statistic has to look like; None where it has none.

    Args:
      shape: of the leaf.
      matrix: how it is a matrix; None if it is none.
      vectors: whether vectors have one, the diagonal, of their own shape.
    """
    if matrix is None:
        return shape if vectors and len(shape) == 1 else None
    return gram_shape(shape, matrix)
