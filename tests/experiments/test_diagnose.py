"""How advice is scored, on accuracies whose score is known."""

import json

import numpy as np
import pytest

from experiments.diagnose.config import PRESETS
from experiments.diagnose.report import table
from experiments.diagnose.score import best_elsewhere, make_record, resampled, score
from experiments.diagnose.sweep import sets_of
from jaxmerge.diagnose.record import sentence

METHODS = ("task_arithmetic", "ties", "task_arithmetic_advised")


def row(pool: str, advised: str, accuracies: tuple[float, ...]) -> dict:
    numbers = dict(zip(METHODS, accuracies, strict=True))
    return {
        "pool": pool,
        "advised": advised,
        "accuracy": numbers,
        "tuned_accuracy": numbers,
    }


def test_a_record_counts_hits_and_points():
    rows = [
        row("a", "ties", (0.5, 0.9, 0.6)),
        row("a", "ties", (0.8, 0.7, 0.6)),
        row("b", "task_arithmetic_advised", (0.5, 0.6, 0.9)),
        row("b", "ties", (0.5, 0.9, 0.7)),
    ]
    record = make_record(rows, seed=0, resamples=500)
    assert record["sets"] == 4
    assert record["advised"]["hit_rate"]["mean"] == 3 / 4
    assert record["advised"]["regret"]["mean"] == pytest.approx(100 * 0.1 / 4)
    # Pool a is judged by what was best on b, the third; b by what was best on a, ties.
    assert record["best_method"] == "task_arithmetic_advised, ties"
    assert record["best_on_average"]["hit_rate"]["mean"] == 1 / 4
    assert record["task_arithmetic"]["hit_rate"]["mean"] == 1 / 4
    ahead = record["task_arithmetic"]["ahead"]
    assert ahead["mean"] == pytest.approx(100 * (0.4 - 0.1 + 0.4 + 0.4) / 4)
    assert ahead["lower"] < ahead["mean"] < ahead["upper"]
    gain = record["scale"]["ahead_of_published"]["mean"]
    assert gain == pytest.approx(100 * (0.1 - 0.2 + 0.4 + 0.2) / 4)
    json.dumps(record, allow_nan=False)
    assert "over 4 sets" in sentence(record)
    assert "what is advised" in table(record)


def test_differences_are_paired():
    """A constant lead has no spread, however much sets differ."""
    rng = np.random.default_rng(0)
    first = rng.uniform(size=30)
    accuracies = np.stack([first, first - 0.05], axis=1)
    draws = resampled(0, 200, 30, np.zeros(30))
    choices = {"one": np.zeros(30, int), "two": np.ones(30, int)}
    ahead = score(accuracies, choices, draws)["two"]["ahead"]
    assert ahead["lower"] == pytest.approx(5)
    assert ahead["upper"] == pytest.approx(5)


def test_sets_are_drawn_within_their_pool():
    groups = np.array([0, 0, 1, 1, 1])
    for draw in resampled(0, 20, 5, groups):
        assert (groups[draw] == groups).all()


def test_no_set_chooses_for_itself():
    accuracies = np.array([[1.0, 0.0], [0.0, 0.6], [0.0, 0.6]])
    chosen = best_elsewhere(accuracies, np.arange(3))
    assert chosen.tolist() == [1, 0, 0]


def test_no_pool_has_the_seed_that_the_rules_were_written_with():
    pools = PRESETS["full"].pools
    assert all(pool.models.seed != 0 for pool in pools)
    assert len({pool.models.seed for pool in pools}) == len(pools)
    assert sum(len(sets_of(pool)) for pool in pools) >= 40
