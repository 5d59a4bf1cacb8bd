"""`jaxmerge law fit` and `jaxmerge law plan`: the scaling law of a table of losses."""

import argparse
import importlib.util
import json
from pathlib import Path
from typing import Any

from jaxmerge.checkpoint.errors import RecipeError
from jaxmerge.cli.text import table

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


def run_law(arguments: argparse.Namespace) -> None:
    """Prints a fit, or a plan, and draws it.

    Raises:
      ValueError: if the table or an option is wrong.
      RecipeError: if matplotlib is needed and not there.
    """
    if arguments.figure and importlib.util.find_spec("matplotlib") is None:
        raise RecipeError("--figure needs matplotlib: pip install 'jaxmerge[plots]'")
    import jax

    from jaxmerge import laws
    from jaxmerge.laws import report

    losses = laws.read_table(arguments.table)
    losses, points = _points(losses, arguments)
    fit = _fit(points, arguments)
    cautions = tuple(laws.table_cautions(losses))
    rivals = ()
    if not arguments.bounded and arguments.form == "offset":
        rivals = laws.compare(points, weights=arguments.weights)
        # The comparison is without a bound on b; only what it says of rivals is taken.
        own = next(rival for rival in rivals if rival.law.form == "offset")
        cautions += tuple(c for c in own.cautions if c.name == "floor_not_identified")
    if arguments.draws and len(points) > len(fit.names):
        fit = laws.bootstrap(
            fit, jax.random.key(arguments.seed), num_draws=arguments.draws
        )
    fit = laws.with_cautions(fit, cautions)
    plan = None
    if arguments.action == "plan":
        plan = laws.make_plan(
            fit,
            size=arguments.size,
            pool=arguments.pool or _pool(losses),
            share=arguments.share,
            slack=arguments.slack,
            target=arguments.target,
            least_gain=arguments.least_gain,
            budget=arguments.budget,
        )
    if arguments.figure:
        report.figure(fit, plan).savefig(arguments.figure, dpi=150)
    if arguments.json:
        print(json.dumps(report.as_data(fit, plan), indent=2, allow_nan=False))
        return
    print("\n".join(_lines(report, fit, rivals, plan)))


def _pool(losses: Any) -> int | None:
    """How many experts the table's subsets name; unknown where it has none."""
    return losses.pool if any(losses.subset.tolist()) else None


def _points(losses: Any, arguments: argparse.Namespace) -> tuple[Any, Any]:
    """The rows of one method and domain, and their means."""
    if arguments.method is not None or len(losses.methods) > 1:
        losses.points(method=arguments.method, domain=losses.domains[0])  # or refuse
        losses = losses.where(losses.method == arguments.method)
    if arguments.domain is not None:
        losses.points(domain=arguments.domain)  # or refuse
        losses = losses.where(losses.domain == arguments.domain)
    elif len(losses.domains) > 1:
        losses = losses.pooled(arguments.mean)
    return losses, losses.points()


def _fit(points: Any, arguments: argparse.Namespace) -> Any:
    from jaxmerge import laws

    options = {
        "form": arguments.form,
        "weights": arguments.weights,
        "offset_bounds": (0.0, arguments.max_offset),
    }
    if len(points.sizes) == 1:
        return laws.fit_curve(points, bounded=arguments.bounded, **options)
    if arguments.bounded:
        raise ValueError("--bounded is for a table of one size")
    return laws.fit_joint(points, **options)


def _lines(report: Any, fit: Any, rivals: Any, plan: Any) -> list[str]:
    lines = [report.formula(fit.law), *table(report.fit_rows(fit))]
    lines += report.fit_lines(fit, rivals)
    cautions = fit.cautions
    if plan is not None:
        size = "" if plan.size is None else f" at size {plan.size:g}"
        lines += ["", f"Plan{size}:", *table(report.plan_rows(plan))]
        if plan.choice is not None:
            best = plan.choice
            lines.append(
                f"  best within the budget: size {best.size:g} with {best.k} experts, "
                f"expected loss {best.loss:.5g}, cost {best.cost:g}"
            )
        elif plan.budget is not None:
            lines.append(f"  nothing can be had for a budget of {plan.budget:g}")
        cautions = plan.cautions
    return [*lines, *report.caution_lines(cautions)]
