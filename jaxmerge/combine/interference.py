r"""Merges that keep out of each task's way: WUDI and its closed-form filters.

The update of task t acts on inputs that lie about in its row space, so a merged update
m does to task t what its own does if `(m - d_t) d_t^T` is small:

    L(m) = sum_t c_t |(m - d_t) d_t^T|^2,    c_t = 1 / |d_t|^2

Its gradient is `2 (m C - D)` with `C = sum_t c_t d_t^T d_t` and
`D = sum_t c_t d_t d_t^T d_t`: sums over experts, so that one reading of them is enough
however long the descent.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxmerge._arithmetic import accumulate, product, quotient, safe_divide
from jaxmerge._types import Coef, Leaf, coefficient, pytree, static
from jaxmerge.combine.decompositions import matmul, transposed, whole


@pytree
class GramSums:
    """`C`, `D`, the sum of the deltas, and the sum of their weights."""

    kernel: Any
    target: Any
    total: Any
    weight: Any


def _lift(
    delta: Array, weight: Array, leaf: Leaf, *, by_energy: bool = True
) -> GramSums:
    """One expert's part; what is no matrix has a total only.

    By energy, a weight scales the delta; alike, it is how much the task counts.
    """
    weighted = product(weight, delta)
    if leaf.matrix is None:
        return GramSums(None, None, weighted, weight)
    weighted = whole(weighted)
    if by_energy:
        matrix = weighted
        square = jnp.sum(matrix * matrix, axis=(-2, -1), keepdims=True)
        share = safe_divide(jnp.ones_like(square), square)
    else:
        matrix, share = whole(delta), weight
    return gram_sums(matrix, share, weighted, weight)


def gram_sums(matrix: Array, share: Array, total: Array, weight: Array) -> GramSums:
    """One expert's part, whose Gram matrix counts by a share.

    Args:
      matrix: `[..., out, in]`, of which C and D are made.
      share: what multiplies its Gram matrix.
      total: the expert's part of the sum of the deltas.
      weight: its part of the sum of the weights.
    """
    kernel = product(share, matmul(transposed(matrix), matrix))
    return GramSums(kernel, matmul(matrix, kernel), total, weight)


class _Filter(NamedTuple):
    """How a filter weighs eigenvalues: `f`, `f / lambda`, and their derivatives."""

    passed: Array
    solved: Array
    passed_slope: Array
    solved_slope: Array
    passed_in_time: Array
    solved_in_time: Array


def _filter(values: Array, time: Array, rank: str, share: float) -> _Filter:
    """The filter at eigenvalues in falling order."""
    size = values.shape[-1]
    position = jnp.arange(size).astype(values.dtype)
    some = values > 0
    safe = jnp.where(some, values, 1.0)
    zero = jnp.zeros_like(values)
    if rank in ("participation", "all"):
        roots = jnp.sum(jnp.sqrt(values), axis=-1, keepdims=True)
        total = jnp.sum(values, axis=-1, keepdims=True)
        kept = some & (position < jnp.ceil(safe_divide(roots**2, total)))
        one = jnp.ones_like(values)
        kept = some if rank == "all" else kept
        parts = (one, 1 / safe, zero, -1 / safe**2, zero, zero)
    else:
        kept = position < math.ceil(share * size)
        decay = jnp.exp(-time * values)
        passed = -jnp.expm1(-time * values)
        solved = jnp.where(some, passed / safe, time)
        slope = jnp.where(some, (time * decay - solved) / safe, -(time**2) / 2)
        parts = (passed, solved, time * decay, slope, values * decay, decay)
    return _Filter(*(jnp.where(kept, part, 0.0) for part in parts))


def _eigen(kernel: Array) -> tuple[Array, Array]:
    """Eigenvalues in falling order, what is rounding 0, and their vectors."""
    values, vectors = jnp.linalg.eigh(kernel, symmetrize_input=True)
    values, vectors = values[..., ::-1], vectors[..., ::-1]
    noise = jnp.finfo(values.dtype).eps * values.shape[-1] * values[..., :1]
    return jnp.where(values > noise, values, 0.0), vectors


def _function(vectors: Array, weights: Array) -> Array:
    return matmul(vectors * weights[..., None, :], transposed(vectors))


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def filters(kernel: Array, time: Array, rank: str, share: float) -> tuple[Array, Array]:
    """The matrix functions `f(C)` and `(f / lambda)(C)` of a filter; see `WudiFilter`.

    Their derivatives are those of matrix functions, by divided differences (Higham,
    Functions of Matrices, 2008, theorem 3.11), and finite at equal eigenvalues.

    Args:
      kernel: C, symmetric, `[..., in, in]`.
      time: t, a scalar.
      rank: `"share"`, `"participation"`, or `"all"`: every direction that is not
        rounding, so that `f / lambda` is the pseudo-inverse.
      share: of directions kept.
    """
    values, vectors = _eigen(kernel)
    found = _filter(values, time, rank, share)
    return _function(vectors, found.passed), _function(vectors, found.solved)


@filters.defjvp
def _filters_jvp(rank: str, share: float, primals: Any, tangents: Any) -> Any:
    (kernel, time), (change, later) = primals, tangents
    values, vectors = _eigen(kernel)
    found = _filter(values, time, rank, share)
    inner = matmul(matmul(transposed(vectors), change), vectors)
    inner = (inner + transposed(inner)) / 2
    gap = values[..., :, None] - values[..., None, :]
    close = jnp.abs(gap) <= 1e-6 * values[..., :1, None]

    def moved(weights: Array, slopes: Array, in_time: Array) -> Array:
        rise = weights[..., :, None] - weights[..., None, :]
        mean = (slopes[..., :, None] + slopes[..., None, :]) / 2
        differences = jnp.where(close, mean, rise / jnp.where(close, 1.0, gap))
        turned = matmul(matmul(vectors, differences * inner), transposed(vectors))
        return turned + _function(vectors, later * in_time)

    values_out = _function(vectors, found.passed), _function(vectors, found.solved)
    return values_out, (
        moved(found.passed, found.passed_slope, found.passed_in_time),
        moved(found.solved, found.solved_slope, found.solved_in_time),
    )


@pytree
class WudiDescent:
    r"""WUDI: Adam on the interference loss from the sum of the deltas.

    Stopping early matters: the exact minimiser fits what is noise in the tasks' late
    singular directions. Leaves that are no matrices get the weighted mean.

    Attributes:
      learning_rate: of Adam; 1e-5 in the authors' code (2e-5 for RoBERTa).
      steps: of Adam, 300.

    References:
      Cheng et al., Whoever Started the Interference Should End It: Guiding Data-Free
      Model Merging via Task Vectors, 2025, eq. 10 and algorithm 1. Kingma, Ba, Adam,
      2015 (beta 0.9 and 0.999, epsilon 1e-8).
    """

    learning_rate: Coef = coefficient(default=1e-5)
    steps: int = static(default=300)
    frame: str = static(default="delta")
    uses_shape = True

    def lift(self, delta: Array, weight: Array, leaf: Leaf) -> GramSums:
        return _lift(delta, weight, leaf)

    def join(self, a: GramSums, b: GramSums) -> GramSums:
        return accumulate(a, b)

    def finish(self, state: GramSums, leaf: Leaf) -> Array:
        if leaf.matrix is None:
            return quotient(state.total, state.weight)
        start = state.total
        rate = jnp.asarray(self.learning_rate).astype(start.dtype)

        def step(carry: Any, count: Array) -> tuple[Any, None]:
            m, first, second = carry
            gradient = 2 * (matmul(m, state.kernel) - state.target)
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient * gradient
            count = count.astype(m.dtype)
            size = jnp.sqrt(jnp.where(second > 0, second, 1.0) / (1 - 0.999**count))
            move = (first / (1 - 0.9**count)) / (size + 1e-8)
            m = m - rate * jnp.where(second > 0, move, 0.0)
            return (m, first, second), None

        zero = jnp.zeros_like(start)
        counts = jnp.arange(1, self.steps + 1)
        (merged, _, _), _ = jax.lax.scan(step, (start, zero, zero), counts)
        return merged


@pytree
class WudiFilter:
    r"""SWUDI: gradient descent on the interference loss, in closed form and truncated.

        m = S - S V f V^T + D V (f / Lambda) V^T,    C = V Lambda V^T
        f = 1 - exp(-t Lambda)  in the leading directions, 0 in the others

    which is where gradient flow from `S = sum_t d_t` is at time t. Leaves that are no
    matrices get the weighted mean.

    Attributes:
      time: t. With `"participation"` it does not matter: f is 1 in what is kept.
      rank: `"share"`: the leading `ceil(share n)` of n directions are kept;
        `"participation"` (ASWUDI): `ceil((sum sqrt lambda)^2 / sum lambda)`; `"all"`:
        those that are not rounding, the exact minimiser `D pinv(C)`.
      share: of directions kept, in (0, 1].
      by_energy: whether tasks count by `1 / |d_t|^2`, as in WUDI, or alike (ACTMat).

    References:
      SWUDI-Merging, 2026 (arXiv 2606.07289). That gradient flow is this filter is
      standard: Engl, Hanke, Neubauer, Regularization of Inverse Problems, 1996,
      section 6.1.
    """

    time: Coef = coefficient(default=300.0)
    rank: str = static(default="share")
    share: float = static(default=0.65)
    by_energy: bool = static(default=True)
    frame: str = static(default="delta")
    uses_shape = True

    def lift(self, delta: Array, weight: Array, leaf: Leaf) -> GramSums:
        return _lift(delta, weight, leaf, by_energy=self.by_energy)

    def join(self, a: GramSums, b: GramSums) -> GramSums:
        return accumulate(a, b)

    def finish(self, state: GramSums, leaf: Leaf) -> Array:
        if leaf.matrix is None:
            return quotient(state.total, state.weight)
        time = jnp.asarray(self.time).astype(state.total.dtype)
        passed, solved = filters(state.kernel, time, self.rank, self.share)
        total = state.total
        return total - matmul(total, passed) + matmul(state.target, solved)
