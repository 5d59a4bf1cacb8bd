"""The scaling law: the question at its smallest size, and what forecasts may see."""

import dataclasses
import json

import numpy as np
import pytest

from experiments.common.families import make_family
from experiments.common.merging import Scorer
from experiments.scaling import sweep
from experiments.scaling.__main__ import main
from experiments.scaling.config import PRESETS, Config
from experiments.scaling.predict import FORECASTERS, forecast, more_experts
from jaxmerge import laws

pytestmark = pytest.mark.usefixtures("quick_compilation")


def law_points(noise=0.0):
    law = laws.JointLaw(0.5, 0.3, 0.4, 0.2, 0.1, 0.5)
    size, k = np.meshgrid([1.0, 3.0, 9.0], [1.0, 2.0, 3.0, 4.0])
    loss = law(size, k) + noise * np.sin(7 * k + size)
    return law, laws.curve_points(k.ravel(), loss.ravel(), size=size.ravel())


def test_forecasts_of_a_law_that_holds_are_right():
    law, points = law_points()
    found = forecast(points, 27.0, 9)
    k = np.arange(1, 10)
    np.testing.assert_allclose(
        found["larger_model"]["offset"], law(np.full(9, 27.0), k), atol=1e-4
    )
    np.testing.assert_allclose(
        found["more_experts"]["3"]["offset"], law(np.full(5, 3.0), k[4:]), atol=1e-4
    )
    assert found["beyond"] == [5, 6, 7, 8, 9]
    last = more_experts(points.at_size(3.0), k[4:], "last value")
    assert set(last) == {points.at_size(3.0).mean[-1]}
    assert list(found["larger_model"]) == list(FORECASTERS)


def test_three_sizes_are_not_enough(tmp_path):
    families = PRESETS["smoke"].families[:3]
    with pytest.raises(ValueError, match="beside the largest, which is forecast"):
        sweep.load_sizes(Config(families=families), tmp_path)


def test_sizes_are_compared_on_the_tasks_that_all_have_experts_for(
    tmp_path, monkeypatch
):
    pool = make_family("regression_small", 0, tmp_path)
    lacks = {"a": (), "b": (pool.tasks[1],), "c": (), "d": ()}

    def made(name, seed, cache):
        return pool.with_tasks([t for t in pool.tasks if t not in lacks[name]])

    monkeypatch.setattr(sweep, "make_family", made)
    config = Config(families=tuple((name, 1) for name in lacks), every=1)
    sizes = sweep.load_sizes(config, tmp_path)
    kept = (pool.tasks[0], pool.tasks[2], pool.tasks[3])
    assert {size.pool.tasks for size in sizes} == {kept}
    assert {size.pool.identity for size in sizes} == {sizes[0].pool.identity}
    assert sizes[0].pool.identity != pool.identity
    whole, own = Scorer(pool), sizes[0].scorer
    expert = pool.expert(2)
    np.testing.assert_array_equal(
        own.pool.expert(1)["layer0"]["kernel"], expert["layer0"]["kernel"]
    )
    np.testing.assert_array_equal(
        own(expert, "test").loss[0], whole(expert, "test").loss[0, [0, 2, 3]]
    )
    every = dataclasses.replace(config, every=4)
    thin = sweep.load_sizes(every, tmp_path)[0].pool
    np.testing.assert_array_equal(
        thin.data["test"].inputs, own.pool.data["test"].inputs[:, ::4]
    )
    assert thin.identity != own.pool.identity
    lacks["c"] = pool.tasks[2:3]
    with pytest.raises(ValueError, match="for 2 tasks only"):
        sweep.load_sizes(config, tmp_path)


@pytest.mark.slow
def test_forecasts_are_written_before_what_they_are_about_is_merged(
    tmp_path, monkeypatch, capsys
):
    order = []
    real = sweep.measure

    def watched(config, size, results, *, seen):
        order.append((size.name, seen, (tmp_path / "predictions.json").exists()))
        return real(config, size, results, seen=seen)

    monkeypatch.setattr(sweep, "measure", watched)
    arguments = ["--preset", "smoke", "--out", str(tmp_path), "--cache", str(tmp_path)]
    assert main(arguments) == 0
    assert "larger model, error" in capsys.readouterr().out
    largest = PRESETS["smoke"].families[-1][0]
    for name, seen, written in order:
        if name == largest or not seen:
            assert written
    assert [name for name, _, written in order if not written]
    told = (tmp_path / "predictions.json").read_text()
    assert main(arguments) == 0
    assert (tmp_path / "predictions.json").read_text() == told
    assert (tmp_path / "scaling.png").exists()
    found = json.loads((tmp_path / "summary.json").read_text())
    errors = found["methods"]["average"]["errors"]["more_experts"]
    assert errors["offset"] < errors["last value"]
    assert set(found["methods"]["average"]["fit"]["rivals"]) >= {"offset", "power"}
    for loss in found["references"].values():
        assert loss["own_expert"] < loss["multitask"] < loss["base"]
    sizes = found["methods"]["average"]["points"]["size"]
    assert list(found["references"]) == [f"{size:g}" for size in sorted(set(sizes))]
