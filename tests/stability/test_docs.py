"""What docs/stability.md shows runs."""

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "stability.md").read_text()


@pytest.mark.slow
def test_the_example_runs(quick_compilation, capsys):
    scope: dict = {}
    exec(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0], scope)
    shown = capsys.readouterr().out
    assert shown.startswith("True False")
    assert "## Merge-friendliness" in shown
    assert "(a priori)" in shown
    assert scope["advice"].current.total == scope["terms"].total
    assert scope["report"].vacuous is False
