"""What docs/stability.md shows runs, and its numbers are measured."""

import re
from pathlib import Path

import numpy as np

from tests.stability.test_simulations import bounds_of_run, reference_run

PAGE = (Path(__file__).parents[2] / "docs" / "stability.md").read_text()


def test_the_example_runs(quick_compilation, capsys):
    scope: dict = {}
    exec(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0], scope)
    shown = capsys.readouterr().out
    assert shown.startswith("True False")
    assert "## Merge-friendliness" in shown
    assert "(a priori)" in shown
    assert scope["advice"].current.total == scope["terms"].total
    assert scope["report"].vacuous is False


def test_the_table_is_that_of_the_simulation():
    rows = re.findall(
        r"^\| (\d+) \| ([\d.]+) \| (\d[\d.]*) \| .* \| (.*) \|$", PAGE, re.M
    )
    assert len(rows) == 7
    run, bound = reference_run(), bounds_of_run()
    for steps, excess, value, vacuous in rows:
        at = int(steps) - 1
        np.testing.assert_allclose(run.excess[at], float(excess), rtol=0.02)
        np.testing.assert_allclose(bound.total[at], float(value), rtol=0.02)
        assert vacuous.startswith("yes") == bound.vacuous[at]
