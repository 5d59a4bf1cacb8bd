"""The trace of an operator from random probes: Hutchinson's estimator, and Hutch++."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, PyTree

from jaxmerge._checks import check_key
from jaxmerge._types import PRNGKey
from jaxmerge.curvature import _vectors
from jaxmerge.curvature.operators import Operator
from jaxmerge.geometry.estimate import Estimate


def _range_basis(operator: Operator, key: Array, rows: int, probes: str) -> PyTree:
    """Orthonormal rows that span A times random vectors; zeros where these depend."""
    eps = float(jnp.finfo(_vectors.scalar_dtype(operator.params)).eps)

    def step(basis: PyTree, index: Array) -> tuple[PyTree, None]:
        start = _vectors.random_vector(
            jax.random.fold_in(key, index), operator.params, probes
        )
        image = operator.matvec(start)
        rest = _vectors.orthogonalised(image, basis)
        length = _vectors.norm(rest)
        fresh = length > 8 * eps * _vectors.norm(image)
        inverse = jnp.where(fresh, 1 / jnp.where(fresh, length, 1), 0)
        return _vectors.with_row(basis, index, _vectors.scaled(rest, inverse)), None

    start = _vectors.zero_rows(operator.params, rows)
    return lax.scan(step, start, jnp.arange(rows))[0]


def trace(
    operator: Operator,
    key: PRNGKey,
    num_probes: int,
    *,
    probes: str = "rademacher",
    sketch_size: int = 0,
    parallel_probes: int = 1,
) -> Estimate:
    """The trace, `tr A = E vᵀ A v`.

    With a sketch, Hutch++: `tr A = tr(Q A Qᵀ) + tr((1 - QᵀQ) A (1 - QᵀQ))`, Q the
    orthonormal range of A on `sketch_size` random vectors. The first term is exact, the
    second one small if the sketch holds the large eigenvalues.

    Costs `num_probes + 2 * sketch_size` products.

    Args:
      operator: with `matvec`, `params` and `dimension`.
      key: a typed key.
      num_probes: at least 2, for a standard error.
      probes: `"rademacher"` (exact on diagonal operators) or `"normal"`.
      sketch_size: rows of Q, each a vector in memory; 0 for Hutchinson's. More than
        the dimension are cut to it.
      parallel_probes: how many products at a time.

    Returns:
      The trace and its standard error, given the sketch.

    Raises:
      TypeError: if the key is no typed key.
      ValueError: if a number is too small, or `probes` is unknown.

    Example:
      >>> from jaxmerge.curvature.operators import Matrix
      >>> trace(Matrix(jnp.diag(jnp.arange(4.0))), jax.random.key(0), 2).mean
      Array(6., dtype=float32)

    References:
      Hutchinson, A stochastic estimator of the trace of the influence matrix, 1990.
      Meyer, Musco, Musco, Woodruff, Hutch++: optimal stochastic trace estimation, 2021,
      Algorithm 1.
    """
    check_key(key)
    _vectors.check_probes(probes)
    for name, value, least in (
        ("num_probes", num_probes, 2),
        ("sketch_size", sketch_size, 0),
        ("parallel_probes", parallel_probes, 1),
    ):
        if value < least:
            raise ValueError(f"{name} is {value}; expected at least {least}")
    rows = min(sketch_size, operator.dimension)
    sketch_key, probe_key = jax.random.split(key)
    basis = _range_basis(operator, sketch_key, rows, probes) if rows else None

    def sample(index: Array) -> Array:
        vector: Any = _vectors.random_vector(
            jax.random.fold_in(probe_key, index), operator.params, probes
        )
        if basis is not None:
            vector = _vectors.orthogonalised(vector, basis)
        return _vectors.inner(vector, operator.matvec(vector))

    samples = lax.map(sample, jnp.arange(num_probes), batch_size=parallel_probes)
    if basis is None:
        return Estimate.from_samples(samples, method=f"Hutchinson, {probes}")

    def known(vector: PyTree) -> Array:
        return _vectors.inner(vector, operator.matvec(vector))

    exact = jnp.sum(lax.map(known, basis))
    return Estimate.from_samples(samples + exact, method=f"Hutch++, {probes}")
