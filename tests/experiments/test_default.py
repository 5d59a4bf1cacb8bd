"""The question of our default, at its smallest size."""

import json

import pytest

from experiments.default.__main__ import main
from experiments.default.config import DESIGNED_ON, PRESETS
from experiments.default.report import regret

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.slow
def test_the_smoke_preset_runs_and_draws(tmp_path, capsys):
    arguments = ["--preset", "smoke", "--out", str(tmp_path), "--cache", str(tmp_path)]
    assert main(arguments) == 0
    assert "worst regret" in capsys.readouterr().out
    found = json.loads((tmp_path / "summary.json").read_text())
    (family,) = found["families"].values()
    assert family["published"]["default"]["ahead"] == [0, 0, 0]
    ours, average = (family["published"][n]["mean"][0] for n in ("default", "average"))
    ahead = family["published"]["average"]["ahead"]
    assert ahead[0] == pytest.approx(ours - average)
    # One expert is what it is.
    assert family["published"]["default"]["retention"]["1"][0] == pytest.approx(1.0)
    assert "regmean" not in found["regrets"]["published"]
    assert {path.name for path in tmp_path.glob("*.png")} == {
        "curves.png",
        "regret.png",
    }


def test_validation_is_on_other_families():
    for preset in ("cpu", "gpu"):
        assert not {name for name, _ in PRESETS[preset].families} & set(DESIGNED_ON)


def test_regret_is_the_distance_from_the_best():
    mean = lambda x: {"mean": [x, x, x]}
    families = {
        "a": {"tuned": {"average": mean(0.5), "ties": mean(0.7)}},
        "b": {"tuned": {"average": mean(0.4), "ties": mean(0.3)}},
    }
    found = regret(families, "tuned")
    assert found["average"]["worst"] == pytest.approx(0.2)
    assert found["average"]["worst_family"] == "a"
    assert found["ties"]["mean"] == pytest.approx(0.05)
