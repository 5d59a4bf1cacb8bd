"""The validations of the theory, small: every claim holds, every figure is drawn."""

import json
import struct

import numpy as np
import pytest

from experiments.theory.config import PRESETS
from experiments.theory.measure import (
    claim,
    crossing,
    deviation,
    frequency,
    share_a_ray,
)
from experiments.theory.run import PARTS, main, report

SMOKE = PRESETS["smoke"]
SLOW = ("v3", "v5", "v7-tails")  # many programs to compile


@pytest.mark.parametrize(
    "name",
    [pytest.param(p, marks=[pytest.mark.slow] if p in SLOW else []) for p in PARTS],
)
def test_the_claims_hold_and_the_figure_needs_results_only(name, tmp_path):
    arguments = ["--only", name, "--preset", "smoke", "--out", str(tmp_path)]
    assert main(arguments) == 0
    path = tmp_path / f"{PARTS[name].NAME}.json"
    results = json.loads(path.read_text())
    assert len(results["claims"]) > 0
    assert results["manifest"]["config"]["cone_trials"] == SMOKE.cone_trials
    assert str(tmp_path) not in path.read_text()
    figure = tmp_path / f"{PARTS[name].NAME}.png"
    header = figure.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert min(struct.unpack(">II", header[16:])) > 300
    figure.unlink()
    assert main([*arguments, "--redraw"]) == 0
    assert figure.exists()


def test_a_claim_that_fails_is_reported():
    failed = claim("pi is off by", 0.14, 0.1)
    manifest = {"seconds": {"computing": 1.0}}
    text = report("v0", {"question": "?", "claims": [failed], "manifest": manifest})
    assert "FAIL pi is off by 0.14 (at most 0.1)" in text
    assert not claim("a number that is none is off by", float("nan"), 1.0)["holds"]


def test_frequencies_have_an_error_even_where_nothing_was_seen():
    never = frequency(0, 100)
    assert never["mean"] == 0
    assert 0 < never["stderr"] < 0.02
    assert deviation(frequency(60, 100), 0.5) == pytest.approx(2.0)
    assert deviation(frequency(1, 100), 0.0) == pytest.approx(1.0)


def test_the_linear_program_knows_half_planes():
    angles = np.deg2rad([0.0, 100.0, 190.0])
    half_planes = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert share_a_ray(half_planes[:2])
    assert not share_a_ray(half_planes)


def test_a_crossing_lies_between_whole_numbers():
    assert crossing([1.0, 0.75, 0.25, 0.0]) == pytest.approx(2.5)
