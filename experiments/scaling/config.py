"""The settings of a run, its methods, and its presets."""

import dataclasses
import functools

import jaxmerge
from experiments.common.methods import METHODS, Method

# The paper's law is of merges whose weights sum to one number, whatever k is.
_EQUAL = functools.partial(jaxmerge.task_arithmetic, scale=0.8, normalize=True)
_MEAN = functools.partial(jaxmerge.dare, density=0.8, normalize=True)
CANDIDATES = {
    method.name: method
    for method in (
        *METHODS,
        Method("arithmetic_0.8", "Task arithmetic, 0.8 / k", "means", _EQUAL),
        Method("dare_mean", "DARE's mean, 0.8 kept", "pruned", _MEAN, random=True),
    )
}


@dataclasses.dataclass(frozen=True)
class Config:
    """What is merged and fitted.

    Attributes:
      seed: of the sets of experts, of random methods and of the bootstrap.
      families: one for each size of model; none has a number of seeds but one.
      subsets: how many sets of each k, or all that there are.
      seen: the largest k that forecasts may look at.
      methods: names of `CANDIDATES`.
      every: models are scored on every so many-th sample, the same of all.
      draws: refits of the bootstrap.
    """

    seed: int = 0
    families: tuple[tuple[str, int], ...] = tuple(
        (f"llm_{size}", 1) for size in ("0.1M", "0.25M", "0.6M", "1.3M", "3M")
    )
    subsets: int = 12
    seen: int = 4
    methods: tuple[str, ...] = (
        "average",
        "arithmetic_0.8",
        "dare_mean",
        "ties",
        "dare",
        "tsv_m",
    )
    every: int = 4
    draws: int = 200


PRESETS = {
    "smoke": Config(
        families=tuple((f"softmax_{width}", 1) for width in (8, 12, 16, 24)),
        subsets=3,
        seen=3,
        methods=("average",),
        every=1,
        draws=20,
    ),
    "cpu": Config(),
    "gpu": Config(
        families=tuple(
            (f"llm_{size}_gpu", 1) for size in ("1.3M", "3M", "10M", "30M", "100M")
        ),
        subsets=60,
        every=1,
    ),
}
