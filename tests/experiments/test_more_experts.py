"""The experiment from end to end, small: what it writes, reuses and refuses."""

import dataclasses
import json
import struct

import numpy as np
import pytest

from experiments.more_experts.__main__ import main, run
from experiments.more_experts.config import PRESETS
from experiments.more_experts.plot import plot_results
from experiments.more_experts.recipes import RECIPES
from experiments.more_experts.report import merge_table, retention
from experiments.more_experts.sweep import make_plan
from experiments.more_experts.train import Trained, WeakExpertsError, check_gains
from jaxmerge import checkpoint

SMOKE = PRESETS["smoke"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a smoke run."""
    out = tmp_path_factory.mktemp("runs") / "smoke"
    assert main(["--preset", "smoke", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def results(finished):
    return json.loads((finished / "results.json").read_text())


@pytest.mark.slow
def test_it_writes_models_rows_table_figure_and_results(finished, results):
    names = [task["name"] for task in results["tasks"]]
    models = ["base", *(f"expert_{name}" for name in names), "multitask"]
    for name in models:
        model = checkpoint.load(finished / "models" / f"{name}.safetensors")
        assert model["first"]["kernel"].shape == (144, SMOKE.width)
    lines = (finished / "merges.jsonl").read_text().splitlines()
    assert len(lines) == len(make_plan(SMOKE)) == len(results["rows"])
    assert "Task arithmetic" in (finished / "table.txt").read_text()
    header = (finished / "figure.png").read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert min(struct.unpack(">II", header[16:])) > 1000
    assert not (finished / "work").exists()


@pytest.mark.slow
def test_results_name_no_path_of_the_machine(finished):
    assert str(finished) not in (finished / "results.json").read_text()
    assert str(finished) not in (finished / "merges.jsonl").read_text()


@pytest.mark.slow
def test_experts_gain_and_one_expert_alone_is_kept_whole(results):
    for task in results["tasks"]:
        assert 100 * (task["expert"] - task["base"]) >= SMOKE.required_gain
    average = next(c for c in results["curves"] if c["recipe"] == "average")
    alone = average["published"][0]
    assert alone["k"] == 1
    assert alone["sets"] == SMOKE.num_tasks
    assert alone["retention"] == {"mean": 1.0, "low": 1.0, "high": 1.0}


@pytest.mark.slow
def test_a_model_per_task_has_no_accuracy_over_all_tasks(results):
    emr = next(c for c in results["curves"] if c["recipe"] == "emr")
    assert emr["needs_task_id"]
    assert "tuned" not in emr
    assert all("accuracy" not in point for point in emr["published"])
    for row in (r for r in results["rows"] if r["recipe"] == "emr"):
        scored = [t for t, a in enumerate(row["accuracy"]) if a is not None]
        assert scored == row["experts"]


@pytest.mark.slow
def test_every_recipe_tries_the_same_number_of_scales(results):
    tuned = [r for r in results["rows"] if r["recipe"] != "emr"]
    assert {len(r["validation"]) for r in tuned} == {len(SMOKE.scale_grid)}
    for row in tuned:
        best = row["validation"].index(max(row["validation"]))
        assert row["tuned_multiplier"] == SMOKE.scale_grid[best]
        if row["tuned_multiplier"] == 1.0:
            assert row["tuned_accuracy"] == row["accuracy"]


@pytest.mark.slow
def test_a_rerun_reuses_what_is_finished(finished, results):
    kept = ["merges.jsonl", "training.json", "models/base.safetensors"]
    before = [(finished / name).stat().st_mtime_ns for name in kept]
    run(SMOKE, finished)
    assert [(finished / name).stat().st_mtime_ns for name in kept] == before
    again = json.loads((finished / "results.json").read_text())
    del again["manifest"], results["manifest"]
    assert again == results


@pytest.mark.slow
def test_the_figure_needs_results_only(results, tmp_path):
    plot_results(results, tmp_path / "again.png")
    assert (tmp_path / "again.png").stat().st_size > 20_000


@pytest.mark.slow
def test_tables_leave_out_what_is_not_defined(results):
    table = merge_table(results, "accuracy")
    assert "EMR" not in table
    assert "EMR" in merge_table(results, "retention")


def test_retention_is_the_mean_over_the_merged_experts_only():
    own = np.array([0.5, 1.0, 0.8])
    assert retention([0.25, 0.0, 0.8], (0, 2), own) == pytest.approx(0.75)


def test_weak_experts_are_refused_by_name(tmp_path):
    trained = Trained(
        identity="",
        base=tmp_path,
        experts=(tmp_path, tmp_path),
        names=("turn", "slant"),
        base_accuracy=np.array([0.5, 0.5]),
        expert_accuracy=np.array([[0.9, 0.1], [0.2, 0.61]]),
        multitask_accuracy=np.array([0.9, 0.9]),
    )
    check_gains(trained, 10.0)
    with pytest.raises(WeakExpertsError, match=r"below that: slant \(\+11\.0\)"):
        check_gains(trained, 15.0)


def test_plans_merge_the_same_sets_by_every_recipe():
    plan = make_plan(PRESETS["quick"])
    sets = [s for r, s in plan if r.name == "average"]
    for recipe in RECIPES:
        mine = [s for r, s in plan if r.name == recipe.name]
        assert mine == [s for s in sets if recipe.merges(len(s))]
    assert {len(s) for s in sets} == set(range(1, 11))
    assert {len(s) for r, s in plan if r.name == "slerp"} == {2}


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes(finished, tmp_path):
    run(dataclasses.replace(SMOKE), tmp_path)
    for file in sorted((finished / "models").iterdir()):
        assert (tmp_path / "models" / file.name).read_bytes() == file.read_bytes()
