"""The extreme eigenvalues of an operator and their vectors, with residuals."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from jaxmerge._checks import check_key
from jaxmerge._types import PRNGKey, pytree
from jaxmerge.curvature import _vectors
from jaxmerge.curvature.operators import Operator

_ORDERS = {
    "largest": lambda values: -values,
    "smallest": lambda values: values,
    "magnitude": lambda values: -jnp.abs(values),
}


@pytree
class Eigenpairs:
    """Approximate eigenpairs, best known by their residuals.

    Within `residuals[i]` of `values[i]` there is an eigenvalue.

    Attributes:
      values: `(pair,)`, in the order asked for.
      vectors: of length 1, as rows: leaves `(pair, ...)`.
      residuals: `(pair,)`, the norms of `A v - value v`.
    """

    values: Any
    vectors: Any
    residuals: Any


def _krylov(
    operator: Operator, key: Array, rows: int, block_size: int
) -> tuple[PyTree, PyTree]:
    """Orthonormal rows, and their products with the operator.

    Row i is the product of row i - block_size without what is known already; where
    nothing is left of it, and for the first block, a random vector. So an exhausted
    subspace is left, and rows up to the dimension can always be had.
    """
    like = operator.params
    eps = float(jnp.finfo(_vectors.scalar_dtype(like)).eps)

    def random(index: Array, basis: PyTree) -> PyTree:
        fresh = _vectors.random_vector(jax.random.fold_in(key, index), like, "normal")
        return _vectors.orthogonalised(fresh, basis)

    def step(carry: Any, index: Array) -> tuple[Any, None]:
        basis, products, scale = carry
        earlier = jnp.maximum(index - block_size, 0)
        candidate = _vectors.row(products, earlier)
        scale = jnp.maximum(scale, _vectors.norm(candidate))
        candidate = _vectors.orthogonalised(candidate, basis)
        spent = (index < block_size) | (_vectors.norm(candidate) <= 64 * eps * scale)
        candidate = lax.cond(spent, lambda: random(index, basis), lambda: candidate)
        current = _vectors.scaled(candidate, 1 / _vectors.norm(candidate))
        basis = _vectors.with_row(basis, index, current)
        products = _vectors.with_row(products, index, operator.matvec(current))
        return (basis, products, scale), None

    empty = _vectors.zero_rows(like, rows)
    zero = jnp.zeros((), _vectors.scalar_dtype(like))
    (basis, products, _), _ = lax.scan(step, (empty, empty, zero), jnp.arange(rows))
    return basis, products


def _row_norms(rows: PyTree) -> Float[Array, " row"]:
    return jax.vmap(_vectors.norm)(rows)


def top_eigenpairs(
    operator: Operator,
    key: PRNGKey,
    num_pairs: int,
    *,
    which: str = "largest",
    num_steps: int | None = None,
    block_size: int = 1,
) -> Eigenpairs:
    """The extreme eigenpairs, by Rayleigh-Ritz in a Krylov space.

    Costs `num_steps` products and holds `2 * num_steps` vectors. There are no restarts:
    where the residuals are too large, take more steps.

    Args:
      operator: with `matvec`, `params` and `dimension`.
      key: a typed key, for the start vectors.
      num_pairs: k, from 1 to the dimension.
      which: `"largest"`, `"smallest"` or `"magnitude"` (the largest in size).
      num_steps: rows of the Krylov space, at least k; by default 2 k + 20. More than
        the dimension are cut to it.
      block_size: how many start vectors. One finds a repeated eigenvalue once (unless
        `num_steps` is the dimension); p find it p times, and converge with p times
        the steps.

    Returns:
      Values, vectors and residual norms. A small residual says that a pair is one, not
      that none was missed.

    Raises:
      TypeError: if the key is no typed key.
      ValueError: if a number is out of range, or `which` is unknown.

    Example:
      >>> from jaxmerge.curvature.operators import Matrix
      >>> matrix = Matrix(jnp.diag(jnp.array([1.0, 5.0, 3.0])))
      >>> pairs = top_eigenpairs(matrix, jax.random.key(0), 2)
      >>> [f"{value:.3f}" for value in pairs.values]
      ['5.000', '3.000']

    References:
      Golub, Underwood, The block Lanczos method for computing eigenvalues, 1977.
      Parlett, The Symmetric Eigenvalue Problem, 1998, Thm. 4.5.1 (residuals).
    """
    check_key(key)
    if which not in _ORDERS:
        raise ValueError(f"which is {which!r}; expected one of {', '.join(_ORDERS)}")
    if not 1 <= num_pairs <= operator.dimension:
        raise ValueError(
            f"num_pairs is {num_pairs}; expected 1 to the dimension, "
            f"{operator.dimension}"
        )
    steps = 2 * num_pairs + 20 if num_steps is None else num_steps
    rows = min(steps, operator.dimension)
    if rows < num_pairs:
        raise ValueError(
            f"num_steps is {num_steps}; expected at least num_pairs, {num_pairs}"
        )
    if not 1 <= block_size <= rows:
        raise ValueError(
            f"block_size is {block_size}; expected 1 to {rows} (num_steps)"
        )
    basis, products = _krylov(operator, key, rows, block_size)
    projected = jax.vmap(lambda x: _vectors.inner_rows(basis, x))(products)
    values, mixtures = jnp.linalg.eigh(projected, symmetrize_input=True)
    picked = jnp.argsort(_ORDERS[which](values))[:num_pairs]
    values, mixtures = values[picked], mixtures[:, picked].T
    vectors = _vectors.combine_rows(mixtures, basis)
    images = _vectors.combine_rows(mixtures, products)
    errors = jax.vmap(_vectors.added)(images, -values, vectors)
    return Eigenpairs(values, vectors, _row_norms(errors))
