"""The settings of a run, and its presets."""

import dataclasses

from experiments.common.methods import METHODS

_ALL = tuple(method.name for method in METHODS)


@dataclasses.dataclass(frozen=True)
class Config:
    """What is merged.

    Attributes:
      seed: of the sets of experts and of random methods.
      families: each with the number of its training seeds.
      counts: numbers of experts, k; those above a pool's size are left out, and its
        size is added.
      subsets: how many sets of each k are drawn, the same for all methods.
      methods: names of methods.
      population: the family of which every set is merged, or None.
      population_methods: by these methods, which all take a mask.
      population_experts: of its first so many experts.
      population_every: they are scored on every so many-th sample.
    """

    seed: int = 0
    families: tuple[tuple[str, int], ...] = (
        ("regression", 3),
        ("deep", 3),
        ("mlp", 2),
        ("vit", 2),
        ("resnet", 1),
        ("llm_0.25M", 1),
    )
    counts: tuple[int, ...] = (1, 2, 4, 8, 16)
    subsets: int = 4
    methods: tuple[str, ...] = _ALL
    population: str | None = "deep"
    population_methods: tuple[str, ...] = (
        "average",
        "task_arithmetic",
        "ties",
        "dare",
        "magnitude_prune",
        "rht",
    )
    population_experts: int = 16
    population_every: int = 4


PRESETS = {
    "smoke": Config(
        families=(("regression_small", 2),),
        counts=(1, 2, 4),
        subsets=2,
        methods=("average", "ties", "isotropic", "swudi"),
        population="regression_small",
        population_methods=("average", "ties"),
        population_experts=4,
        population_every=1,
    ),
    "cpu": Config(),
    "gpu": Config(
        families=(
            ("regression", 10),
            ("softmax_gpu", 5),
            ("perceptron_gpu", 5),
            ("deep_gpu", 5),
            ("mlp_gpu", 5),
            ("vit_gpu", 5),
            ("resnet_gpu", 5),
            ("llm_10M_gpu", 2),
        ),
        counts=(1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 50),
        subsets=20,
        population="deep_gpu",
        population_every=1,
    ),
}
