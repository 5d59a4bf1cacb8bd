"""The settings of a run, its methods, and its presets."""

import dataclasses
import functools

import jaxmerge
from experiments.common.methods import Method

# A divisor multiplies the merged delta, as a scale does: this grid is over both.
GRID = (0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0)
KINDS = {
    "rht": "RHT",
    "control": "norm-matched control",
    "matched": "RHT's shape at the old norm",
    "ties": "TIES",
    "dare": "DARE",
}


@dataclasses.dataclass(frozen=True)
class Config:
    """What is merged.

    Attributes:
      seed: of the sets of experts and of random methods.
      families: each with the number of its training seeds.
      counts: numbers of experts.
      subsets: how many sets of each.
      densities: shares of entries that are kept.
    """

    seed: int = 0
    families: tuple[tuple[str, int], ...] = (
        ("regression", 3),
        ("deep", 3),
        ("mlp", 2),
        ("vit", 2),
        ("llm_0.25M", 1),
    )
    counts: tuple[int, ...] = (2, 4, 8, 16)
    subsets: int = 4
    densities: tuple[float, ...] = (0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)


PRESETS = {
    "smoke": Config(
        families=(("regression_small", 1),),
        counts=(),
        densities=(0.3, 0.7),
    ),
    "cpu": Config(),
    "gpu": Config(
        families=(
            ("regression", 10),
            ("deep_gpu", 10),
            ("perceptron_gpu", 5),
            ("mlp_gpu", 5),
            ("vit_gpu", 5),
            ("resnet_gpu", 5),
            ("llm_10M_gpu", 2),
        ),
        counts=(2, 4, 8, 16, 32, 50),
        subsets=20,
    ),
}


def _make(kind: str, density: float) -> jaxmerge.Merger:
    """All are means over experts, so that one grid of scales suits them, whatever k is.

    The paper's code divides by the number of experts once more: a scale of T.
    """
    rht = functools.partial(jaxmerge.rht, density=density, normalize_weights=False)
    if kind == "rht":
        return rht()
    if kind == "control":
        return jaxmerge.scalar_control(rht())
    if kind == "matched":
        return rht(norm_matched=True)
    if kind == "ties":
        return jaxmerge.ties(density=density)
    return jaxmerge.dare(density=density, normalize=True)


def methods_of(config: Config) -> list[Method]:
    """Each kind at each density; their names are `KIND_DENSITY`."""
    return [
        Method(
            f"{kind}_{density:g}",
            f"{label}, {density:g}",
            "pruned",
            functools.partial(_make, kind, density),
            random=kind == "dare",
        )
        for kind, label in KINDS.items()
        for density in config.densities
    ]


def average_grid(config: Config) -> tuple[float, ...]:
    """Scales of the average: as many trials as the others have in two dimensions."""
    num = len(config.densities) * len(GRID)
    ratio = (GRID[-1] / GRID[0]) ** (1 / (num - 1))
    return tuple(GRID[0] * ratio**i for i in range(num))
