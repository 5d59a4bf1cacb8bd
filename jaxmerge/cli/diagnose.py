"""`jaxmerge diagnose`: what ails the merge of some experts, and what to do about it."""

import argparse
import contextlib
import importlib.util
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import jax

from jaxmerge.checkpoint import RecipeError, open_source, resolve_model
from jaxmerge.cli.text import human_bytes, plural, table

if TYPE_CHECKING:
    from jaxmerge.diagnose import Diagnosis


def _check(arguments: argparse.Namespace) -> None:
    draws = arguments.figures or arguments.html
    if draws and importlib.util.find_spec("matplotlib") is None:
        raise RecipeError(
            "--figures and --html need matplotlib: pip install 'jaxmerge[plots]'"
        )
    if arguments.samples < 2:
        raise RecipeError(f"--samples is {arguments.samples}; take at least 2")
    if arguments.figures and arguments.figures.is_file():
        raise RecipeError(f"--figures is {arguments.figures}, a file; give a folder")


def text_report(found: "Diagnosis") -> list[str]:
    """What is printed.

    Args:
      found: from `diagnose.diagnose`.
    """
    from jaxmerge.diagnose import report

    measured = found.measurements
    at_work = [n for n, m in found.mechanisms.items() if m.verdict == "at work"]
    lines = [
        f"{plural(len(measured.experts), 'expert')}, "
        f"{measured.whole.parameters:,} parameters, "
        f"{human_bytes(measured.bytes_read)} read, each model once",
        "",
        *table(report.experts_table(measured)),
        "",
        *table(report.layers_table(measured)),
        "",
        *table(report.mechanisms_table(found)),
    ]
    lines += [f"  against {n}: {found.mechanisms[n].antidote}" for n in at_work]
    lines += ["", *table(report.gains_table(found))]
    lines += report.threshold_lines(found)
    lines += ["", f"advice: {found.choice}"]
    lines += [f"  {line}" for line in report.advice_lines(found.advice)]
    return [*lines, "", report.record_line()]


def run_diagnose(arguments: argparse.Namespace) -> None:
    """Prints a diagnosis, and writes it as JSON, figures and a page.

    Raises:
      CheckpointError: if a checkpoint cannot be read.
      RecipeError: if an option is out of range, or needs a package that is not there.
    """
    from jaxmerge.cli.progress import show_progress
    from jaxmerge.diagnose import diagnose, report

    _check(arguments)
    angle = arguments.half_angle
    only_json = arguments.json == "-"
    with contextlib.ExitStack() as stack:
        base, *experts = (
            stack.enter_context(open_source(resolve_model(name, arguments.cache)))
            for name in (arguments.base, *arguments.experts)
        )
        progress = stack.enter_context(
            show_progress(sys.stderr, quiet=arguments.quiet or only_json)
        )
        found = diagnose(
            base,
            experts,
            key=jax.random.key(arguments.seed),
            num_samples=arguments.samples,
            tolerance=arguments.tolerance,
            half_angle=None if angle is None else math.radians(angle),
            progress=progress,
        )
    _write(found, arguments)
    if only_json:
        print(json.dumps(report.as_data(found), indent=2, allow_nan=False))
    else:
        print("\n".join(text_report(found)))


def _write(found: "Diagnosis", arguments: argparse.Namespace) -> None:
    from jaxmerge.diagnose import report

    if arguments.json and arguments.json != "-":
        data = json.dumps(report.as_data(found), indent=2, allow_nan=False)
        Path(arguments.json).write_text(data + "\n")
    if arguments.figures:
        from jaxmerge.diagnose.figures import FIGURES

        arguments.figures.mkdir(parents=True, exist_ok=True)
        for name, draw in FIGURES.items():
            draw(found).savefig(arguments.figures / f"{name}.png", dpi=150)
    if arguments.html:
        from jaxmerge.diagnose.html import as_html

        arguments.html.write_text(as_html(found), encoding="utf-8")
