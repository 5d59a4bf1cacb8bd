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

bound = jax.jit(excess_risk_bound, static_argnames=("convex",))
mask_effect = jax.jit(random_mask_effect, static_argnames=("rescale", "convex"))


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
            coefficients=row["scale"] * problem.coefficients,
            target_weights=problem.target_weights,
            convex=convex,
            measured=measured,
        )

    return jax.vmap(one)(rows)
