"""A base, its experts all at once, and a multitask model: trained, kept, made a `Pool`.

Experts that gain too little on their own task, by validation, are left out of the pool
and named in it; the multitask model is trained on the tasks that stay, on as many
samples as their experts together.
"""

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
from experiments.common.pools import Batch, Pool, score
from experiments.common.results import fingerprint, write_json
from experiments.more_experts.tasks import Samples
from experiments.toy.networks import Network, Params
from jaxmerge import checkpoint

Stage = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How a model is fitted: batches drawn with replacement, cosine decay to 0.

    Attributes:
      steps: of the optimizer.
      batch: samples a step.
      rate: the peak learning rate.
      optimizer: `"adam"`, or `"sgd"` with momentum 0.9.
    """

    steps: int
    batch: int
    rate: float
    optimizer: str = "adam"

    @property
    def samples(self) -> int:
        """How many are seen."""
        return self.steps * self.batch


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a family is trained.

    Attributes:
      seed: of initial parameters and batches.
      base: of the base, on its mixture.
      expert: of each expert, from the base.
      multitask_batch: of the multitask model, which starts from the base, by Adam; its
        steps follow from equal samples.
      multitask_rate: its peak learning rate.
      required_gain: points of validation accuracy that an expert must gain over the
        base on its own task.
    """

    seed: int
    base: Schedule
    expert: Schedule
    multitask_batch: int
    multitask_rate: float
    required_gain: float


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Of each sample."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def is_right(logits: Array, labels: Array) -> Array:
    """1 where the largest logit is the label's."""
    return (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)


def _optimizer(schedule: Schedule) -> optax.GradientTransformation:
    rate = optax.cosine_decay_schedule(schedule.rate, schedule.steps)
    if schedule.optimizer == "sgd":
        return optax.sgd(rate, momentum=0.9)
    return optax.adam(rate)


def fit(
    network: Network, params: Params, samples: Samples, key: Array, schedule: Schedule
) -> Params:
    """Minimises the cross-entropy on `[sample, ...]`; for use under `jit`."""
    optimizer = _optimizer(schedule)
    shape = (schedule.batch,)

    def loss(params: Params, picked: Array) -> Array:
        logits = network.logits(params, samples.inputs[picked])
        return jnp.mean(cross_entropy(logits, samples.labels[picked]))

    def step(carry: Any, key: Array) -> tuple[Any, None]:
        params, state = carry
        picked = jax.random.randint(key, shape, 0, len(samples.labels))
        updates, state = optimizer.update(jax.grad(loss)(params, picked), state, params)
        return (optax.apply_updates(params, updates), state), None

    start = (params, optimizer.init(params))
    (params, _), _ = jax.lax.scan(step, start, jax.random.split(key, schedule.steps))
    return params


def _pooled(samples: Samples) -> Samples:
    """The samples of all tasks as those of one."""
    join = lambda x: x.reshape(-1, *x.shape[2:])
    return Samples(join(samples.inputs), join(samples.labels))


def _chosen(samples: Samples, kept: np.ndarray) -> Samples:
    return Samples(samples.inputs[kept], samples.labels[kept])


@dataclasses.dataclass(frozen=True)
class Data:
    """What a family is made from; a leading task axis everywhere.

    Attributes:
      tasks: their names.
      mixture: what the base learns.
      train: the experts' data.
      held_out: by the names of `SPLITS`.
    """

    tasks: tuple[str, ...]
    mixture: Samples
    train: Samples
    held_out: dict[str, Samples]


def _train(
    network: Network, data: Data, recipe: Recipe, stage: Stage
) -> dict[str, Any]:
    """The models of the tasks whose experts gained, and which those are."""
    key = jax.random.key(recipe.seed)
    keys = [jax.random.fold_in(key, i) for i in range(4)]
    run = jax.jit(
        lambda p, s, k, schedule: fit(network, p, s, k, schedule), static_argnums=3
    )
    stage("training the base")
    initial = jax.jit(network.init)(keys[0])
    base = run(initial, _pooled(data.mixture), keys[1], recipe.base)
    base = jax.block_until_ready(base)
    stage(f"training {len(data.tasks)} experts")
    one = lambda samples, key: fit(network, base, samples, key, recipe.expert)
    experts = jax.jit(jax.vmap(one))(
        data.train, jax.random.split(keys[2], len(data.tasks))
    )
    gains = jax.device_get(_gains(network, base, experts, data.held_out["validation"]))
    kept = np.flatnonzero(100 * gains >= recipe.required_gain)
    if not len(kept):
        raise ValueError(
            f"no expert gained {recipe.required_gain:g} points over the base; the "
            f"largest gain is {100 * gains.max():.1f}. Train longer."
        )
    stage("training the multitask model")
    steps = round(len(kept) * recipe.expert.samples / recipe.multitask_batch)
    schedule = Schedule(steps, recipe.multitask_batch, recipe.multitask_rate)
    union = _pooled(_chosen(data.train, kept))
    return {
        "base": base,
        "experts": jax.tree.map(lambda x: x[kept], experts),
        "multitask": run(base, union, keys[3], schedule),
        "kept": kept.tolist(),
        "gains": [round(float(g), 4) for g in gains],
    }


