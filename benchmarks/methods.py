"""The recipes that are measured."""

import dataclasses
from collections.abc import Callable, Sequence

import jaxmerge


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A recipe under its name, and what it needs."""

    name: str
    make: Callable[[], jaxmerge.Merger]
    random: bool = False
    experts: int | None = None  # None for any number
    spectral: bool = False
    many: bool = False  # also measured with more experts than the fewest

    def counts(self, experts: Sequence[int]) -> tuple[int, ...]:
        """With how many experts it is measured."""
        if self.experts is not None:
            return (self.experts,)
        return tuple(experts) if self.many else (min(experts),)


RECIPES = [
    Recipe("average", jaxmerge.average, many=True),
    Recipe("task_arithmetic", jaxmerge.task_arithmetic, many=True),
    Recipe("ties", jaxmerge.ties, many=True),
    Recipe("magnitude_prune", jaxmerge.magnitude_prune),
    Recipe("rht", jaxmerge.rht),
    Recipe("dare_linear", jaxmerge.dare, random=True),
    Recipe("dare_ties", lambda: jaxmerge.dare(consensus="ties"), random=True),
    Recipe("consensus", jaxmerge.consensus),
    Recipe("model_stock", jaxmerge.model_stock),
    Recipe("slerp", jaxmerge.slerp, experts=2),
    Recipe("isotropic", jaxmerge.isotropic, spectral=True),
]
