"""Fits against the paper's tables, planted laws, and each other."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmerge import laws
from tests.laws import paper

JOINT = paper.joint_laws()
FIELDS = [field.name for field in dataclasses.fields(laws.JointLaw)][:6]


def values(law):
    return np.array([getattr(law, name) for name in FIELDS], float)


def cautions(fit):
    return {caution.name for caution in fit.cautions}


def test_variance_laws_give_the_predictions_of_the_paper():
    # T1: Tables 6, 8, 10 at N = 72 give Tables 7, 9, 11.
    variance = paper.joint_laws("joint_fit_variance")
    for row in paper.rows("variance_pred_72B"):
        printed = [float(row[f"k{k}"]) for k in (1, 3, 5, 9)]
        found = variance[row["method"], row["domain"]](72.0, [1, 3, 5, 9])
        np.testing.assert_allclose(found, printed, rtol=0.01)


def test_means_over_domains():
    # T2.
    average = [law for (method, _), law in JOINT.items() if method == "average"]
    assert len(average) == 9
    for size, macro in ((0.5, 0.7365), (32.0, 0.4298)):
        found = np.mean([law(size, 9) for law in average])
        assert abs(found - macro) <= 5e-4


def test_a_law_runs_under_transformations():
    law = jax.tree.map(jnp.float32, JOINT["average", "code"])
    size, k = jnp.array([0.5, 7.0]), jnp.arange(1, 5, dtype=jnp.float32)
    both = jax.jit(lambda law: jax.vmap(lambda n: law(n, k))(size))(law)
    np.testing.assert_allclose(
        both,
        JOINT["average", "code"](np.array([[0.5], [7.0]]), np.asarray(k)),
        rtol=1e-6,
    )
    slope = jax.grad(lambda law: law(jnp.float32(2), jnp.float32(3)))(law)
    np.testing.assert_allclose(slope.amplitude, 2**-0.13678 / 3.43453, rtol=1e-5)


@pytest.mark.parametrize(("method", "domain"), JOINT)
def test_recovers_the_printed_laws(method, domain):
    # T3: noise-free grids of all 27 rows.
    law = JOINT[method, domain]
    fit = laws.fit_joint(paper.grid(law))
    np.testing.assert_allclose(values(fit.law), values(law), atol=1e-6)
    assert fit.r_squared > 1 - 1e-9
    assert fit.r_squared_weighted > 1 - 1e-9


def test_recovers_under_noise():
    # T4: multiplicative noise of 0.3 %.
    law = JOINT["average", "physics"]
    noise = 3e-3 * np.random.default_rng(1).standard_normal(63)
    points = paper.grid(law)
    noisy = dataclasses.replace(points, mean=points.mean * (1 + noise))
    fit = laws.fit_joint(noisy)
    np.testing.assert_allclose(
        fit.law.at(paper.SIZES).floor, law.at(paper.SIZES).floor, rtol=0.01
    )
    assert abs(fit.law.size_exponent - law.size_exponent) < 0.01
    assert fit.r_squared > 0.999
    # Errors are of the right size: the truth is within four of them.
    free = ~np.isnan(fit.stderr)
    truth = [getattr(law, name) for name in fit.names]
    off = np.abs(fit.values - truth)[free] / fit.stderr[free]
    assert free.sum() >= 4
    assert np.all(off < 4)


def test_bounds_that_hold_are_exact_and_told():
    # T6: gamma = b = 0, and noise that pushes them below.
    law = laws.JointLaw(0.2, 0.15, 0.4, 0.06, 0.0, 0.0)
    points = paper.grid(law)
    on_bound = 0
    for seed in range(4):
        noise = 3e-3 * np.random.default_rng(seed).standard_normal(63)
        fit = laws.fit_joint(
            dataclasses.replace(points, mean=points.mean * (1 + noise))
        )
        for name in ("amplitude_exponent", "offset"):
            value = getattr(fit.law, name)
            assert (value == 0) == (name in fit.active)
            assert value == 0 or value > 1e-4
            if value == 0:
                on_bound += 1
                assert f"{name}_at_bound" in cautions(fit)
                assert np.isnan(fit.stderr[fit.names.index(name)])
    assert on_bound >= 2


def test_the_measured_curve_of_sixteen_experts():
    # T5.
    points = paper.sixteen()
    fit = laws.fit_curve(points, weights="none")
    assert abs(fit.law.offset - 5.26) <= 0.05
    assert abs(fit.law.floor - 0.5742) <= 0.001
    assert abs(fit.law.amplitude - 1.475) <= 0.02
    assert abs(fit.r_squared - 0.9993) <= 2e-4
    assert "offset_large" in cautions(fit)
    assert "variance_grows" in cautions(fit)
    weighted = laws.fit_curve(points).law
    np.testing.assert_allclose(
        [weighted.offset, weighted.floor, weighted.amplitude],
        [5.24, 0.5745, 1.469],
        rtol=1e-3,
    )
    held = laws.fit_curve(points, weights="none", offset_bounds=(0, 1))
    assert held.r_squared <= 0.965
    assert held.active == {"offset": "upper"}
    assert "offset_at_bound" in cautions(held)


def test_rivals_of_the_measured_curve():
    fits = {fit.law.form: fit for fit in laws.compare(paper.sixteen(), weights="none")}
    assert abs(fits["offset"].aicc - -87.4) < 0.05
    assert abs(fits["logarithm"].aicc - -90.9) < 0.1
    assert abs(fits["logarithm"].law.amplitude - 0.0652) < 1e-4
    assert "floor_not_identified" in cautions(fits["offset"])
    assert list(fits) == sorted(fits, key=lambda form: fits[form].aicc)


def test_rivals_are_told_apart_where_they_differ():
    k = np.arange(1, 13)
    noise = 1e-4 * np.random.default_rng(0).standard_normal(12)
    for form, curve in {
        "offset": laws.Curve(0.5, 0.3, 0.7),
        "exponential": laws.Curve(0.5, 0.3, 0.4, form="exponential"),
        "power": laws.Curve(0.5, 0.3, 0.5, form="power"),
    }.items():
        best, *_ = laws.compare(laws.curve_points(k, curve(k) + noise))
        assert best.law.form == form
        np.testing.assert_allclose(best.law(k), curve(k), atol=3e-4)


def test_joint_rivals():
    law = laws.JointLaw(0.2, 0.15, 0.4, 0.06, 0.1, 0.5, form="power")
    fits = laws.compare(paper.grid(law), forms=("offset", "inverse", "power"))
    assert [fit.law.form for fit in fits] == ["power", "offset", "inverse"]
    assert fits[0].r_squared > 1 - 1e-9


def test_a_grid_of_offsets():
    curve = laws.Curve(0.7137, 0.0783, 0.6875)  # Table 23
    fit = laws.fit_curve(
        laws.curve_points(np.arange(1, 10), curve(np.arange(1, 10))),
        offset_grid=np.arange(0, 17) / 16,
    )
    assert fit.law.offset == 0.6875
    np.testing.assert_allclose(fit.law.floor, 0.7137, rtol=1e-12)


def test_the_bounded_term_of_a_series_that_turns_up():
    k = np.arange(1, 13)
    curve = laws.Curve(0.5, 0.3, 0.0, rise=0.15, half=4.0)
    points = laws.curve_points(k, curve(k))
    plain, fit = laws.fit_curve(points), laws.fit_curve(points, bounded=True)
    assert "non_monotone" in cautions(plain)
    np.testing.assert_allclose(fit.law(k), curve(k), atol=1e-7)
    assert plain.r_squared < 0.98 < fit.r_squared


def test_two_stages_find_one_law():
    law = laws.JointLaw(0.1724, 0.1248, 0.379, 0.0460, -0.004, 0.05)
    found = laws.fit_two_stage(paper.grid(law))
    np.testing.assert_allclose(values(found.law), values(law), atol=1e-6)
    # A is nearly flat in N: its power law explains what little there is.
    assert found.r_squared_floor > 1 - 1e-9
    np.testing.assert_allclose(found.floors, law.at(paper.SIZES).floor, rtol=1e-9)


@pytest.mark.slow
def test_bootstrap_intervals_cover():
    k, curve = np.arange(1, 17), laws.Curve(0.5, 0.3, 0.5)
    inside = []
    for seed in range(8):
        noise = 2e-3 * np.random.default_rng(seed).standard_normal(16)
        fit = laws.fit_curve(laws.curve_points(k, curve(k) + noise), weights="none")
        drawn = laws.bootstrap(fit, jax.random.key(seed), num_draws=40)
        low, high = drawn.interval("floor")
        inside.append(low <= 0.5 <= high)
        # Close to what the Jacobian says.
        i = fit.names.index("floor")
        assert 0.5 < drawn.draws[:, i].std() / fit.stderr[i] < 2
    assert sum(inside) >= 6
    again = laws.bootstrap(fit, jax.random.key(7), num_draws=40)
    np.testing.assert_array_equal(again.draws, drawn.draws)


def test_too_little_to_fit():
    with pytest.raises(ValueError, match="k = 3 only; a curve takes two"):
        laws.fit_curve(laws.curve_points([3], [0.5]))
    two = laws.fit_curve(laws.curve_points([1, 2], [0.6, 0.55]))
    assert two.law.offset == 0
    assert {"offset_held", "few_k"} <= cautions(two)
    np.testing.assert_allclose(two.law([1, 2]), [0.6, 0.55], rtol=1e-12)
    with pytest.raises(ValueError, match="takes losses at three k"):
        laws.fit_curve(laws.curve_points([1, 2], [0.6, 0.55]), form="power")
    with pytest.raises(ValueError, match="needs N of every point"):
        laws.fit_joint(laws.curve_points([1, 2, 3], [0.6, 0.55, 0.5]))
    with pytest.raises(ValueError, match="2 sizes and 3 k"):
        laws.fit_joint(
            laws.curve_points([1, 2, 3], [[0.6, 0.5, 0.4]] * 2, size=[[1], [2]])
        )
    with pytest.raises(ValueError, match="the loss at k = 2 is -0.1"):
        laws.curve_points([1, 2], [0.6, -0.1])
    with pytest.raises(ValueError, match="weights is 'kk'"):
        laws.fit_curve(laws.curve_points([1, 2], [0.6, 0.5]), weights="kk")
    with pytest.raises(ValueError, match="several subsets"):
        laws.fit_curve(laws.curve_points([1, 2], [0.6, 0.5]), weights="variance")


def test_constant_and_rising_losses_have_no_tail():
    flat = laws.fit_curve(laws.curve_points(np.arange(1, 6), 0.5))
    assert flat.law.amplitude == 0
    np.testing.assert_allclose(flat.law.floor, 0.5)
    rising = laws.fit_curve(laws.curve_points(np.arange(1, 6), [1, 2, 3, 4, 5.0]))
    assert rising.law.amplitude == 0
    assert "non_monotone" in cautions(rising)
    assert "no_tail" in cautions(rising)
