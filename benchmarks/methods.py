"""The recipes that are measured."""

import dataclasses
from collections.abc import Callable

import jaxmerge


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A recipe under its name, and what it needs."""

    name: str
    make: Callable[[], jaxmerge.Merger]
    random: bool = False
    experts: int | None = None  # None for any number
    spectral: bool = False


RECIPES = [
    Recipe("average", jaxmerge.average),
    Recipe("task_arithmetic", jaxmerge.task_arithmetic),
    Recipe("ties", jaxmerge.ties),
    Recipe("magnitude_prune", jaxmerge.magnitude_prune),
    Recipe("rht", jaxmerge.rht),
    Recipe("dare_linear", jaxmerge.dare, random=True),
    Recipe("dare_ties", lambda: jaxmerge.dare(consensus="ties"), random=True),
    Recipe("consensus", jaxmerge.consensus),
    Recipe("model_stock", jaxmerge.model_stock),
    Recipe("slerp", jaxmerge.slerp, experts=2),
    Recipe("isotropic", jaxmerge.isotropic, spectral=True),
]
