"""The benchmarks run, and their records say what they are."""

import json

import pytest

from benchmarks import plot
from benchmarks.common import PRESETS, measure, read
from benchmarks.methods import RECIPES
from benchmarks.run import run


@pytest.mark.slow
def test_smoke_preset_measures_every_recipe_everywhere(tmp_path):
    path = run("smoke", ["in_memory", "selection"], tmp_path, tmp_path / "checkpoints")
    manifest, *records = read(path)
    assert manifest["kind"] == "manifest"
    assert manifest["hardware"].endswith("no GPU")
    in_memory = [r for r in records if r["kind"] == "in_memory"]
    assert {r["name"] for r in in_memory} == {recipe.name for recipe in RECIPES}
    for record in in_memory:
        inputs = record["experts"] + 1
        assert record["bytes"] == 2 * record["elements"] * (inputs + 1)
    selection = [r for r in records if r["kind"] == "selection"]
    assert "kth_largest" in {r["name"] for r in selection}
    assert (tmp_path / "results.png").stat().st_size > 10_000


def test_widths_reach_the_precision_that_is_timed(tmp_path):
    path = run("smoke", ["widths"], tmp_path, tmp_path / "checkpoints")
    records = {r["name"]: r for r in read(path) if r["kind"] == "widths"}
    assert set(records) == {"direct", "gram", "curve"}
    assert records["curve"]["relative_stderr"] <= 1e-3
    assert records["gram"]["samples"] > records["direct"]["samples"]


def test_all_sets_of_a_pool_are_measured_by_every_path(tmp_path):
    path = run("smoke", ["subsets"], tmp_path, tmp_path / "checkpoints")
    records = [r for r in read(path) if r["kind"] == "subsets"]
    names = [r["name"] for r in records]
    assert names == ["linear", "average", "average, one by one"]
    assert all(r["subsets"] == 2 ** r["experts"] - 1 for r in records)


def test_a_streamed_merge_in_its_own_process(tmp_path):
    path = run("smoke", ["streamed", "ties"], tmp_path, tmp_path / "checkpoints")
    record = list(read(path))[-1]
    assert record["name"] == "ties"
    size = 2 * record["parameters"]
    # Twice: the experts' largest entries are found before they are merged.
    assert record["bytes_read"] == size * (2 * record["experts"] + 1)
    assert record["bytes_written"] == size
    assert record["peak_mib"] >= record["peak_mib_at_start"] > 0
    assert record["programs"] > 0


def test_measure_repeats_and_orders():
    calls = []
    timing = measure(lambda: calls.append(0), seconds=0.0, least=5)
    assert timing.runs == 5
    assert len(calls) == 6  # one to warm up
    assert timing.fastest <= timing.median <= timing.slowest


def test_plot_of_a_partial_file(tmp_path):
    manifest = {"kind": "manifest", "hardware": "?", "versions": {"jax": "?"}}
    record = {
        "kind": "in_memory",
        "name": "ties",
        "experts": 3,
        "dtype": "bfloat16",
        "of_copy": 0.5,
    }
    lines = "\n".join(json.dumps(x) for x in (manifest, record))
    (tmp_path / "results.jsonl").write_text(lines)
    plot.draw(tmp_path / "results.jsonl", tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5_000


def test_presets_are_named_as_they_are_called():
    assert all(preset.name == name for name, preset in PRESETS.items())
