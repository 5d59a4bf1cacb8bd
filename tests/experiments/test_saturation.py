"""The question of how loss and retention move with k, at its smallest size."""

import json

import chex
import numpy as np
import pytest

from experiments.common import merging
from experiments.common.curves import retention, share_reached
from experiments.common.families import make_family
from experiments.common.intervals import interval, paired
from experiments.common.merging import (
    GRID,
    Scorer,
    measure_ensemble,
    measure_merge,
    merged_model,
    search_scale,
    sets_of_sizes,
)
from experiments.common.methods import METHODS, select
from experiments.common.pools import Scores
from experiments.saturation.__main__ import main

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return make_family("regression_small", 0, tmp_path_factory.mktemp("cache"))


@pytest.mark.slow
def test_the_smoke_preset_runs_resumes_and_repeats(tmp_path, capsys):
    out = tmp_path / "run"
    arguments = ["--preset", "smoke", "--out", str(out), "--cache", str(tmp_path)]
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert "Average" in told
    assert "SWUDI" in told
    first = json.loads((out / "summary.json").read_text())
    rows = (out / "merges.jsonl").read_text()
    assert main(arguments) == 0
    again = json.loads((out / "summary.json").read_text())
    assert (out / "merges.jsonl").read_text() == rows
    assert again["families"] == first["families"]
    figures = sorted(path.name for path in out.glob("*.png"))
    assert len(figures) == 5
    assert main(["--draw", str(out / "summary.json"), "--out", str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.glob("*.png")) == figures

    # The population mean over all sets is what the sample of sets estimates.
    population = {row["method"]: row["curve"] for row in first["population"]}
    assert [point["sets"] for point in population["average"]] == [4, 6, 4, 1]
    whole = first["families"]["regression_small"]["methods"]["average"]["published"]
    # There two training seeds, here the first: compare what has one set only.
    rows = [json.loads(line)["row"] for line in rows.splitlines()]
    own = [r for r in rows if r.get("method") == "average" and len(r["members"]) == 4]
    losses = [np.mean(row["published"]["loss"]) for row in own]
    assert np.mean(losses) == pytest.approx(whole["pooled_loss"]["4"][0])
    assert population["average"][-1]["mean"] == pytest.approx(losses[0], rel=1e-5)


def test_sets_are_drawn_once_and_alike():
    sets = sets_of_sizes(4, (1, 2, 4, 9), 2, 0)
    assert sets == sets_of_sizes(4, (1, 2, 4, 9), 2, 0)
    assert {len(members) for members in sets} == {1, 2, 4}
    assert len(set(sets)) == len(sets)


def test_tuning_is_the_best_of_the_grid_on_validation(small):
    scorer = Scorer(small)
    (average,) = select(["average"])
    row = measure_merge(scorer, average, (0, 2), 0)
    assert row["scale"] == GRID[int(np.argmin(row["trials"]))]
    assert len(row["trials"]) == len(GRID)
    assert min(row["trials"]) <= row["trials"][GRID.index(1.0)]


@pytest.mark.parametrize(
    ("wanted", "found", "tried"),
    [(1.4, 1.5, 8), (0.03, 0.25 / 8, 11), (40.0, 25.0, 11), (0.25, 0.25, 11)],
)
def test_the_search_goes_on_beyond_an_end_that_is_best(wanted, found, tried):
    def scorer(merged, split, scales, members):
        assert (merged, split, members) == ("model", "validation", (0, 2))
        losses = np.abs(np.log(np.asarray(scales) / wanted))
        losses[np.asarray(scales) > 200] = np.nan
        return Scores(np.stack([losses, losses], axis=1), losses)

    scale, trials = search_scale(scorer, "model", (0, 2), GRID)
    assert scale == pytest.approx(found)
    assert len(trials) == tried
    assert (trials[-1] is None) == (wanted == 40.0)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_one_program_for_all_sizes_merges_as_the_members_alone(
    small, method, monkeypatch
):
    scorer, members = Scorer(small), (0, 2)
    masked = merged_model(scorer, method, members, seed=3)
    monkeypatch.setattr(merging, "MOST_MASKED", 0)
    alone = merged_model(scorer, method, members, seed=3)
    chex.assert_trees_all_close(masked, alone, rtol=1e-4, atol=1e-6)


def test_the_ensemble_of_one_is_its_expert(small):
    scorer = Scorer(small)
    alone = measure_ensemble(scorer, (1,))
    expert = scorer(small.expert(1), "test")
    np.testing.assert_allclose(alone["loss"], expert.loss[0], rtol=1e-5, atol=1e-12)


def test_an_expert_keeps_all_of_its_gain_and_weak_ones_weigh_little():
    references = {"base": {"loss": [2.0, 3.0]}}
    references["experts"] = [{"loss": [1.0, 9.0]}, {"loss": [9.0, 1.0]}]
    assert retention([1.0, 7.0], references, (0,)) == 1
    assert retention([1.5, 3.0], references, (0, 1)) == pytest.approx(0.5 / 3.0)
    references["experts"][0]["loss"][0] = 1.999
    assert retention([2.1, 1.0], references, (0, 1)) == pytest.approx(1.9 / 2.001)


def test_a_curve_that_never_falls_reaches_nothing():
    assert share_reached({1: 1.0, 2: 1.5}) is None


def test_intervals_hold_their_mean_and_pair_what_both_have():
    rng = np.random.default_rng(0)
    groups = [rng.normal(size=20).tolist() for _ in range(3)]
    found = interval(groups)
    assert found.lower < found.mean < found.upper
    first = {0: {"0": 1.0, "1": 5.0}, 1: {"0": 2.0}}
    second = {0: {"0": 0.0}, 1: {"0": 0.0}, 2: {"0": 7.0}}
    assert paired(first, second).mean == 1.5
    with pytest.raises(ValueError, match="at least one value"):
        paired(first, {})


def test_methods_and_families_are_named_when_unknown(tmp_path):
    with pytest.raises(ValueError, match="no method 'tie'; there are average, task"):
        select(["tie"])
    with pytest.raises(ValueError, match="no family 'none'; there are"):
        make_family("none", 0, tmp_path)
    assert len({method.name for method in METHODS}) == len(METHODS)
