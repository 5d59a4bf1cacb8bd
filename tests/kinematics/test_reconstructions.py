"""R-0 to R-7 and the escape side: tables, closed forms and simulation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmerge import kinematics


def test_quadratic_wells_of_the_table():
    spectrum = np.logspace(-3, 1, 1000)
    dimension = jax.jit(
        jax.vmap(lambda num: kinematics.joint_well_dimension(num, spectrum, 0.05, 1.0))
    )(2.0 ** jnp.arange(6.0))
    expected = [500, 426.42, 353.60, 282.63, 215.23, 154.05]
    np.testing.assert_allclose(dimension, expected, atol=6e-3)
    assert bool(jnp.all(jnp.diff(dimension, 2) > 0))  # convex
    capacity = jax.jit(
        jax.vmap(
            lambda m: kinematics.quadratic_wells_capacity(
                spectrum=spectrum, epsilon=0.05, radius=1.0, search_dimension=m
            )
        )
    )(jnp.array([400.0, 500.0, 600.0, 700.0]))
    np.testing.assert_allclose(capacity.value, [0.389, 1.0, 2.569, 6.735], atol=6e-4)
    np.testing.assert_array_equal(capacity.integer, [0, 1, 2, 6])


def test_flat_directions_leave_room_for_any_number():
    capacity = lambda m: kinematics.quadratic_wells_capacity(
        spectrum=jnp.array([0.0, 2.0]),
        multiplicities=jnp.array([30, 70]),
        epsilon=0.1,
        radius=1.0,
        search_dimension=m,
    )
    assert np.isinf(capacity(75.0).value)
    assert float(capacity(35.0).value) == pytest.approx(0.1)  # 70 n/(n + .1) = 35
    with pytest.raises(ValueError, match="at most the sum of multiplicities"):
        capacity(101.0)


def test_wells_differentiate_through_the_spectrum():
    with jax.enable_x64(True):
        spectrum = jnp.logspace(-2, 1, 40)
        value = lambda scale: (
            kinematics.quadratic_wells_capacity(
                spectrum=spectrum * scale,
                epsilon=0.05,
                radius=1.0,
                search_dimension=30.0,
            ).value
        )
        # Only the product of number and curvature matters.
        np.testing.assert_allclose(jax.grad(value)(1.0), -value(1.0), rtol=1e-10)


def test_conflict_floor_agrees_with_simulation(rng):
    curvature = rng.uniform(0.5, 2.0, size=20)
    spread = rng.uniform(0.5, 1.5, size=20)
    optima = rng.normal(size=(4000, 8, 20)) * spread
    centred = optima - optima.mean(1, keepdims=True)
    floors = 0.5 * (curvature * centred**2).sum(-1).mean(-1)
    disagreement = 0.5 * np.sum(curvature * spread**2)
    expected = kinematics.conflict_floor(disagreement, 8)
    error = floors.std() / 4000**0.5
    assert abs(floors.mean() - float(expected)) < 4 * error


def test_conflict_capacity():
    capacity = lambda epsilon: kinematics.conflict_capacity(
        disagreement=2.0, tolerance=epsilon
    )
    threshold = capacity(1.5)
    np.testing.assert_allclose(threshold.value, 4.0, rtol=1e-6)
    np.testing.assert_allclose(
        kinematics.conflict_floor(2.0, threshold.value), 1.5, rtol=1e-6
    )
    assert float(capacity(0.0).value) == 1
    for epsilon in (2.0, 3.0):
        assert np.isinf(capacity(epsilon).value)
        assert not bool(capacity(epsilon).converged)
    with jax.enable_x64(True):
        slope = jax.grad(lambda e: capacity(e).value)(1.5)
        np.testing.assert_allclose(slope, 2.0 / 0.5**2, rtol=1e-12)


@pytest.mark.slow
def test_half_spaces_have_covers_capacity():
    threshold = kinematics.common_direction_capacity(
        dimension=1000.0,
        statistical_dimensions=999.5,
        search_dimension=6.0,
        eta=0.5,
    )
    assert float(threshold.value) == float(kinematics.cover_capacity(6)) == 12
    # In a subspace of 6 dimensions, half-spaces are half-spaces: Wendel.
    assert float(kinematics.wendel_probability(12, 6)) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="needs `search_dimension`"):
        kinematics.common_direction_capacity(
            dimension=10.0, statistical_dimensions=9.0, eta=0.5
        )


def test_width_ceiling_holds_for_simulated_hulls(rng):
    vectors = rng.normal(size=(40, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    samples = (rng.normal(size=(4000, 3)) @ vectors.T).max(1)
    ceiling = float(kinematics.width_ceiling(1.0, 40, 3))
    assert ceiling == pytest.approx(3**0.5)
    assert samples.mean() < ceiling
    two = float(kinematics.width_ceiling(2.0, 2, 2))
    assert two == pytest.approx(2 * (2 * np.log(2)) ** 0.5)
    assert float(kinematics.width_ceiling(2.0, 1, 1)) == 0


def test_adapters_fill_a_layer():
    threshold = kinematics.adapter_saturation(8, 100, 60)
    assert (float(threshold.value), int(threshold.integer)) == (7.5, 8)


def test_scaling_law_threshold_is_where_the_gain_is_the_tolerance():
    with jax.enable_x64(True):
        threshold = kinematics.scaling_law_threshold(
            amplitude=2.0, offset=0.7, tolerance=0.01
        )
        k = threshold.value + 0.7
        np.testing.assert_allclose(2.0 / (k * (k + 1)), 0.01, rtol=1e-12)
        law = lambda n: 2.0 / (n + 0.7)
        n = np.arange(1, 100)
        first = n[law(n) - law(n + 1) <= 0.01][0]
        assert int(threshold.integer) == first
    loose = kinematics.scaling_law_threshold(amplitude=0.1, offset=2.0, tolerance=1.0)
    assert float(loose.value) == 1


def test_rescaling_only_raises_an_absolute_threshold():
    gains = jnp.array([1.0, 0.5, 0.25, 0.125, 0.0625])
    thresholds = [
        kinematics.rescaled_gain_threshold(gains=gains, density=rho, tolerance=0.25)
        for rho in (1.0, 0.7, 0.5, 0.3)
    ]
    values = [float(t.value) for t in thresholds]
    assert values == sorted(values)
    assert values[0] == pytest.approx(3.0)
    assert values[2] == pytest.approx(4.0)
    direct = kinematics.marginal_gain(gains=gains / 0.7, tolerance=0.25, relative=False)
    assert values[1] == pytest.approx(float(direct.value), rel=1e-6)
    relative = [
        float(kinematics.marginal_gain(gains=gains / rho, tolerance=0.2).value)
        for rho in (1.0, 0.3)
    ]
    assert relative[0] == pytest.approx(relative[1], rel=1e-6)


@pytest.mark.parametrize(
    ("spectrum", "radius", "expected"),
    [
        (np.ones(200), 1.5, 61.5),
        (np.ones(200), 3.0, 20.0),
        (np.ones(200), 10.0, 1.98),
        (np.arange(1.0, 201), 3.0, 0.63),
        (np.r_[np.full(10, 0.01), np.full(190, 100.0)], 3.0, 9.39),
    ],
)
def test_larsens_approximation_of_the_table(spectrum, radius, expected):
    # epsilon = 1/2: the semi-axes are r_i^2 = 1 / lambda_i.
    found = kinematics.local_angular_dimension_approx(spectrum, 0.5, radius)
    np.testing.assert_allclose(found, expected, atol=max(0.05, 5e-3 * expected))
    low, high = kinematics.angular_width_bounds(spectrum, 0.5, radius)
    np.testing.assert_allclose(high**2, found, rtol=1e-5)
    np.testing.assert_allclose(low**2, found * 2 / np.pi, rtol=1e-5)


def test_multiplicities_stand_for_repeated_eigenvalues():
    counted = kinematics.local_angular_dimension_approx(
        np.array([0.0, 1.0]), 0.5, 3.0, multiplicities=np.array([5, 200])
    )
    np.testing.assert_allclose(counted, 25.0, rtol=1e-6)
    needed = kinematics.threshold_training_dimension(205, counted)
    np.testing.assert_allclose(needed, 180.0, rtol=1e-6)


def test_a_subspace_escapes_a_small_cap(rng):
    # The cap's width is at most that of the sphere of the cone's directions.
    dimension, codimension, angle = 60, 40, 0.5
    g = rng.normal(size=(4000, dimension))
    along, across = g[:, 0], np.linalg.norm(g[:, 1:], axis=1)
    inside = along > np.cos(angle) * np.linalg.norm(g, axis=1)
    support = along * np.cos(angle) + across * np.sin(angle)
    width = np.where(inside, np.linalg.norm(g, axis=1), support).mean()
    bound = float(kinematics.escape_probability(width, codimension))
    weaker = float(kinematics.gordon_escape_probability(width, codimension))
    assert 0.5 < bound < 1
    assert weaker < bound
    subspaces = np.linalg.qr(rng.normal(size=(500, dimension, 20)))[0]
    # The axis's cosine with the subspace is the largest of any of its directions.
    missed = np.linalg.norm(subspaces[:, 0], axis=1) < np.cos(angle)
    assert missed.mean() >= bound - 0.02
    assert float(kinematics.escape_probability(100.0, 40)) == 0
    assert float(kinematics.gordon_escape_probability(100.0, 40)) == 0


def test_gradients_are_finite():
    value = lambda spectrum: kinematics.local_angular_dimension_approx(
        spectrum, 0.5, 2.0
    )
    gradient = jax.jit(jax.grad(value))(jnp.array([0.0, 1.0, 100.0]))
    np.testing.assert_allclose(gradient, [-4, -4 / 25, -4 / 401**2], rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: kinematics.local_angular_dimension_approx([-1.0], 0.5, 1.0),
            "what Lanczos found, and say which",
        ),
        (
            lambda: kinematics.local_angular_dimension_approx(
                [1.0, 2.0], 0.5, 1.0, multiplicities=[1.0]
            ),
            "one of each per eigenvalue",
        ),
        (
            lambda: kinematics.threshold_training_dimension(10, 11.0),
            "of at most dimension",
        ),
        (lambda: kinematics.conflict_capacity(tolerance=0.1), "needs `disagreement`"),
        (
            lambda: kinematics.scaling_law_threshold(amplitude=1.0, tolerance=0.1),
            "needs `offset`.*a fit of the merging scaling law",
        ),
        (
            lambda: kinematics.rescaled_gain_threshold(
                gains=np.ones(3), density=0.0, tolerance=0.1
            ),
            r"density is 0.0; expected a share in \(0, 1\]",
        ),
        (lambda: kinematics.width_ceiling(1.0, 0, 3), "num_experts is 0"),
        (
            lambda: kinematics.quadratic_wells_capacity(
                epsilon=0.1, radius=1.0, search_dimension=1.0
            ),
            "`quadratic_wells_capacity` needs `spectrum`.*curvature",
        ),
    ],
)
def test_errors_are_sentences(call, words):
    with pytest.raises(ValueError, match=words):
        call()
