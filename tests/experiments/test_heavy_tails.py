"""When heavier tails help: the question at its smallest size, and its fairness."""

import json

import numpy as np
import pytest

from experiments.common.families import make_family
from experiments.heavy_tails.__main__ import main
from experiments.heavy_tails.config import GRID, PRESETS, average_grid, methods_of
from experiments.heavy_tails.sweep import chosen, excess_kurtosis, tuned_rows

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.slow
def test_the_smoke_preset_runs_resumes_and_draws(tmp_path, capsys):
    arguments = ["--preset", "smoke", "--out", str(tmp_path), "--cache", str(tmp_path)]
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert "norm-matched control" in told
    rows = (tmp_path / "merges.jsonl").read_text()
    found = json.loads((tmp_path / "summary.json").read_text())["families"]
    assert main(arguments) == 0
    assert (tmp_path / "merges.jsonl").read_text() == rows
    assert (tmp_path / "heavy_tails.png").exists()
    (family,) = found.values()
    # RHT with its own divisor is TIES of weights 1 / T over the density: with scales
    # tuned they differ by what the grid of scales leaves, and no more.
    assert all(abs(m) < 0.1 for m, _, _ in family["ahead"]["ties"].values())


def test_every_rival_has_as_many_trials():
    config = PRESETS["cpu"]
    per_kind = len(config.densities) * len(GRID)
    assert len(average_grid(config)) == per_kind
    assert average_grid(config)[0] == GRID[0]
    assert average_grid(config)[-1] == pytest.approx(GRID[-1])
    assert len(methods_of(config)) == 5 * len(config.densities)


def test_validation_chooses_the_density():
    row = lambda density, trials: {"method": f"rht_{density}", "trials": trials}
    rows = [row(0.2, [3.0, None]), row(0.5, [2.0, 1.0]), row(0.9, [1.5, 1.2])]
    assert chosen(rows)["method"] == "rht_0.5"
    merges = [
        {"method": f"{kind}_{d}", "members": [0, 1], "trials": [d]}
        for kind in ("rht", "control", "matched", "ties", "dare")
        for d in (0.7, 0.3)
    ]
    found = tuned_rows({"average": [], "merges": merges})
    assert {row["method"]: row["density"] for row in found}["ties"] == 0.3


def test_kurtosis_is_that_of_the_deltas(tmp_path):
    pool = make_family("regression_small", 0, tmp_path)
    leaf = pool.experts["layer0"]["kernel"] - pool.base["layer0"]["kernel"]
    rows = np.float64(leaf).reshape(len(leaf), -1)
    scaled = rows - rows.mean(1, keepdims=True)
    scaled /= scaled.std(1, keepdims=True)
    assert excess_kurtosis(pool) == pytest.approx((scaled**4).mean() - 3, rel=1e-5)
