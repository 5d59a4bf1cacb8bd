import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmerge.curvature import (
    Matrix,
    acceptable_dimension_approx,
    quadratic_rise,
    radii,
    spectral_density,
)
from tests.curvature.matrices import SPECTRA, rotated

pytestmark = pytest.mark.usefixtures("quick_compilation")


@functools.partial(jax.jit, static_argnames=("num_steps",))
def measure(operator, key, num_steps=30):
    return spectral_density(operator, key, 64, num_steps, parallel_probes=64)


def larsen(eigenvalues, epsilon, distance, negative):
    """Σ r² / (R² + r²), term by term from the half-axes."""
    values = np.maximum(eigenvalues, 0) if negative == "flat" else np.abs(eigenvalues)
    with np.errstate(divide="ignore", invalid="ignore"):
        squares = 2 * epsilon / values
        return np.where(values == 0, 1.0, squares / (distance**2 + squares))


def check(estimate, exact, relative):
    assert abs(estimate.mean - exact) <= 4 * estimate.stderr + 1e-4 * abs(exact)
    assert abs(estimate.mean - exact) <= relative * abs(exact)


@pytest.mark.parametrize("negative", ["flat", "absolute"])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_delta_of_known_spectra(spectrum, negative, key):
    eigenvalues = SPECTRA[spectrum]
    result = measure(Matrix(rotated(eigenvalues)), key, num_steps=60)
    for epsilon, distance in ((0.5, 1.0), (0.02, 0.3), (2.0, 10.0)):
        cone, short = (
            acceptable_dimension_approx(
                spectrum, epsilon=epsilon, distance=distance, negative=negative
            )
            for spectrum in (result, result.shortened(30))
        )
        exact = larsen(eigenvalues, epsilon, distance, negative).sum()
        check(cone.dimension, exact, 0.02)
        check(cone.codimension, 80 - exact, 0.1)
        total = cone.dimension.mean + cone.codimension.mean
        np.testing.assert_allclose(total, 80, rtol=1e-5)
        error = abs(short.dimension.mean - exact)
        assert error < 4 * short.dimension.stderr + short.quadrature_error
        if eigenvalues.min() >= 0:
            assert short.quadrature_error < 0.01


def test_too_few_steps_show(key):
    """Half of them flat, some negative, the scale of the kink a thousandth: 6 % off."""
    result = measure(Matrix(rotated(SPECTRA["indefinite"])), key)
    cone = acceptable_dimension_approx(
        result, epsilon=2.0, distance=10.0, negative="flat"
    )
    assert cone.quadrature_error > 4 * cone.dimension.stderr


def test_what_negative_eigenvalues_count_as_matters(key):
    eigenvalues = np.r_[np.full(20, -2.0), np.full(20, 2.0)]
    result = measure(Matrix(rotated(eigenvalues)), key)
    flat, absolute = (
        acceptable_dimension_approx(
            result, epsilon=1.0, distance=3.0, negative=negative
        )
        for negative in ("flat", "absolute")
    )
    check(flat.dimension, 20 + 20 * 0.1, 0.1)
    np.testing.assert_allclose(absolute.dimension.mean, 4.0, rtol=1e-4)
    check(flat.falling, 20, 0.1)
    check(absolute.falling, 20, 0.1)


def test_zero_curvature_is_all_of_the_space(key):
    result = measure(Matrix(jnp.zeros((5, 5))), key)
    cone = acceptable_dimension_approx(
        result, epsilon=1.0, distance=1e6, negative="absolute"
    )
    assert float(cone.dimension.mean) == 5.0
    assert float(cone.codimension.mean) == 0.0
    assert float(cone.doubtful.mean) == float(cone.falling.mean) == 0.0


def test_doubts_are_told_where_the_approximation_is_bad(key):
    """Unit balls: all of delta is doubtful from R = 1.5, none of it from R = 10."""
    result = measure(Matrix(rotated(np.full(60, 2.0))), key)
    near, far = (
        acceptable_dimension_approx(
            result, epsilon=1.0, distance=distance, negative="absolute"
        )
        for distance in (1.5, 10.0)
    )
    np.testing.assert_allclose(near.dimension.mean, 60 / (1 + 1.5**2), rtol=1e-5)
    np.testing.assert_allclose(near.doubtful.mean, near.dimension.mean, rtol=1e-5)
    np.testing.assert_allclose(near.height.mean, 1.5**2, rtol=1e-5)
    assert float(far.doubtful.mean) == 0.0


