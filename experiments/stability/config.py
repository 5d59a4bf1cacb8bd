"""The settings of a run, the grid of fine-tunes, and the groups that are merged."""

import dataclasses
import itertools
from typing import NamedTuple

import numpy as np


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that the results depend on.

    Attributes:
      seed: of the data, the base, the groups and the bootstrap.
      models: `"softmax"` regression, whose losses are convex with a known smoothness,
        and `"mlp"`, one hidden tanh layer.
      hidden: units of the perceptron.
      num_tasks: of the sixteen digit tasks, from the first.
      learning_rates: eta of the fine-tunes, constant, plain SGD.
      batch_sizes: b, drawn with replacement.
      steps: K; one fine-tune is kept at each of them, in rising order.
      ratios: shares of a task's 1,024 training samples that a fine-tune may see.
      training_seeds: fine-tunes of one setting differ in their batches.
      groups: random sets of tasks that are merged.
      group_size: experts in each.
      mixed: merges of a group whose experts each have a setting drawn at random.
      base_steps: Adam steps of the base.
      reference_steps: Adam steps of a group's multitask model.
      smoothness_samples: of each task, from which the perceptron's L is measured.
      scales: of the average, from which validation chooses the tuned one.
      resamples: of the bootstrap over groups.
    """

    seed: int = 0
    models: tuple[str, ...] = ("softmax", "mlp")
    hidden: int = 32
    num_tasks: int = 16
    learning_rates: tuple[float, ...] = (0.001, 0.005, 0.03, 0.1)
    batch_sizes: tuple[int, ...] = (8, 32, 128)
    steps: tuple[int, ...] = (4, 32, 256, 2048)
    ratios: tuple[float, ...] = (0.125, 0.5, 1.0)
    training_seeds: int = 2
    groups: int = 10
    group_size: int = 6
    mixed: int = 144
    base_steps: int = 1000
    reference_steps: int = 2000
    smoothness_samples: int = 32
    scales: tuple[float, ...] = (0.5, 1.0, 2.0, 3.0, 6.0)
    resamples: int = 2000


PRESETS = {
    "smoke": Config(
        models=("softmax",),
        num_tasks=4,
        learning_rates=(0.003, 0.05),
        batch_sizes=(32,),
        steps=(2, 20),
        ratios=(0.25, 1.0),
        groups=2,
        group_size=3,
        mixed=8,
        base_steps=100,
        reference_steps=100,
        scales=(1.0, 2.0),
        resamples=100,
    ),
    "cpu": Config(),
    "gpu": Config(
        hidden=256,
        learning_rates=(0.001, 0.003, 0.01, 0.03, 0.1),
        batch_sizes=(8, 32, 128),
        steps=(4, 16, 64, 256, 1024, 4096),
        training_seeds=5,
        groups=20,
        mixed=270,
        base_steps=5000,
        reference_steps=10_000,
        smoothness_samples=256,
    ),
}


class Setting(NamedTuple):
    """Where one fine-tune is in the grid: positions, not values."""

    rate: int
    batch: int
    step: int
    ratio: int


KNOBS = Setting._fields


def grid(config: Config) -> np.ndarray:
    """All settings, `[setting, knob]`."""
    lengths = [
        len(x)
        for x in (
            config.learning_rates,
            config.batch_sizes,
            config.steps,
            config.ratios,
        )
    ]
    return np.array(list(itertools.product(*(range(n) for n in lengths))))


def num_fine_tunes(config: Config) -> int:
    """Runs of SGD for each model; each is kept at every one of `steps`."""
    cells = len(grid(config)) // len(config.steps)
    return cells * config.num_tasks * config.training_seeds


def draw_groups(config: Config) -> list[list[int]]:
    """The tasks of each group."""
    rng = np.random.default_rng([config.seed, 1])
    return [
        sorted(rng.choice(config.num_tasks, config.group_size, replace=False).tolist())
        for _ in range(config.groups)
    ]


def merges(config: Config, group: int, kind: str) -> np.ndarray:
    """The settings of all merges of a group, `[merge, expert, knob]`.

    Args:
      config: the settings.
      group: its number.
      kind: `"matched"` for one setting for all experts, over the whole grid, or
        `"mixed"` for settings drawn at random for each.
    """
    cells = grid(config)
    if kind == "matched":
        return np.repeat(cells[:, None], config.group_size, axis=1)
    rng = np.random.default_rng([config.seed, 2, group])
    return cells[rng.integers(len(cells), size=(config.mixed, config.group_size))]


def values(
    config: Config, chosen: np.ndarray, num_samples: int
) -> dict[str, np.ndarray]:
    """What the bound is told of settings `[..., knob]`: eta, b, K and n, `[...]`."""
    rate, batch, step, ratio = np.moveaxis(chosen, -1, 0)
    return {
        "learning_rate": np.array(config.learning_rates)[rate],
        "batch_size": np.array(config.batch_sizes, float)[batch],
        "steps": np.array(config.steps, float)[step],
        "samples": sample_counts(config, num_samples)[ratio].astype(float),
    }


def sample_counts(config: Config, num_samples: int) -> np.ndarray:
    """n for each ratio."""
    return np.array([round(share * num_samples) for share in config.ratios])
