"""Families of experts by name, so that any question can be asked of any of them."""

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments.common.pools import Pool
from experiments.common.programs import forget_programs
from experiments.llm import pool as language
from experiments.llm.config import PRESETS as LANGUAGE, Config as LanguageConfig
from experiments.toy import classifiers, digits, matrices
from experiments.toy.presets import PRESETS
from jaxmerge import Matrices, MatrixSpec

CACHE = Path("runs")
Make = Callable[[int, Path], Pool]


def _regression(config: matrices.RegressionConfig) -> Make:
    def make(seed: int, cache: Path) -> Pool:
        del cache
        return matrices.make_pool(dataclasses.replace(config, seed=seed))

    return make


# Three by three pixels of all channels are the inputs, and channels the outputs.
KERNELS = Matrices.by_pattern(
    {r"(?:stem|first|second)\.kernel$": MatrixSpec(out=-1, in_=(-4, -3, -2))}
)


# On two cores every so many-th sample is scored, where one takes long.
_EVERY = {"mlp": 1, "vit": 4, "resnet": 8}


def _toy(preset: str, name: str) -> Make:
    config = PRESETS[preset][name]

    def make(seed: int, cache: Path) -> Pool:
        folder = cache / "toy" / preset / f"{name}-{seed}"
        if isinstance(config, digits.DigitsConfig):
            pool = digits.make_pool(dataclasses.replace(config, seed=seed), folder)
            pool = pool.thinned(_EVERY[config.network] if preset == "cpu" else 1)
            if config.network != "resnet":
                return pool
            return dataclasses.replace(pool, matrices=KERNELS)
        return classifiers.make_pool(dataclasses.replace(config, seed=seed), folder)

    return make


def _softmax(inputs: int) -> Make:
    """Small models of several sizes, for tests."""
    config = PRESETS["smoke"]["softmax"]
    assert isinstance(config, classifiers.ClassifierConfig)
    config = dataclasses.replace(config, inputs=inputs, tasks=5)

    def make(seed: int, cache: Path) -> Pool:
        folder = cache / "toy" / "smoke" / f"softmax{inputs}-{seed}"
        return classifiers.make_pool(dataclasses.replace(config, seed=seed), folder)

    return make


def _language(config: LanguageConfig) -> Make:
    def make(seed: int, cache: Path) -> Pool:
        return language.make_pool(dataclasses.replace(config, seed=seed), cache / "llm")

    return make


def _trained(preset: str, suffix: str = "") -> dict[str, Make]:
    """What a preset of `experiments.toy` and `experiments.llm` trains, by name."""
    found = {f"{name}{suffix}": _toy(preset, name) for name in PRESETS[preset]}
    models = LANGUAGE[preset]
    for config in models:
        kind = "" if config.rank is None else "_lora"
        if config.domains != models[0].domains:
            kind += f"_{len(config.domains)}"
        found[f"llm_{config.size}{kind}{suffix}"] = _language(config)
    return found


_SMALL = matrices.RegressionConfig(tasks=4, layers=1, inputs=12, outputs=8, rank=2)

FAMILIES: dict[str, Make] = {
    "regression_small": _regression(_SMALL),
    "regression": _regression(matrices.RegressionConfig(tasks=32)),
    **{
        f"regression_{name}": _regression(matrices.RegressionConfig(**settings))
        for name, settings in {
            "apart": {"tasks": 32, "input_overlap": 0.0, "output_overlap": 0.0},
            "alike": {"tasks": 32, "input_overlap": 0.7, "output_overlap": 0.7},
            "uneven": {"tasks": 32, "norm_spread": 0.7, "training_time": 5.0},
        }.items()
    },
    "regression_200": _regression(matrices.RegressionConfig(tasks=200, layers=1)),
    "softmax_small": _toy("smoke", "softmax"),
    **{f"softmax_{inputs}": _softmax(inputs) for inputs in (8, 12, 16, 24)},
    **_trained("cpu"),
    # Larger models, for an accelerator.
    **_trained("gpu", "_gpu"),
}


def make_family(name: str, seed: int, cache: Path = CACHE) -> Pool:
    """The pool of a family, trained or found in the cache.

    Args:
      name: one of `FAMILIES`.
      seed: of everything that is random in it.
      cache: the folder of trained models.

    Raises:
      ValueError: if there is no such family.
    """
    if name not in FAMILIES:
        raise ValueError(f"no family {name!r}; there are {', '.join(FAMILIES)}")
    forget_programs()
    return FAMILIES[name](seed, cache)


def with_families(
    parser: argparse.ArgumentParser, config: Any, names: Sequence[str] | None
) -> Any:
    """A config with some of its families; what it has not ends the program.

    Args:
      parser: tells the user.
      config: a dataclass with `families`, pairs of a name and a number of seeds.
      names: those to keep; all if None.
    """
    known = [name for name, _ in config.families]
    if unknown := [name for name in names or () if name not in known]:
        parser.error(
            f"no family {unknown[0]!r} in this preset; there are {', '.join(known)}"
        )
    kept = tuple(f for f in config.families if names is None or f[0] in names)
    return dataclasses.replace(config, families=kept)
