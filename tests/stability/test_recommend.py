"""Advice, scaling laws and the report: what they say, and what they say it of."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmerge import stability
from jaxmerge.stability import ExpertSpec, Measured, ProblemStats
from tests.stability import model

pytestmark = pytest.mark.usefixtures("quick_compilation")
STATS = ProblemStats(1.0, 5.8, 6.2, 5.7, 0.5, 0.6, 3.4)
RECOMMEND = stability.recommend


def spec_of(steps, rate=0.02):
    return ExpertSpec(rate, 8.0, np.asarray(steps, np.float32), 64.0)


def test_advice_is_the_smallest_bound_of_the_grid():
    spec = spec_of([100.0, 100.0])
    steps, scale = np.array([4.0, 8, 16, 32]), np.array([0.25, 0.5, 1.0])
    grid = {"steps": steps, "scale": scale, "batch_size": [16.0], "learning_rate": ()}
    found = stability.recommend(spec, STATS, grid=grid)
    by_hand = {
        (k, s, b): float(
            model.bound(
                ExpertSpec(0.02, b, np.full(2, k, "f"), 64.0),
                STATS,
                coefficients=np.full(2, s / 2, "f"),
            ).total
        )
        for k in (*steps, 100.0)
        for s in scale
        for b in (8.0, 16.0)
    }
    best = min(by_hand, key=lambda setting: by_hand[setting])
    np.testing.assert_allclose(found.best.total, by_hand[best], rtol=1e-5)
    np.testing.assert_allclose(found.spec.steps, best[0])
    np.testing.assert_allclose(found.coefficients, best[1] / 2)
    np.testing.assert_allclose(found.spec.batch_size, best[2])
    assert found.confidence == "a priori"
    assert found.vacuous is False
    alone = {one.setting: one for one in found.advice}
    first = found.advice[0]
    assert first.setting == "steps"
    assert first.term in ("drift", "long_step", "stability", "stability_squared")
    assert first.term_change < 0
    current = by_hand[100.0, 1.0, 8.0]
    lowest = min(by_hand[k, 1.0, 8.0] for k in steps)
    np.testing.assert_allclose(first.total_change, lowest - current, rtol=1e-4)
    assert "steps 100 -> " in first.sentence
    # A larger batch helps, and does not save experts trained for far too long.
    assert alone["batch_size"].vacuous is True
    assert "vacuous" in alone["batch_size"].sentence


@pytest.mark.slow
def test_experts_trained_far_too_long_are_told_a_number_of_steps_that_says_something():
    found = stability.recommend(spec_of([1e6, 1e6]), STATS)
    assert np.isposinf(found.current.total)
    assert found.vacuous is False
    first = found.advice[0]
    assert first.setting == "steps"
    assert first.total_change == -np.inf
    best = np.round(stability.best_steps(spec_of([1e6, 1e6]), STATS))
    np.testing.assert_array_equal(first.advised, best)
    slopes = stability.stability_exponents(spec_of([8.0, 1e6]), STATS)
    np.testing.assert_array_equal(np.isinf(slopes["steps"]), [False, True])


def test_unequal_experts_are_told_their_coefficients():
    spec = spec_of([4.0, 28.0])
    fixed = dict.fromkeys(("steps", "scale", "batch_size", "learning_rate"), ())
    found = stability.recommend(spec, STATS, grid=fixed)
    (advice,) = found.advice
    assert advice.setting == "coefficients"
    np.testing.assert_allclose(advice.advised, [2.0, 2 / 7], rtol=1e-5)
    assert "chi^2 falls from 0.5" in advice.sentence
    after = model.bound(spec, STATS, coefficients=np.float32(advice.advised))
    np.testing.assert_allclose(after.length, found.current.length, rtol=1e-6)
    np.testing.assert_allclose(
        advice.total_change, after.total - found.current.total, rtol=1e-5
    )
    assert float(after.training_heterogeneity) < 1e-6


def test_without_statistics_advice_is_data_free():
    found = stability.recommend(spec_of([10.0, 30.0]), target_weights=[0.25, 0.75])
    (advice,) = found.advice
    assert found.confidence == advice.confidence == "data-free"
    assert found.vacuous is advice.vacuous is None
    np.testing.assert_allclose(found.coefficients, [0.5, 0.5], rtol=1e-6)
    # w = (.25 * 10, .75 * 30) / 25 = (.1, .9), p = (.25, .75)
    np.testing.assert_allclose(advice.term_change, -(0.15**2) * (4 + 4 / 3), rtol=1e-5)
    assert "data-free" in advice.sentence
    assert stability.recommend(spec_of([10.0, 10.0])).advice == ()


def test_measured_experts_leave_the_merge_to_choose():
    spec, measured = spec_of([100.0, 100.0]), Measured(drifts=0.5, stabilities=1e-3)
    found = stability.recommend(
        spec, STATS, measured=measured, grid={"scale": np.array([0.1, 0.25, 0.5])}
    )
    assert found.confidence == "measured"
    assert [one.setting for one in found.advice] == ["scale"]
    assert found.vacuous is False
    assert np.isfinite(found.best.total)
    np.testing.assert_array_equal(found.spec.steps, [100.0, 100.0])


@pytest.mark.slow
def test_convex_losses_keep_the_learning_rate_within_their_limit():
    found = stability.recommend(
        spec_of([2.0, 2.0], rate=0.5),
        STATS,
        convex=True,
        grid={"learning_rate": [0.5, 1.0, 4.0], "steps": (), "scale": ()},
    )
    assert np.all(found.spec.learning_rate <= 2)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: RECOMMEND(spec_of([1.0]), STATS, grid={"epochs": [1]}),
            "grid has 'epochs'; expected some of steps, learning_rate",
        ),
        (
            lambda: RECOMMEND(
                spec_of([1.0, 1.0]), STATS, grid={"steps": np.ones((2, 3))}
            ),
            r"grid's steps has shape \(2, 3\); expected `\(candidate,\)`",
        ),
        (
            lambda: RECOMMEND(spec_of([1.0]), STATS, grid={"steps": [0.0]}),
            "grid's steps has numbers that are not positive",
        ),
        (
            lambda: RECOMMEND(spec_of([1.0]), STATS, grid={"batch_size": [0.5]}),
            "grid's batch_size has numbers below 1",
        ),
        (
            lambda: RECOMMEND(
                spec_of([1.0]),
                STATS,
                grid={"steps": [1]},
                measured=Measured(drifts=1.0),
            ),
            "grid has 'steps', but training was measured as it is",
        ),
        (
            lambda: RECOMMEND(
                spec_of([1.0]), STATS, measured=Measured(optimisation=1.0)
            ),
            "were measured at one merge",
        ),
        (
            lambda: stability.fit_scaling_law({"steps": [1.0]}),
            "the sweep has no 'learning_rate'",
        ),
        (
            lambda: stability.fit_scaling_law(
                dict.fromkeys(
                    ("learning_rate", "batch_size", "samples", "num_experts"), 1.0
                )
                | {"steps": [1.0, 2.0, np.nan, 4.0], "risk": 1.0}
            ),
            "steps in row 2 of the sweep is not finite",
        ),
        (
            lambda: stability.fit_scaling_law(
                dict.fromkeys(
                    ("learning_rate", "batch_size", "samples", "num_experts"), 1.0
                )
                | {"steps": [1.0, 2.0], "risk": 1.0}
            ),
            "the sweep has 2 points; a law needs at least 4",
        ),
        (
            lambda: stability.merge_friendliness(np.array([[1.0, np.nan], [0, 1]])),
            "row 0 of the Gram matrix is not finite; look at expert 0's weights",
        ),
        (
            lambda: stability.merge_friendliness(np.array([[1.0, 0.5], [0, 1]])),
            "not symmetric",
        ),
        (
            lambda: stability.merge_friendliness(np.eye(2), spec=spec_of([1.0] * 3)),
            "numbers of experts differ: gram is for 2.*steps is for 3",
        ),
        (
            lambda: stability.merge_friendliness(np.eye(2), names=("one",)),
            "names is for 1",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_a_scaling_law_is_found_again_from_its_own_predictions(rng):
    num = 60
    sweep = {
        "learning_rate": rng.uniform(0.01, 0.1, num),
        "batch_size": rng.integers(1, 32, num),
        "steps": rng.integers(1, 60, num),
        "samples": rng.integers(32, 400, num),
        "num_experts": rng.integers(1, 16, num),
    }
    true = np.array([3.0, 0.8, 0.0, 0.02, 0.3, 0.0, 0.5])
    with jax.enable_x64(True):
        law = stability.ScalingLaw(jnp.asarray(true), jnp.asarray(0.0))
        *settings, experts = (np.asarray(x, float) for x in sweep.values())
        risk = law(ExpertSpec(*settings[:2], *settings[2:]), experts)
        found = stability.fit_scaling_law(sweep | {"risk": risk})
        np.testing.assert_allclose(found.coefficients, true, atol=1e-6)
        noisy = risk + 0.01 * rng.standard_normal(num)
        fitted = stability.fit_scaling_law(sweep | {"risk": noisy})
    assert np.all(np.asarray(fitted.coefficients) >= 0)
    assert 0.005 < float(fitted.residual) < 0.015


def test_a_report_needs_no_more_than_a_gram_matrix():
    gram = np.array([[4.0, -1.0, 0.0], [-1.0, 4.0, 0.0], [0.0, 0.0, 0.0]])
    found = stability.merge_friendliness(gram)
    assert found.confidence == "data-free"
    assert found.vacuous is found.terms is found.chi_squared is None
    np.testing.assert_allclose(found.cosines[0, 1], -0.25)
    # |x_m|^2 = 6/9; distances from x_m to each: 4 - 2 (1) + 2/3, twice, and 2/3.
    np.testing.assert_allclose(found.dispersion, (2 * (2 + 2 / 3) + 2 / 3) / 3)
    assert found.notes == (
        "the task vectors of expert 0 and expert 1 have cosine -0.25: they pull apart",
        "expert 2 is the base itself: its task vector is 0",
    )
    assert set(found.missing) == {"spec", "stats"}
    page = found.as_markdown()
    assert page.startswith("## Merge-friendliness")
    assert "Not given: the settings of fine-tuning" in page
    assert json.loads(json.dumps(found.as_data()))["dispersion"] == found.dispersion
    alone = stability.merge_friendliness(np.eye(1))
    assert alone.dispersion == 0
    assert alone.notes == ()


def test_settings_add_pseudo_gradients_and_coefficients():
    gram = np.diag([1.0, 9.0])
    found = stability.merge_friendliness(gram, spec=spec_of([50.0, 150.0]))
    assert found.confidence == "data-free"
    np.testing.assert_allclose(found.training_lengths, [1.0, 3.0], rtol=1e-6)
    np.testing.assert_allclose(found.suggested_coefficients, [0.75, 0.25], rtol=1e-6)
    np.testing.assert_allclose(found.chi_squared, 2 * 0.25**2 / 0.5, rtol=1e-6)
    np.testing.assert_allclose(found.heterogeneity, 0.5, rtol=1e-5)
    assert "expert 1 was trained 3 times as far as expert 0" in found.notes[0]
    assert "from task vectors alone" in found.notes[-1]
    # A subtracted expert has no share, and the rest is told all the same.
    negated = stability.merge_friendliness(
        gram, spec=spec_of([50.0, 150.0]), coefficients=[1.0, -1.0]
    )
    assert negated.chi_squared is None
    assert negated.dispersion > found.dispersion


@pytest.mark.parametrize("steps", [8.0, 22.0, 1e6])
def test_with_statistics_the_report_has_the_bound_and_its_shares(steps):
    spec = spec_of([steps, steps])
    found = stability.merge_friendliness(np.eye(2), spec=spec, stats=STATS)
    bound = model.bound(spec, STATS)
    assert found.confidence == "a priori"
    assert found.vacuous is bool(bound.vacuous) is (steps > 10)
    np.testing.assert_allclose(found.terms["total"], bound.total, rtol=1e-6)
    np.testing.assert_allclose(sum(found.shares.values()), 1, rtol=1e-6)
    np.testing.assert_allclose(found.curvature_steps, 0.02 * steps, rtol=1e-6)
    length = stability.best_length(STATS)
    np.testing.assert_allclose(found.best_steps, length / 0.02, rtol=1e-6)
    np.testing.assert_allclose(length, np.sqrt(5.7 / 6.2) / 4, rtol=1e-6)
    assert any("vacuous" in note for note in found.notes) is found.vacuous
    assert any("over-trained" in note for note in found.notes) is (steps > 25)
    data = json.loads(json.dumps(found.as_data(), allow_nan=False))
    if steps == 1e6:
        assert data["terms"]["drift"] == "inf"
        assert found.shares["descent"] == 0
    page = found.as_markdown()
    assert "| training heterogeneity |" in page
    assert f"| drift | {found.terms['drift']:.4g} |" in page
    measured = Measured(stabilities=1e-6, drifts=1e-6)
    better = stability.merge_friendliness(
        np.eye(2), spec=spec, stats=STATS, measured=measured
    )
    assert better.confidence == "measured"
    assert better.terms["total"] < found.terms["total"]
