"""Networks on the sixteen digit tasks: a perceptron, a vision transformer, a ResNet."""

import dataclasses
from pathlib import Path
from typing import Any

from experiments.common.pools import SPLITS, Pool
from experiments.more_experts.model import Architecture
from experiments.toy.networks import FromModule, Network, ResNet, VisionTransformer
from experiments.toy.suite import SUITE, draw
from experiments.toy.training import (
    Data,
    Recipe,
    Schedule,
    Stage,
    identity_of,
    train_or_load,
)


@dataclasses.dataclass(frozen=True)
class DigitsConfig:
    """The settings of a family.

    Attributes:
      network: `"mlp"` (that of `more_experts`), `"vit"` or `"resnet"`.
      width: of hidden layers, tokens, or the first stage's channels.
      depth: blocks of the transformer, or of each of the ResNet's three stages.
      seed: of the split of the images, samples, initial parameters and batches.
      num_tasks: how many of the sixteen, from the first.
      train_copies: samples drawn from each of 1,024 training images, for each task.
      validation_copies: from each of 256.
      test_copies: from each of 512.
      base_copies: from each training image for each transform of the base's mixture.
      base_strength: the base sees transforms at strengths from 0 to this; tasks have 1.
      base: how the base is trained.
      expert: how each expert is.
      multitask_rate: the multitask model's peak learning rate.
      required_gain: points of accuracy over the base on its own task.
    """

    network: str
    width: int
    depth: int = 1
    seed: int = 0
    num_tasks: int = 16
    train_copies: int = 8
    validation_copies: int = 2
    test_copies: int = 2
    base_copies: int = 4
    base_strength: float = 0.8
    base: Schedule = Schedule(2000, 128, 2e-3)
    expert: Schedule = Schedule(300, 64, 2e-2, "sgd")
    multitask_rate: float = 2e-3
    required_gain: float = 10.0


def make_network(config: DigitsConfig) -> Network:
    """The network that every model of a family is.

    Raises:
      ValueError: if there is no such network.
    """
    width, depth = config.width, config.depth
    if config.network == "mlp":
        return Architecture(width, 1.0)
    if config.network == "vit":
        return FromModule(lambda rngs: VisionTransformer(width, depth, 4, rngs=rngs))
    if config.network == "resnet":
        return FromModule(lambda rngs: ResNet(width, depth, rngs=rngs))
    raise ValueError(
        f"network is {config.network!r}; expected 'mlp', 'vit' or 'resnet'"
    )


def make_data(config: DigitsConfig) -> Data:
    """All samples of a family; splits share no image."""
    seed, num = config.seed, config.num_tasks
    copies = {"validation": config.validation_copies, "test": config.test_copies}
    return Data(
        tasks=tuple(task.name for task in SUITE[:num]),
        mixture=draw(
            seed,
            "train",
            config.base_copies,
            num_tasks=num,
            strength=(0.0, config.base_strength),
            plain=True,
        ),
        train=draw(seed, "train", config.train_copies, num_tasks=num),
        held_out={
            split: draw(seed, split, copies[split], num_tasks=num) for split in SPLITS
        },
    )


def make_pool_and_record(
    config: DigitsConfig, folder: Path | None = None, stage: Stage = lambda what: None
) -> tuple[Pool, dict[str, Any]]:
    """The pool, and what its training took; see `train_or_load`."""
    recipe = Recipe(
        seed=config.seed,
        base=config.base,
        expert=config.expert,
        multitask_batch=256,
        multitask_rate=config.multitask_rate,
        required_gain=config.required_gain,
    )
    return train_or_load(
        make_network(config),
        lambda: make_data(config),
        recipe,
        name=f"digits, {config.network} {config.width}",
        identity=identity_of(config, "digits", "suite"),
        folder=folder,
        stage=stage,
    )


def make_pool(config: DigitsConfig, folder: Path | None = None) -> Pool:
    """A family's pool; models are kept in the folder, if one is given."""
    return make_pool_and_record(config, folder)[0]
