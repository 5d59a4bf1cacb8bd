"""How many of these very experts one direction pleases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import nnls

from jaxmerge import kinematics
from jaxmerge.kinematics._hull import nearest_in_hull


def unit_vectors(rng, num, dimension, shared=0.0):
    vectors = rng.normal(size=(num, dimension)) + shared * rng.normal(size=dimension)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def loads_by_scipy(vectors):
    """1'l of the problem as stated, for each number of experts."""
    loads = []
    for num in range(1, len(vectors) + 1):
        system = np.vstack([vectors[:num].T, np.ones((1, num))])
        target = np.append(np.zeros(vectors.shape[1]), 1.0)
        solution, _ = nnls(system, target)
        x = solution / solution.sum()
        loads.append(1 / np.sum((x @ vectors[:num]) ** 2))
    return np.array(loads)


def equicorrelated(num, cosine):
    return np.full((num, num), cosine) + (1 - cosine) * np.eye(num)


@pytest.mark.parametrize(("x64", "atol"), [(False, 2e-4), (True, 1e-8)])
def test_thresholds_agree_with_scipy(x64, atol, rng):
    with jax.enable_x64(x64):
        solve = jax.jit(
            lambda gram: kinematics.gram_capacity(gram=gram, half_angle=1.2)
        )
        for shared in (0.0, 0.5):
            vectors = unit_vectors(rng, 12, 9, shared)
            loads = np.concatenate([[0.0], loads_by_scipy(vectors)])
            limit = 1 / np.cos(1.2) ** 2
            scale = rng.uniform(0.1, 5.0, size=12)
            gram = (vectors @ vectors.T) * np.outer(scale, scale)
            found = solve(jnp.asarray(gram))
            beyond = np.flatnonzero(loads > limit)
            assert len(beyond), "the example should have a threshold"
            t = beyond[0]
            share = (limit - loads[t - 1]) / (loads[t] - loads[t - 1])
            np.testing.assert_allclose(found.value, t - 1 + share, atol=atol)
            assert int(found.integer) == t - 1
            assert found.lower <= found.value <= found.upper
            np.testing.assert_allclose(found.lower, found.value, atol=10 * atol)


# Ten programs outside of `jit` compile slower than one.
capacity = jax.jit(
    lambda gram, angle: kinematics.gram_capacity(gram=gram, half_angle=angle)
)


def test_orthogonal_experts_have_the_limit_of_the_angle():
    found = capacity(np.eye(12), np.arccos(8**-0.5))
    np.testing.assert_allclose(found.value, 8, rtol=1e-5)
    assert int(found.integer) == 8


def test_shared_structure_removes_the_ceiling():
    angle = np.arccos(10**-0.5)  # cos^2 = 0.1
    loads = lambda num: num / (1 + (num - 1) * 0.1)
    np.testing.assert_allclose(
        [loads(n) for n in (2, 4, 8, 16, 64)], [1.82, 3.08, 4.71, 6.40, 8.77], atol=5e-3
    )
    for cosine, value in ((0.1, np.inf), (0.3, np.inf), (0.05, 19.0), (0.0, 10.0)):
        one = capacity(jnp.float32(cosine), angle)
        if cosine == 0.1:  # exactly on the edge, rounding decides: enormous or infinite
            assert float(one.value) > 1e5
            continue
        np.testing.assert_allclose(one.value, value, rtol=1e-5)
        pool = capacity(equicorrelated(24, cosine), angle)
        assert bool(pool.saturated) == bool(np.isfinite(value))
        if np.isfinite(value):
            # Linear between whole numbers, where the load is not: the same whole one.
            assert int(pool.integer) == int(one.integer) == value
    same = capacity(np.ones((5, 5)), 0.1)
    assert np.isinf(same.value)
    assert not bool(same.converged)


def test_experts_around_the_origin_fail():
    directions = np.array([[1.0, 0.0], [-0.5, 0.75**0.5], [-0.5, -(0.75**0.5)]])
    found = capacity(directions @ directions.T, 1.55)
    assert int(found.integer) == 2
    opposite = np.array([[1.0, -1.0], [-1.0, 1.0]])
    found = capacity(opposite, 1.5)
    assert int(found.integer) == 1
    alone = capacity(np.eye(1), 0.3)
    assert np.isinf(alone.value)


def test_derivatives_are_those_of_finite_differences(rng):
    vectors = unit_vectors(rng, 8, 6, 0.3)
    with jax.enable_x64(True):
        gram = jnp.asarray(vectors @ vectors.T)
        bump = jnp.asarray(rng.normal(size=(8, 8)))
        bump = bump + bump.T

        @jax.jit
        def value(step, angle):
            threshold = kinematics.gram_capacity(
                gram=gram + step * bump, half_angle=angle
            )
            return threshold.value

        loads = loads_by_scipy(vectors)
        angle = np.arccos((2 / (loads[4] + loads[5])) ** 0.5)
        np.testing.assert_allclose(value(0.0, angle), 5.5, rtol=1e-9)
        by_gram, by_angle = jax.jit(jax.grad(value, argnums=(0, 1)))(0.0, angle)
        step = 1e-6
        finite = (value(step, angle) - value(-step, angle)) / (2 * step)
        np.testing.assert_allclose(by_gram, finite, rtol=1e-5)
        finite = (value(0.0, angle + step) - value(0.0, angle - step)) / (2 * step)
        np.testing.assert_allclose(by_angle, finite, rtol=1e-5)


def test_the_nearest_point_is_certified(rng):
    vectors = unit_vectors(rng, 20, 15)
    with jax.enable_x64(True):
        gram = jnp.asarray(vectors @ vectors.T)
        x, low, high = nearest_in_hull(gram, jnp.arange(20) < 17)
        assert float(jnp.sum(x)) == pytest.approx(1)
        assert bool(jnp.all(x[17:] == 0))
        np.testing.assert_allclose(low, high, rtol=1e-9)
        np.testing.assert_allclose(high, np.linalg.norm(x @ vectors), rtol=1e-9)


@pytest.mark.parametrize(
    ("gram", "angle", "words"),
    [
        (None, 1.0, "`gram_capacity` needs `gram`.*experts' weights"),
        (np.eye(2), None, "needs `half_angle`.*curvature.*no default"),
        (np.eye(2), 2.0, "half_angle is 2.0; expected an angle"),
        (np.ones((2, 3)), 1.0, r"shape \(2, 3\)"),
        (np.diag([1.0, 0.0]), 1.0, "no expert is zero"),
        (np.array([[1.0, 0.5], [0.1, 1.0]]), 1.0, "a symmetric matrix"),
        (-0.5, 1.0, r"expected a cosine in \[0, 1\]"),
    ],
)
def test_errors_are_sentences(gram, angle, words):
    with pytest.raises(ValueError, match=words):
        kinematics.gram_capacity(gram=gram, half_angle=angle)
