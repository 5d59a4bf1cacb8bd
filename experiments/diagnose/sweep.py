"""Every set of experts: what the diagnosis advises, and how each method really does."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxmerge
from experiments.common.results import Results
from experiments.diagnose.config import Pool, Scoring
from experiments.more_experts.recipes import RECIPES, Recipe
from experiments.more_experts.subsets import nested_subsets
from experiments.more_experts.sweep import Evaluator
from experiments.more_experts.train import Trained, make_architecture, train_or_load
from jaxmerge import checkpoint, diagnose

# Those that give one model from any number of experts.
CANDIDATES = (
    "average",
    "task_arithmetic",
    "ties",
    "dare",
    "magnitude_prune",
    "model_stock",
    "consensus",
    "isotropic",
    "rht",
)


def sets_of(pool: Pool) -> list[tuple[int, ...]]:
    """The sets of two experts or more that are merged."""
    config = pool.models
    subsets = nested_subsets(config.seed, config.num_tasks, config.subsets)
    return [subset for subset in subsets if len(subset) > 1]


def _candidates(scale: float) -> list[Recipe]:
    recipes = [recipe for recipe in RECIPES if recipe.name in CANDIDATES]
    make = lambda: jaxmerge.task_arithmetic(scale=scale)
    return [*recipes, Recipe("task_arithmetic_advised", "", make)]


def _numbers(found: diagnose.Diagnosis) -> dict[str, Any]:
    return {
        advice.topic: [advice.found.value, advice.found.lower, advice.found.upper]
        for advice in found.advice
        if np.isfinite(advice.found.upper)
    }


def _one_set(
    pool: Pool,
    trained: Trained,
    evaluate: Evaluator,
    subset: tuple[int, ...],
    seed: int,
    work: Path,
) -> dict[str, Any]:
    """The advice for one set, and the accuracy of every candidate on its tasks."""
    experts = [trained.experts[t] for t in subset]
    key = jax.random.fold_in(jax.random.key(seed), len(subset))
    found = diagnose.diagnose(trained.base, experts, key=key, num_samples=1024)
    asked = next(advice for advice in found.advice if advice.topic == "scale")
    # Where the scale is not sure, the advice is to keep the published one.
    scale = 0.3 if asked.abstains else asked.found.value
    advised = found.choice.method
    if found.choice.scale is not None:
        advised = "task_arithmetic_advised"
    row: dict[str, Any] = {
        "advised": advised,
        "scale": scale,
        "numbers": _numbers(found),
        "accuracy": {},
        "tuned_accuracy": {},
        "tuned_multiplier": {},
    }
    grid = pool.models.scale_grid
    tasks = evaluate.pick(evaluate.test, subset)
    held_out = evaluate.pick(evaluate.validation, subset)
    for recipe in _candidates(scale):
        out = work / "merged.safetensors"
        for t in subset:
            key = jax.random.fold_in(key, t)
        checkpoint.merge(
            recipe.make(),
            base=trained.base,
            experts=experts,
            out=out,
            key=key,
            ids=[trained.names[t] for t in subset],
            overwrite=True,
        )
        merged = checkpoint.load(out)
        trials = evaluate(merged, grid, held_out).mean(axis=1)
        tuned = grid[int(np.argmax(trials))]
        plain, best = evaluate(merged, (1.0, tuned), tasks).mean(axis=1)
        row["accuracy"][recipe.name] = float(plain)
        row["tuned_accuracy"][recipe.name] = float(best)
        row["tuned_multiplier"][recipe.name] = tuned
    return row


def run_sweep(config: Scoring, out: Path) -> Iterator[dict[str, Any]]:
    """Yields a row for each set of each pool; finished ones are not computed again.

    Args:
      config: the settings.
      out: the run's folder; rows are kept in its `sets.jsonl`.
    """
    results = Results(out / "sets.jsonl")
    for pool in config.pools:
        folder = out / pool.name
        folder.mkdir(parents=True, exist_ok=True)
        trained = train_or_load(pool.models, folder, lambda stage: None)

        @functools.cache
        def evaluator(pool: Pool = pool, trained: Trained = trained) -> Evaluator:
            base = checkpoint.load(trained.base)
            return Evaluator(pool.models, make_architecture(pool.models), base)

        for subset in sets_of(pool):
            settings = {
                "pool": pool.name,
                "experts": list(subset),
                "models": trained.identity,
                "seed": config.seed,
            }
            compute = lambda p=pool, t=trained, s=subset, e=evaluator: _one_set(
                p, t, e(), s, config.seed, out
            )
            yield results.get_or_compute(settings, compute)
    (out / "merged.safetensors").unlink(missing_ok=True)