def test_the_height_is_the_mean_rise_at_that_distance(key, rng):
    eigenvalues = SPECTRA["flat"]
    matrix = Matrix(rotated(eigenvalues))
    result = measure(matrix, key)
    cone = acceptable_dimension_approx(
        result, epsilon=0.25, distance=2.0, negative="flat"
    )
    ways = rng.normal(size=(4000, 80))
    ways *= 2.0 / np.linalg.norm(ways, axis=1, keepdims=True)
    rises = jax.vmap(lambda x: quadratic_rise(matrix, x))(
        jnp.asarray(ways, jnp.float32)
    )
    np.testing.assert_allclose(
        rises.mean() / 0.25, 4 / 0.5 * eigenvalues.mean(), rtol=0.03
    )
    check(cone.height, 4 / 0.5 * eigenvalues.mean(), 0.1)


def test_larsen_is_the_monte_carlo_statistical_dimension_from_afar(rng):
    """The exact cone's by projection: circular, half-angle asin(r / R)."""
    dim, distance = 200, 10.0
    gaussians = rng.normal(size=(4000, dim))
    along = gaussians[:, 0]
    across = np.linalg.norm(gaussians[:, 1:], axis=1)
    angle = np.arcsin(1 / distance)
    # The projection on a circular cone: on its face, inside it, or at the apex.
    face = np.maximum(along * np.cos(angle) + across * np.sin(angle), 0) ** 2
    inside = across <= along * np.tan(angle)
    exact = np.mean(np.where(inside, along**2 + across**2, face))
    result = measure(Matrix(2 * jnp.eye(dim)), jax.random.key(0), num_steps=2)
    cone = acceptable_dimension_approx(
        result, epsilon=1.0, distance=distance, negative="flat"
    )
    assert abs(cone.dimension.mean - 200 / 101) < 1e-4
    # 2.93 and 1.98: delta is not much above 1, so here too it says too little.
    np.testing.assert_allclose(exact, 2.93, rtol=0.05)


def test_sweeps_and_gradients(key):
    result = measure(Matrix(rotated(SPECTRA["flat"])), key)

    def delta(epsilon):
        cone = acceptable_dimension_approx(
            result, epsilon=epsilon, distance=1.0, negative="flat"
        )
        return cone.dimension.mean

    sweep = jax.jit(jax.vmap(delta))(jnp.array([0.01, 0.1, 1.0]))
    assert np.all(np.diff(sweep) > 0)
    slope = jax.jit(jax.grad(delta))(1.0)
    values = SPECTRA["flat"]
    exact = np.sum(2 * values / (2 + values) ** 2)
    np.testing.assert_allclose(slope, exact, rtol=0.1)


def test_radii():
    result = radii(jnp.array([8.0, 0.0, -2.0]), epsilon=4.0, negative="absolute")
    np.testing.assert_allclose(result, [1.0, np.inf, 2.0])
    result = radii(jnp.array([8.0, 0.0, -2.0]), epsilon=4.0, negative="flat")
    np.testing.assert_allclose(result, [1.0, np.inf, np.inf])


def test_errors(key):
    result = spectral_density(Matrix(jnp.eye(2)), key, 2, 1)
    call = functools.partial(acceptable_dimension_approx, result)
    with pytest.raises(ValueError, match="negative is 'zero'.*'flat'.*'absolute'"):
        call(epsilon=1.0, distance=1.0, negative="zero")
    with pytest.raises(ValueError, match="epsilon is 0"):
        call(epsilon=0.0, distance=1.0, negative="flat")
    with pytest.raises(ValueError, match="distance is -1"):
        call(epsilon=1.0, distance=-1.0, negative="flat")
    with pytest.raises(ValueError, match="epsilon is nan"):
        radii(jnp.ones(2), epsilon=float("nan"), negative="flat")
    with pytest.raises(TypeError, match="negative"):
        call(epsilon=1.0, distance=1.0)
