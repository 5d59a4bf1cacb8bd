"""The settings of a run, its conventions, and its presets."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Config:
    """What is predicted and measured. The conventions were fixed before any run.

    Attributes:
      seed: of the sets of experts, of random directions and of the bootstrap.
      families: each with the number of its training seeds.
      subsets: how many sets of each k, or all that there are.
      counts: the k at which the average is measured, beside 1, 2, 4 and the pool.
      share: of the fall from one expert to all: T is the k where it is reached.
      tolerance: the share of the first gain below which a gain is negligible.
      half_angle: in radians; how far from its task vector an expert still works.
      eta: the probability with which the claims of a threshold may fail.
      rise: what an expert may lose of its gain over the base and still be acceptable,
        for the thresholds that take curvature.
      num_samples: random directions for the widths.
      forecast: whether the loss is expanded at the experts; costs M^2 products.
      language_every: language models are expanded and scored on every so many-th
        sequence.
    """

    seed: int = 0
    families: tuple[tuple[str, int], ...] = (
        ("regression", 3),
        ("regression_apart", 3),
        ("regression_alike", 3),
        ("regression_uneven", 3),
        ("softmax", 2),
        ("perceptron", 2),
        ("deep", 2),
        ("mlp", 1),
        ("llm_0.25M", 1),
    )
    subsets: int = 12
    counts: tuple[int, ...] = (3, 6, 8, 12, 16, 24, 32)
    share: float = 0.9
    tolerance: float = 0.1
    half_angle: float = math.pi / 3
    eta: float = 0.05
    rise: float = 0.1
    num_samples: int = 2048
    forecast: bool = True
    language_every: int = 4


PRESETS = {
    "smoke": Config(
        families=(("regression_small", 2), ("softmax_small", 1)),
        subsets=4,
        counts=(3,),
        num_samples=256,
    ),
    "cpu": Config(),
    "gpu": Config(
        families=(
            ("regression", 10),
            ("regression_apart", 10),
            ("regression_alike", 10),
            ("regression_uneven", 10),
            ("softmax_gpu", 5),
            ("perceptron_gpu", 5),
            ("deep_gpu", 5),
            ("mlp_gpu", 3),
            ("vit_gpu", 3),
            ("resnet_gpu", 3),
            ("llm_3M_gpu", 2),
        ),
        subsets=60,
    ),
}
