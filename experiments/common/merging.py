"""Merges of a pool's experts, scored: at the published default, and tuned.

Tuning follows one rule for every method: what multiplies the merged delta is chosen
from a grid by the mean loss of the merged experts' tasks on validation samples, and
where an end of the grid is best, three numbers beyond it are tried too.
"""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import jaxmerge
from experiments.common.methods import Method
from experiments.common.pools import Pool, Scores, score, score_ensemble
from experiments.common.programs import forget_programs
from experiments.common.results import Results
from jaxmerge import laws, statistics

# Wide: published scales that shrink with k need much larger ones.
GRID = (0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0)
# Sums of very many experts need less still, and what is divided by their square more.
BEYOND = (2.5, 8.0, 25.0)
# Of more experts, sets of a few are merged alone.
MOST_MASKED = 64


class Scorer:
    """Scores of models `base + s (merged - base)`, compiled once a pool."""

    def __init__(self, pool: Pool):
        self.pool = pool

        @functools.partial(jax.jit, static_argnames="split")
        def scaled(
            base: Any, merged: Any, scales: Array, tasks: Any, split: str
        ) -> Scores:
            def one(scale: Array) -> Scores:
                model = jax.tree.map(
                    lambda b, m: b + scale.astype(b.dtype) * (m - b), base, merged
                )
                return score(pool, model, split, tasks)

            return jax.lax.map(one, scales)

        self._scaled = scaled
        self._ensemble = jax.jit(lambda chosen: score_ensemble(pool, chosen, "test"))

    @functools.cached_property
    def experts(self) -> list[Any]:
        """The parameters of each."""
        return self.pool.subset(range(self.pool.size))

    @functools.cached_property
    def grams(self) -> list[dict[str, Array]]:
        """Each expert's Gram matrices, of its task's validation inputs; no labels."""
        pool = self.pool

        @jax.jit
        def of_expert(params: Any, inputs: Any) -> dict[str, Array]:
            return statistics.gram_matrices(
                pool.outputs, params, inputs, matrices=pool.matrices
            )

        inputs = pool.data["validation"].inputs
        own = lambda t: jax.tree.map(lambda x: x[t], inputs)
        return [of_expert(pool.expert(t), own(t)) for t in range(pool.size)]

    def __call__(
        self,
        merged: Any,
        split: str,
        scales: Sequence[float] = (1.0,),
        tasks: Sequence[int] | None = None,
    ) -> Scores:
        """Losses and accuracies, `[scale, task]`, in float64; of all tasks if None."""
        numbers = jnp.asarray(scales, jnp.float32)
        positions = None if tasks is None else jnp.asarray(tasks)
        found = self._scaled(self.pool.base, merged, numbers, positions, split)
        return Scores(*(np.asarray(x, np.float64) for x in found))

    def ensemble(self, members: Sequence[int]) -> Scores:
        """Of the mean of the members' outputs on test samples, `[1, task]`."""
        found = self._ensemble(jnp.asarray(members))
        return Scores(*(np.asarray(x, np.float64)[None] for x in found))


def merger_of(pool: Pool, method: Method) -> jaxmerge.Merger:
    """A method's merger, which takes for matrices what the pool says."""
    return dataclasses.replace(method.make(), matrices=pool.matrices)


def merged_model(
    scorer: Scorer, method: Method, members: Sequence[int], seed: int
) -> Any:
    """The parameters that a method makes of some experts.

    Args:
      scorer: of the pool.
      method: what merges; if it takes Gram matrices, they are the scorer's.
      members: positions of experts.
      seed: of random methods, which draw anew for each set.
    """
    pool, key = scorer.pool, jax.random.key(seed)
    for t in members:
        key = jax.random.fold_in(key, t)
    merger = merger_of(pool, method)
    # One program for sets of every size, where there is one; it reads all experts.
    masked = merger.takes_members and pool.size <= MOST_MASKED
    given = range(pool.size) if masked else members
    return jaxmerge.merge_leaves(
        merger,
        pool.base,
        [scorer.experts[t] for t in given],
        key=key,
        ids=[pool.tasks[t] for t in given],
        members=np.isin(given, members) if masked else None,
        statistics=[scorer.grams[t] for t in given] if method.informed else None,
    )


def _numbers(scores: Scores, at: int) -> dict[str, Any]:
    row = {"loss": scores.loss[at].tolist()}
    if np.isfinite(scores.accuracy[at]).all():
        row["accuracy"] = scores.accuracy[at].tolist()
    return row


