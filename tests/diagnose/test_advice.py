"""Advice on experts for which it is known, and the record that goes with it."""

import dataclasses
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmerge import geometry
from jaxmerge.diagnose import Choice, Interval, diagnose, record
from jaxmerge.diagnose.advice import advise
from jaxmerge.diagnose.prospects import prospects
from jaxmerge.diagnose.record import sentence
from jaxmerge.geometry import Estimate
from tests.diagnose.models import base, normal, rows_apart

KEY = jax.random.key(0)
PAGE = (Path(__file__).parents[2] / "docs" / "diagnose.md").read_text()
pytestmark = pytest.mark.usefixtures("quick_compilation")


def diagnosed(experts: list, **options):
    settings = {"num_samples": 64, "resamples": 200, **options}
    return diagnose(base(), experts, key=KEY, **settings)


@pytest.fixture(scope="module")
def four():
    return diagnosed(normal(4))


def by_topic(found) -> dict:
    return {one.topic: one for one in found.advice}


@pytest.mark.slow
def test_experts_apart_are_added_whole():
    found = diagnosed(rows_apart(4))
    advice = by_topic(found)
    assert found.choice.method == "task_arithmetic"
    assert found.choice.scale == pytest.approx(1, rel=1e-3)
    assert advice["method"].abstains
    assert "1.00" in advice["scale"].text
    merged = found.choice.merger(base(), rows_apart(4))
    for t, expert in enumerate(rows_apart(4)):
        column = merged["layers"][0]["w"][:, t]
        np.testing.assert_allclose(column, expert["layers"][0]["w"][:, t], rtol=1e-3)


def test_runs_of_one_task_are_averaged_and_duplicates_named():
    found = diagnosed(normal(4, shared=0.9))
    assert str(found.choice) == "average at its published scale"
    assert by_topic(found)["method"].found.lower > 0.5
    experts = normal(3)
    twice = by_topic(diagnosed([*experts, experts[1]]))
    assert "'expert 3' or 'expert 1'" in twice["duplicates"].text


def test_signs_that_cancel_call_for_an_election(four):
    assert four.choice.method == "ties"
    why = by_topic(four)["method"]
    assert why.number == "sign conflict"
    assert why.found.lower > 0
    assert not why.abstains


def test_what_accumulates_and_fills_all_directions_is_flattened(four):
    known = dict(four.mechanisms)
    for name in ("over-accumulation", "capacity"):
        sure = Interval(2.0, 1.5, 2.5)
        known[name] = dataclasses.replace(known[name], found=sure)
    choice, advice = advise(
        four.measurements, known, four.prospects, key=KEY, resamples=50
    )
    assert choice.method == "isotropic"
    assert advice[0].number == "over-accumulation"
    # One of them that is not sure is not enough.
    unsure = Interval(2.0, 0.5, 2.5)
    known["capacity"] = dataclasses.replace(known["capacity"], found=unsure)
    choice, _ = advise(four.measurements, known, four.prospects, key=KEY, resamples=50)
    assert choice.method == "ties"


def test_whether_more_experts_pay_is_the_users_tolerance_to_say(four):
    def told(tolerance: float):
        given = (four.measurements, four.mechanisms, four.prospects)
        _, advice = advise(*given, key=KEY, tolerance=tolerance, resamples=20)
        return next(one for one in advice if one.topic == "more experts")

    assert "by your tolerance that pays" in told(0.01).text
    assert "does not pay" in told(0.9).text
    close = told(told(0.9).found.value)
    assert close.abstains
    assert "not certain" in close.text


def test_a_long_expert_gets_a_smaller_weight(four):
    experts = normal(4)
    experts[2] = jax.tree.map(lambda x: 4 * x, experts[2])
    advice = by_topic(diagnosed(experts))["norms"]
    assert "'expert 2'" in advice.text
    assert not advice.abstains
    assert "no weights" in by_topic(four)["norms"].text


@pytest.mark.parametrize("experts", [normal(1), [base()] * 3], ids=["one", "zero"])
def test_degenerate_experts_are_told_so(experts: list):
    found = diagnosed(experts)
    if len(experts) == 1:
        assert "nothing to merge" in found.advice[0].text
        assert found.choice == Choice("task_arithmetic", 1.0)
    else:
        assert all(one.abstains for one in found.advice)
        assert found.choice == Choice("task_arithmetic")


def test_predicted_gains_are_exact_for_equal_cosines():
    """Predicted from four, compared with a pool of seven of the same law."""
    gram = 0.7 * np.eye(7) + 0.3
    samples = geometry.gram_samples(jnp.asarray(gram), key=KEY, num_samples=40_000)
    width, gains = geometry.subset_width(samples), geometry.marginal_gains(samples)
    cut = lambda x, k: Estimate(x.mean[:k], x.stderr[:k])
    ahead = prospects(gram[:4, :4], cut(width, 4), cut(gains, 3))
    expected = np.asarray(gains.mean[3:6]) / float(gains.mean[0])
    np.testing.assert_allclose(ahead.next_gains, expected, atol=0.01)
    np.testing.assert_allclose(ahead.kept, (1 + 0.3 * np.arange(7)) / np.arange(1, 8))


def test_the_record_is_of_enough_sets_and_is_told_whatever_it_is():
    found = record()
    assert found["sets"] >= 40
    for name in ("advised", "task_arithmetic", "best_on_average"):
        rate = found[name]["hit_rate"]
        assert 0 <= rate["lower"] <= rate["mean"] <= rate["upper"] <= 1
    text = sentence(found)
    assert f"{100 * found['advised']['hit_rate']['mean']:.0f} %" in text
    assert "task arithmetic" in text


def test_the_pages_example_runs():
    scope: dict = {}
    exec(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0], scope)
    assert str(scope["found"].choice)


def test_the_page_tells_the_record():
    found = record()
    rate = found["advised"]["hit_rate"]
    low, mean, high = (100 * rate[name] for name in ("lower", "mean", "upper"))
    assert f"{mean:.0f} % ({low:.0f} to {high:.0f})" in PAGE
    ahead = found["task_arithmetic"]["ahead"]
    assert f"{ahead['mean']:.1f} ({ahead['lower']:.1f} to {ahead['upper']:.1f})" in PAGE
    assert f"{found['sets']} sets" in PAGE
