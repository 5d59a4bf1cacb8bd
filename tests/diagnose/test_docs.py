"""The code of the page runs, and its numbers are those of the record."""

import re
from pathlib import Path

import pytest

from jaxmerge.diagnose import record

PAGE = (Path(__file__).parents[2] / "docs" / "diagnose.md").read_text()


@pytest.mark.usefixtures("quick_compilation")
def test_the_example_runs():
    scope: dict = {}
    exec(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0], scope)
    assert str(scope["found"].choice)


def test_the_page_tells_the_record():
    found = record()
    rate = found["advised"]["hit_rate"]
    low, mean, high = (100 * rate[name] for name in ("lower", "mean", "upper"))
    assert f"{mean:.0f} % ({low:.0f} to {high:.0f})" in PAGE
    ahead = found["task_arithmetic"]["ahead"]
    assert f"{ahead['mean']:.1f} ({ahead['lower']:.1f} to {ahead['upper']:.1f})" in PAGE
    assert f"{found['sets']} sets" in PAGE
