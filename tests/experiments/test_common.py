"""Resumable rows, manifests, and what a process can hold."""

import dataclasses
import json
import os

import jax
import pytest
from matplotlib.figure import Figure

from experiments.common import programs
from experiments.common.command import Command, save_figure
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


@dataclasses.dataclass(frozen=True)
class Families:
    families: tuple[tuple[str, int], ...]
    seed: int = 0


def rows_of_families(config, out, cache):
    """One row a family and seed, which names the process that computed it."""
    results = Results(out / "rows.jsonl")
    for family, seeds in config.families:
        if family == "broken":
            raise ValueError("broken: no such family")
        for seed in range(seeds):
            settings = {"family": family, "seed": seed}
            yield results.get_or_compute(settings, lambda: {"process": os.getpid()})


def command_of_families():
    return Command(
        name="families",
        presets={},
        compute=lambda *given: ({"rows": list(rows_of_families(*given))}, {}),
        table=lambda config, found: "",
        draw_all=lambda found, out: [],
        files="",
        rows=rows_of_families,
    )


def test_processes_side_by_side_compute_the_rows_of_a_family_each(tmp_path):
    config = Families((("few", 1), ("many", 3)))
    found = command_of_families().run(config, tmp_path, tmp_path, workers=2)
    rows = found["rows"]
    assert [row["family"] for row in rows] == ["few", "many", "many", "many"]
    processes = [row["process"] for row in rows]
    assert os.getpid() not in processes
    assert processes[0] not in processes[1:]
    assert len(set(processes[1:])) == 1
    assert "rows, 2 processes" in found["manifest"]["seconds"]


def test_what_fails_in_a_process_is_told(tmp_path):
    config = Families((("broken", 1),))
    with pytest.raises(ValueError, match="broken: no such family"):
        command_of_families().run(config, tmp_path, tmp_path, workers=2)
