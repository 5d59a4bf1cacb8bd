"""`jaxmerge law fit` and `jaxmerge law plan`: the scaling law of a table of losses."""

import argparse
import importlib.util
import json
from typing import Any

import jax

from jaxmerge import laws
from jaxmerge.checkpoint import RecipeError
from jaxmerge.cli.text import table
from jaxmerge.laws import report


def run_law(arguments: argparse.Namespace) -> None:
    """Prints a fit, or a plan, and draws it.

    Raises:
      ValueError: if the table or an option is wrong.
      RecipeError: if matplotlib is needed and not there.
    """
    if arguments.figure and importlib.util.find_spec("matplotlib") is None:
        raise RecipeError("--figure needs matplotlib: pip install 'jaxmerge[plots]'")
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
    print("\n".join(_lines(fit, rivals, plan)))


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


def _lines(fit: Any, rivals: Any, plan: Any) -> list[str]:
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
