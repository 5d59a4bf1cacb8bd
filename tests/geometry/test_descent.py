"""Descent cones and ellipsoidal cones, against optimizers and known tables."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from jaxmerge.geometry import (
    EllipsoidalCone,
    L1DescentCone,
    LInfDescentCone,
    NuclearDescentCone,
    circular_dimension,
    ellipsoid_cone,
    statistical_dimension,
)
from jaxmerge.kinematics import local_angular_dimension_approx

pytestmark = pytest.mark.usefixtures("quick_compilation")


@jax.jit
def project(cone, points):
    return jax.vmap(cone.project)(points)


def test_l1_projections_minimise_over_the_multiple(rng):
    points = np.array([[1.0, -3.0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1.0], [1.0] * 6])
    g = rng.standard_normal((20, 6))
    with jax.enable_x64(True):
        for point in points:
            fixed, signs = point != 0, np.sign(point)

            def distance(tau, x, fixed=fixed, signs=signs):
                free = np.maximum(np.abs(x[~fixed]) - tau, 0)
                return np.sum((x[fixed] - tau * signs[fixed]) ** 2) + np.sum(free**2)

            found = project(L1DescentCone(jnp.asarray(point)), jnp.asarray(g))
            for p, x in zip(found, g, strict=True):
                best = optimize.minimize_scalar(
                    distance, bounds=(0, 10), args=(x,), options={"xatol": 1e-10}
                )
                np.testing.assert_allclose(np.sum(p * p), best.fun, atol=1e-7)


def test_descent_cones_at_the_origin_are_the_origin(rng):
    g = jnp.asarray(rng.standard_normal((10, 4)), jnp.float32)
    zero = jnp.zeros(4)
    np.testing.assert_allclose(project(L1DescentCone(zero), g), 0 * g, atol=1e-6)
    np.testing.assert_array_equal(project(LInfDescentCone(zero), g), 0 * g)


def test_projections_lie_in_the_descent_cone(rng):
    """A small step along one does not raise the norm."""
    with jax.enable_x64(True):
        point = np.diag([1.0, 1.0, 0.0, 0.0])[:, :3]
        g = jnp.asarray(rng.standard_normal((30, 4, 3)))
        steps = project(NuclearDescentCone(4, 3, 2), g)
        after = np.linalg.norm(point + 1e-7 * steps, "nuc", axis=(1, 2))
        assert np.all(after <= 2 + 1e-12)
        # And is not far from its boundary for those that had to move.
        moved = np.sum(np.square(g - steps), axis=(1, 2)) > 1e-9
        assert np.all(after[moved] >= 2 - 1e-12)
        assert moved.sum() > 20
        full = project(NuclearDescentCone(3, 3, 3), g[:, :3])
        trace = np.trace(full, axis1=1, axis2=2)
        assert np.all(trace <= 1e-12)


@jax.jit
def dimension(cone, key):
    return statistical_dimension(cone, key=key, num_samples=4000)


def random_direction(d):
    x = np.random.default_rng(0).standard_normal(d)
    return x / np.linalg.norm(x)


# Semi-axes, the apex, the dimension and Larsen's approximation.
ELLIPSOIDS = {
    "ball at 1.5": (np.ones(200), 1.5, 88.9, 61.5),
    "ball at 3": (np.ones(200), 3.0, 22.9, 20.0),
    "ball at 10": (np.ones(200), 10.0, 2.95, 1.98),
    "harmonic": (np.arange(1, 201) ** -0.5, 3.0, 1.42, 0.63),
    "flat": (np.r_[np.full(10, 10.0), np.full(190, 0.1)], 3.0, 9.92, 9.39),
}


@pytest.mark.parametrize("x64", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ELLIPSOIDS)
def test_the_table_of_ellipsoids(name, x64, key):
    with jax.enable_x64(x64):
        check_ellipsoid(*ELLIPSOIDS[name], key)


def check_ellipsoid(axes, distance, delta, approximation, key):
    apex = distance * random_direction(200)
    axes, apex = jnp.asarray(axes), jnp.asarray(apex)
    larsen = local_angular_dimension_approx(1 / axes**2, 0.5, distance)
    assert abs(larsen - approximation) < 0.008 * approximation
    result = dimension(ellipsoid_cone(axes, apex, rotated=False), key)
    assert abs(result.mean - delta) < 4 * result.stderr + 0.02 * delta
    assert result.mean > larsen


def test_the_cone_is_that_of_the_ellipsoid(rng):
    """Against all nonnegative combinations of points of the ellipsoid."""
    with jax.enable_x64(True):
        axes, apex = np.array([0.4, 1.0, 2.0]), np.array([1.0, 0.5, 1.5])
        cone = ellipsoid_cone(jnp.asarray(axes), jnp.asarray(apex))
        points = rng.standard_normal((2000, 3))
        points = axes * points / np.linalg.norm(points, axis=1, keepdims=True)
        rays = points - apex
        # All of them are in the cone, and it is not larger than what they generate.
        np.testing.assert_allclose(project(cone, jnp.asarray(rays)), rays, atol=1e-12)
        g = rng.standard_normal((12, 3))
        found = project(cone, jnp.asarray(g))
        for x, p in zip(g, found, strict=True):
            _, rest = optimize.nnls(rays.T, x, maxiter=100_000)
            assert -1e-9 < rest - np.linalg.norm(x - p) < 0.01


def test_from_inside_it_is_everything_and_from_the_surface_a_half_space(key):
    g = jax.random.normal(key, (6, 3))
    axes = jnp.array([1.0, 2.0, 3.0])
    inside = ellipsoid_cone(axes, jnp.array([0.5, 0.0, 0.0]))
    np.testing.assert_array_equal(project(inside, g), g)
    centre = ellipsoid_cone(axes, jnp.zeros(3))
    np.testing.assert_array_equal(project(centre, g), g)
    surface = ellipsoid_cone(axes, jnp.array([0.0, 2.0, 0.0]))
    half = np.asarray(g).copy()
    half[:, 1] = np.minimum(half[:, 1], 0)
    np.testing.assert_allclose(project(surface, g), half, atol=5e-3)


def test_gradients_follow_the_distance(key):
    """The dimension of a ball's cone is that of a circular cone of sine 1 / R."""
    with jax.enable_x64(True):
        axes = jnp.linspace(0.5, 1.5, 12)

        def delta(distance, axes):
            apex = distance * jnp.asarray(random_direction(12))
            cone = ellipsoid_cone(axes, apex, rotated=False)
            return statistical_dimension(cone, key=key, num_samples=200).mean

        slope, by_axis = jax.jit(jax.grad(delta, argnums=(0, 1)))(2.0, axes)
        run = jax.jit(delta)
        ends = run(2.0 + 1e-5, axes), run(2.0 - 1e-5, axes)
        np.testing.assert_allclose(slope, (ends[0] - ends[1]) / 2e-5, rtol=1e-4)
        assert np.all(np.isfinite(by_axis))
        equal = jax.jit(jax.grad(delta, argnums=1))(2.0, jnp.ones(12))
        assert np.all(np.isfinite(equal))


def test_refusals_are_sentences():
    with pytest.raises(ValueError, match=r"have shape \(3,\) and the apex has \(2,\)"):
        ellipsoid_cone(jnp.ones(3), jnp.ones(2))
    with pytest.raises(ValueError, match="expected positive numbers"):
        ellipsoid_cone(jnp.array([1.0, -1.0]), jnp.ones(2))
    with pytest.raises(ValueError, match="dimension of at least 2"):
        EllipsoidalCone(jnp.ones(0)).project(jnp.ones(1))


@pytest.mark.slow
def test_a_cone_seen_from_an_apex_needs_no_jit(key):
    cone = ellipsoid_cone(jnp.ones(5), 2.0 * jnp.eye(5)[0])
    delta = statistical_dimension(cone, key=key, num_samples=400)
    exact = circular_dimension(5, float(np.arcsin(0.5)))
    assert abs(delta.mean - exact) < 4 * delta.stderr