@functools.partial(jax.jit, static_argnums=0)
def _gains(network: Network, base: Params, experts: Params, held_out: Samples) -> Array:
    """Of each expert over the base in accuracy on its own task."""

    def gain(both: tuple[Params, Samples]) -> Array:
        expert, samples = both
        right = lambda params: jnp.mean(
            is_right(network.logits(params, samples.inputs), samples.labels)
        )
        return right(expert) - right(base)

    return jax.lax.map(gain, (experts, held_out))


def _forward_flops(network: Network, base: Params, samples: Samples) -> float:
    """Of one sample, as XLA counts them before optimizing."""
    one = samples.inputs[0, :1]
    found: Any = jax.jit(network.logits).lower(base, one).cost_analysis()
    return float(found["flops"])


def _record(
    network: Network, data: Data, recipe: Recipe, trained: dict[str, Any]
) -> dict[str, Any]:
    """Names, samples seen and arithmetic, as JSON data."""
    kept = trained["kept"]
    seen = {
        "base": recipe.base.samples,
        "experts": len(data.tasks) * recipe.expert.samples,
        "multitask": len(kept) * recipe.expert.samples,
    }
    each = _forward_flops(network, trained["base"], data.train)
    return {
        "tasks": [data.tasks[t] for t in kept],
        "dropped": [name for t, name in enumerate(data.tasks) if t not in kept],
        "kept": kept,
        "gains": dict(zip(data.tasks, trained["gains"], strict=True)),
        "samples": seen,
        # A backward pass costs two forward ones.
        "flops": 3 * each * sum(seen.values()),
    }


def identity_of(config: Any, *modules: str) -> str:
    """The fingerprint of what models depend on: settings, code and versions."""
    here = Path(__file__).parent
    files = [here / f"{name}.py" for name in ("training", "networks", *modules)]
    code = {file.name: file.read_text() for file in files}
    settings = {"kind": type(config).__name__, **dataclasses.asdict(config)}
    versions = package_versions()
    return fingerprint({"config": settings, "code": code, "versions": versions})


def train_or_load(
    network: Network,
    make_data: Callable[[], Data],
    recipe: Recipe,
    *,
    name: str,
    identity: str,
    folder: Path | None = None,
    stage: Stage = lambda what: None,
) -> tuple[Pool, dict[str, Any]]:
    """A family of classifiers: the models in a folder if they are these, or new ones.

    Args:
      network: what every model is.
      make_data: draws the samples.
      recipe: how the models are trained.
      name: of the family.
      identity: of all that the models depend on.
      folder: where models are kept; None keeps nothing.
      stage: called with a few words as each stage begins.

    Returns:
      The pool, and its record: tasks, gains, samples seen and FLOPs.
    """
    stage("drawing samples")
    data = make_data()
    models, record = None, None
    if folder is not None:
        models, record = _load(folder, identity)
    if models is None or record is None:
        # Optax's schedules and Adam mix dtypes, which strict promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            models = _train(network, data, recipe, stage)
        record = {"identity": identity} | _record(network, data, recipe, models)
        if folder is not None:
            _save(folder, models, record)
    kept = np.asarray(record["kept"])
    held_out = {
        split: Batch(samples.inputs[kept], samples.labels[kept])
        for split, samples in data.held_out.items()
    }
    return Pool(
        name=name,
        identity=identity,
        tasks=tuple(record["tasks"]),
        base=models["base"],
        experts=models["experts"],
        multitask=models["multitask"],
        outputs=network.logits,
        loss=cross_entropy,
        correct=is_right,
        data=held_out,
        dropped=tuple(record["dropped"]),
    ), record


_MODELS = ("base", "experts", "multitask")


def _save(folder: Path, models: dict[str, Any], record: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "training.json").unlink(missing_ok=True)
    for name in _MODELS:
        path = folder / f"{name}.safetensors"
        checkpoint.save(path, jax.device_get(models[name]), overwrite=True)
    write_json(folder / "training.json", record)


def _load(folder: Path, identity: str) -> tuple[Any, Any]:
    path = folder / "training.json"
    record = json.loads(path.read_text()) if path.exists() else {}
    if record.get("identity") != identity:
        return None, None
    load = lambda name: checkpoint.load(folder / f"{name}.safetensors")
    models = {name: jax.tree.map(jnp.asarray, load(name)) for name in _MODELS}
    return models, record


def summary(pool: Pool) -> dict[str, Any]:
    """Test accuracies of base, experts and multitask model by task, as JSON data."""

    @jax.jit
    def accuracies(base: Params, experts: Params, multitask: Params) -> Any:
        both = [score(pool, params, "test").accuracy for params in (base, multitask)]
        every = jax.lax.map(lambda e: score(pool, e, "test").accuracy, experts)
        return both[0], every, both[1]

    base, every, multitask = accuracies(pool.base, pool.experts, pool.multitask)
    as_list = lambda x: np.round(np.asarray(x, float), 4).tolist()
    return {
        "name": pool.name,
        "identity": pool.identity,
        "parameters": pool.num_parameters,
        "tasks": list(pool.tasks),
        "dropped": list(pool.dropped),
        "base": as_list(base),
        "expert": as_list(jnp.diagonal(every)),
        "others": as_list((every.sum(axis=0) - jnp.diagonal(every)) / (len(every) - 1))
        if len(every) > 1
        else [],
        "multitask": as_list(multitask),
    }
