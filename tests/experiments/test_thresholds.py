"""Whether T* tells anything: crossings, scores against trivial rules, and the order."""

import json

import numpy as np
import pytest

from experiments.thresholds.__main__ import main
from experiments.thresholds.config import Config
from experiments.thresholds.predict import crossing, three_point
from experiments.thresholds.report import measured, summary, verdict


def test_a_crossing_is_where_a_share_of_the_fall_is_done():
    k = np.arange(1, 33)
    loss = 1 + 1 / k
    at = crossing(k, loss, 0.9)
    fall = 1 - 1 / 32
    assert 1 / at == pytest.approx(1 - 0.9 * fall, rel=0.01)
    assert crossing(k, loss[::-1], 0.9) is None


def test_three_points_of_the_law_give_its_crossing():
    curve = {int(k): 0.5 + 0.3 / (k + 0.4) for k in (1, 2, 4)}
    k = np.arange(1, 17)
    found = three_point(curve, 16, 0.9)
    assert found == pytest.approx(crossing(k, 0.5 + 0.3 / (k + 0.4), 0.9), rel=1e-4)
    assert three_point({1: 1.0, 2: 1.5, 4: 3.0}, 16, 0.9) is None


def test_measured_thresholds_have_an_interval():
    rng = np.random.default_rng(0)
    losses = {k: (1 + 1 / k + 0.02 * rng.normal(size=12)).tolist() for k in (1, 2, 4)}
    losses[8] = [1.125]
    value, lower, upper = measured(losses, 0.9, 0)
    assert lower < value < upper
    assert measured({1: [1.0], 2: [1.0]}, 0.9, 0) == (None, None, None)


def pools(predictor):
    """Six families whose T differ, a predictor, and one number that tells log T."""
    told, found = [], []
    for i in range(6):
        steepness = 0.2 + 0.3 * i
        k = np.arange(1, 33)
        loss = 1 + k**-steepness
        true = crossing(k, loss, 0.9)
        told.append(
            {
                "family": f"f{i}",
                "training_seed": 0,
                "experts": 32,
                "definitions": {"named": predictor(true)},
                "missing": {"absent": "`absent` needs something; give it"},
                "forecast": true,
                "mean_cosine": np.log2(true),
                "mean_norm": 1.0,
                "effective_rank": 1.0,
            }
        )
        losses = dict(zip(k.tolist(), loss[:, None].tolist(), strict=True))
        found.append({"losses": losses})
    return summary(Config(), told, found)["scores"]


def test_a_predictor_that_is_right_is_better_than_a_constant():
    scores = pools(lambda true: true)
    assert scores["named"]["error"][0] < 1e-9
    assert verdict(scores["named"]) == "better than a constant"
    assert scores["fitted mean_cosine"]["error"][0] < 1e-6


@pytest.mark.slow
def test_predictors_that_say_nothing_or_nonsense_are_called_so():
    assert verdict(pools(lambda true: None)["named"]) == "says nothing"
    assert verdict(pools(lambda true: 1e6)["named"]) == "worse than a constant"
    # A fixed number is a constant too, and one that has not looked at other families.
    scores = pools(lambda true: 7.0)
    assert verdict(scores["named"]) in ("useless: no better", "worse than a constant")
    # A number that never changes cannot be fitted.
    assert scores["fitted mean_norm"]["answers"] == 0


@pytest.mark.slow
def test_the_smoke_preset_predicts_first_and_resumes(tmp_path, capsys):
    arguments = ["--preset", "smoke", "--out", str(tmp_path), "--cache", str(tmp_path)]
    assert main(arguments) == 0
    assert "forecast" in capsys.readouterr().out
    assert (tmp_path / "thresholds.png").exists()
    told = (tmp_path / "predictions.jsonl").read_text()
    merges = (tmp_path / "merges.jsonl").read_text()
    first = json.loads((tmp_path / "summary.json").read_text())
    assert main(arguments) == 0
    assert (tmp_path / "predictions.jsonl").read_text() == told
    assert (tmp_path / "merges.jsonl").read_text() == merges
    again = json.loads((tmp_path / "summary.json").read_text())
    assert again["pools"] == first["pools"]
    # What is forecast from the experts of a linear model is the measured curve's T.
    for pool in first["pools"][:2]:
        forecast = pool["predicted"]["forecast"]
        assert forecast == pytest.approx(pool["measured"][0], rel=0.05)
