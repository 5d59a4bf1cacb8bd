import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from jaxmerge.curvature import Matrix, lanczos
from tests.curvature.matrices import SPECTRA, rotated

pytestmark = pytest.mark.usefixtures("quick_compilation")
run = jax.jit(lanczos, static_argnums=2, static_argnames="reorthogonalise")


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("reorthogonalise", [True, False])
def test_quadrature_is_that_of_the_matrix_exponential(spectrum, reorthogonalise, rng):
    eigenvalues = SPECTRA[spectrum]
    matrix, start = rotated(eigenvalues), rng.normal(size=len(eigenvalues))
    result = run(
        Matrix(matrix),
        jnp.asarray(start, jnp.float32),
        24,
        reorthogonalise=reorthogonalise,
    )
    nodes, weights = result.quadrature()
    unit = start / np.linalg.norm(start)
    wide = np.asarray(matrix, np.float64)
    expected = unit @ scipy.linalg.expm(-wide / 10) @ unit
    np.testing.assert_allclose(weights @ jnp.exp(-nodes / 10), expected, rtol=1e-5)
    assert nodes.min() > eigenvalues.min() - 1e-4
    assert nodes.max() < eigenvalues.max() + 1e-4
    assert (result.basis is None) == (not reorthogonalise)


def test_the_basis_is_orthonormal_and_tridiagonalises(rng):
    eigenvalues = SPECTRA["indefinite"]
    matrix = rotated(eigenvalues)
    start = jnp.asarray(rng.normal(size=80), jnp.float32)
    result = run(Matrix(matrix), start, 60)
    basis = np.asarray(result.basis, np.float64)
    np.testing.assert_allclose(basis @ basis.T, np.eye(60), atol=3e-6)
    projected = basis @ np.asarray(matrix, np.float64) @ basis.T
    np.testing.assert_allclose(projected, result.matrix(), atol=1e-4)
    np.testing.assert_allclose(
        result.basis[0], start / jnp.linalg.norm(start), atol=1e-6
    )


@pytest.mark.parametrize("reorthogonalise", [True, False])
@pytest.mark.parametrize(
    ("eigenvalues", "distinct"),
    [
        (np.zeros(12), 1),
        (np.full(12, 1e6), 1),
        (np.repeat([1.0, 2.0, 5.0], 4), 3),
        (np.r_[100.0, np.zeros(11)], 2),
        (np.linspace(-1.0, 2.0, 12), 12),
        (np.array([3.0]), 1),
    ],
)
def test_an_exhausted_subspace_ends_it(eigenvalues, distinct, reorthogonalise, rng):
    start = rng.normal(size=len(eigenvalues))
    vector = jnp.asarray(start, jnp.float32)
    matrix = rotated(eigenvalues)
    result = run(Matrix(matrix), vector, 30, reorthogonalise=reorthogonalise)
    assert result.diagonal.shape == (min(30, len(eigenvalues)),)
    # Rounding in the matrix itself may leave a little that is worth another step.
    assert distinct <= int(result.size) <= len(eigenvalues)
    assert int(result.size) == distinct or distinct in (2, 3)
    nodes, weights = result.quadrature()
    unit = start / np.linalg.norm(start)
    square = (
        unit @ np.asarray(matrix, np.float64) @ np.asarray(matrix, np.float64) @ unit
    )
    np.testing.assert_allclose(weights @ nodes**2, square, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-6)
    # Beside the eigenvalues there are only nodes that count for nothing.
    scale = max(abs(eigenvalues).max(), 1.0)
    away = np.abs(np.asarray(nodes)[:, None] - eigenvalues).min(axis=1)
    assert np.sum(weights[away > 1e-5 * scale]) < 1e-6
    assert eigenvalues.min() - 1e-5 * scale < nodes.min()
    assert nodes.max() < eigenvalues.max() + 1e-5 * scale


def test_a_start_in_an_invariant_subspace_sees_only_that():
    matrix = jnp.diag(jnp.array([1.0, 2.0, 3.0, 4.0, 5.0]))
    result = run(Matrix(matrix), jnp.array([0.0, 1.0, 0.0, -1.0, 0.0]), 5)
    assert int(result.size) == 2
    nodes, weights = result.quadrature()
    np.testing.assert_allclose(nodes[weights > 1e-6], [2, 4], rtol=1e-6)


def test_a_zero_start_has_no_steps():
    result = run(Matrix(jnp.eye(3)), jnp.zeros(3), 2)
    assert int(result.size) == 0
    assert np.isfinite(result.quadrature()[0]).all()


def test_not_a_number_is_not_hidden():
    matrix = jnp.eye(4).at[1, 1].set(jnp.nan)
    nodes, weights = run(Matrix(matrix), jnp.ones(4), 3).quadrature()
    assert np.isnan(nodes).any() or np.isnan(weights).any()


def test_vmap_over_starts_and_over_operators(rng):
    matrices = jnp.stack([rotated(np.linspace(1, 2, 6), seed) for seed in range(3)])
    starts = jnp.asarray(rng.normal(size=(3, 6)), jnp.float32)
    many = jax.vmap(lambda m, s: lanczos(Matrix(m), s, 4))(matrices, starts)
    for i in range(3):
        one = run(Matrix(matrices[i]), starts[i], 4)
        np.testing.assert_allclose(many.diagonal[i], one.diagonal, atol=1e-5)
        np.testing.assert_allclose(many.off_diagonal[i], one.off_diagonal, atol=1e-5)


def test_float64_is_as_exact_as_float64(rng):
    with jax.enable_x64(True):
        eigenvalues = np.geomspace(1e-6, 1, 12)
        matrix = rotated(eigenvalues, dtype=np.float64)
        nodes, _ = run(
            Matrix(matrix), jnp.asarray(rng.normal(size=12)), 20
        ).quadrature()
        assert nodes.dtype == jnp.float64
        np.testing.assert_allclose(nodes, eigenvalues, rtol=1e-8)


def test_errors():
    with pytest.raises(ValueError, match="num_steps is 0"):
        lanczos(Matrix(jnp.eye(2)), jnp.ones(2), 0)
    with pytest.raises(ValueError, match=r"float32\[3\]"):
        lanczos(Matrix(jnp.eye(2)), jnp.ones(3), 1)
