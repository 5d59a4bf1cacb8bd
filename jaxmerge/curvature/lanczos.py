"""The Lanczos process: a symmetric operator, seen from one vector, as a small matrix.

After m steps from a unit vector q, the tridiagonal m x m matrix T has
`qᵀ f(A) q = e₁ᵀ f(T) e₁` for every polynomial f of degree below 2m.
Its eigenvalues and the squares of its eigenvectors' first entries are the nodes and
weights of a Gauss quadrature.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from jaxmerge._types import pytree
from jaxmerge.curvature import _vectors
from jaxmerge.curvature.operators import Operator


@pytree
class Tridiagonal:
    """What Lanczos returns.

    Where the start vector lies in an invariant subspace of fewer than `step` dimensions
    the process ends there. Shapes stay: the rest of the diagonal repeats its first
    entry, decoupled (zeros beside it), so that it has no weight in the quadrature and
    no node outside the spectrum.

    Attributes:
      diagonal: `(step,)`.
      off_diagonal: `(step - 1,)`, not negative.
      size: how many steps there really were, an int32; 0 for a start vector of zeros.
      basis: the orthonormal vectors as rows, zeros from `size` on; None where they were
        not kept.
    """

    diagonal: Any
    off_diagonal: Any
    size: Any
    basis: Any = None

    def matrix(self) -> Float[Array, "step step"]:
        """T in full."""
        beside = jnp.diag(self.off_diagonal, 1)
        return jnp.diag(self.diagonal) + beside + beside.T

    def quadrature(self) -> tuple[Float[Array, " step"], Float[Array, " step"]]:
        """Nodes and weights with `qᵀ f(A) q ≈ Σ weights f(nodes)`; weights sum to 1.

        Example:
          >>> from jaxmerge.curvature.operators import Matrix
          >>> matrix = Matrix(jnp.diag(jnp.array([1.0, 3.0])))
          >>> nodes, weights = lanczos(matrix, jnp.ones(2), 2).quadrature()
          >>> [f"{weight:.2f} at {node:.2f}" for node, weight in zip(nodes, weights)]
          ['0.50 at 1.00', '0.50 at 3.00']

        References:
          Golub, Welsch, Calculation of Gauss quadrature rules, 1969.
        """
        nodes, vectors = jnp.linalg.eigh(self.matrix(), symmetrize_input=False)
        return nodes, vectors[0] ** 2


def lanczos(
    operator: Operator, start: PyTree, num_steps: int, *, reorthogonalise: bool = True
) -> Tridiagonal:
    """Runs the Lanczos process.

    Args:
      operator: with `matvec`, `params` and `dimension`.
      start: a vector like `params`, of any length but zero.
      num_steps: m; more than the dimension are cut to it. One product each.
      reorthogonalise: whether every vector is made orthogonal to all before it. Keeps
        `num_steps` vectors of the dimension and returns them as `basis`. Without it
        three vectors are kept; rounding then brings back copies of the eigenvalues that
        have converged, with weights that still sum rightly, and convergence slows.

    Returns:
      The tridiagonal matrix; usable under jit and vmap (over `start` or the operator).

    Raises:
      ValueError: if there is no step, or the start vector is not like `params`.

    Example:
      >>> from jaxmerge.curvature.operators import Matrix
      >>> result = lanczos(Matrix(2 * jnp.eye(3)), jnp.ones(3), 3)
      >>> int(result.size), [f"{x:.2f}" for x in result.diagonal]
      (1, ['2.00', '2.00', '2.00'])

    References:
      Golub, Van Loan, Matrix Computations, 4th ed. 2013, §10.1.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}; expected at least 1")
    _vectors.check_vector(start, operator.params)
    steps = min(num_steps, operator.dimension)
    dtype = _vectors.scalar_dtype(start)
    # Rounding in a product is about eps times the operator's norm; what is left of a
    # vector that is shorter than this has no direction of its own.
    noise = 8 * float(jnp.finfo(dtype).eps)

    def step(carry: Any, index: Array) -> tuple[Any, Any]:
        basis, previous, current, beta, scale = carry
        product = operator.matvec(current)
        alpha = _vectors.inner(current, product)
        rest = _vectors.added(product, -alpha, current)
        rest = _vectors.added(rest, -beta, previous)
        if basis is not None:
            basis = _vectors.with_row(basis, index, current)
            rest = _vectors.orthogonalised(rest, basis)
        scale = jnp.maximum(scale, jnp.abs(alpha) + beta)
        length = _vectors.norm(rest)
        inverse, following = _reciprocal(length, noise * scale)
        carry = basis, current, _vectors.scaled(rest, inverse), following, scale
        return carry, (alpha, following)

    inverse, length = _reciprocal(_vectors.norm(start), jnp.zeros((), dtype))
    first = _vectors.scaled(start, inverse)
    basis = _vectors.zero_rows(start, steps) if reorthogonalise else None
    nothing, zero = jax.tree.map(jnp.zeros_like, start), jnp.zeros((), dtype)
    carry = (basis, nothing, first, zero, zero)
    (basis, *_), (alphas, betas) = lax.scan(step, carry, jnp.arange(steps))
    # After a breakdown all vectors are zero, and so is every beta.
    running = jnp.concatenate([length[None], betas[:-1]]) > 0
    diagonal = jnp.where(running, alphas, alphas[0])
    size = jnp.sum(running, dtype=jnp.int32)
    return Tridiagonal(diagonal, betas[:-1], size, basis)


def _reciprocal(length: Array, threshold: Array) -> tuple[Array, Array]:
    """`(1 / length, length)`, or zeros for a length up to the threshold.

    A length that is not a number stays one, so that the result shows it.
    """
    zero = jnp.zeros_like(length)
    short = length <= threshold
    inverse = jnp.where(short, zero, 1 / jnp.where(short, 1, length))
    return inverse, jnp.where(short, zero, length)
