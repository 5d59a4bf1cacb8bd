"""The base, its experts and the multitask model: trained, saved, checked, reused."""

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from experiments.common.manifest import package_versions
from experiments.common.results import fingerprint, write_json
from experiments.more_experts.config import Config
from experiments.more_experts.model import Architecture, Params
from experiments.more_experts.tasks import TASKS, Samples, draw_samples
from jaxmerge import checkpoint

# How many times `train_or_load` calls its `stage`.
STAGES = 5


class WeakExpertsError(ValueError):
    """The experts gained too little over the base for a merge to be worth studying."""


@dataclasses.dataclass(frozen=True)
class Trained:
    """Where the models are, and what they score on the test set.

    Attributes:
      identity: the fingerprint of all that the models depend on.
      base: the base's checkpoint.
      experts: one checkpoint a task.
      names: of the tasks.
      base_accuracy: of the base on each task.
      expert_accuracy: of each expert (row) on each task (column).
      multitask_accuracy: of the model trained on all tasks at once, on each task.
    """

    identity: str
    base: Path
    experts: tuple[Path, ...]
    names: tuple[str, ...]
    base_accuracy: np.ndarray
    expert_accuracy: np.ndarray
    multitask_accuracy: np.ndarray

    @property
    def own_accuracy(self) -> np.ndarray:
        """The accuracy of each expert on its own task."""
        return np.diagonal(self.expert_accuracy)


def _fit(
    architecture: Architecture,
    params: Params,
    samples: tuple[Array, Array],
    key: Array,
    *,
    steps: int,
    batch: int,
    optimizer: optax.GradientTransformation,
) -> Params:
    """Minimises the cross-entropy over batches drawn with replacement."""
    inputs, labels = samples

    def loss(params: Params, picked: Array) -> Array:
        logits = architecture.logits(params, inputs[picked])
        return jnp.mean(
            optax.softmax_cross_entropy_with_integer_labels(logits, labels[picked])
        )

    def step(carry: Any, key: Array) -> tuple[Any, None]:
        params, state = carry
        picked = jax.random.randint(key, (batch,), 0, len(labels))
        updates, state = optimizer.update(jax.grad(loss)(params, picked), state, params)
        return (optax.apply_updates(params, updates), state), None

    start = (params, optimizer.init(params))
    (params, _), _ = jax.lax.scan(step, start, jax.random.split(key, steps))
    return params


def _pooled(samples: Samples) -> tuple[Array, Array]:
    """The samples of all tasks as those of one."""
    pixels = samples.inputs.shape[-1]
    return samples.inputs.reshape(-1, pixels), samples.labels.reshape(-1)


def _train_base(config: Config, architecture: Architecture, key: Array) -> Params:
    mixture = draw_samples(
        config.seed,
        "train",
        config.base_copies,
        num_tasks=config.num_tasks,
        strength=(0.0, config.base_strength),
        plain=True,
    )
    schedule = optax.cosine_decay_schedule(config.base_learning_rate, config.base_steps)

    @jax.jit
    def run(key: Array, samples: tuple[Array, Array]) -> Params:
        start, batches = jax.random.split(key)
        return _fit(
            architecture,
            architecture.init(start),
            samples,
            batches,
            steps=config.base_steps,
            batch=128,
            optimizer=optax.adam(schedule),
        )

    return run(key, _pooled(mixture))


def _train_experts(
    config: Config, architecture: Architecture, base: Params, tasks: Samples, key: Array
) -> Params:
    """All experts at once, each from the base on its own task: a leading task axis."""
    # In trials SGD's experts were 5 points better than Adam's at the same retention.
    schedule = optax.cosine_decay_schedule(
        config.expert_learning_rate, config.expert_steps
    )

    @jax.jit
    @jax.vmap
    def run(key: Array, samples: Samples) -> Params:
        return _fit(
            architecture,
            base,
            samples,
            key,
            steps=config.expert_steps,
            batch=64,
            optimizer=optax.sgd(schedule, momentum=0.9),
        )

    return run(jax.random.split(key, config.num_tasks), tasks)


def _train_multitask(
    config: Config, architecture: Architecture, base: Params, tasks: Samples, key: Array
) -> Params:
    schedule = optax.cosine_decay_schedule(
        config.base_learning_rate, config.multitask_steps
    )

    @jax.jit
    def run(key: Array, samples: tuple[Array, Array]) -> Params:
        return _fit(
            architecture,
            base,
            samples,
            key,
            steps=config.multitask_steps,
            batch=256,
            optimizer=optax.adam(schedule),
        )

    return run(key, _pooled(tasks))


def identity(config: Config) -> str:
    """The fingerprint of what the models depend on: settings, code and versions."""
    settings = dataclasses.asdict(config)
    for name in ("subsets", "recipes", "scale_grid", "required_gain"):
        del settings[name]
    code = {
        name: Path(__file__).with_name(f"{name}.py").read_text()
        for name in ("tasks", "model", "train")
    }
    versions = package_versions()
    return fingerprint({"config": settings, "code": code, "versions": versions})


