"""Which mechanism dominates: the question at its smallest size, and its statistics."""

import json

import numpy as np
import pytest

from experiments.mechanisms.__main__ import main
from experiments.mechanisms.config import MECHANISMS, PRESETS
from experiments.mechanisms.report import rank_correlation

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.slow
def test_the_smoke_preset_runs_resumes_and_draws(tmp_path, capsys):
    arguments = ["--preset", "smoke", "--out", str(tmp_path), "--cache", str(tmp_path)]
    assert main(arguments) == 0
    assert "what is lost" in capsys.readouterr().out
    rows = (tmp_path / "merges.jsonl").read_text()
    assert main(arguments) == 0
    assert (tmp_path / "merges.jsonl").read_text() == rows
    assert (tmp_path / "mechanisms.png").exists()
    found = json.loads((tmp_path / "summary.json").read_text())
    (family,) = found["families"].values()
    # Averages keep a share of about 1 / k of each expert: log k, give or take overlap.
    diluted = family["mechanisms"]["dilution"]
    assert diluted["2"][0] == pytest.approx(np.log(2), abs=0.2)
    assert diluted["4"][0] > diluted["2"][0]
    # Mechanisms are measured before the first merge is.
    kinds = [json.loads(line)["row"] for line in rows.splitlines()]
    first = next(i for i, row in enumerate(kinds) if "method" in row)
    assert all(row.get("what") == "mechanisms" for row in kinds[: first - 1])


def test_correlations_are_within_groups():
    """Between groups both grow; within them one falls."""
    x = [1, 2, 3, 11, 12, 13]
    y = [3, 2, 1, 13, 12, 11]
    found = rank_correlation(x, y, ["a"] * 3 + ["b"] * 3)
    assert found.mean == -1
    assert found.upper <= -0.5
    assert np.isnan(rank_correlation([1.0], [2.0], ["a"]).mean)


def test_presets_measure_what_the_library_calls_so():
    assert "average" in PRESETS["cpu"].methods
    assert len(MECHANISMS) == 5
