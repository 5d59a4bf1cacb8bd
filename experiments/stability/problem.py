"""The tasks, the model as a function of one vector, and the base."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from experiments.more_experts.tasks import PIXELS, Samples
from experiments.stability.config import Config, sample_counts
from experiments.toy.networks import Perceptron
from experiments.toy.suite import draw
from experiments.toy.training import Schedule, cross_entropy, fit, is_right


@dataclasses.dataclass(frozen=True)
class Problem:
    """Everything that fine-tunes, predictions and measurements share.

    Attributes:
      model: its name.
      logits: `(vector, [sample, pixel]) -> [sample, class]`.
      base: the base's parameters as one vector, `[parameter]`.
      data: samples by split, with a leading task axis; a fine-tune that may see a share
        of its task's training samples sees the first.
      references: the multitask model of each group, `[group, parameter]`.
    """

    model: str
    logits: Callable[[Array, Array], Array]
    base: Array
    data: dict[str, Samples]
    references: Array

    @property
    def num_samples(self) -> int:
        """Training samples of each task."""
        return self.data["train"].labels.shape[1]

    def losses(self, vector: Array, inputs: Array, labels: Array) -> Array:
        """The cross-entropy of each sample."""
        return cross_entropy(self.logits(vector, inputs), labels)

    def loss(self, vector: Array, inputs: Array, labels: Array) -> Array:
        """Its mean, as `jaxmerge.stability`'s estimators take it."""
        return jnp.mean(self.losses(vector, inputs, labels))

    def accuracy(self, vector: Array, inputs: Array, labels: Array) -> Array:
        """The share of samples named rightly."""
        return jnp.mean(is_right(self.logits(vector, inputs), labels))


def draw_data(config: Config) -> tuple[Samples, dict[str, Samples]]:
    """The base's mixture, and samples of the tasks by split; splits share no image."""
    num, seed = config.num_tasks, config.seed
    mixture = draw(seed, "train", 1, num_tasks=num, strength=(0.0, 0.8), plain=True)
    splits = ("train", "validation", "test")
    return mixture, {split: draw(seed, split, 1, num_tasks=num) for split in splits}


def make_problem(config: Config, model: str, groups: list[list[int]]) -> Problem:
    """Trains the base, and a multitask model for each group."""
    hidden = (config.hidden,) if model == "mlp" else ()
    network = Perceptron((PIXELS, *hidden, 10), jnp.tanh)
    keys = jax.random.split(jax.random.key(config.seed), 3)
    mixture, data = draw_data(config)
    pooled = lambda x: x.reshape(-1, *x.shape[2:])
    joined = Samples(pooled(mixture.inputs), pooled(mixture.labels))
    base_schedule = Schedule(config.base_steps, 128, 3e-3)
    reference_schedule = Schedule(config.reference_steps, 256, 3e-3)
    train = data["train"]

    @jax.jit
    def models(joined: Samples, train: Samples, members: Array) -> tuple:
        base = fit(network, network.init(keys[0]), joined, keys[1], base_schedule)

        def reference(group: Array) -> dict:
            own = Samples(pooled(train.inputs[group]), pooled(train.labels[group]))
            return fit(network, base, own, keys[2], reference_schedule)

        return base, jax.lax.map(reference, members)

    # Optax's schedules and Adam mix dtypes, which strict promotion refuses.
    with jax.numpy_dtype_promotion("standard"):
        base, references = models(joined, train, jnp.asarray(groups))
    flat, unravel = ravel_pytree(base)
    return Problem(
        model=model,
        logits=lambda vector, inputs: network.logits(unravel(vector), inputs),
        base=flat,
        data=data,
        references=jax.vmap(lambda tree: ravel_pytree(tree)[0])(references),
    )


def fine_tune(problem: Problem, config: Config, batch_size: int) -> np.ndarray:
    """Fine-tunes of one batch size, all at once, by plain SGD.

    Returns:
      Task vectors, `[task, rate, ratio, seed, step, parameter]`.
    """
    train = problem.data["train"]
    counts = sample_counts(config, problem.num_samples)
    shape = (
        config.num_tasks,
        len(config.learning_rates),
        len(config.ratios),
        config.training_seeds,
    )
    at = [x.reshape(-1) for x in np.indices(shape)]
    rates = jnp.asarray(config.learning_rates, jnp.float32)[at[1]]
    allowed = jnp.asarray(counts, jnp.int32)[at[2]]
    # One key a task and seed: settings are compared on the same stream of draws.
    key = jax.random.key(config.seed + 3)
    keys = jax.vmap(lambda t, s: jax.random.fold_in(jax.random.fold_in(key, t), s))(
        jnp.asarray(at[0]), jnp.asarray(at[3])
    )

    def one(task: Array, rate: Array, allowed: Array, key: Array) -> Array:
        def step(vector: Array, key: Array) -> tuple[Array, None]:
            picked = jax.random.randint(key, (batch_size,), 0, allowed)
            batch = train.inputs[task, picked], train.labels[task, picked]
            return vector - rate * jax.grad(problem.loss)(vector, *batch), None

        draws = jax.random.split(key, config.steps[-1])
        vector, kept, start = problem.base, [], 0
        for stop in config.steps:
            vector, _ = jax.lax.scan(step, vector, draws[start:stop])
            kept.append(vector - problem.base)
            start = stop
        return jnp.stack(kept)

    found = jax.jit(jax.vmap(one))(jnp.asarray(at[0]), rates, allowed, keys)
    return np.asarray(found).reshape(*shape, len(config.steps), -1)
