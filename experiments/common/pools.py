"""A pool: one base, its experts, and what scores any model on every task.

Toy worlds, digit classifiers and language models are all pools, so every question is
asked of each of them by the same code.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from experiments.common.results import fingerprint
from jaxmerge import Matrices

SPLITS = ("validation", "test")


class Batch(NamedTuple):
    """Samples of every task, held out from training.

    Attributes:
      inputs: `[task, sample, ...]`.
      targets: `[task, sample, ...]`.
    """

    inputs: Any
    targets: Any


@dataclasses.dataclass(frozen=True)
class Pool:
    """A base and its experts, one a task, and how a model is scored.

    Attributes:
      name: of the family, as figures show it.
      identity: the fingerprint of all that the models depend on.
      tasks: their names; expert t was trained on task t.
      base: parameters.
      experts: parameters with a leading task axis.
      multitask: of one model trained from the base on equal data of all tasks, or None.
      outputs: `(params, inputs of one task) -> [sample, ...]`: logits or predictions.
      loss: `(outputs, targets of one task) -> [sample]`.
      correct: `(outputs, targets) -> [sample]`, shares from 0 to 1; None if there is no
        right answer.
      data: the samples of each of `SPLITS`.
      dropped: the tasks whose experts gained too little, and are not in the pool.
      matrices: which parameters methods treat as matrices.
    """

    name: str
    identity: str
    tasks: tuple[str, ...]
    base: Any
    experts: Any
    multitask: Any
    outputs: Callable[[Any, Any], Array]
    loss: Callable[[Array, Any], Array]
    correct: Callable[[Array, Any], Array] | None
    data: dict[str, Batch]
    dropped: tuple[str, ...] = ()
    matrices: Matrices = Matrices()

    @property
    def size(self) -> int:
        """The number of experts, T."""
        return len(self.tasks)

    @property
    def num_parameters(self) -> int:
        """Of one model, N."""
        return sum(int(np.prod(np.shape(x))) for x in jax.tree.leaves(self.base))

    def expert(self, t: int) -> Any:
        """The parameters of one expert."""
        return jax.tree.map(lambda x: x[t], self.experts)

    def subset(self, members: Sequence[int]) -> list[Any]:
        """The parameters of some experts, as mergers take them."""
        return [self.expert(t) for t in members]

    def with_tasks(self, tasks: Sequence[str]) -> "Pool":
        """The pool of some of its tasks, in this order: its experts and its data.

        The multitask model stays as it is, trained on all of them.
        """
        if tuple(tasks) == self.tasks:
            return self
        at = np.array([self.tasks.index(task) for task in tasks])
        pick = lambda tree: jax.tree.map(lambda x: x[at], tree)
        return dataclasses.replace(
            self,
            identity=fingerprint([self.identity, list(tasks)]),
            tasks=tuple(tasks),
            experts=pick(self.experts),
            data=pick(self.data),
        )

    def thinned(self, every: int) -> "Pool":
        """The pool with every so many-th sample of each task, from the first."""
        if every == 1:
            return self
        return dataclasses.replace(
            self,
            identity=fingerprint([self.identity, "every", every]),
            data=jax.tree.map(lambda x: x[:, ::every], self.data),
        )


class Scores(NamedTuple):
    """What a model does on each task, `[task]`; accuracies are NaN if undefined."""

    loss: Array | np.ndarray
    accuracy: Array | np.ndarray


def _mean(x: Array) -> Array:
    """In float32, or in float64 where exact worlds are measured in it."""
    return jnp.mean(x, dtype=x.dtype if x.dtype == jnp.float64 else jnp.float32)


def _of_outputs(pool: Pool, outputs: Array, targets: Any) -> Scores:
    loss = _mean(pool.loss(outputs, targets))
    if pool.correct is None:
        return Scores(loss, jnp.full_like(loss, jnp.nan))
    return Scores(loss, _mean(pool.correct(outputs, targets)))


def score(pool: Pool, params: Any, split: str, tasks: Any = None) -> Scores:
    """The mean loss and accuracy of one model on every task; for use under `jit`.

    Args:
      pool: the family.
      params: of the model.
      split: one of `SPLITS`.
      tasks: positions of those that are scored, `[task]`; all if None.

    Returns:
      `[task]` each.
    """
    data = pool.data[split]
    if tasks is not None:
        data = jax.tree.map(lambda x: x[tasks], data)
    one = lambda batch: _of_outputs(
        pool, pool.outputs(params, batch.inputs), batch.targets
    )
    return jax.lax.map(one, data)


def score_ensemble(pool: Pool, members: Any, split: str) -> Scores:
    """The mean of the members' outputs, scored on every task: the logit ensemble.

    `members` are positions of experts, `[member]`; under `jit` they may be traced, and
    one program serves all sets of a size.
    """
    chosen = jax.tree.map(lambda x: x[jnp.asarray(members)], pool.experts)
    first = jax.tree.map(lambda x: x[0], chosen)
    others = jax.tree.map(lambda x: x[1:], chosen)

    def one(batch: Batch) -> Scores:
        def add(total: Array, params: Any) -> tuple[Array, None]:
            return total + pool.outputs(params, batch.inputs), None

        total, _ = jax.lax.scan(add, pool.outputs(first, batch.inputs), others)
        return _of_outputs(pool, total / len(members), batch.targets)

    return jax.lax.map(one, pool.data[split])
