"""The bound against plain loops, its limits, and its derivatives."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmerge import stability
from jaxmerge.stability import ExpertSpec, Measured, ProblemStats
from tests.reference import stability as reference
from tests.stability.model import PROGRAM, bound

pytestmark = pytest.mark.usefixtures("quick_compilation")
STATS = ProblemStats(1.0, 5.8, 6.2, 5.7, 0.5, 0.6, 3.4)
WEIGHTS = np.array([0.4, 0.3, 0.2, 0.1])


def problem(rng, num, steps):
    """Settings and constants with which nothing overflows, in NumPy."""
    rate, batch = rng.uniform(0.001, 0.02, num), rng.integers(1, 16, num)
    samples = rng.integers(16, 400, num)
    stats = {
        "smoothness": rng.uniform(0.5, 2),
        "noise": rng.uniform(1, 8, num),
        "norms": rng.uniform(2, 8, num),
        "gradient": 4.0,
        "heterogeneity": 0.7,
        "merged": 0.8,
        "gap": 3.0,
    }
    return (rate, batch, np.broadcast_to(steps, num), samples), stats


def as_stats(stats):
    return ProblemStats(
        stats["smoothness"],
        stats["noise"],
        stats["norms"],
        stats["gradient"],
        stats["heterogeneity"],
        stats["merged"],
        stats["gap"],
    )


@pytest.mark.parametrize("convex", [False, True])
def test_compiled_it_equals_the_loops_in_numpy(rng, convex):
    with jax.enable_x64(True):
        function = jax.jit(
            lambda spec, stats, alphas, weights: stability.excess_risk_bound(
                spec,
                stats,
                coefficients=alphas,
                target_weights=weights,
                convex=convex,
            )
        )
        for steps in (1, 2, 3, 17, np.array([1, 5, 40, 300]), 2000):
            settings, stats = problem(rng, 4, steps)
            alphas = rng.uniform(0, 0.5, 4)
            spec = ExpertSpec(*(jnp.asarray(x, float) for x in settings))
            found = function(spec, as_stats(stats), alphas, WEIGHTS)
            known = reference.bound(settings, stats, alphas, WEIGHTS, convex)
            for name, value in known.items():
                np.testing.assert_allclose(
                    getattr(found, name), value, rtol=1e-12, atol=1e-14, err_msg=name
                )


def test_the_recursions_are_those_of_numpy_and_of_the_small_step_forms(rng):
    settings, stats = problem(rng, 6, np.array([1, 2, 5, 10, 20, 24]))
    with jax.enable_x64(True):
        spec, known = ExpertSpec(*settings), as_stats(stats)
        rows = zip(*settings, stats["noise"], stats["norms"], strict=True)
        loops = np.array([
            reference.recursions(*row, stats["smoothness"], False) for row in rows
        ])  # fmt: skip
        drifts = stability.drift(spec, known)
        deltas = stability.expert_l2_stability(spec, known)
        np.testing.assert_allclose(drifts, loops[:, 0], rtol=1e-12, atol=1e-16)
        np.testing.assert_allclose(deltas, loops[:, 2], rtol=1e-12)
        short = np.asarray(settings[0] * settings[2] * stats["smoothness"] <= 0.5)
        small = np.asarray(stability.small_step_drift(spec, known))
        assert np.all(drifts <= small)
        np.testing.assert_array_equal(np.isfinite(small), short)
        tiny = dataclasses.replace(spec, learning_rate=1e-6, steps=200.0)
        lead = stability.small_step_stability(tiny, known)
        ratio = stability.expert_l2_stability(tiny, known) / lead
        # (1 + 1/K)^K sums to (e - 1) K, of which e K is the bound.
        np.testing.assert_allclose(ratio, 1 - 1 / np.e, rtol=0.01)


def test_one_step_has_a_closed_form():
    rate, batch, samples = np.array([0.02, 0.05]), 8.0, 64.0
    weights, alphas = np.array([0.5, 0.5]), np.array([0.7, 0.2])
    with jax.enable_x64(True):
        found = PROGRAM(ExpertSpec(rate, batch, 1, samples), STATS, coefficients=alphas)
    square = 5.8 + 2 * 6.2
    deltas = 4 * rate**2 / (batch * samples) * (1 + batch / samples) * square
    length = np.sum(alphas * rate)
    shares = alphas * rate / length
    optimisation = (
        3.4
        - length / 2 * 5.7
        + length * np.sum((weights - shares) ** 2 / weights) * 0.5
        + np.sum(alphas**2 * rate**2 * 5.8 / batch)
    )
    spread = np.sum(weights * alphas**2 * deltas)
    gain = np.sqrt((2 * optimisation + 0.6 + 5.8) * spread) + spread / 2
    assert np.all(np.asarray(found.drifts) == 0)
    assert float(found.drift) == 0
    assert float(found.long_step) == 0  # L A is below 1/2
    np.testing.assert_allclose(found.stabilities, deltas, rtol=1e-13)
    np.testing.assert_allclose(found.optimisation, optimisation, rtol=1e-13)
    np.testing.assert_allclose(found.generalisation, gain, rtol=1e-13)


def test_a_merge_of_nothing_is_the_base():
    spec = ExpertSpec(0.02, 8, jnp.array([10.0, 10000.0]), 64)

    def total(alphas):
        return stability.excess_risk_bound(spec, STATS, coefficients=alphas)

    found = jax.jit(total)(jnp.zeros(2))
    assert float(found.total) == np.float32(3.4)
    assert float(found.generalisation) == 0
    np.testing.assert_array_equal(found.shares, [0.5, 0.5])
    assert bool(found.vacuous)  # no better than the base
    slope = jax.jit(jax.grad(lambda a: total(a).total))(jnp.zeros(2))
    assert np.all(np.isfinite(slope))


def test_terms_are_separate_and_add_up():
    spec = ExpertSpec(0.02, 8, jnp.array([8.0, 24.0]), 64)
    found = bound(spec, STATS)
    first = found.start_gap + found.descent + found.training_heterogeneity
    first = first + found.drift + found.noise + found.long_step
    np.testing.assert_allclose(found.optimisation, first, rtol=1e-6)
    second = found.stability + found.stability_squared
    np.testing.assert_allclose(found.generalisation, second, rtol=1e-6)
    np.testing.assert_allclose(found.total, first + second, rtol=1e-6)
    assert float(found.descent) < 0 < float(found.training_heterogeneity)
    equal = bound(spec, STATS, coefficients=stability.normalised_coefficients(spec))
    assert float(equal.chi_squared) < 1e-12


def test_what_overflows_is_infinite_vacuous_and_has_finite_slopes():
    def total(rate, alphas, steps):
        spec = ExpertSpec(jnp.stack([rate, rate]), 8, steps, 64)
        return stability.excess_risk_bound(spec, STATS, coefficients=alphas)

    steps = jnp.array([10.0, 100_000.0])
    rate, alphas = jnp.float32(0.02), jnp.array([0.5, 0.5])
    found = jax.jit(total)(rate, alphas, steps)
    assert np.isposinf(found.total)
    assert np.isposinf(found.drift)
    assert np.isposinf(found.stability)
    assert bool(found.vacuous)
    assert float(found.descent) > -np.inf
    np.testing.assert_array_equal(np.isinf(found.drifts), [False, True])
    for mode in (jax.jacrev, jax.jacfwd):
        slopes = jax.jit(
            mode(lambda *x: total(*x).total, argnums=(0, 1, 2))
        )(rate, alphas, steps)  # fmt: skip
        assert all(np.all(np.isfinite(slope)) for slope in slopes)
    # An expert that is left out does not count, however far it was trained.
    alone = jax.jit(total)(rate, jnp.array([0.5, 0.0]), steps)
    assert np.isfinite(alone.total)
    for steps in (1e3, 1e6, 1e12):
        spread = jax.jit(total)(rate, alphas, jnp.full(2, steps))
        assert not np.isnan(spread.total)
        assert bool(spread.vacuous)


def test_slopes_are_those_of_finite_differences():
    def total(rate, alphas, steps):
        spec = ExpertSpec(rate, 8.0, steps, 64.0)
        return stability.excess_risk_bound(spec, STATS, coefficients=alphas).total

    with jax.enable_x64(True):
        point = (
            jnp.array([0.02, 0.03]),
            jnp.array([0.6, 0.3]),
            jnp.array([12.0, 20.0]),
        )
        forward = jax.jit(jax.jacfwd(total, argnums=(0, 1, 2)))(*point)
        backward = jax.jit(jax.grad(total, argnums=(0, 1, 2)))(*point)
        function = jax.jit(total)
        for at, (ahead, back) in enumerate(zip(forward, backward, strict=True)):
            np.testing.assert_allclose(ahead, back, rtol=1e-10)
            for t in range(2):
                width = 1e-6 * point[at][t]
                ends = []
                for sign in (1, -1):
                    moved = list(point)
                    moved[at] = moved[at].at[t].add(sign * width)
                    ends.append(function(*moved))
                finite = (ends[0] - ends[1]) / (2 * width)
                np.testing.assert_allclose(back[t], finite, rtol=1e-6)


def test_a_sweep_is_one_program():
    traces = []

    @jax.jit
    def sweep(steps):
        traces.append(None)
        spec = ExpertSpec(0.02, 8, jnp.stack([steps, steps]), 64)
        return stability.excess_risk_bound(spec, STATS).total

    alone = [float(sweep(jnp.float32(steps))) for steps in (1, 8, 32)]
    assert len(traces) == 1
    batch = jax.vmap(sweep)(jnp.array([1.0, 8.0, 32.0]))
    np.testing.assert_allclose(batch, alone, rtol=1e-6)


def test_measurements_replace_their_bounds():
    spec = ExpertSpec(0.02, 8, jnp.array([1e6, 1e6]), 64)
    measured = Measured(
        optimisation=0.5, gradient_square=4.0, drifts=1.0, stabilities=jnp.full(2, 0.08)
    )
    found = bound(spec, STATS, measured=measured)
    assert float(found.optimisation) == 0.5
    # Delta^2 = 2 (1/2) (1/4) 0.08 = 0.02
    np.testing.assert_allclose(
        found.generalisation, 2 * np.sqrt(0.02) + 0.01, rtol=1e-6
    )
    assert not bool(found.vacuous)
    assert not bool(found.rising)
    part = dataclasses.replace(measured, optimisation=None, gradient_square=None)
    long = bound(spec, STATS, measured=part)
    assert np.isfinite(long.total)  # no recursion is left that could overflow


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"learning_rate": -0.1}, "learning_rate is -0.1; expected positive finite"),
        ({"steps": np.nan}, "steps is nan; expected finite numbers of at least 1"),
        ({"batch_size": 128}, "expected batch_size of at most samples"),
        ({"samples": None}, "needs `samples`.*fine-tuning's settings"),
        ({"steps": np.ones(3)}, "numbers of experts differ: .*steps is for 3"),
        ({"steps": np.ones((2, 2))}, r"steps has shape \(2, 2\)"),
        ({"noise": -1.0}, "noise is -1.0; expected finite numbers of at least 0"),
        ({"smoothness": 0.0}, "smoothness is 0.0; expected a positive number"),
        ({"smoothness": np.ones(2)}, "one number for the whole problem .of experts"),
        ({"gap": None}, "needs `gap`"),
        ({"coefficients": [0.5, -0.5]}, "an expert that is subtracted"),
        ({"target_weights": [0.5, 0.6]}, "expected positive numbers whose sum is 1"),
        ({"target_weights": [1.0, 0.0]}, "expected positive numbers whose sum is 1"),
        (
            {"convex": True, "learning_rate": 3.0},
            r"learning_rate \* smoothness is 3; the convex form needs at most 2",
        ),
        (
            {"measured": Measured(stabilities=np.ones(3))},
            r"measured stabilities has shape \(3,\); expected \(2,\)",
        ),
        ({"measured": Measured(drifts=-1.0)}, "drifts is -1.0"),
    ],
)
def test_what_is_missing_or_impossible_is_refused(change, words):
    spec = {"learning_rate": np.full(2, 0.1), "batch_size": 8, "steps": 4}
    spec["samples"] = 64
    stats = {
        field.name: getattr(STATS, field.name) for field in dataclasses.fields(STATS)
    }
    options = {}
    for name, value in change.items():
        place = spec if name in spec else stats if name in stats else options
        place[name] = value
    with pytest.raises(ValueError, match=words):
        stability.excess_risk_bound(
            ExpertSpec(**spec), ProblemStats(**stats), **options
        )


def test_a_step_too_long_for_convexity_is_vacuous_where_it_cannot_be_seen():
    def total(rate):
        spec = ExpertSpec(rate, 8, 4.0, 64)
        return stability.excess_risk_bound(spec, STATS, convex=True)

    assert np.isfinite(jax.jit(total)(1.9).total)
    beyond = jax.jit(total)(2.1)
    assert np.isposinf(beyond.total)
    assert bool(beyond.vacuous)
