"""A plan: a fitted law's answers to a user's questions, with intervals and cautions."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxmerge.laws import planner, returns
from jaxmerge.laws._numbers import Real
from jaxmerge.laws.curves import Curve, JointLaw
from jaxmerge.laws.fit import Fit
from jaxmerge.laws.guards import Caution, query_cautions

# The paper looks at up to nine experts; a return needs some K to be the whole.
_MOST = 9


@dataclasses.dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
      question: in words, with the numbers that were asked for.
      value: the answer; None where no number will do.
      lower: lower end of its 95 % interval over bootstrap draws; the value without.
      upper: its upper end; None where no number would do in some draws.
      formula: what was computed.
    """

    question: str
    value: Real | None
    lower: Real | None
    upper: Real | None
    formula: str


@dataclasses.dataclass(frozen=True)
class Plan:
    """Answers, and what to beware of.

    Attributes:
      size: N that they are about; None where the law has no size.
      pool: how many experts there are; None if it was not told.
      answers: in the order asked.
      budget: what may be spent, if that was told.
      choice: the best size and k within it; None if nothing is affordable.
      cautions: the fit's, and those of the questions.
    """

    size: float | None
    pool: int | None
    answers: tuple[Answer, ...]
    budget: float | None
    choice: planner.Choice | None
    cautions: tuple[Caution, ...]


def _answer(
    question: str, formula: str, fit: Fit, ask: Callable[[Any], Real | None]
) -> Answer:
    value = ask(fit.law)
    if fit.draws is None:
        return Answer(question, value, value, value, formula)
    draws = [ask(law) for law in fit.laws()]
    as_numbers = np.array([math.inf if draw is None else draw for draw in draws])
    ends = np.quantile(as_numbers, [0.025, 0.975], method="inverted_cdf")
    lower, upper = (None if math.isinf(end) else float(end) for end in ends)
    return Answer(question, value, lower, upper, formula)


def make_plan(
    fit: Fit,
    *,
    size: Real | None = None,
    pool: int | None = None,
    share: Real | None = 0.9,
    slack: Real | None = None,
    target: Real | None = None,
    least_gain: Real | None = None,
    cost: Callable[[Any, int], Any] | None = None,
    budget: Real | None = None,
    sizes: Sequence[Real] = (),
) -> Plan:
    """Answers what was asked of a law.

    Args:
      fit: from `fit_curve` or `fit_joint`; with `bootstrap`, answers have intervals.
      size: N, of a joint law; the largest that was fitted if None.
      pool: M, how many experts there are.
      share: of the gain from 1 to K = min(M, 9) experts, or of all further gain where
        no pool is told; the k that reaches it is the default answer.
      slack: how close to the floor is close enough.
      target: a loss to be reached.
      least_gain: what one more expert must bring.
      cost: of size and k, with `budget`; size times k if None.
      budget: the most that may be spent, for a joint law.
      sizes: the N that can be had; those that were fitted if empty.

    Returns:
      The plan. A law of another form than "offset" has no closed-form plan.

    Raises:
      ValueError: if a number is out of range, or the law has not what is asked.

    Example:
      >>> from jaxmerge.laws import Curve, curve_points, fit_curve
      >>> k = np.arange(1, 10)
      >>> fit = fit_curve(curve_points(k, Curve(0.5, 0.2, 0.5)(k)))
      >>> [answer.value for answer in make_plan(fit, pool=9, slack=0.01).answers]
      [6, 20]
    """
    joint = isinstance(fit.law, JointLaw)
    if joint and size is None:
        size = float(fit.points.sizes[-1])
    if not joint and budget is not None:
        raise ValueError("a budget over sizes needs a joint law of three sizes or more")
    most = None if pool is None else min(pool, _MOST)
    asked = _questions(share, slack, target, least_gain, most)
    answers = [
        _answer(question, formula, fit, lambda law, ask=ask: ask(_at(law, size)))
        for question, formula, ask in asked
    ]
    counts = [np.nan if a.value is None else a.value for a in answers]
    if joint and target is not None:
        question = f"smallest size that can reach a loss of {target:g}"
        formula = "(B / (target - L*))^(1 / beta)"
        ask = lambda law: planner.smallest_size(law, target)
        answers.append(_answer(question, formula, fit, ask))
    choice = None
    if budget is not None:
        available = [float(n) for n in (sizes if len(sizes) else fit.points.sizes)]
        largest = int(pool if pool is not None else fit.points.k.max())
        price = cost if cost is not None else (lambda n, k: n * k)
        choice = planner.best_choice(
            fit.law, available, range(1, largest + 1), price, budget
        )
    cautions = query_cautions(
        fit.points, sizes=[] if size is None else [float(size)], k=counts, pool=pool
    )
    return Plan(
        size=None if size is None else float(size),
        pool=pool,
        answers=tuple(answers),
        budget=None if budget is None else float(budget),
        choice=choice,
        cautions=(*fit.cautions, *cautions),
    )


def _at(law: Any, size: Real | None) -> Curve:
    return law.at(size) if isinstance(law, JointLaw) else law


_Question = tuple[str, str, Callable[[Curve], Real | None]]


def _questions(
    share: Real | None,
    slack: Real | None,
    target: Real | None,
    least_gain: Real | None,
    most: int | None,
) -> Iterator[_Question]:
    """What was asked of a curve: in words, as a formula, and the answer."""
    if share is not None:
        whole = "of all that more bring" if most is None else f"up to k = {most}"
        yield (
            f"experts for {share:.0%} of the gain {whole}",
            "R(k) >= share",
            lambda c: returns.experts_for_return(float(c.offset), share, most),
        )
    if slack is not None:
        yield (
            f"experts to be within {slack:g} of the floor",
            "ceil(A / slack - b)",
            lambda c: planner.experts_within(c, slack),
        )
    if target is not None:
        yield (
            f"experts for a loss of {target:g}",
            "ceil(A / (target - floor) - b)",
            lambda c: planner.experts_for_loss(c, target),
        )
    if least_gain is not None:
        yield (
            f"experts after which one more brings at most {least_gain:g}",
            "ceil(-(b + 1/2) + sqrt(1/4 + A / gain))",
            lambda c: planner.stop_after(c, least_gain),
        )
