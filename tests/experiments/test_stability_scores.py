"""Question 6: rank correlations, their intervals, gaps, knobs and vacuity."""

import numpy as np
import pytest
import scipy.stats

from experiments.common.intervals import spearman
from experiments.stability.config import PRESETS, Config, merges, values
from experiments.stability.score import (
    OUTCOMES,
    correlations,
    equal_lengths,
    interval,
    knob_effects,
    outcomes,
    predictors,
    vacuity,
)
from jaxmerge.stability.bound import TERMS

SMOKE = PRESETS["smoke"]


def test_spearman_is_the_usual_one_and_knows_infinity(rng):
    x, y = rng.normal(size=(2, 40)).round(1)
    expected = scipy.stats.spearmanr(x, y).statistic
    np.testing.assert_allclose(spearman(x, y), expected, rtol=1e-12)
    assert spearman(np.array([1, np.inf, np.inf]), np.array([0, 1, 1])) == 1.0
    assert np.isnan(spearman(np.ones(5), rng.normal(size=5)))


def cell_of(rng, group, slope):
    y = rng.normal(size=60)
    noisy = slope * y + 0.1 * rng.normal(size=60)
    constant = np.full(60, 2.0) + 1e-16 * rng.normal(size=60)
    return {
        "group": group,
        "predictors": {
            "good": noisy,
            "none": constant,
            "total": y + 5,
            "start_gap": np.full(60, 3.0),
            "length": np.exp(y),
        },
        "outcomes": {"risk": y, "gap": -y, "tuned": y},
        "vacuous": y > 0,
        "base": 2.0,
    }


def test_correlations_have_intervals_over_groups(rng):
    slopes = [1, 1, 1, -1]
    cells = [cell_of(rng, g, s) for g, s in enumerate(slopes) for _ in range(2)]
    found = correlations(SMOKE, cells)
    assert found["none"]["risk"] is None
    risk, gap = found["good"]["risk"], found["good"]["gap"]
    assert risk["mean"] == pytest.approx(0.5, abs=0.02)
    assert risk["low"] < 0 < 0.9 < risk["high"]
    assert gap["mean"] == pytest.approx(-risk["mean"], abs=1e-3)
    # Inside strata that differ a lot, and where one stratum has no spread.
    y = np.tile(np.arange(10.0), 2)
    x = np.concatenate([-np.arange(10.0), 100 + np.zeros(10)])
    cell = {"group": 0, "predictors": {"x": x}, "outcomes": dict.fromkeys(OUTCOMES, y)}
    strata = np.repeat([0, 1], 10)
    assert correlations(SMOKE, [cell], strata)["x"]["risk"]["mean"] == -1.0
    assert correlations(SMOKE, [cell])["x"]["risk"]["mean"] > -0.8
    assert interval(np.array([np.nan]), rng, 10) is None


def test_vacuous_merges_are_counted_by_length(rng):
    cells = [cell_of(rng, 0, 1)]
    found = vacuity(SMOKE, cells, smoothness=1.0)
    assert found["holds"] == 1.0
    assert found["merges"] == 60
    assert found["vacuous"]["mean"] == pytest.approx(
        cells[0]["vacuous"].mean(), abs=1e-4
    )
    by_length = {b["from"]: b["vacuous"] for b in found["by_length"]}
    assert by_length[0.5] == 0.0
    assert by_length[1] == 1.0


def test_the_gap_is_without_the_bases_and_lengths_are_compared():
    measured = {"risk": [2.0, 1.5], "train": [1.9, 1.0], "tuned": [1.0, 1.0]}
    found = outcomes(measured, 3.0, np.array([2.95, 3.2]))
    np.testing.assert_allclose(found["gap"], [0.05, 0.7])
    config = Config()
    chosen = merges(config, 0, "matched")
    labels = equal_lengths(config)
    lengths = values(config, chosen[:, 0], 1024)
    product = lengths["learning_rate"] * lengths["steps"]
    for label in np.unique(labels):
        assert np.ptp(product[labels == label]) == 0
    assert np.all(np.bincount(labels) == 9)
    terms = {name: np.ones(144) for name in (*TERMS, "length")}
    simple = {name: np.ones(144) for name in ("norm", "cosine", "dispersion")}
    said = predictors(config, terms, simple, chosen)
    assert np.all(said["total"] == 8)
    assert np.all(said["chi_squared"] < 1e-12)
    mixed = predictors(config, terms, simple, merges(config, 0, "mixed"))
    assert np.all((mixed["chi_squared"] >= 0) & (mixed["chi_squared"] <= 5))
    assert mixed["chi_squared"].max() > 2


def test_knobs_are_turned_one_at_a_time():
    config = Config()
    chosen = merges(config, 0, "matched")[:, 0].astype(float)
    y = chosen[:, 2] - chosen[:, 3]
    infinite = np.where(chosen[:, 2] > 1, np.inf, chosen[:, 0])
    cell = {
        "group": 0,
        "predictors": {"generalisation": -y, "total": infinite},
        "outcomes": {"risk": y, "gap": y, "tuned": y},
    }
    found = knob_effects(config, [cell])
    assert found["step"]["risk rises"]["mean"] == 1.0
    assert found["ratio"]["risk rises"]["mean"] == 0.0
    assert found["ratio"]["generalisation rises"]["mean"] == 1.0
    assert found["batch"]["gap rises"]["mean"] == 0.0
    # Only pairs that start from a finite number count.
    assert found["rate"]["total rises"]["mean"] == 1.0
    assert found["step"]["total rises"]["mean"] == 1.0
