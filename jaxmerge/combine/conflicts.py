"""CAT: what of each task would disturb the others more than it serves itself."""

import functools
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from jaxmerge._arithmetic import accumulate, product
from jaxmerge._parts import Parts
from jaxmerge._types import Coef, Leaf, MatrixSpec, coefficient, pytree, static
from jaxmerge.combine.decompositions import matmul, polar, thin_svd, whole
from jaxmerge.combine.regression import gram_side_shape
from jaxmerge.combine.spectral import side_by_side
from jaxmerge.combine.sphere import into_slot


@pytree
class ConflictTrimmed:
    r"""CAT: the sum of the deltas, each without the outputs where it disturbs others.

        M_k = sum_{i != k} d_i (G_k - trade_off G_i) d_i^T
        B_k = the leading eigenvectors of M_k, at most `directions`, of eigenvalue > 0
        delta = sum_i (I - P_i) d_i,    P_i onto the span of all B_k with k != i

    with `G_t` the Gram matrix of the inputs of the layer on task t. Of a gain (a vector
    with the mean squares g_t of what it multiplies) M_k and P_i are diagonal: it loses
    entries. Leaves without a statistic are summed. The state has a slot for each
    expert.

    The paper projects with one B_k after the other, in an order that it does not give;
    projecting onto what is outside of all of them is where repeating that ends, and
    depends on no order: a reconstruction. The authors' code is said to project in the
    order of the experts and to restore each norm; it also masks biases.

    Attributes:
      directions: c, the most directions that one task takes from the others.
      trade_off: lambda, at least 0: how much what a delta does for its own task counts.

    References:
      Sun et al., CAT Merging: A Training-Free Approach for Resolving Conflicts in Model
      Merging, 2025, section 4.
    """

    directions: int = static()
    trade_off: Coef = coefficient()
    frame: str = static(default="delta")
    uses_shape = True
    holds_all = True
    needs = "gram"

    def side_shape(
        self, shape: tuple[int, ...], matrix: MatrixSpec | Parts | None
    ) -> tuple[int, ...] | None:
        """`[in, in]` for each matrix; a vector's own shape."""
        return gram_side_shape(shape, matrix, vectors=True)

    def lift(self, delta: Array, weight: Array, leaf: Leaf) -> Any:
        delta = product(weight, delta)
        if leaf.side is None:
            return delta
        if leaf.matrix is None:
            return {"delta": into_slot(delta, leaf), "side": into_slot(leaf.side, leaf)}
        delta, gram = whole(delta), whole(leaf.side)
        return {"delta": into_slot(delta, leaf), "side": into_slot(gram, leaf)}

    def join(self, a: Any, b: Any) -> Any:
        return accumulate(a, b)

    def finish(self, state: Any, leaf: Leaf) -> Array:
        if not isinstance(state, dict):
            return state
        deltas, sides = list(state["delta"]), list(state["side"])
        trade_off = jnp.asarray(self.trade_off).astype(deltas[0].dtype)
        if leaf.matrix is None:
            return self._gains(deltas, sides, trade_off)
        own = [trade_off * _moved(d, g) for d, g in zip(deltas, sides, strict=True)]
        bases = []
        for k, gram in enumerate(sides):
            others = [i for i in range(len(deltas)) if i != k]
            if others:
                parts = [_moved(deltas[i], gram) - own[i] for i in others]
                bases.append(self._basis(functools.reduce(jnp.add, parts)))
        kept = []
        for i, delta in enumerate(deltas):
            others = [basis for k, basis in enumerate(bases) if k != i]
            if others:
                span = polar(side_by_side(jnp.stack(others)))
                delta = delta - matmul(span, matmul(span.T, delta))
            kept.append(delta)
        return functools.reduce(jnp.add, kept)

    def _basis(self, conflict: Array) -> Array:
        """Leading eigenvectors of positive eigenvalue; zeros where there are fewer."""
        # Shifted, the matrix is positive, and its SVD has finite derivatives.
        size = conflict.shape[0]
        shift = jnp.sqrt(jnp.sum(conflict * conflict) + jnp.finfo(conflict.dtype).tiny)
        eye = jnp.eye(size, dtype=conflict.dtype)
        vectors, values, _ = thin_svd((conflict + conflict.T) / 2 + shift * eye)
        count = min(self.directions, size)
        noise = 8 * size * jnp.finfo(conflict.dtype).eps * shift
        positive = values[:count] - shift > noise
        return vectors[:, :count] * positive.astype(conflict.dtype)

    def _gains(
        self, deltas: list[Array], sides: list[Array], trade_off: Array
    ) -> Array:
        """Without the entries in which a delta disturbs some other task most."""
        squares = [d * d for d in deltas]
        masks = []
        for k, side in enumerate(sides):
            others = [i for i in range(len(deltas)) if i != k]
            parts = [(side - trade_off * sides[i]) * squares[i] for i in others]
            conflict = functools.reduce(jnp.add, parts, jnp.zeros_like(side))
            order = jnp.argsort(conflict, descending=True, stable=True)
            rank = jnp.argsort(order, stable=True)
            masks.append((rank < self.directions) & (conflict > 0))
        kept = []
        for i, delta in enumerate(deltas):
            lost = [mask for k, mask in enumerate(masks) if k != i]
            for mask in lost:
                delta = jnp.where(mask, 0.0, delta)
            kept.append(delta)
        return functools.reduce(jnp.add, kept)


def _moved(delta: Array, gram: Array) -> Array:
    """`d G d^T`: the second moments of what a delta adds to the outputs."""
    return matmul(matmul(delta, gram), delta.T)
