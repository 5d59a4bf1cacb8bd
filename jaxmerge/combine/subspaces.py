"""Merges in the space that the experts span: each expert's coordinates are merged."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxmerge._arithmetic import accumulate
from jaxmerge._types import Leaf, State, pytree, static
from jaxmerge.combine.decompositions import matmul, thin_svd, transposed, whole


def _eigen(gram: Array) -> tuple[Array, Array]:
    """Eigenvalues in falling order, at least 0, and their vectors."""
    values, vectors = jnp.linalg.eigh(gram, symmetrize_input=True)
    return jnp.maximum(values[..., ::-1], 0.0), vectors[..., ::-1]


@jax.custom_jvp
def principal_basis(gram: Array) -> tuple[Array, Array]:
    r"""The eigenvectors `U` of a sum `sum_t d_t d_t^T`, and its numerical rank.

    U is orthogonal and has all directions, those of the null space last, so that
    nothing is lost whatever the rank is taken for: `U (U^T d) = d`. The rank counts
    eigenvalues above `16 eps` of the largest, which are singular values of
    `[d_1, ..., d_T]` above 1.4e-3 of the largest in float32, above 6e-8 in float64.

    In the derivative, eigenvectors of equal eigenvalues do not turn into one another
    (they have no derivative there), so that it is finite everywhere.

    Args:
      gram: `[..., out, out]`, symmetric and positive semidefinite.

    Returns:
      `[..., out, out]` and `[...]`, in the floating dtype of the sum.

    >>> basis, rank = principal_basis(jnp.diag(jnp.array([0.0, 4.0, 1.0])))
    >>> jnp.abs(basis).tolist(), rank.tolist()
    ([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], 2.0)
    """
    values, vectors = _eigen(gram)
    noise = 16 * jnp.finfo(values.dtype).eps * values[..., :1]
    return vectors, jnp.sum(values > noise, axis=-1).astype(values.dtype)


@principal_basis.defjvp
def _principal_basis_jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
    (gram,), (change,) = primals, tangents
    vectors, rank = principal_basis(gram)
    values = jnp.diagonal(
        matmul(matmul(transposed(vectors), gram), vectors), axis1=-2, axis2=-1
    )
    inner = matmul(matmul(transposed(vectors), change), vectors)
    gap = values[..., None, :] - values[..., :, None]
    noise = 64 * jnp.finfo(values.dtype).eps * values[..., :1, None]
    apart = jnp.abs(gap) > noise
    turn = jnp.where(apart, inner / jnp.where(apart, gap, 1.0), 0.0)
    return (vectors, rank), (matmul(vectors, turn), jnp.zeros_like(rank))


@pytree
class Coordinates:
    """Bases of the rows and columns of a merge, as a pass over the experts found them.

    Attributes:
      left: `[..., out, m]`.
      right: `[..., in, n]`, or None where the columns stay as they are.
      rank: how many of the left directions count, `[...]`.
      columns: how many columns count, `[...]`; all if None.
    """

    left: Any
    right: Any
    rank: Any
    columns: Any = None

    def entries(self, x: Array) -> Array:
        """How many entries of coordinates `x` count."""
        columns = x.shape[-1] if self.columns is None else self.columns
        return jnp.sum(self.rank * columns)

    def of(self, matrix: Array) -> Array:
        """`left^T matrix right`."""
        x = matmul(transposed(self.left), matrix)
        return x if self.right is None else matmul(x, self.right)

    def back(self, x: Array) -> Array:
        """`left x right^T`."""
        x = matmul(self.left, x)
        return x if self.right is None else matmul(x, transposed(self.right))


@pytree
class SharedBasis:
    r"""The first pass of KnOTS: the left singular vectors of `[d_1, ..., d_T]`.

    They are the eigenvectors of `sum_t d_t d_t^T`, a sum over experts whose size does
    not grow with T. Weights do not count: the space is the same. Leaves that are no
    matrices have no basis.

    References:
      Stoica et al., Model merging with SVD to tie the Knots, 2024.
    """

    frame: str = static(default="delta")
    uses_shape = True

    def lift(self, delta: Array, weight: Array, leaf: Leaf) -> State:
        del weight
        if leaf.matrix is None:
            return jnp.zeros((), delta.dtype)
        matrix = whole(delta)
        return matmul(matrix, transposed(matrix))

    def join(self, a: State, b: State) -> State:
        return accumulate(a, b)

    def finish(self, state: State, leaf: Leaf) -> Any:
        if leaf.matrix is None:
            return None, None
        basis, rank = principal_basis(state)
        return Coordinates(basis, None, rank), None


@pytree
class CoreBasis:
    r"""The first pass of Core Space: what the factors of all adapters span.

        U = left singular vectors of [B_1, ..., B_T]
        V = right singular vectors of [A_1; ...; A_T],      d_t = scale_t B_t A_t

    so that `U^T d_t V`, of the size of the ranks' sum, has all of `d_t`. The factors
    are taken as they are stored, without their scales. The state holds the factors of
    all experts. Leaves that are no matrices have no basis.

    References:
      Panariello et al., Accurate and Efficient Low-Rank Model Merging in Core Space,
      2025.
    """

    frame: str = static(default="delta")
    uses_shape = True
    holds_all = True

    def lift(self, delta: Array, weight: Array, leaf: Leaf) -> State:
        del weight
        if leaf.matrix is None:
            return jnp.zeros((), delta.dtype)
        raise TypeError(
            f"core_space merges LowRank pairs, and an expert's matrix of shape "
            f"{delta.shape} came whole: give the adapters alone, with base=None, or "
            "use knots, which takes any matrix"
        )

    def lift_factors(self, pair: Any, weight: Array, leaf: Leaf) -> State:
        if leaf.matrix is None:
            return jnp.zeros((), weight.dtype)
        b, a = (jnp.asarray(x).astype(weight.dtype) for x in (pair.b, pair.a))
        return (whole(b),), (whole(transposed(a)),)

    def join(self, a: State, b: State) -> State:
        if not isinstance(a, tuple):
            return a
        # Lists of factors, not one matrix that grows: their buffers can be reused.
        return a[0] + b[0], a[1] + b[1]

    def finish(self, state: State, leaf: Leaf) -> Any:
        if leaf.matrix is None:
            return None, None
        stacked = (jnp.concatenate(factors, axis=-1) for factors in state)
        bases = [thin_svd(factors)[:2] for factors in stacked]
        (left, right), values = zip(*bases, strict=True)
        rank, columns = (jnp.sum(s > 0, axis=-1).astype(s.dtype) for s in values)
        return Coordinates(left, right, rank, columns), None


@pytree
class InSubspace:
    """A pass of any merge, on the experts' coordinates in a space found before.

    Transforms and combine see `left^T d_t right` in place of `d_t`, and what the last
    pass merges is taken back. Transforms that keep the largest entries keep a share of
    `rank * columns`: directions that no expert has do not count as entries. Leaves
    without a basis are merged as they are.

    Attributes:
      combine: the pass.
      transforms: of each expert's coordinates.
      last: whether it is the merge's last pass; else its result goes to the next.
    """

    combine: Any
    transforms: tuple[Any, ...] = ()
    last: bool = static(default=True)
    frame: str = static(default="delta")
    uses_shape = True

    @property
    def holds_all(self) -> bool:
        return getattr(self.combine, "holds_all", False)

    @property
    def normalize(self) -> bool:
        return getattr(self.combine, "normalize", False)

    @property
    def normalize_weights(self) -> bool:
        return getattr(self.combine, "normalize_weights", False)

    def check_experts(self, num: int) -> None:
        if hasattr(self.combine, "check_experts"):
            self.combine.check_experts(num)

    def bind(self, size: int) -> "InSubspace":
        bound = lambda stage: stage.bind(size) if hasattr(stage, "bind") else stage
        return dataclasses.replace(
            self,
            combine=bound(self.combine),
            transforms=tuple(bound(stage) for stage in self.transforms),
        )

    def lift(self, delta: Array, weight: Array, leaf: Leaf) -> State:
        coordinates, _ = leaf.stats
        transforms = self.transforms
        if coordinates is not None and leaf.matrix is not None:
            size = delta.size
            delta = coordinates.of(whole(delta))
            entries = coordinates.entries(delta)
            transforms = [_counting(stage, entries, size) for stage in transforms]
        leaf = _inner(leaf)
        for i, transform in enumerate(transforms):
            key = None if leaf.key is None else jax.random.fold_in(leaf.key, i)
            delta = transform(delta, dataclasses.replace(leaf, key=key, stats=None))
        return self.combine.lift(delta, weight, leaf)

    def join(self, a: State, b: State) -> State:
        return self.combine.join(a, b)

    def finish(self, state: State, leaf: Leaf) -> Any:
        coordinates, _ = leaf.stats
        merged = self.combine.finish(state, _inner(leaf))
        if not self.last:
            return coordinates, merged
        if coordinates is None or leaf.matrix is None:
            return merged
        return coordinates.back(merged)


def _inner(leaf: Leaf) -> Leaf:
    """What the inner pass is told: its own statistics, no base."""
    return dataclasses.replace(leaf, base=None, stats=leaf.stats[1])


def _counting(transform: Any, entries: Array, size: int) -> Any:
    """A transform that keeps a share of so many entries, bound to a leaf of this size.

    The count bound on the host is exact; one of fewer entries is a product in the
    arithmetic's dtype, with its rounding.
    """
    if not getattr(transform, "cuts_leaf", False):
        return transform
    if size >= 2**31:
        raise ValueError(
            f"a matrix of {size} entries was to be trimmed in a basis, which counts up "
            "to 2^31; exclude it by Merger.matrices, or merge it by ties"
        )
    share = jnp.clip(jnp.asarray(transform.density), 0.0, 1.0).astype(entries.dtype)
    fewer = jnp.maximum(jnp.floor(share * entries), transform.at_least)
    count = jnp.where(entries >= size, transform.kept(size), fewer.astype(jnp.int32))
    return dataclasses.replace(transform, count=count)
