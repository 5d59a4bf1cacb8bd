"""What each merge does: risk, training loss, and the comparisons of the protocol."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from experiments.more_experts.tasks import Samples
from experiments.stability.config import Config, sample_counts
from experiments.stability.problem import Problem
from experiments.toy.training import cross_entropy


def _members(samples: Samples, group: Array) -> Samples:
    return Samples(samples.inputs[group], samples.labels[group])


def _risk(problem: Problem, vector: Array, samples: Samples) -> Array:
    """The mean over a group's tasks of one model's loss."""
    one = jax.vmap(problem.loss, in_axes=(None, 0, 0))
    return jnp.mean(one(vector, samples.inputs, samples.labels))


def make_measure(
    problem: Problem, config: Config
) -> Callable[[list[int], np.ndarray, np.ndarray], dict[str, np.ndarray]]:
    """What measures merges of any group, compiled once.

    The function takes tasks, task vectors `[merge, expert, parameter]` and positions of
    the data ratio `[merge, expert]`, and returns by name `[merge]`: on the test set
    `risk` and `accuracy` of the average, `tuned` (of the average times the scale with
    the least validation loss), `ensemble` (of mean logits), `expert` (each expert on
    its own task), `best` (the one expert with the least validation loss over the
    group); and `train`, the average's loss on what its experts were trained on.
    """
    allowed = sample_counts(config, problem.num_samples)

    @jax.jit
    def all_merges(group: Array, vectors: Array, counts: Array) -> dict[str, Array]:
        splits = {name: _members(x, group) for name, x in problem.data.items()}
        one = lambda row: _one_merge(problem, config.scales, splits, *row)
        return jax.lax.map(one, (vectors, counts))

    def measure(
        group: list[int], vectors: np.ndarray, ratios: np.ndarray
    ) -> dict[str, np.ndarray]:
        counts = jnp.asarray(allowed[ratios], jnp.int32)
        found = all_merges(jnp.asarray(group), jnp.asarray(vectors), counts)
        return {name: np.asarray(x, float) for name, x in found.items()}

    return measure


def _one_merge(
    problem: Problem,
    scales: tuple[float, ...],
    splits: dict[str, Samples],
    vectors: Array,
    counts: Array,
) -> dict[str, Array]:
    train, validation, test = (splits[n] for n in ("train", "validation", "test"))
    experts = problem.base + vectors
    mean = jnp.mean(vectors, axis=0)
    average = problem.base + mean
    scaled = problem.base + jnp.asarray(scales, jnp.float32)[:, None] * mean
    risks = lambda models, samples: jax.vmap(lambda x: _risk(problem, x, samples))(
        models
    )
    tuned = scaled[jnp.argmin(risks(scaled, validation))]
    best = experts[jnp.argmin(risks(experts, validation))]
    seen = jnp.arange(train.labels.shape[1]) < counts[:, None]
    losses = jax.vmap(problem.losses, (None, 0, 0))(average, *train)
    logits = jax.vmap(lambda x: jax.vmap(problem.logits, (None, 0))(x, test.inputs))
    ensemble = cross_entropy(jnp.mean(logits(experts), axis=0), test.labels)
    accuracy = jax.vmap(problem.accuracy, (None, 0, 0))(average, *test)
    by_task = jnp.sum(jnp.where(seen, losses, 0), axis=1) / counts.astype(jnp.float32)
    return {
        "risk": _risk(problem, average, test),
        "train": jnp.mean(by_task),
        "accuracy": jnp.mean(accuracy),
        "tuned": _risk(problem, tuned, test),
        "best": _risk(problem, best, test),
        "ensemble": jnp.mean(ensemble),
        "expert": jnp.mean(jax.vmap(problem.loss)(experts, *test)),
    }


def make_comparison(
    problem: Problem,
) -> Callable[[list[int], int], dict[str, float]]:
    """From a group and its number to test losses of base and multitask model."""

    @jax.jit
    def risks(group: Array, reference: Array) -> tuple[Array, Array]:
        test = _members(problem.data["test"], group)
        return _risk(problem, problem.base, test), _risk(problem, reference, test)

    def compare(group: list[int], number: int) -> dict[str, float]:
        found = risks(jnp.asarray(group), problem.references[number])
        return dict(zip(("base", "multitask"), map(float, found), strict=True))

    return compare