def search_scale(
    scorer: Scorer, merged: Any, members: Sequence[int], grid: Sequence[float]
) -> tuple[float, list[float | None]]:
    """The best multiplier of a merged delta, and the validation loss of all tried.

    Args:
      scorer: of the pool.
      merged: parameters.
      members: the tasks that count.
      grid: rising; what lies beyond an end is tried where the end is best. A grid of
        one number is no search.

    Returns:
      The multiplier, and losses in the order of trials; None where one is not finite.
    """

    def losses_at(scales: Sequence[float]) -> np.ndarray:
        losses = scorer(merged, "validation", scales, members).loss.mean(axis=1)
        return np.where(np.isfinite(losses), losses, np.inf)

    if len(grid) == 1:
        return grid[0], []
    scales, losses = list(grid), losses_at(grid)
    best = int(np.argmin(losses))
    if best in (0, len(grid) - 1):
        end = grid[best]
        further = [end / x if best == 0 else end * x for x in BEYOND]
        scales, losses = scales + further, np.append(losses, losses_at(further))
    shown = [None if np.isinf(x) else float(x) for x in losses]
    return scales[int(np.argmin(losses))], shown


def measure_merge(
    scorer: Scorer,
    method: Method,
    members: Sequence[int],
    seed: int,
    grid: Sequence[float] = GRID,
) -> dict[str, Any]:
    """What one merge scores on every task's test samples, in both columns.

    Args:
      scorer: of the pool.
      method: what merges.
      members: positions of experts.
      seed: of random methods.
      grid: what the published scale is multiplied by in the search.

    Returns:
      JSON data: `published` and `tuned` with `loss` and `accuracy` a task, `scale`, the
      multiplier that was chosen, and `trials`, the validation loss of each.
    """
    merged = merged_model(scorer, method, members, seed)
    scale, trials = search_scale(scorer, merged, members, grid)
    test = scorer(merged, "test", (1.0,) if scale == 1 else (1.0, scale))
    return {
        "published": _numbers(test, 0),
        "tuned": _numbers(test, -1),
        "scale": scale,
        "trials": trials,
    }


def measure_references(scorer: Scorer) -> dict[str, Any]:
    """The base, every expert and the multitask model on every task's test samples."""
    pool = scorer.pool
    one = lambda params: _numbers(scorer(params, "test"), 0)
    found = {
        "base": one(pool.base),
        "experts": [one(pool.expert(t)) for t in range(pool.size)],
    }
    if pool.multitask is not None:
        found["multitask"] = one(pool.multitask)
    return found


def measure_ensemble(scorer: Scorer, members: Sequence[int]) -> dict[str, Any]:
    """The logit ensemble of some experts on every task's test samples."""
    return _numbers(scorer.ensemble(members), 0)


def sets_of_sizes(
    size: int, counts: Iterable[int], num: int, seed: int
) -> list[tuple[int, ...]]:
    """Sets of experts of each size, drawn alike for all methods; few experts first.

    Args:
      size: of the pool; the last set is the whole of it.
      counts: numbers of experts; those of the pool's size or above are left out.
      num: how many sets of each, or all that there are.
      seed: of the draws.
    """
    key = jax.random.key(seed)
    found = []
    for k in sorted({k for k in counts if k < size} | {size}):
        there_are = min(num, laws.num_subsets(size, [k]))
        own = jax.random.fold_in(key, k)
        masks = laws.uniform_subsets(own, size, k, there_are).masks
        found += [tuple(np.flatnonzero(mask).tolist()) for mask in masks]
    return found


def sweep(
    scorer: Scorer,
    methods: Sequence[Method],
    sets: Sequence[Sequence[int]],
    results: Results,
    seed: int,
    grid: Sequence[float] = GRID,
) -> list[dict[str, Any]]:
    """A row for each method and set; rows that are finished are not computed again."""
    rows = []
    for members in sets:
        # Methods that take no mask compile thousands of pieces for each new size.
        forget_programs()
        for method in methods:
            if len(members) < method.fewest:
                continue
            settings = {
                "pool": scorer.pool.identity,
                "method": method.name,
                "merger": repr(merger_of(scorer.pool, method)),
                "members": list(members),
                "grid": list(grid),
                "beyond": list(BEYOND),
                "seed": seed,
            }
            compute = functools.partial(
                measure_merge, scorer, method, members, seed, grid
            )
            rows.append(results.get_or_compute(settings, compute))
    return rows


def references(scorer: Scorer, results: Results) -> dict[str, Any]:
    """`measure_references`, from the rows if it is there."""
    settings = {"pool": scorer.pool.identity, "what": "references"}
    return results.get_or_compute(settings, lambda: measure_references(scorer))