def paths(config: Config, out: Path) -> tuple[Path, tuple[Path, ...], Path]:
    """Where the base, the experts and the multitask model are."""
    models = out / "models"
    names = [task.name for task in TASKS[: config.num_tasks]]
    experts = tuple(models / f"expert_{name}.safetensors" for name in names)
    return (
        models / "base.safetensors",
        experts,
        models / "multitask.safetensors",
    )


def make_architecture(config: Config) -> Architecture:
    """The network that every model of a run is."""
    return Architecture(config.width, config.activation_threshold)


def _train(config: Config, out: Path, stage: Callable[[str], None]) -> dict[str, Any]:
    """Trains and saves everything; returns the accuracies as JSON data."""
    architecture = make_architecture(config)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 1), 3)
    stage("training the base")
    base = jax.block_until_ready(_train_base(config, architecture, keys[0]))
    stage("drawing samples")
    draw = functools.partial(draw_samples, config.seed, num_tasks=config.num_tasks)
    train = draw("train", config.train_copies)
    test = draw("test", config.test_copies)
    stage(f"training {config.num_tasks} experts")
    stacked = _train_experts(config, architecture, base, train, keys[1])
    stacked = jax.block_until_ready(stacked)
    stage("training the multitask model")
    multitask = _train_multitask(config, architecture, base, train, keys[2])
    stage("evaluating and saving")
    at = lambda t: jax.tree.map(lambda x: x[t], stacked)
    experts = [at(t) for t in range(config.num_tasks)]
    score = jax.jit(architecture.accuracies)
    score_list = lambda params: np.asarray(score(params, *test), float).tolist()
    base_path, expert_paths, multitask_path = paths(config, out)
    for path, params in [
        (base_path, base),
        *zip(expert_paths, experts, strict=True),
        (multitask_path, multitask),
    ]:
        checkpoint.save(path, jax.device_get(params), overwrite=True)
    return {
        "identity": identity(config),
        "base_accuracy": score_list(base),
        "expert_accuracy": [score_list(expert) for expert in experts],
        "multitask_accuracy": score_list(multitask),
    }


def train_or_load(config: Config, out: Path, stage: Callable[[str], None]) -> Trained:
    """The trained models: those in `out` if they are what this run would train.

    Args:
      config: the settings.
      out: the run's folder.
      stage: called with a few words as each stage begins.
    """
    base, experts, multitask = paths(config, out)
    record = out / "training.json"
    base.parent.mkdir(parents=True, exist_ok=True)
    found = json.loads(record.read_text()) if record.exists() else {}
    whole = all(path.exists() for path in (base, *experts, multitask))
    if not whole or found.get("identity") != identity(config):
        record.unlink(missing_ok=True)
        # Optax's schedules and Adam mix dtypes, which strict promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            found = _train(config, out, stage)
        write_json(record, found)
    return Trained(
        identity=found["identity"],
        base=base,
        experts=experts,
        names=tuple(task.name for task in TASKS[: config.num_tasks]),
        base_accuracy=np.array(found["base_accuracy"]),
        expert_accuracy=np.array(found["expert_accuracy"]),
        multitask_accuracy=np.array(found["multitask_accuracy"]),
    )


def training_table(trained: Trained) -> str:
    """The accuracies on the test set as a table: one row a task, and the mean."""
    rows = [
        f"{'task':<10} {'renames':<18} {'base':>7} {'expert':>7} {'gain':>6}"
        f" {'multitask':>10}"
    ]
    columns = (trained.base_accuracy, trained.own_accuracy, trained.multitask_accuracy)
    for name, base, own, multitask in zip(trained.names, *columns, strict=True):
        cycles = next(task.cycles for task in TASKS if task.name == name)
        renames = ", ".join("→".join(map(str, (*c, c[0]))) for c in cycles) or "nothing"
        rows.append(
            f"{name:<10} {renames:<18} {base:>7.1%} {own:>7.1%}"
            f" {100 * (own - base):>+6.1f} {multitask:>10.1%}"
        )
    base, own, multitask = (column.mean() for column in columns)
    rows.append(
        f"{'mean':<10} {'':<18} {base:>7.1%} {own:>7.1%} {100 * (own - base):>+6.1f}"
        f" {multitask:>10.1%}"
    )
    return "\n".join(rows)


def check_gains(trained: Trained, required: float) -> None:
    """Refuses experts that gained too little: there would be nothing to merge.

    Raises:
      WeakExpertsError: naming the experts and their gains, in points of accuracy.
    """
    gains = 100 * (trained.own_accuracy - trained.base_accuracy)
    weak = [
        f"{name} ({gain:+.1f})"
        for name, gain in zip(trained.names, gains, strict=True)
        if gain < required
    ]
    if weak:
        raise WeakExpertsError(
            f"every expert must be at least {required:g} points above the base on its "
            f"own task, or there is nothing for a merge to keep; below that: "
            f"{', '.join(weak)}. Train longer, or choose other settings."
        )
