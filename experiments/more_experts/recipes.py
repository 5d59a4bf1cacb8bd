"""The recipes that are compared, each with its published defaults."""

import dataclasses
from collections.abc import Callable

import jaxmerge


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A method and what is particular about merging with it here.

    Attributes:
      name: its key in the results.
      label: its name in tables and figures.
      make: builds the merger.
      fewest: the least number of experts that it is defined for.
      most: the greatest; None for any number.
      needs_task_id: whether it gives one model per task, so that using it takes knowing
        each input's task. Its numbers are not comparable with one model's.
    """

    name: str
    label: str
    make: Callable[[], jaxmerge.Merger]
    fewest: int = 1
    most: int | None = None
    needs_task_id: bool = False

    def merges(self, count: int) -> bool:
        """Whether it is defined for this many experts."""
        return self.fewest <= count <= (self.most or count)


RECIPES = (
    Recipe("average", "Average", jaxmerge.average),
    Recipe("task_arithmetic", "Task arithmetic", jaxmerge.task_arithmetic),
    Recipe("ties", "TIES", jaxmerge.ties),
    Recipe("dare", "DARE", jaxmerge.dare),
    Recipe("dare_ties", "DARE-TIES", lambda: jaxmerge.dare(consensus="ties")),
    Recipe("magnitude_prune", "Magnitude pruning", jaxmerge.magnitude_prune),
    Recipe("slerp", "SLERP", jaxmerge.slerp, fewest=2, most=2),
    Recipe("model_stock", "Model Stock", jaxmerge.model_stock, fewest=2),
    Recipe("consensus", "Consensus", jaxmerge.consensus, fewest=2),
    Recipe("isotropic", "Iso-C", jaxmerge.isotropic),
    Recipe("rht", "RHT", jaxmerge.rht),
    # RHT enlarges the merged delta. The control has its size without its shape, so only
    # what RHT gains over it is due to the heavy tail.
    Recipe(
        "rht_control",
        "RHT's scalar control",
        lambda: jaxmerge.scalar_control(jaxmerge.rht()),
    ),
    Recipe("emr", "EMR (needs task id)", jaxmerge.emr, needs_task_id=True),
)
