"""The settings of a run, and its presets."""

import dataclasses

# An antidote for each mechanism, and what they are compared with.
METHODS = (
    "average",
    "task_arithmetic",
    "ties",
    "isotropic",
    "iso_cts",
    "tsv_m",
    "dc_merge",
    "boosting",
    "svc",
    "wudi",
    "swudi",
    "ace",
    "actmat",
    "regmean",
)
# As `jaxmerge.diagnose` calls them. Depth compounding needs features, not weights.
MECHANISMS = (
    "dilution",
    "over-accumulation",
    "capacity",
    "directional conflict",
    "heterogeneity",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """What is merged.

    Attributes:
      seed: of the sets of experts and of the measures' random directions.
      families: each with the number of its training seeds.
      counts: numbers of experts.
      subsets: how many sets of each.
      methods: names of methods; `average` is one of them.
    """

    seed: int = 0
    families: tuple[tuple[str, int], ...] = (
        ("regression_200", 2),
        ("perceptron", 2),
        ("mlp", 2),
        ("vit", 1),
        ("llm_0.25M", 1),
    )
    counts: tuple[int, ...] = (2, 4, 8, 16, 32, 64, 128)
    subsets: int = 3
    methods: tuple[str, ...] = METHODS


PRESETS = {
    "smoke": Config(
        families=(("regression_small", 1),),
        counts=(2, 3),
        subsets=3,
        methods=("average", "isotropic", "actmat", "regmean"),
    ),
    "cpu": Config(),
    "gpu": Config(
        families=(
            ("regression_200", 5),
            ("softmax_gpu", 3),
            ("perceptron_gpu", 3),
            ("mlp_gpu", 3),
            ("vit_gpu", 3),
            ("resnet_gpu", 3),
            ("llm_10M_gpu", 1),
        ),
        subsets=10,
    ),
}
