"""The scorecard: nothing is left out of it, and its page is the table's."""

import dataclasses

import numpy as np
import pytest

import jaxmerge
from tests import scorecard
from tests.oracles.compare import CLASSES, Pair, errors
from tests.oracles.compare_research import of_deltas, research
from tests.oracles.comparisons import COMPARISONS
from tests.registry import METHODS

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_every_method_of_the_registry_is_compared_with_something():
    names = [method.name for method in METHODS]
    assert scorecard.without_comparison(names, COMPARISONS) == []


def test_a_method_without_a_comparison_is_named(monkeypatch, capsys):
    left = [c for c in COMPARISONS if c.method != "magmax"]
    monkeypatch.setattr(scorecard, "COMPARISONS", left)
    assert scorecard.main(["magmax"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("scorecard: no comparison is listed for magmax")
    assert "add a line to tests/oracles/comparisons.py" in error


def test_a_method_counts_in_its_strongest_class():
    found = scorecard.strongest(COMPARISONS)
    kinds = {name: {c.kind for c in COMPARISONS if c.method == name} for name in found}
    assert found == {k: min(v, key=CLASSES.index) for k, v in kinds.items()}
    assert len(kinds["average"]) == 3


def test_the_page_is_of_the_table():
    """Its errors are not measured again here; that is a slow test."""
    text = scorecard.OUT.read_text()
    told = scorecard.on_page(text)
    missing = "run python -m tests.scorecard"
    assert list(told) == [scorecard.row(c) for c in COMPARISONS], missing
    assert text == scorecard.page(COMPARISONS, list(told.values())), missing
    assert not any(measured.large for measured in told.values())


def test_errors_are_relative_to_the_expected_delta():
    start = {"w": np.float32([1, 1])}
    expected, merged = {"w": np.float32([4, 5])}, {"w": np.float32([4, 5.5])}
    (measured,) = errors(Pair(merged, expected, start))
    assert measured.error == pytest.approx(0.1)
    assert measured.rounding == pytest.approx(2**-23 * np.sqrt(41) / 5)
    (measured,) = errors(Pair(merged, expected))
    assert measured == (pytest.approx(0.5 / np.sqrt(41)), 0)
    (measured,) = errors(Pair(merged, start, start))
    assert measured.error == pytest.approx(np.sqrt(3**2 + 4.5**2))


def test_a_large_error_is_told_though_rounding_hides_a_larger_one():
    start = {"v": np.float32([9, 9]), "w": np.zeros(2, np.float32)}
    expected = {"v": start["v"] + np.float32([0, 1e-4]), "w": np.float32([1, 0])}
    rounded = {"v": np.nextafter(expected["v"], np.float32(0)), "w": expected["w"]}
    off = {"v": rounded["v"], "w": np.float32([1, 2e-5])}
    measure = lambda merged: dataclasses.replace(
        COMPARISONS[0], pairs=lambda: [Pair(merged, expected, start)]
    ).measure()
    assert measure(rounded).error > 1e-3
    assert not measure(rounded).large
    assert measure(off).large
    assert measure(off).error == pytest.approx(2e-5)


def test_another_merge_than_the_recorded_is_far_off():
    at = lambda scale: of_deltas(lambda case: jaxmerge.magmax(scale=scale))
    assert research("magmax", "magmax", at(1.0)).measure().error == 0
    assert research("magmax", "magmax", at(0.9)).measure().error > 0.09


@pytest.mark.slow
@pytest.mark.parametrize(
    "comparison", COMPARISONS, ids=lambda c: f"{c.method}-{c.oracle}"
)
def test_errors_are_small(comparison):
    assert not comparison.measure().large
