"""The programs that advice and reports run, compiled once for all their numbers.

Compiled functions do not see values, so whoever calls them has checked them.
"""

import functools
from typing import Any

import jax
from jaxtyping import Array

from jaxmerge.stability.bound import BoundTerms, excess_risk_bound
from jaxmerge.stability.sparsifiers import random_mask_effect
from jaxmerge.stability.spec import ExpertSpec, Problem, ProblemStats


@functools.partial(jax.jit, static_argnames=("convex",))
def bounds(
    rows: dict[str, Array],
    problem: Problem,
    stats: ProblemStats,
    measured: Any,
    *,
    convex: bool,
) -> BoundTerms:
    """The bound of each row of settings; fields get a leading axis."""

    def one(row: dict[str, Array]) -> BoundTerms:
        spec = ExpertSpec(
            row["learning_rate"], row["batch_size"], row["steps"], problem.samples
        )
        return excess_risk_bound(
            spec,
            stats,
            coefficients=row["coefficients"],
            target_weights=problem.target_weights,
            convex=convex,
            measured=measured,
        )

    return jax.vmap(one)(rows)


@functools.partial(jax.jit, static_argnames=("with_masks",))
def bound_and_masks(
    spec: ExpertSpec,
    stats: ProblemStats,
    squared_norms: Array,
    keep_rate: Array,
    options: dict[str, Any],
    *,
    with_masks: bool,
) -> tuple[BoundTerms, dict[str, Array] | None]:
    """The bound, and by how much masks without and with rescaling change its total."""
    terms = excess_risk_bound(spec, stats, **options)
    if not with_masks:
        return terms, None
    changes = {
        name: random_mask_effect(
            spec,
            stats,
            keep_rate,
            rescale=rescale,
            squared_norms=squared_norms,
            **options,
        ).total_change
        for name, rescale in (("drop", False), ("dare", True))
    }
    return terms, changes
