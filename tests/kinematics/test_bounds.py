"""No bound is violated by exact probabilities; constants are the published ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmerge import kinematics
from jaxmerge.kinematics._moments import bennett, chi_mean
from tests.kinematics.reference import circular_volumes, half_angle, moments

ETAS = (0.1, 0.05, 1e-3)


def exact_and_padded(dimension, sec_squared, most):
    """Exact probabilities of T cones alike, and rows of deltas padded with the space.

    A cone that is the whole space has codimension 0 and no variance: T cones and
    padding are T cones.
    """
    row = circular_volumes(dimension, half_angle(sec_squared))
    exact = kinematics.intersection_probabilities(np.tile(row, (most, 1)))
    mean, variance = moments(row)
    used = np.tril(np.ones((most, most)))
    deltas = np.where(used, mean, dimension)
    return np.asarray(exact), jnp.asarray(deltas), jnp.asarray(variance * used)


@pytest.mark.parametrize("dimension", [8, 50, 200])
def test_bounds_hold_for_exact_circular_cones(dimension):
    def all_bounds(deltas):
        return (
            kinematics.bennett_bounds(dimension, deltas),
            kinematics.mccoy_tropp_bounds(dimension, deltas),
        )

    with jax.enable_x64(True):
        batched = jax.jit(jax.vmap(all_bounds))
        clt = jax.jit(
            jax.vmap(
                lambda deltas, variances: kinematics.central_limit_probability(
                    dimension, deltas, variances
                )
            )
        )
        error, informative = 0.0, 0
        for sec_squared in (2, 4, 8, 20):
            exact, deltas, variances = exact_and_padded(dimension, sec_squared, 30)
            tight, loose = batched(deltas)
            for bounds in (tight, loose):
                assert np.all(bounds.lower <= exact + 1e-9)
                assert np.all(exact <= bounds.upper + 1e-9)
            assert np.all(tight.lower >= loose.lower)
            assert np.all(tight.upper <= loose.upper)
            informative += int(np.sum((tight.lower > 0.1) | (tight.upper < 0.9)))
            difference = np.abs(clt(deltas, variances) - exact)[1:]
            error = max(error, float(np.max(difference)))
            mean = float(deltas[0, 0])
            for eta in ETAS:  # the closed forms for any number of cones
                low, high = kinematics.capacity_window(dimension, eta)
                used = (dimension - mean) * np.arange(1, 31)
                assert np.all(exact[used <= low] >= 1 - eta)
                assert np.all(exact[used >= high] <= eta)
    assert informative >= 40
    # The central limit theorem's largest errors on this grid.
    assert error < {8: 0.0256, 50: 0.0131, 200: 0.0062}[dimension]


def test_two_cones_hold_for_exact_circular_cones():
    dimension, etas = 50, jnp.array(ETAS)
    with jax.enable_x64(True):
        both = jax.jit(
            lambda deltas: (
                kinematics.published_bounds(dimension, deltas),
                kinematics.preprint_bounds(dimension, deltas),
                kinematics.bennett_bounds(dimension, deltas),
            )
        )
        for angles in ((0.2, 0.3), (0.5, 1.0), (0.7, 0.9), (1.3, 1.5), (1.2, 0.3)):
            rows = np.stack([circular_volumes(dimension, a) for a in angles])
            exact = float(kinematics.intersection_probabilities(rows)[1])
            deltas = np.array([moments(row)[0] for row in rows])
            published, preprint, tight = both(deltas)
            for bounds in (published, preprint, tight):
                assert bounds.lower <= exact + 1e-9
                assert exact <= bounds.upper + 1e-9
            assert preprint.lower <= published.lower <= tight.lower
            assert tight.upper <= published.upper <= preprint.upper
            # Both sides of the two-cone form of the sharper constant.
            excess = deltas.sum() - dimension
            width = np.asarray(kinematics.sharper_constant(etas)) * dimension**0.5
            assert np.all((excess < width) | (exact >= 1 - np.asarray(ETAS)))
            assert np.all((excess > -width) | (exact <= np.asarray(ETAS)))


def test_subspace_bounds_hold_for_exact_cones():
    dimension = 200
    with jax.enable_x64(True):
        for angle in (0.1, 0.7, 1.5):
            row = circular_volumes(dimension, angle)
            delta = moments(row)[0]
            exact = kinematics.crofton_probability(row, jnp.arange(201))
            bounds = jax.vmap(
                lambda n, delta=delta: kinematics.subspace_bounds(dimension, delta, n)
            )(jnp.arange(201.0))
            assert np.all(bounds.lower <= exact + 1e-9)
            assert np.all(exact <= bounds.upper + 1e-9)
            assert bounds.upper[0] < 1e-3 or angle == 1.5


@pytest.mark.parametrize("x64", [False, True])
def test_half_widths_of_the_table(x64):
    with jax.enable_x64(x64):
        widths = [
            kinematics.published_constant(0.05) * 10,
            kinematics.preprint_constant(0.05) * 10,
            kinematics.mccoy_tropp_window(100.0, 0.05),
            kinematics.bennett_window(100.0, 0.05),
            kinematics.central_limit_window(50.0, 0.05),
        ]
        np.testing.assert_allclose(widths, [59.2, 83.7, 79.3, 36.6, 11.6], atol=0.05)
        large = [
            kinematics.published_constant(0.05) * 1e9**0.5,
            kinematics.mccoy_tropp_window(1e9, 0.05),
            kinematics.bennett_window(1e9, 0.05),
            kinematics.central_limit_window(0.5e9, 0.05),
        ]
        np.testing.assert_allclose(large, [187e3, 187e3, 109.5e3, 36.8e3], rtol=2e-3)


def test_constants():
    a = kinematics.published_constant(jnp.array([0.05, 0.01, 0.001]))
    np.testing.assert_allclose(a, [5.921, 6.923, 8.146], atol=5e-4)
    ratio = kinematics.preprint_constant(0.01) / kinematics.published_constant(0.01)
    np.testing.assert_allclose(ratio, 2**0.5, rtol=1e-6)
    sharper = kinematics.sharper_constant(jnp.array([0.01, 0.001]))
    np.testing.assert_allclose(sharper, [4.29, 5.26], atol=5e-3)


def test_windows_invert_their_bounds():
    with jax.enable_x64(True):
        dimension, deltas = 300.0, jnp.array([240.0, 250.0, 190.0])
        theta = 60.0 + 50.0 + 110.0
        for window, bounds in (
            (kinematics.bennett_window, kinematics.bennett_bounds),
            (kinematics.mccoy_tropp_window, kinematics.mccoy_tropp_bounds),
        ):
            eta = 1 - float(bounds(dimension, deltas).lower)
            np.testing.assert_allclose(window(theta, eta), 80.0, rtol=1e-9)
        assert kinematics.bernstein_window(theta, 0.05) > kinematics.bennett_window(
            theta, 0.05
        )
        slope = jax.grad(kinematics.bennett_window)(theta, 0.05)
        step = 1e-3
        finite = (
            kinematics.bennett_window(theta + step, 0.05)
            - kinematics.bennett_window(theta - step, 0.05)
        ) / (2 * step)
        np.testing.assert_allclose(slope, finite, rtol=1e-6)


def test_bounds_have_finite_gradients_at_the_threshold_and_for_subspaces():
    total = lambda deltas: (
        kinematics.bennett_bounds(100.0, deltas).lower
        + kinematics.mccoy_tropp_bounds(100.0, deltas).upper
        + kinematics.central_limit_probability(100.0, deltas, deltas * 0.0)
    )
    rows = jnp.array([[50.0, 50.0], [100.0, 100.0], [0.0, 100.0], [0.0, 0.0]])
    assert bool(jnp.all(jnp.isfinite(jax.vmap(jax.grad(total))(rows))))
    # Only subspaces: the central limit is a step.
    values = [
        float(kinematics.central_limit_probability(10, jnp.array(n), jnp.zeros(2)))
        for n in ([5.0, 5.0], [6.0, 5.0])
    ]
    assert values == [0, 1]
    bounds = kinematics.bennett_bounds(100.0, jnp.array([100.0, 100.0]))
    assert (float(bounds.lower), float(bounds.upper)) == (1, 1)


def test_errors_are_sentences():
    with pytest.raises(ValueError, match="about two cones"):
        kinematics.published_bounds(10, jnp.array([5.0, 5.0, 5.0]))
    with pytest.raises(ValueError, match="expected statistical_dimensions of at most"):
        kinematics.bennett_bounds(10, jnp.array([5.0, 11.0]))
    with pytest.raises(ValueError, match="eta is 1.5; expected a probability"):
        kinematics.published_constant(1.5)
    with pytest.raises(ValueError, match="one of each per cone"):
        kinematics.central_limit_probability(10, jnp.ones(3), jnp.ones(2))


def test_moments():
    expected = [0.797885, 1.253314, 1.595769, 1.879971, 2.127692, 2.349964]
    expected += [2.553231, 2.741625]
    with jax.enable_x64(True):
        found = chi_mean(jnp.arange(1.0, 9.0))
        np.testing.assert_allclose(found, expected, atol=5e-7)
        n = jnp.array([250.0, 255.9, 256.1, 1e9])
        np.testing.assert_allclose(
            chi_mean(n) / jnp.sqrt(n), 1 - 1 / (4 * n) + 1 / (32 * n * n), rtol=1e-8
        )
        u = np.array([-1.0, -0.5, -0.0999, 0.0999, 0.1001, 3.0])
        direct = np.where(u > -1, (1 + u) * np.log1p(np.maximum(u, -0.999)) - u, 1.0)
        np.testing.assert_allclose(bennett(u), direct, rtol=1e-13)
    single = chi_mean(jnp.array([1.0, 2.0, 31.0, 33.0, 1e9]))
    assert single.dtype == jnp.float32
    n = np.array([31.0, 33.0, 1e9])
    series = np.sqrt(n) * (1 - 1 / (4 * n) + 1 / (32 * n**2) + 5 / (128 * n**3))
    np.testing.assert_allclose(single[2:], series, rtol=3e-6)
    np.testing.assert_allclose(bennett(1e-4), 0.5e-8 - 1e-12 / 6, rtol=1e-6)
    assert float(chi_mean(0.0)) == 0
