"""Statistics over a whole model that a transform needs before it can run.

A transform with `survey_rounds > 0` is asked, for each expert and that many times, to
`measure` every leaf's delta; the parts are joined and `conclude`d into what the next
round, and at the end the transform itself in `leaf.stats`, is told. Whole-model TIES
takes two rounds: a histogram of the magnitudes' high bits, then one of the low bits
inside the bin that holds the threshold.

    measure(delta, found) -> part       join(a, b) -> part
    conclude(total, size, found) -> found

A transform that has to know the other experts' results (never their deltas) may also
`compare` them, once, after its last round: a list in, a list out.

    compare([found of each expert]) -> [found of each expert]
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from jaxmerge import _leaf
from jaxmerge._coefficients import map_coefficients, resolve
from jaxmerge._leaf import ExpertKey, LeafProgram

# parts(stage, surveys of the stages before, what each expert's last round found) yields
# (t, part) for every leaf and expert, in any order of the leaves.
Parts = Callable[[int, tuple[Any, ...], list[Any]], Iterable[tuple[int, Any]]]


def survey_rounds(transform: Any) -> int:
    """How many times a transform measures a model before it can run."""
    return getattr(transform, "survey_rounds", 0)


def compares(transform: Any) -> bool:
    """Whether what a transform does to an expert depends on the other experts."""
    return hasattr(transform, "compare")


def total_rounds(transforms: tuple[Any, ...]) -> int:
    """How many times a chain of transforms reads the experts before the merge."""
    return sum(survey_rounds(transform) for transform in transforms)


def for_expert(transform: Any, t: int, num_experts: int) -> Any:
    """A transform with the coefficients that one expert has in the whole model.

    Raises:
      ValueError: if a coefficient is a tree prefix: one threshold over all leaves has
        one density.
    """

    def choose(label: str, value: Any) -> Any:
        value = resolve(value, "", num_experts, label=f"whole-model {label}")
        return value[t] if getattr(value, "ndim", 0) else value

    return map_coefficients(transform, choose)


def of_expert(surveys: tuple[Any, ...], t: Any) -> tuple[Any, ...]:
    """What the surveys say of one expert."""
    return jax.tree.map(lambda x: x[t], surveys)


def measure(
    program: LeafProgram,
    expert: Any,
    base: Any,
    t: Any,
    key: ExpertKey,
    surveys: Any,
    found: Any,
    *,
    stage: int,
) -> Any:
    """One leaf's part of the survey of transform `stage`, for one expert."""
    before = of_expert(surveys, t)
    delta, _ = _leaf.transformed(program, expert, base, t, key, before, upto=stage)
    return program.transforms[stage].measure(delta, found)


def survey(
    transforms: tuple[Any, ...], num_experts: int, size: int, parts: Parts
) -> tuple[Any, ...]:
    """Runs the surveys of a chain of transforms.

    Args:
      transforms: the merger's.
      num_experts: T.
      size: the number of elements of the whole model.
      parts: yields each leaf's and expert's part of one round.

    Returns:
      For each transform the result stacked over the experts, or None; empty if no
      transform has a survey.
    """
    surveys: tuple[Any, ...] = ()
    if not total_rounds(transforms):
        return surveys
    for stage, transform in enumerate(transforms):
        own = [for_expert(transform, t, num_experts) for t in range(num_experts)]
        found: list[Any] = [None] * num_experts
        for _ in range(survey_rounds(transform)):
            totals: list[Any] = [None] * num_experts
            for t, part in parts(stage, surveys, found):
                first = totals[t] is None
                totals[t] = part if first else transform.join(totals[t], part)
            found = [
                expert.conclude(total, size, before)
                for expert, total, before in zip(own, totals, found, strict=True)
            ]
        if compares(transform):
            found = transform.compare(found)
        if found[0] is None:
            surveys = (*surveys, None)
        else:
            surveys = (*surveys, jax.tree.map(lambda *xs: jnp.stack(xs), *found))
    return surveys
