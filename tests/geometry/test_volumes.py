"""Intrinsic volumes: sum rules, closed forms, and kinematic inequalities."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmerge.geometry import (
    CircularCone,
    L1DescentCone,
    LinearSubspace,
    LInfDescentCone,
    MonotoneCone,
    Orthant,
    Polar,
    ProductCone,
    SecondOrderCone,
    circular_intrinsic_volumes,
    intrinsic_volumes,
    product_intrinsic_volumes,
    rays_intrinsic_volumes,
    volumes_half_tails,
    volumes_mean,
    volumes_tails,
    volumes_variance,
)


@pytest.mark.parametrize("dimension", [1, 2, 3, 10, 501])
@pytest.mark.parametrize("angle", [0.0, 0.3, math.pi / 4, 1.2, math.pi / 2])
def test_sums_of_circular_volumes(dimension, angle):
    volumes = circular_intrinsic_volumes(dimension, angle)
    assert volumes.shape == (dimension + 1,)
    assert np.all(volumes >= 0)
    assert abs(volumes.sum() - 1) < 1e-12
    assert abs(volumes[1::2].sum() - 0.5) < 1e-12  # Gauss and Bonnet
    polar = circular_intrinsic_volumes(dimension, math.pi / 2 - angle)
    if dimension > 1:  # the polar of a ray on a line is no half-space's
        np.testing.assert_allclose(volumes[::-1], polar, atol=1e-12)


def test_circular_volumes_of_a_large_dimension():
    volumes = circular_intrinsic_volumes(500, math.pi / 6)
    assert abs(volumes_mean(volumes) - 125.5) < 1e-5
    assert abs(volumes_variance(volumes) - 186.75) < 0.02


def test_small_cones_by_hand():
    wedge = circular_intrinsic_volumes(2, 0.4)
    np.testing.assert_allclose(wedge, [0.5 - 0.4 / np.pi, 0.5, 0.4 / np.pi])
    np.testing.assert_allclose(
        intrinsic_volumes(Orthant(3)), [1 / 8, 3 / 8, 3 / 8, 1 / 8]
    )
    # Unsigned Stirling numbers of the first kind: x (x + 1) (x + 2) (x + 3) / 4!.
    found = intrinsic_volumes(MonotoneCone(4))
    np.testing.assert_allclose(found, np.array([0, 6, 11, 6, 1]) / 24)
    # (x + 1) (x + 3) (x + 5) / 48.
    found = intrinsic_volumes(MonotoneCone(3, nonnegative=True))
    np.testing.assert_allclose(found, np.array([15, 23, 9, 1]) / 48)
    half = intrinsic_volumes(SecondOrderCone(7))
    np.testing.assert_allclose(half, half[::-1], atol=1e-15)
    point = LInfDescentCone(jnp.array([2.0, -2.0, 1.0]))
    np.testing.assert_allclose(intrinsic_volumes(point), [0, 0.25, 0.5, 0.25])
    origin = LInfDescentCone(jnp.zeros(2))
    np.testing.assert_allclose(intrinsic_volumes(origin), [1, 0, 0])
    plane = LinearSubspace(jnp.eye(3)[:2])
    np.testing.assert_array_equal(intrinsic_volumes(plane), [0, 0, 1, 0])


def test_polars_and_products():
    cone = ProductCone((CircularCone(4, 0.5), Polar(MonotoneCone(3)), Orthant(2)))
    volumes = intrinsic_volumes(cone)
    assert volumes.shape == (10,)
    np.testing.assert_allclose(volumes.sum(), 1)
    factors = [intrinsic_volumes(factor) for factor in cone.cones]
    np.testing.assert_allclose(volumes_mean(volumes), sum(map(volumes_mean, factors)))
    np.testing.assert_allclose(
        volumes_variance(volumes), sum(map(volumes_variance, factors))
    )
    np.testing.assert_allclose(intrinsic_volumes(Polar(cone)), volumes[::-1])


@pytest.mark.parametrize("num", [1, 10, 19, 20, 21, 40, 60])
def test_rays_follow_wendel_and_cover(num):
    volumes = rays_intrinsic_volumes(num, 20)
    assert volumes.shape == (21,)
    np.testing.assert_allclose(volumes.sum(), 1, rtol=1e-12)
    heads = np.arange(num + 1)
    law = np.array([math.comb(num, int(k)) for k in heads]) / 2.0**num
    np.testing.assert_allclose(volumes_mean(volumes), law @ np.minimum(heads, 20))
    # The cone is the whole space when Gauss and Bonnet fail, by that much.
    whole = sum(math.comb(num - 1, k) for k in range(20, num)) / 2.0 ** (num - 1)
    known = {40: 0.5, 60: 0.9957, 20: 0.0}
    assert abs(whole - known.get(num, whole)) < 5e-5
    excess = volumes[20::-2].sum() - volumes[19::-2].sum()
    np.testing.assert_allclose(excess, whole, atol=1e-12)


def test_tails_interlace():
    product = product_intrinsic_volumes(
        circular_intrinsic_volumes(9, 0.7), intrinsic_volumes(Orthant(6))
    )
    t, h = volumes_tails(product), volumes_half_tails(product)
    assert t[0] == pytest.approx(1)
    assert (t[-1], h[-1]) == (0, 0)
    np.testing.assert_allclose(h[:-2] - h[2:], product[:-1], atol=1e-15)
    assert h[1] == pytest.approx(0.5)
    # t_(k+1) <= 2 h_(k+1) <= t_k
    assert np.all(t[1:] <= 2 * h[1:] + 1e-15)
    assert np.all(2 * h[1:] <= t[:-1] + 1e-15)
    # Two orthants of six dimensions, one turned at random, share a ray half the time.
    pair = product_intrinsic_volumes(*[intrinsic_volumes(Orthant(6))] * 2)
    assert 2 * volumes_half_tails(pair)[7] == pytest.approx(0.5)


def test_deviations_of_the_random_dimension():
    """log E exp(xi (V - delta)) is at most Poisson's, of the lesser codimension."""
    for d in (2, 8, 50):
        for angle in (0.2, 0.8, 1.4):
            volumes = circular_intrinsic_volumes(d, angle)
            delta = volumes_mean(volumes)
            assert volumes_variance(volumes) <= 2 * min(delta, d - delta)
            for xi in (-2.0, -0.3, 0.3, 2.0):
                log = np.log(volumes @ np.exp(xi * (np.arange(d + 1) - delta)))
                up = delta * (np.exp(2 * xi) - 2 * xi - 1) / 2
                down = (d - delta) * (np.exp(-2 * xi) + 2 * xi - 1) / 2
                assert log <= min(up, down)


def test_refusals_are_sentences():
    with pytest.raises(ValueError, match="L1DescentCone have no closed form here"):
        intrinsic_volumes(L1DescentCone(jnp.ones(3)))
    with pytest.raises(ValueError, match="the dimension is 0"):
        circular_intrinsic_volumes(0, 0.3)
    with pytest.raises(ValueError, match="the angle is nan"):
        circular_intrinsic_volumes(3, math.nan)
    with pytest.raises(ValueError, match="expected at least 1 of both"):
        rays_intrinsic_volumes(0, 3)
