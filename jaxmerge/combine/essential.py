"""Directions in which a delta moves outputs, on the inputs that its task has."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from jaxmerge._arithmetic import accumulate, quotient, safe_divide
from jaxmerge._parts import Parts
from jaxmerge._types import Leaf, MatrixSpec, pytree, static
from jaxmerge.combine.decompositions import matmul, polar, thin_svd, whole
from jaxmerge.combine.regression import gram_side_shape
from jaxmerge.combine.singular_vectors import TaskSingularVectors
from jaxmerge.combine.spectral import side_by_side
from jaxmerge.combine.sphere import into_slot, safe_root

# How eigenvalues weigh directions, and norms weigh tasks and columns.
_SOFT, _SHARP = 0.15, 2


def _relative(x: Array) -> Array:
    """Divided by the mean; 0 where all are 0."""
    return safe_divide(x, jnp.broadcast_to(jnp.mean(x), x.shape))


@pytree
class EssentialSubspaces:
    r"""ESM: each task's leading output directions, made orthogonal to the others'.

        E_t diag(l_t) E_t^T = d_t G_t d_t^T,    the k = max(1, floor(out / T)) leading
        f = (l / mean l)^0.15 / mean (l / mean l)^0.15
        U = [f_1 E_1, ..., f_T E_T],    V = [f_t (|d_t| / mean |d|)^2 d_t^T E_t, ...]
        V <- each row (an input) times (its norm / the mean norm)^2
        delta = 2 mean(s(U)) mean(s(V)) polar(U) polar(V)^T

    with `G_t` the Gram matrix of the inputs of the layer. Matrices without one are
    merged as TSV-M does, and what is no matrix gets the mean, as in the authors' code;
    their last step compares layers: see `jaxmerge.balance_layers`. The state has a
    slot for each expert.

    References:
      Essential Subspace Merging, 2026 (arXiv 2602.20208).
    """

    frame: str = static(default="delta")
    uses_shape = True
    holds_all = True
    needs = "gram"

    def side_shape(
        self, shape: tuple[int, ...], matrix: MatrixSpec | Parts | None
    ) -> tuple[int, ...] | None:
        """`[in, in]` for each matrix."""
        return gram_side_shape(shape, matrix, vectors=False)

    def lift(self, delta: Array, weight: Array, leaf: Leaf) -> Any:
        if leaf.matrix is None or leaf.side is None:
            return TaskSingularVectors().lift(delta, weight, leaf)
        assert leaf.slots is not None, "a combine that holds_all"
        d = whole(delta)
        moved, values, _ = thin_svd(matmul(matmul(d, whole(leaf.side)), d.T))
        k = max(1, d.shape[0] // leaf.slots)
        basis, values = moved[:, :k], values[:k]
        some = values > 0
        soft = jnp.where(some, _relative(values), 1.0) ** _SOFT
        soft = _relative(jnp.where(some, soft, 0.0))
        parts = {
            "left": basis * soft,
            "right": matmul(d.T, basis) * soft,
            "energy": jnp.sum(d * d),
            "weight": weight,
        }
        return {name: into_slot(x, leaf) for name, x in parts.items()}

    def join(self, a: Any, b: Any) -> Any:
        return accumulate(a, b)

    def finish(self, state: Any, leaf: Leaf) -> Array:
        if not isinstance(state, dict):
            if leaf.matrix is None:
                return quotient(*state)
            return TaskSingularVectors().finish(state, leaf)
        share = state["weight"] * _relative(safe_root(state["energy"])) ** _SHARP
        right = side_by_side(state["right"] * share[:, None, None])
        rows = safe_root(jnp.sum(right * right, axis=-1))
        right = right * _relative(rows)[:, None] ** _SHARP
        factors = [_flat(side_by_side(state["left"])), _flat(right)]
        return 2 * matmul(factors[0], factors[1].T)


def _flat(matrix: Array) -> Array:
    """The polar factor times the mean singular value."""
    factor = polar(matrix)
    return jnp.sum(factor * matrix) / min(matrix.shape) * factor
