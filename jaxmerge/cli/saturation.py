"""`jaxmerge saturation`: how fast the experts of a base fill the space they span."""

import argparse
import contextlib
import importlib.util
import json
import math
import sys

import jax

from jaxmerge.checkpoint import RecipeError, open_source, resolve_model
from jaxmerge.cli.progress import show_progress
from jaxmerge.cli.text import table
from jaxmerge.diagnose import saturation
from jaxmerge.diagnose.saturation_report import as_data, figure, summary


def run_saturation(arguments: argparse.Namespace) -> None:
    """Prints what the geometry of some experts is, and draws it.

    Raises:
      CheckpointError: if a checkpoint cannot be read.
      RecipeError: if an option is out of range, or needs a package that is not there.
    """
    if arguments.figure and importlib.util.find_spec("matplotlib") is None:
        raise RecipeError("--figure needs matplotlib: pip install 'jaxmerge[plots]'")
    if arguments.samples < 2:
        raise RecipeError(f"--samples is {arguments.samples}; take at least 2")
    angle = arguments.half_angle
    with contextlib.ExitStack() as stack:
        base, *experts = (
            stack.enter_context(open_source(resolve_model(name, arguments.cache)))
            for name in (arguments.base, *arguments.experts)
        )
        progress = stack.enter_context(
            show_progress(sys.stderr, quiet=arguments.quiet or arguments.json)
        )
        found = saturation(
            base,
            experts,
            key=jax.random.key(arguments.seed),
            num_samples=arguments.samples,
            symmetric=arguments.symmetric,
            tolerance=arguments.tolerance,
            half_angle=None if angle is None else math.radians(angle),
            dimension=arguments.dimension,
            eta=arguments.eta,
            progress=progress,
        )
    if arguments.figure:
        figure(found).savefig(arguments.figure, dpi=150)
    if arguments.json:
        print(json.dumps(as_data(found), indent=2))
        return
    rows, lines = summary(found)
    print("\n".join([*table(rows), *lines]))
