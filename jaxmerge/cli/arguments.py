"""Arguments of the commands that measure: `law` and `diagnose`.

Nothing here may import jax: the parser is made whatever the command is.
"""

import argparse
from pathlib import Path
from typing import Any

_FORMS = ("offset", "inverse", "power", "exponential", "logarithm")


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no positive number")
    return value


def _add_fit_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "table",
        type=Path,
        help="a CSV with the columns loss, and k or subset",
    )
    add("--method", help="which method of the table")
    add("--domain", help="which domain; their mean if not given")
    add(
        "--mean",
        choices=("macro", "tokens"),
        default="macro",
        help="how domains are averaged: alike (the default), or by tokens",
    )
    add(
        "--weights",
        choices=("k", "none", "count", "variance"),
        default="k",
        help="of squared residuals (default k, as in the paper)",
    )
    add("--form", choices=_FORMS, default="offset", help="the law, or a rival of it")
    add("--bounded", action="store_true", help="add the term D k / (k + q)")
    add("--max-offset", type=float, default=100.0, help="largest b (default 100)")
    add("--draws", type=int, default=200, help="bootstrap refits (default 200; or 0)")
    add("--seed", type=int, default=0, help="of the refits (default 0)")
    add(
        "--pool",
        type=int,
        help="how many experts, if the table has no subsets",
    )
    add("--figure", type=Path, metavar="FILE", help="draw it, such as to x.png")
    add("--json", action="store_true", help="print everything as JSON")


def add_law(commands: Any) -> None:
    """Adds `law fit` and `law plan` to the commands of a parser."""
    law = commands.add_parser(
        "law",
        help="fit the merging scaling law to losses, and plan with it",
        description="The law L(k) = floor + A / (k + b), or with sizes "
        "L(N, k) = floor + B N^-beta + A N^-gamma / (k + b), of the mean loss over "
        "subsets of k experts.",
    )
    actions = law.add_subparsers(dest="action", required=True, metavar="ACTION")
    fit = actions.add_parser("fit", help="fit the law and its rivals")
    _add_fit_options(fit)
    plan = actions.add_parser("plan", help="how many experts, and how large a model")
    _add_fit_options(plan)
    add = plan.add_argument
    add("--size", type=_positive, metavar="N", help="the largest fitted if not given")
    add("--share", type=float, default=0.9, help="of the gain (default 0.9)")
    add("--slack", type=_positive, help="how close to the floor")
    add("--target", type=_positive, help="a loss to be reached")
    add("--least-gain", type=_positive, help="what one more expert must bring")
    add("--budget", type=_positive, help="the most that size times k may be")


def add_diagnose(commands: argparse._SubParsersAction) -> None:
    """Adds the command's arguments to the parser."""
    parser = commands.add_parser(
        "diagnose",
        help="say what ails the merge of experts, and what to do about it",
        description="Read a base and its experts once; measure norms, cosines, signs, "
        "spectra and the six mechanisms by which more experts fail; and advise, each "
        "piece of advice with the number behind it. See docs/diagnose.md.",
    )
    parser.add_argument("base", help="a path, or a name in the cache")
    parser.add_argument("experts", nargs="+", help="fine-tuned from it")
    add = parser.add_argument
    add("--json", metavar="FILE", help="write everything as JSON; - prints only that")
    add("--figures", type=Path, metavar="DIR", help="draw the figures into a folder")
    add("--html", type=Path, metavar="FILE", help="write one page that opens offline")
    add("--tolerance", type=float, help="share of the first gain that is negligible")
    add(
        "--half-angle",
        type=float,
        metavar="DEGREES",
        help="how far from its task vector an expert still works",
    )
    add("--samples", type=int, default=4096, help="random directions (default 4096)")
    add("--seed", type=int, default=0, help="of all that is random (default 0)")
    add("--quiet", "-q", action="store_true", help="show no progress")
    add("--cache", type=Path, metavar="DIR", help="the Hugging Face cache")
