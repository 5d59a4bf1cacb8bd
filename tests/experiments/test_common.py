"""Resumable rows, manifests, and what a process can hold."""

import dataclasses
import json

import jax
import pytest
from matplotlib.figure import Figure

from experiments.common import programs
from experiments.common.command import save_figure
from experiments.common.manifest import make_manifest
from experiments.common.results import Results, fingerprint, write_json


def test_a_finished_row_is_not_computed_again(tmp_path):
    path = tmp_path / "rows.jsonl"
    settings = {"recipe": "ties", "experts": [0, 3]}
    first = Results(path).get_or_compute(settings, lambda: {"accuracy": 0.1})

    def fail():
        raise AssertionError("computed twice")

    again = Results(path).get_or_compute(dict(reversed(settings.items())), fail)
    assert again == first == {**settings, "accuracy": 0.1}
    assert Results(path).get_or_compute(
        settings | {"experts": [0, 4]}, lambda: {"accuracy": 0.2}
    )["accuracy"] == pytest.approx(0.2)
    assert len(path.read_text().splitlines()) == 2


@pytest.mark.parametrize("cut", [1, 10])
def test_a_line_that_a_kill_cut_short_is_computed_again(tmp_path, cut):
    path = tmp_path / "rows.jsonl"
    results = Results(path)
    for i in range(2):
        results.get_or_compute({"i": i}, lambda i=i: {"square": i * i})
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    calls = []
    resumed = Results(path)
    for i in range(2):
        resumed.get_or_compute({"i": i}, lambda i=i: calls.append(i) or {"square": i})
    assert calls == [1]
    assert len(Results(path).rows) == 2


def test_a_damaged_line_is_refused_by_its_number(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": "a", "row": {}}\nnonsense\n')
    with pytest.raises(ValueError, match="line 2 of"):
        Results(path)


def test_rows_refuse_what_json_cannot_hold(tmp_path):
    path = tmp_path / "rows.jsonl"
    with pytest.raises(ValueError, match="JSON compliant"):
        Results(path).get_or_compute({"i": 0}, lambda: {"loss": float("nan")})
    assert not path.exists()


def test_a_fingerprint_knows_its_settings():
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


def test_json_is_replaced_whole(tmp_path):
    path = tmp_path / "results.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"a": float("inf")})
    assert json.loads(path.read_text()) == {"a": 1}


@dataclasses.dataclass(frozen=True)
class _Config:
    seed: int = 5


def test_a_manifest_has_what_repeats_a_run_and_names_no_machine():
    manifest = make_manifest(_Config(), durations={"training": 1.26}, note="x")
    assert manifest["config"] == {"seed": 5}
    assert manifest["seed"] == 5
    assert manifest["seconds"] == {"training": 1.3}
    assert manifest["note"] == "x"
    assert {"python", "jax", "numpy"} <= manifest["versions"].keys()
    text = json.dumps({k: v for k, v in manifest.items() if k != "commit"})
    assert "/" not in text


def test_a_figure_makes_its_folder_and_is_the_same_bytes(tmp_path):
    paths = [tmp_path / "new" / "folder" / f"{i}.png" for i in range(2)]
    for path in paths:
        save_figure(Figure(figsize=(1, 1)), path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize("pieces", [30, 31])
def test_programs_are_forgotten_before_memory_cannot_be_mapped(
    tmp_path, monkeypatch, pieces
):
    maps, cleared = tmp_path / "maps", []
    maps.write_text("piece\n" * pieces)
    monkeypatch.setattr(programs, "_MAPS", maps)
    monkeypatch.setattr(jax, "clear_caches", lambda: cleared.append(True))
    programs.forget_programs(30)
    assert bool(cleared) == (pieces > 30)
