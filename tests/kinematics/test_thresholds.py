"""The four thresholds for random orientations, and the marginal gain."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmerge import kinematics
from jaxmerge.geometry.estimate import Estimate
from tests.kinematics.reference import circular_volumes, half_angle, moments

# Outside of `jit`, each operation would be a program of its own.
CAPACITY = jax.jit(
    lambda dimension, deltas: kinematics.intersection_capacity(
        dimension=dimension, statistical_dimensions=deltas, eta=0.5
    )
)


def circular_capacity(angle):
    """d sin^2 + cos 2a is the statistical dimension of a circular cone in R^200."""
    delta = 200 * jnp.sin(angle) ** 2 + jnp.cos(2 * angle)
    return kinematics.intersection_capacity(
        dimension=200.0, statistical_dimensions=delta, eta=0.05
    )


@pytest.mark.slow
def test_capacity_of_circular_cones_and_its_derivative():
    angle = half_angle(8.0)
    with jax.enable_x64(True):
        point = jnp.asarray(angle)
        threshold = circular_capacity(point)
        np.testing.assert_allclose(threshold.value, 7.766990291, atol=1e-9)
        assert int(threshold.integer) == 7
        ends = jax.jit(
            lambda a: jnp.stack([(t := circular_capacity(a)).value, t.lower, t.upper])
        )
        slopes = jax.jit(jax.jacrev(ends))(point)
        np.testing.assert_allclose(slopes[0], 39.50296990, rtol=1e-9)
        step = 1e-6
        finite = (ends(point + step) - ends(point - step)) / (2 * step)
        np.testing.assert_allclose(slopes, finite, rtol=1e-5)
    single = jax.value_and_grad(lambda a: circular_capacity(a).value)(
        jnp.float32(angle)
    )
    np.testing.assert_allclose(single, [7.76699, 39.50297], rtol=2e-6)


def test_the_interval_holds_for_exact_cones():
    row = circular_volumes(200, half_angle(20))
    exact = np.asarray(kinematics.intersection_probabilities(np.tile(row, (40, 1))))
    for eta in (0.2, 0.01):
        threshold = kinematics.intersection_capacity(
            dimension=200, statistical_dimensions=moments(row)[0], eta=eta
        )
        lower, upper = int(np.floor(threshold.lower)), int(np.ceil(threshold.upper))
        assert exact[lower - 1] >= 1 - eta
        assert exact[upper - 1] <= eta
        assert threshold.lower < threshold.value < threshold.upper


def test_experts_that_differ_count_in_order():
    deltas = jnp.array([90.0, 70.0, 60.0, 50.0, 95.0])  # codimensions 10 30 40 50 5
    threshold = CAPACITY(100.0, deltas)
    np.testing.assert_allclose(threshold.value, 3.4, rtol=1e-6)
    assert int(threshold.integer) == 3
    gradient = jax.jit(jax.grad(lambda d: CAPACITY(100.0, d).value))(deltas)
    # (20 left) / 50 is the share of the fourth; its own codimension shrinks with delta.
    np.testing.assert_allclose(gradient, [0.02, 0.02, 0.02, 0.008, 0], atol=1e-6)
    span = kinematics.span_saturation(
        dimension=100.0, statistical_dimensions=100 - deltas, eta=0.5
    )
    np.testing.assert_allclose(span.value, threshold.value, rtol=1e-6)
    assert int(span.integer) == 4


def test_capacity_keeps_experts_that_cost_nothing():
    # Full after two, then two that cost nothing.
    free = CAPACITY(4.0, jnp.array([2.0, 2.0, 4.0, 4.0, 1.0]))
    assert int(free.integer) == 4
    beyond = CAPACITY(4.0, jnp.array([2.0, 2.0, 4.0, 4.0]))
    assert np.isinf(beyond.value)
    assert not bool(beyond.converged)
    assert not bool(beyond.saturated)


def test_codimensions_of_a_large_space_do_not_cancel():
    threshold = kinematics.intersection_capacity(
        dimension=10**9, statistical_dimensions=10**9 - 100.0, eta=0.1
    )
    assert threshold.value.dtype == jnp.float32
    np.testing.assert_allclose(threshold.value, 1e7, rtol=1e-6)
    bounds = kinematics.bennett_bounds(1e9, np.array([0.5e9 + 2e5, 0.5e9]))
    assert float(bounds.lower) > 0.99


def test_no_codimension_is_no_limit():
    threshold = kinematics.intersection_capacity(
        dimension=10.0, statistical_dimensions=10.0, eta=0.1
    )
    assert np.isinf(threshold.value)
    assert np.isinf(threshold.integer)
    assert not bool(threshold.converged)
    empty = kinematics.span_saturation(
        dimension=10.0, statistical_dimensions=0.0, eta=0.1
    )
    assert np.isinf(empty.value)


def test_more_experts_than_dimensions_and_one_expert():
    rays = kinematics.span_saturation(
        dimension=6, statistical_dimensions=np.full(20, 0.5), eta=0.1
    )
    assert float(rays.value) == float(kinematics.cover_capacity(6)) == 12
    one = kinematics.intersection_capacity(
        dimension=6, statistical_dimensions=np.zeros(1), eta=0.1
    )
    assert np.isinf(one.value)  # the one expert given fits, just
    two = kinematics.intersection_capacity(
        dimension=6.0, statistical_dimensions=np.zeros(2), eta=0.1
    )
    assert int(two.integer) == 1


def test_transition_is_an_even_bet_between_its_ends():
    threshold = kinematics.transition(
        dimension=200, statistical_dimensions=174.25, variances=43.3125, eta=0.05
    )
    np.testing.assert_allclose(threshold.value, 7.76699, rtol=1e-6)
    assert int(threshold.integer) == 7
    width = 2 * 1.644854 * np.sqrt(threshold.value * 43.3125) / 25.75
    np.testing.assert_allclose(threshold.upper - threshold.lower, width, rtol=1e-2)
    for count, probability in ((threshold.lower, 0.95), (threshold.upper, 0.05)):
        excess = 200 - float(count) * 25.75
        z = excess / np.sqrt(float(count) * 43.3125)
        tail = {0.95: 1.644854, 0.05: -1.644854}[probability]
        np.testing.assert_allclose(z, tail, rtol=1e-4)
    # The exact crossing of the same cones is 7.753.
    assert abs(float(threshold.value) - 7.753) < 0.02
    pool = kinematics.transition(
        dimension=200,
        statistical_dimensions=np.full(12, 174.25),
        variances=np.full(12, 43.3125),
        eta=0.05,
    )
    ends = lambda t: [float(t.lower), float(t.value), float(t.upper)]
    np.testing.assert_allclose(ends(pool), ends(threshold), rtol=1e-5)


def test_random_direction_has_the_other_sign():
    smaller, larger = (
        kinematics.random_direction(
            dimension=200.0, statistical_dimension=delta, eta=0.01
        )
        for delta in (20.0, 89.0)
    )
    assert float(smaller.value) == 180
    assert float(larger.value) == 111  # a larger cone needs fewer directions
    assert larger.definition == "random_direction"
    row = circular_volumes(200, float(np.arcsin(2 / 3)))  # the unit ball from R = 1.5
    delta = moments(row)[0]
    assert delta == pytest.approx(88.9 + 1 / 9, abs=0.05)
    threshold = kinematics.random_direction(
        dimension=200.0, statistical_dimension=delta, eta=0.01
    )
    ends = jnp.array([int(threshold.lower), int(np.ceil(threshold.upper))])
    low, high = kinematics.crofton_probability(row, ends)
    assert float(low) <= 0.01
    assert float(high) >= 0.99


def test_sweeps_compile_once():
    traces = []

    @jax.jit
    def sweep(eta, tolerance, delta):
        traces.append(None)
        capacity = kinematics.intersection_capacity(
            dimension=100.0, statistical_dimensions=delta, eta=eta
        )
        gains = jnp.exp(-jnp.arange(20.0))
        return capacity.lower, kinematics.marginal_gain(
            gains=gains, tolerance=tolerance
        )

    lowers = [
        float(sweep(eta, tolerance, 90.0)[0])
        for eta, tolerance in ((0.1, 0.5), (0.01, 0.2), (0.001, 0.1))
    ]
    assert lowers[0] > lowers[1] > lowers[2]
    assert len(traces) == 1
    batched = jax.vmap(lambda eps: sweep(0.1, eps, 90.0)[1])(jnp.array([0.3, 0.1]))
    # Between whole numbers the gains are linear: e^-1 = .368, e^-2 = .135, e^-3 = .050.
    expected = [
        2 + (np.exp(-1) - 0.3) / (np.exp(-1) - np.exp(-2)),
        3 + (np.exp(-2) - 0.1) / (np.exp(-2) - np.exp(-3)),
    ]
    np.testing.assert_allclose(batched.value, expected, rtol=1e-5)
    np.testing.assert_array_equal(batched.integer, [3, 4])


def test_marginal_gain_and_its_derivative():
    gains = np.array([1.0, 0.6, 0.3, 0.1, 0.05])
    with jax.enable_x64(True):
        value = jax.jit(
            lambda gains, eps: (
                kinematics.marginal_gain(gains=gains, tolerance=eps).value
            )
        )
        np.testing.assert_allclose(value(gains, 0.2), 3.5)
        slopes = jax.jit(jax.grad(value, argnums=(0, 1)))(jnp.asarray(gains), 0.2)
        np.testing.assert_allclose(slopes[0], [-1.0, 0, 2.5, 2.5, 0], atol=1e-12)
        np.testing.assert_allclose(slopes[1], -5.0)  # 1 / (0.1 - 0.3)
        absolute = kinematics.marginal_gain(
            gains=2 * gains, tolerance=0.2, relative=False
        )
        np.testing.assert_allclose(absolute.value, 4.0)


def test_identical_experts_saturate_at_one():
    threshold = kinematics.marginal_gain(gains=np.zeros(5), tolerance=0.1)
    assert float(threshold.value) == 1
    assert int(threshold.integer) == 1
    assert bool(threshold.converged)
    assert float(kinematics.marginal_gain(gains=np.ones(1), tolerance=1.0).value) == 1


def test_gains_that_stay_large_or_rise_again_are_flagged():
    beyond = kinematics.marginal_gain(gains=np.array([1.0, 0.9, 0.8]), tolerance=0.5)
    assert np.isinf(beyond.value)
    assert not bool(beyond.converged)
    # Duplicates first: the order-dependent curve is not concave.
    fixed = np.array([0.0, 0.0, 1.13, 3.84, 2.74, 1.43, 1.38])
    average = np.array([3.57, 1.79, 1.36, 1.15, 0.99, 0.87, 0.78])
    found = kinematics.marginal_gain(gains=fixed, tolerance=1.2, relative=False)
    assert float(found.value) == 1
    assert not bool(found.converged)
    found = kinematics.marginal_gain(gains=average, tolerance=0.3)
    assert int(found.integer) == 5
    assert bool(found.converged)


def test_marginal_gain_of_an_estimate_has_an_interval():
    mean = jnp.array([1.0, 0.6, 0.3, 0.1])
    noisy = Estimate(mean, jnp.full(4, 0.01), 100, "plain")
    threshold = kinematics.marginal_gain(gains=noisy, tolerance=0.2)
    np.testing.assert_allclose(threshold.value, 3.5, rtol=1e-6)
    # The gain by one standard error, the first gain by its share of one.
    spread = 0.012 / 0.2
    np.testing.assert_allclose(
        [threshold.lower, threshold.upper], [3.5 - spread, 3.5 + spread], rtol=1e-4
    )
    wobble = jnp.array([1.0, 0.6, 0.61, 0.1])
    calm = Estimate(wobble, jnp.full(4, 0.01), 100, "plain")
    assert bool(kinematics.marginal_gain(gains=calm, tolerance=0.2).converged)
    assert not bool(kinematics.marginal_gain(gains=wobble, tolerance=0.2).converged)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: kinematics.intersection_capacity(dimension=5, eta=0.1),
            "`intersection_capacity` needs `statistical_dimensions`.*curvature",
        ),
        (
            lambda: kinematics.intersection_capacity(
                dimension=5, statistical_dimensions=3.0
            ),
            "needs `eta`.*the user",
        ),
        (
            lambda: kinematics.span_saturation(statistical_dimensions=3.0, eta=0.1),
            "`span_saturation` needs `dimension`.*number of parameters",
        ),
        (
            lambda: kinematics.marginal_gain(gains=np.ones(3)),
            "`marginal_gain` needs `tolerance`.*no default",
        ),
        (
            lambda: kinematics.marginal_gain(tolerance=0.1),
            "needs `gains`.*experts' weights",
        ),
        (
            lambda: kinematics.transition(
                dimension=5, statistical_dimensions=3.0, eta=0.1
            ),
            "`transition` needs `variances`.*curvature",
        ),
        (
            lambda: kinematics.random_direction(dimension=5, eta=0.1),
            "`random_direction` needs `statistical_dimension`",
        ),
        (
            lambda: kinematics.intersection_capacity(
                dimension=5, statistical_dimensions=7.0, eta=0.1
            ),
            "expected statistical_dimensions of at most dimension",
        ),
        (
            lambda: kinematics.intersection_capacity(
                dimension=5, statistical_dimensions=-1.0, eta=0.1
            ),
            "statistical_dimensions is -1.0; expected numbers of at least 0",
        ),
        (
            lambda: kinematics.span_saturation(
                dimension=5, statistical_dimensions=np.nan, eta=0.1
            ),
            "statistical_dimensions is nan",
        ),
        (
            lambda: kinematics.span_saturation(
                dimension=5, statistical_dimensions=np.ones((2, 2)), eta=0.1
            ),
            r"shape \(2, 2\)",
        ),
        (
            lambda: kinematics.transition(
                dimension=5, statistical_dimensions=3.0, variances=1.0, eta=0.7
            ),
            r"a probability in \(0, 1/2\)",
        ),
        (
            lambda: kinematics.marginal_gain(gains=np.ones((2, 2)), tolerance=0.1),
            "differences of a curve",
        ),
    ],
)
def test_what_is_missing_or_impossible_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
