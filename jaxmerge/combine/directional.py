"""Directional consensus: experts vote in the space that their directions cover."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxmerge import ranks
from jaxmerge._arithmetic import accumulate, product, quotient, safe_divide
from jaxmerge._types import Leaf, State, pytree, static
from jaxmerge.combine.decompositions import (
    polar,
    thin_svd,
    whole,
)
from jaxmerge.combine.singular_vectors import directions_each
from jaxmerge.combine.spectral import side_by_side
from jaxmerge.combine.sphere import into_slot

_HIGHEST = jax.lax.Precision.HIGHEST


def smooth_energies(s: Array, smoothing: str, ratio: float) -> Array:
    r"""Singular values made more alike; their sum, and those that are 0, stay.

        "none"    s
        "mean"    sum(s) / n
        "linear"  sum(s) l_j / sum(l),  l falls evenly from min(ratio, s_1 / s_n) to 1

    Args:
      s: `[..., k]`, falling, n of them above 0.
      smoothing: one of those names.
      ratio: rho, at least 1.

    >>> smooth_energies(jnp.array([3.0, 1.0, 0.0]), "mean", 5.0).tolist()
    [2.0, 2.0, 0.0]
    """
    if smoothing == "none":
        return s
    some = s > 0
    total = jnp.sum(s, axis=-1, keepdims=True)
    num = jnp.sum(some, axis=-1, keepdims=True).astype(s.dtype)
    shape = jnp.ones_like(s)
    if smoothing == "linear":
        smallest = jnp.min(jnp.where(some, s, s[..., :1]), axis=-1, keepdims=True)
        top = jnp.minimum(ratio, safe_divide(s[..., :1], smallest, otherwise=1.0))
        position = jnp.arange(s.shape[-1]).astype(s.dtype)
        shape = top + (1 - top) * position / jnp.maximum(num - 1, 1)
    shape = jnp.where(some, shape, 0.0)
    return total * safe_divide(shape, jnp.sum(shape, axis=-1, keepdims=True))


def _diagonal_blocks(matrix: Array, num: int) -> Array:
    """`[..., num k, num k]` to its blocks on the diagonal, `[..., k, k, num]`."""
    k = matrix.shape[-1] // num
    blocks = matrix.reshape(*matrix.shape[:-2], num, k, num, k)
    return jnp.diagonal(blocks, axis1=-4, axis2=-2)


@pytree
class DirectionalConsensus:
    r"""DC-Merge: a sign-elected mean in the space of all experts' directions.

        d_t = U_t S_t V_t^T  cut to k = max(1, floor(r / T)) of r = min(out, in)
        P = polar([U_1, ..., U_T]),  Q = polar([V_1, ..., V_T])
        M_t = the max(1, floor(density n)) largest of the n = (T k)^2 entries of
              P^T (U_t S_t V_t^T) Q, and 0 elsewhere
        delta = P diag(B_1, ..., B_T) Q^T

    with `B_i` the i-th `k x k` block on the diagonal of the mean, entry by entry, of
    those `M_t` that have the sign of `sum_t M_t`, and 0 where they cancel. Of equal
    magnitudes the first stay; the choice has no gradient.

    The state is as large as one of TSV-M. Each expert's matrix in the covered space is
    made when it votes, and only the blocks that are used are kept of it. Leaves that
    are no matrices get the weighted mean, as in the authors' code.

    Attributes:
      density: of each expert's matrix in the covered space, in (0, 1].
      rank: k; for LoRA experts the adapters' rank. `max(1, floor(r / T))` if None.
      smoothing: of the singular values that are kept: `"none"`, or `"mean"` or
        `"linear"` as the authors do for LoRA; see `smooth_energies`.
      ratio: rho of the linear smoothing.

    References:
      DC-Merge: Improving Model Merging with Directional Consistency, 2026
      (arXiv 2603.06242).
    """

    density: float = static(default=1e-3)
    rank: int | None = static(default=None)
    smoothing: str = static(default="none")
    ratio: float = static(default=5.0)
    frame: str = static(default="delta")
    uses_shape = True
    holds_all = True

    def lift(self, delta: Array, weight: Array, leaf: Leaf) -> State:
        if leaf.matrix is None:
            return product(weight, delta), weight
        u, s, v = thin_svd(whole(product(weight, delta)))
        rank = s.shape[-1]
        k = directions_each(rank, leaf.slots, "paper")
        k = k if self.rank is None else min(self.rank, rank)
        s = smooth_energies(s[..., :k], self.smoothing, self.ratio)
        return tuple(into_slot(x, leaf) for x in (u[..., :k], s, v[..., :k]))

    def join(self, a: State, b: State) -> State:
        return accumulate(a, b)

    def finish(self, state: State, leaf: Leaf) -> Array:
        if leaf.matrix is None:
            return quotient(*state)
        u, s, v = state
        left, right = polar(side_by_side(u)), polar(side_by_side(v))
        blocks = self._elected(left, right, state)
        split = (*left.shape[:-1], u.shape[0], -1)
        columns = jnp.einsum(
            "...imk,...klm->...iml", left.reshape(split), blocks, precision=_HIGHEST
        ).reshape(left.shape)
        return jnp.matmul(columns, jnp.swapaxes(right, -1, -2), precision=_HIGHEST)

    def _elected(self, left: Array, right: Array, parts: State) -> Array:
        """The mean of those that agree, on the blocks of the diagonal."""
        num, size = parts[0].shape[0], left.shape[-1]
        kept = max(1, int(self.density * size * size))

        def vote(sums: State, part: State) -> tuple[State, None]:
            u, s, v = part
            ours = jnp.matmul(jnp.swapaxes(left, -1, -2), u, precision=_HIGHEST)
            theirs = jnp.matmul(jnp.swapaxes(v, -1, -2), right, precision=_HIGHEST)
            matrix = jnp.matmul(ours * s[..., None, :], theirs, precision=_HIGHEST)
            flat = matrix.reshape(-1, size, size)
            mask = jax.lax.map(lambda x: ranks.largest_mask(x, kept), flat)
            matrix = jnp.where(mask.reshape(matrix.shape), matrix, 0.0)
            block = _diagonal_blocks(matrix, num)
            up, down = jnp.maximum(block, 0.0), jnp.minimum(block, 0.0)
            ups, downs = ((x != 0).astype(x.dtype) for x in (up, down))
            return accumulate(sums, (up, down, ups, downs)), None

        each = size // num
        start = (jnp.zeros((*left.shape[:-2], each, each, num), left.dtype),) * 4
        (up, down, ups, downs), _ = jax.lax.scan(vote, start, parts)
        # Votes that cancel leave rounding, which must not elect.
        total, noise = up + down, 8 * jnp.finfo(up.dtype).eps * (up - down)
        mean = jnp.where(total > 0, safe_divide(up, ups), safe_divide(down, downs))
        return jnp.where(jnp.abs(total) <= noise, 0.0, mean)
