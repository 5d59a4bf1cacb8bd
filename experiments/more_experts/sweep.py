"""Every recipe on every set of experts, merged on disk and evaluated on every task.

The published scale is one column. The second is a scale chosen on validation samples of
the merged experts' tasks, with the same number of trials for every recipe. Scaling is
linear in the merged delta, so the checkpoints are merged once, by the streamed
executor, and the search happens in memory: model(s) = base + s * (merged - base).
"""

import functools
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.common.results import Results
from experiments.more_experts.config import Config
from experiments.more_experts.model import Architecture, Params
from experiments.more_experts.recipes import RECIPES, Recipe
from experiments.more_experts.subsets import nested_subsets
from experiments.more_experts.tasks import Samples, draw_samples
from experiments.more_experts.train import Trained, make_architecture
from jaxmerge import checkpoint


def make_plan(config: Config) -> list[tuple[Recipe, tuple[int, ...]]]:
    """What is merged: each recipe with each set that it is defined for, few first."""
    subsets = nested_subsets(config.seed, config.num_tasks, config.subsets)
    recipes = [r for r in RECIPES if not config.recipes or r.name in config.recipes]
    return [(r, s) for s in subsets for r in recipes if r.merges(len(s))]


class Evaluator:
    """Accuracies of models base + s * (merged - base), compiled once per shape."""

    def __init__(self, config: Config, architecture: Architecture, base: Params):
        draw = functools.partial(draw_samples, config.seed, num_tasks=config.num_tasks)
        self.test = draw("test", config.test_copies)
        self.validation = draw("validation", config.validation_copies)
        self._base = base

        @jax.jit
        def scaled(base: Params, merged: Params, scales: Array, s: Samples) -> Array:
            def accuracies(scale: Array) -> Array:
                model = jax.tree.map(lambda b, m: b + scale * (m - b), base, merged)
                return architecture.accuracies(model, s.inputs, s.labels)

            return jax.lax.map(accuracies, scales)

        self._scaled = scaled

    def __call__(
        self, merged: Params, scales: Sequence[float], samples: Samples
    ) -> Float[np.ndarray, "scale task"]:
        """The accuracy of the merged model at each scale on each task."""
        numbers = jnp.asarray(scales, jnp.float32)
        return np.asarray(self._scaled(self._base, merged, numbers, samples), float)

    def pick(self, samples: Samples, tasks: Sequence[int]) -> Samples:
        """The samples of some tasks."""
        return jax.tree.map(lambda x: x[jnp.asarray(tasks)], samples)


def _one_model(
    evaluate: Evaluator, config: Config, merged: Params, subset: tuple[int, ...]
) -> dict[str, Any]:
    """Test accuracies at the published scale and at the one chosen on validation."""
    merged_tasks = evaluate.pick(evaluate.validation, subset)
    trials = evaluate(merged, config.scale_grid, merged_tasks).mean(axis=1)
    tuned = config.scale_grid[int(np.argmax(trials))]
    published, best = evaluate(merged, (1.0, tuned), evaluate.test)
    return {
        "accuracy": published.tolist(),
        "tuned_multiplier": tuned,
        "validation": trials.tolist(),
        "tuned_accuracy": best.tolist(),
    }


def _model_per_task(
    evaluate: Evaluator, trained: Trained, out: Path, subset: tuple[int, ...]
) -> dict[str, Any]:
    """Each merged task's own model on its own task; other tasks have no model."""
    accuracy: list[float | None] = [None] * len(trained.names)
    for position, task in enumerate(subset):
        model = checkpoint.load_task(out, trained.base, position)
        samples = evaluate.pick(evaluate.test, (task,))
        accuracy[task] = float(evaluate(model, (1.0,), samples)[0, 0])
    return {"accuracy": accuracy}


def _run_one(
    evaluate: Evaluator,
    config: Config,
    trained: Trained,
    recipe: Recipe,
    subset: tuple[int, ...],
    work: Path,
) -> dict[str, Any]:
    """Merges one set of experts on disk and evaluates the result."""
    names = [trained.names[t] for t in subset]
    key = jax.random.fold_in(jax.random.key(config.seed), 3)
    # Random recipes draw anew for each set, and the same for each rerun.
    for t in subset:
        key = jax.random.fold_in(key, t)
    merge = checkpoint.merge_tasks if recipe.needs_task_id else checkpoint.merge
    out = work / ("tasks" if recipe.needs_task_id else "merged.safetensors")
    started = time.perf_counter()
    merge(
        recipe.make(),
        base=trained.base,
        experts=[trained.experts[t] for t in subset],
        out=out,
        key=key,
        ids=names,
        overwrite=True,
    )
    merge_seconds = time.perf_counter() - started
    if recipe.needs_task_id:
        row = _model_per_task(evaluate, trained, out, subset)
    else:
        row = _one_model(evaluate, config, checkpoint.load(out), subset)
    return row | {"merge_seconds": round(merge_seconds, 4)}


def run_sweep(config: Config, trained: Trained, out: Path) -> Iterator[dict[str, Any]]:
    """Yields a row for each planned merge: a finished one at once, else when done.

    Args:
      config: the settings.
      trained: the models.
      out: the run's folder; rows are kept in its `merges.jsonl`.
    """
    results = Results(out / "merges.jsonl")
    work = out / "work"
    work.mkdir(exist_ok=True)

    @functools.cache
    def evaluator() -> Evaluator:
        base = checkpoint.load(trained.base)
        return Evaluator(config, make_architecture(config), base)

    for recipe, subset in make_plan(config):
        settings = {
            "recipe": recipe.name,
            "experts": list(subset),
            "merger": repr(recipe.make()),
            "models": trained.identity,
            "scale_grid": list(config.scale_grid),
        }
        compute = lambda recipe=recipe, subset=subset: _run_one(
            evaluator(), config, trained, recipe, subset, work
        )
        yield results.get_or_compute(settings, compute)
    shutil.rmtree(work)
