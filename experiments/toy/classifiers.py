"""Softmax regressions and multilayer perceptrons on synthetic tasks, up to T = 50.

Inputs of a task lie around a centre and mostly in a subspace of its own, and a linear
teacher names them; teachers have a common part, which the base learns, and a part of
their own. One model can serve all tasks as long as their subspaces fit beside each
other: T times their rank, against the dimension of the inputs.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common.pools import SPLITS, Pool
from experiments.more_experts.tasks import Samples
from experiments.toy.networks import Perceptron
from experiments.toy.training import (
    Data,
    Recipe,
    Schedule,
    Stage,
    identity_of,
    train_or_load,
)

ACTIVATIONS = {"tanh": jnp.tanh, "gelu": jax.nn.gelu}


@dataclasses.dataclass(frozen=True)
class ClassifierConfig:
    """The settings of a family.

    Attributes:
      seed: of everything.
      tasks: T.
      inputs: their dimension.
      classes: of every task.
      hidden: widths of hidden layers; none is softmax regression.
      activation: of hidden layers, one of `ACTIVATIONS`.
      rank: of a task's subspace, in which inputs are standard normal.
      noise: the standard deviation of inputs in every direction.
      distance: of tasks' centres from the origin.
      shift: of a teacher's own part; the common part has 1.
      train_samples: of each task.
      held_out_samples: of each task, in each of the other two splits.
      base: how the base is trained, on all tasks' inputs named by the common teacher.
      expert: how each expert is.
      required_gain: points of accuracy over the base on its own task.
    """

    seed: int = 0
    tasks: int = 16
    inputs: int = 64
    classes: int = 5
    hidden: tuple[int, ...] = ()
    activation: str = "gelu"
    rank: int = 4
    noise: float = 0.1
    distance: float = 1.0
    shift: float = 1.0
    train_samples: int = 2048
    held_out_samples: int = 512
    base: Schedule = Schedule(1000, 128, 3e-3)
    expert: Schedule = Schedule(300, 64, 0.1, "sgd")
    required_gain: float = 5.0


def make_data(config: ClassifierConfig) -> Data:
    """All samples of a family; splits and tasks are independent draws."""
    rng = np.random.default_rng([20261127, config.seed])
    tasks, size, rank = config.tasks, config.inputs, config.rank
    centres = rng.normal(size=(tasks, 1, size))
    centres *= config.distance / np.linalg.norm(centres, axis=-1, keepdims=True)
    common = rng.normal(size=(size, config.classes))
    own = rng.normal(size=(tasks, *common.shape))
    frames = np.linalg.qr(rng.normal(size=(tasks, size, rank)))[0].swapaxes(1, 2)

    def draw(num: int, teachers: np.ndarray) -> Samples:
        x = rng.normal(size=(tasks, num, rank)) @ frames
        x += config.noise * rng.normal(size=x.shape)
        # Without the centre, which must not give the answer away.
        labels = np.argmax(x @ teachers, axis=-1)
        x += centres
        return Samples(jnp.asarray(x, jnp.float32), jnp.asarray(labels, jnp.int32))

    teachers = common + config.shift * own
    return Data(
        tasks=tuple(f"task {t}" for t in range(tasks)),
        mixture=draw(config.train_samples, common),
        train=draw(config.train_samples, teachers),
        held_out={split: draw(config.held_out_samples, teachers) for split in SPLITS},
    )


def make_network(config: ClassifierConfig) -> Perceptron:
    """The network that every model of a family is."""
    sizes = (config.inputs, *config.hidden, config.classes)
    return Perceptron(sizes, ACTIVATIONS[config.activation])


def family_name(config: ClassifierConfig) -> str:
    """As figures show it."""
    if not config.hidden:
        return "softmax regression"
    widths = " × ".join(map(str, config.hidden))
    return f"perceptron {widths}, {config.activation}"


def make_pool_and_record(
    config: ClassifierConfig,
    folder: Path | None = None,
    stage: Stage = lambda what: None,
) -> tuple[Pool, dict[str, Any]]:
    """The pool, and what its training took; see `train_or_load`."""
    recipe = Recipe(
        seed=config.seed,
        base=config.base,
        expert=config.expert,
        multitask_batch=256,
        multitask_rate=config.base.rate,
        required_gain=config.required_gain,
    )
    return train_or_load(
        make_network(config),
        lambda: make_data(config),
        recipe,
        name=family_name(config),
        identity=identity_of(config, "classifiers"),
        folder=folder,
        stage=stage,
    )


def make_pool(config: ClassifierConfig, folder: Path | None = None) -> Pool:
    """A family's pool; models are kept in the folder, if one is given."""
    return make_pool_and_record(config, folder)[0]
