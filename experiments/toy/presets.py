"""Configs by name, and the pool of any of them."""

import dataclasses
from pathlib import Path
from typing import Any

from experiments.common.pools import Pool
from experiments.toy import classifiers, digits, matrices, worlds
from experiments.toy.classifiers import ClassifierConfig
from experiments.toy.digits import DigitsConfig
from experiments.toy.matrices import RegressionConfig
from experiments.toy.training import Schedule, Stage
from experiments.toy.worlds import QuadraticConfig, World

Family = ClassifierConfig | DigitsConfig
Exact = QuadraticConfig | RegressionConfig

_QUADRATIC = QuadraticConfig(tasks=200, dimension=32, condition=100.0)

WORLDS: dict[str, Exact] = {
    "alike": dataclasses.replace(_QUADRATIC, correlation=0.3),
    "apart": dataclasses.replace(
        _QUADRATIC, correlation=0.0, norm_spread=0.7, training_time=3.0
    ),
    "regression": RegressionConfig(tasks=200, layers=1, inputs=24, outputs=16),
}

_SMOKE: dict[str, Family] = {
    "softmax": ClassifierConfig(
        tasks=4,
        inputs=16,
        classes=5,
        train_samples=512,
        held_out_samples=256,
        base=Schedule(200, 128, 1e-2),
        expert=Schedule(100, 64, 0.1, "sgd"),
    ),
    "mlp": DigitsConfig(
        "mlp",
        width=32,
        num_tasks=3,
        train_copies=1,
        validation_copies=1,
        test_copies=1,
        base_copies=1,
        base=Schedule(150, 64, 5e-3),
        expert=Schedule(100, 64, 2e-2, "sgd"),
    ),
}

# Experts of transformers and ResNets are fitted with Adam: SGD's lag behind theirs.
_CPU: dict[str, Family] = {
    "softmax": ClassifierConfig(tasks=50, inputs=256, noise=0.03),
    "perceptron": ClassifierConfig(tasks=50, hidden=(64,), activation="tanh"),
    "deep": ClassifierConfig(tasks=16, hidden=(96, 96)),
    "mlp": DigitsConfig("mlp", width=384),
    "vit": DigitsConfig("vit", width=48, depth=2, expert=Schedule(300, 64, 1e-3)),
    "resnet": DigitsConfig("resnet", width=12, expert=Schedule(200, 64, 1e-3)),
}

_LONG = Schedule(20_000, 256, 1e-3)
_LARGE = DigitsConfig(
    "mlp", width=1024, train_copies=32, test_copies=8, base_copies=16, base=_LONG
)
_GPU: dict[str, Family] = {
    "softmax": ClassifierConfig(tasks=50, inputs=256, train_samples=8192),
    "perceptron": ClassifierConfig(
        tasks=50, inputs=128, hidden=(512,), train_samples=8192
    ),
    "deep": ClassifierConfig(
        tasks=50, inputs=128, hidden=(512, 512, 512), train_samples=8192
    ),
    "mlp": dataclasses.replace(_LARGE, expert=Schedule(1000, 128, 2e-2, "sgd")),
    "vit": dataclasses.replace(
        _LARGE, network="vit", width=192, depth=6, expert=Schedule(2000, 128, 3e-4)
    ),
    "resnet": dataclasses.replace(
        _LARGE, network="resnet", width=48, depth=2, expert=Schedule(2000, 128, 3e-4)
    ),
}

PRESETS: dict[str, dict[str, Family]] = {"smoke": _SMOKE, "cpu": _CPU, "gpu": _GPU}


def make_world(config: Exact) -> World:
    """An exact world: its pool and its closed forms."""
    if isinstance(config, QuadraticConfig):
        return worlds.make_world(config)
    return matrices.make_world(config)


def train_family(
    config: Family, folder: Path | None = None, stage: Stage = lambda what: None
) -> tuple[Pool, dict[str, Any]]:
    """The pool of a trained family, and the record of its training."""
    if isinstance(config, ClassifierConfig):
        return classifiers.make_pool_and_record(config, folder, stage)
    return digits.make_pool_and_record(config, folder, stage)


def make_pool(config: Family | Exact, folder: Path | None = None) -> Pool:
    """The pool of any config; trained models are kept in the folder, if given."""
    if isinstance(config, ClassifierConfig | DigitsConfig):
        return train_family(config, folder)[0]
    return make_world(config).pool
