"""A merge by jaxmerge, loaded and run by transformers itself (docs/oracles.md).

Needs an interpreter with transformers, named by `JAXMERGE_ORACLE_PYTHON`.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECK = Path(__file__).parent / "oracles" / "check_transformers.py"
LIBRARY = """
import sys
import jaxmerge
from jaxmerge import checkpoint

root, out = sys.argv[1:]
merger = jaxmerge.ties(
    density=(0.5, 0.3, 0.7), weights=(1.0, 0.5, 0.75), scale=1.2, compat="mergekit"
)
experts = [f"{root}/{name}" for name in "abc"]
checkpoint.merge(merger, base=f"{root}/base", experts=experts, out=out)
"""


BY_COMMAND = ["-m", "jaxmerge.cli.main", "merge", "{recipe}", "{out}", "--quiet"]
BY_LIBRARY = ["-c", LIBRARY, "{root}", "{out}"]


@pytest.mark.oracle
@pytest.mark.parametrize("merge", [BY_COMMAND, BY_LIBRARY], ids=["command", "library"])
def test_transformers_runs_a_streamed_merge_of_its_own_folders(merge: list[str]):
    oracle = os.environ.get("JAXMERGE_ORACLE_PYTHON")
    if oracle is None:
        pytest.skip("JAXMERGE_ORACLE_PYTHON names no interpreter")
    done = subprocess.run(
        [oracle, CHECK, sys.executable, *merge],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("the merge agrees\n"), done.stdout
