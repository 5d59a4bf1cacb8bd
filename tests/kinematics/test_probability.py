"""Exact kinematics against brute force, published tables and closed forms."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmerge import kinematics
from tests.kinematics.reference import (
    circular_volumes,
    half_angle,
    moments,
    orthant_volumes,
    subspace_volumes,
)


def brute_force(volumes: np.ndarray) -> float:
    """2 h_((T-1)d+1) of the full product sequence."""
    product = np.ones(1)
    for row in volumes:
        product = np.convolve(product, row)
    dimension = volumes.shape[1] - 1
    return 2 * product[(len(volumes) - 1) * dimension + 1 :: 2].sum()


def test_the_reference_is_a_law_with_the_known_mean_and_variance():
    volumes = circular_volumes(50, np.pi / 6)
    assert volumes.sum() == pytest.approx(1, abs=1e-13)
    assert volumes[1::2].sum() == pytest.approx(0.5, abs=1e-13)
    mean, variance = moments(volumes)
    assert mean == pytest.approx(13.0, abs=1e-5)  # d sin^2 + cos 2a
    assert variance == pytest.approx(18.0, abs=1e-3)  # (d - 2)/2 sin^2 2a
    mean, variance = moments(circular_volumes(200, half_angle(8)))
    assert (mean, variance) == pytest.approx((174.25, 43.3125), abs=1e-4)


@pytest.mark.parametrize("x64", [False, True])
def test_circular_cones_of_the_table(x64):
    volumes = np.tile(circular_volumes(200, half_angle(8)), (10, 1))
    with jax.enable_x64(x64):
        found = kinematics.intersection_probabilities(jnp.asarray(volumes))
        assert found.dtype == (jnp.float64 if x64 else jnp.float32)
    expected = [0.9968, 0.8709, 0.3782, 0.0516, 0.0022]
    np.testing.assert_allclose(found[5:], expected, atol=6e-5)
    np.testing.assert_allclose(found[0], 1, atol=1e-5)
    volumes = np.tile(circular_volumes(50, half_angle(4)), (6, 1))
    found = kinematics.intersection_probabilities(volumes)
    np.testing.assert_allclose(found[2:], [0.9297, 0.4142, 0.0534, 0.0024], atol=6e-5)


@pytest.mark.parametrize(
    ("dimension", "sec_squared", "crossing", "ratio"),
    [
        (8, 8, 4.90, 4.79),
        (50, 8, 7.20, 7.14),
        (200, 8, 7.75, 7.77),
        (1000, 8, 7.90, 7.95),
        (8, 20, 7.27, 7.12),
        (50, 20, 14.87, 14.79),
        (200, 20, 18.38, 18.35),
    ],
)
def test_exact_crossings_are_close_to_the_capacity(
    dimension, sec_squared, crossing, ratio
):
    row = circular_volumes(dimension, half_angle(sec_squared))
    assert dimension / (dimension - moments(row)[0]) == pytest.approx(ratio, abs=6e-3)
    with jax.enable_x64(True):
        found = kinematics.intersection_probabilities(np.tile(row, (20, 1)))
    found = np.asarray(found)
    exact = np.interp(-0.5, -found, np.arange(1, 21))
    assert exact == pytest.approx(crossing, abs=6e-3)


def test_cones_of_different_kinds_agree_with_the_full_product():
    volumes = np.stack(
        [
            circular_volumes(12, 1.2),
            orthant_volumes(12),
            subspace_volumes(12, 9),
            circular_volumes(12, 1.4),
        ]
    )
    with jax.enable_x64(True):
        found = kinematics.intersection_probabilities(volumes)
    expected = [brute_force(volumes[:n]) for n in (1, 2, 3, 4)]
    np.testing.assert_allclose(found, expected, atol=1e-13)


def test_rotated_orthants():
    found = kinematics.intersection_probabilities(np.tile(orthant_volumes(12), (3, 1)))
    np.testing.assert_allclose(found[1:], [0.5, 0.0205], atol=5e-5)


def test_subspaces_step():
    rows = np.stack([subspace_volumes(10, n) for n in (8, 7, 6, 9)])
    found = kinematics.intersection_probabilities(rows)
    np.testing.assert_array_equal(found, [1, 1, 1, 0])
    step = kinematics.subspace_intersection(10, jnp.array([8.0, 7.0, 6.0, 9.0]))
    np.testing.assert_array_equal(found, step)
    exactly = kinematics.subspace_intersection(10, jnp.array([5.0, 5.0]))
    np.testing.assert_array_equal(exactly, [1, 0])  # complementary: only the origin


def test_crofton_is_the_intersection_with_a_subspace():
    volumes = circular_volumes(20, 0.9)
    with jax.enable_x64(True):
        found = kinematics.crofton_probability(volumes, jnp.arange(21))
        pairs = [
            kinematics.intersection_probabilities(
                np.stack([volumes, subspace_volumes(20, n)])
            )[1]
            for n in (1, 7, 20)
        ]
    found = np.asarray(found)
    np.testing.assert_allclose(found[[1, 7, 20]], pairs, atol=1e-13)
    assert found[0] == 0
    assert np.all(np.diff(found) >= 0)
    line = kinematics.crofton_probability(subspace_volumes(20, 5), jnp.array([15, 16]))
    np.testing.assert_array_equal(line, [0, 1])


def test_expected_dimensions_of_rays_and_orthants():
    # pos of T Gaussian vectors: E min(Bin(T, 1/2), 20).
    ray = np.zeros(21)
    ray[:2] = 0.5
    found = kinematics.expected_sum_dimensions(np.tile(ray, (60, 1)))
    at = found[jnp.array([10, 30, 40, 60]) - 1]
    np.testing.assert_allclose(at, [5, 14.967, 18.746, 19.995], atol=6e-4)
    common = kinematics.expected_intersection_dimensions(
        np.tile(orthant_volumes(6), (2, 1))
    )
    np.testing.assert_allclose(common, [3, 0.67676], atol=1e-5)


def test_gains_of_expected_sums_have_a_hinge_and_never_increase():
    row = circular_volumes(60, 0.35)
    with jax.enable_x64(True):
        sums = kinematics.expected_sum_dimensions(np.tile(row, (12, 1)))
    gains = np.diff(np.asarray(sums))
    expected = [7.819, 7.819, 7.819, 7.803, 7.563, 6.430]
    expected += [4.186, 1.935, 0.630, 0.148, 0.026]
    np.testing.assert_allclose(gains, expected, atol=6e-4)
    assert np.all(np.diff(gains) < 1e-12)


@pytest.mark.parametrize(("x64", "rtol"), [(False, 2e-5), (True, 1e-12)])
def test_wendel_is_exact(x64, rtol):
    num = np.array([5, 6, 7, 9, 12, 15, 18, 40, 1000])
    expected = [
        sum(math.comb(n - 1, k) for k in range(6)) / 2 ** (n - 1) if n > 6 else 1.0
        for n in num.tolist()
    ]
    with jax.enable_x64(x64):
        wendel = jax.jit(kinematics.wendel_probability, static_argnums=1)
        found = wendel(num, 6)
        high = wendel(jnp.array([2000.0, 2100.0]), 1000)
    # Below float32's range the true value is nothing.
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=1e-38)
    tail = sum(math.comb(2099, k) for k in range(1000)) / 2**2099
    np.testing.assert_allclose(high, [0.5, tail], rtol=rtol)
    rounded = [1, 0.8555, 0.5, 0.2120, 0.0717]
    np.testing.assert_allclose(found[jnp.array([1, 3, 4, 5, 6])], rounded, atol=5e-5)


def test_wendel_of_the_table_and_of_real_numbers():
    wendel = jax.jit(lambda num: kinematics.wendel_probability(num, 20))
    found = wendel(jnp.array([30, 40, 60]))
    np.testing.assert_allclose(1 - found, [0.0307, 0.5, 0.9957], atol=5e-5)
    between = wendel(jnp.linspace(19.0, 25.0, 25))
    assert bool(jnp.all(jnp.diff(between) <= 1e-6))
    assert bool(jnp.all(between > 0.9))
    slope = jax.jit(jax.grad(wendel))(40.0)
    assert -0.1 < float(slope) < -0.05
    assert float(kinematics.cover_capacity(20)) == 40


def test_probabilities_differentiate_and_batch():
    rows = jnp.asarray(np.stack([circular_volumes(12, a) for a in (1.0, 1.2)]))
    last = lambda volumes: kinematics.intersection_probabilities(volumes)[-1]
    gradient = jax.jit(jax.vmap(jax.grad(last)))(jnp.stack([rows, rows[::-1]]))
    assert gradient.shape == (2, 2, 13)
    assert bool(jnp.all(jnp.isfinite(gradient)))
    np.testing.assert_allclose(gradient[0], gradient[1][::-1], atol=1e-5)


@pytest.mark.parametrize(
    ("volumes", "words"),
    [
        (np.array([[0.2, 0.3, 0.5]]), "no intrinsic volumes"),
        (np.array([[0.5, 0.5, 0.5]]), "no intrinsic volumes"),
        (np.array([[-0.1, 0.5, 0.6]]), "no intrinsic volumes"),
        (np.array([0.25, 0.5, 0.25]), "expected (task, dim + 1)"),
        (np.full((1, 3), np.nan), "no intrinsic volumes"),
    ],
)
def test_what_is_no_cone_is_refused(volumes, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        kinematics.intersection_probabilities(volumes)


def test_crofton_refuses_fractions():
    with pytest.raises(ValueError, match="whole numbers from 0 to 2"):
        kinematics.crofton_probability(np.array([0.25, 0.5, 0.25]), 1.5)
