"""What a method of a recipe is: its parameters, their ranges, and which models."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from jaxmerge.merger import Merger

Values = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A parameter of a method.

    Attributes:
      default: None if it has to be set.
      per_model: whether each model has its own; else it is one of the whole merge.
      fixed: whether it is a choice (true or false, a number of steps), and so the same
        for all tensors.
      lowest: the least that it may be.
      highest: the most that it may be.
      above: whether it has to be more than `lowest`.
    """

    default: float | None
    per_model: bool = False
    fixed: bool = False
    lowest: float = -math.inf
    highest: float = math.inf
    above: bool = False

    def allows(self, value: float) -> bool:
        """Whether a value is in the range.

        >>> Parameter(0.5, lowest=0.0, above=True).allows(0.0)
        False
        """
        if self.above and value == self.lowest:
            return False
        return self.lowest <= value <= self.highest

    @property
    def domain(self) -> str:
        """The range in words."""
        if self.highest == math.inf:
            return f"more than {self.lowest:g}" if self.above else f"{self.lowest:g} up"
        least = f"above {self.lowest:g}" if self.above else f"from {self.lowest:g}"
        return f"{least} to {self.highest:g}"


@dataclasses.dataclass(frozen=True)
class Method:
    """A method by its name in a recipe.

    Attributes:
      parameters: those that it has.
      build: makes the merger of their values.
      models: `"deltas"` (experts of the base_model), `"means"` (the models themselves),
        `"pair"` (the base_model and one other), `"all"` (the models themselves, and the
        base_model among them if there is one), or `"either"` (experts of the
        base_model; the models themselves if there is none).
      fewest: the fewest experts.
      most: the most experts, or None.
      random: whether it draws random numbers.
      elects: whether only the experts that agree, entry by entry, are summed.
      normalized: the parameter that says whether weights are divided by their sum.
    """

    parameters: Mapping[str, Parameter]
    build: Callable[[Values], Merger]
    models: str = "deltas"
    fewest: int = 1
    most: int | None = None
    random: bool = False
    elects: bool = False
    normalized: str | None = None


def flag(default: bool) -> Parameter:
    """A parameter that is true or false."""
    return Parameter(float(default), fixed=True)


def of_models(merger: Merger) -> Merger:
    """The same merge of the models themselves, not of their deltas."""
    combine = dataclasses.replace(merger.combine, frame="absolute")
    return dataclasses.replace(merger, combine=combine)


WEIGHT = Parameter(None, per_model=True)
ANY_WEIGHT = Parameter(1.0, per_model=True)
DENSITY = Parameter(1.0, per_model=True, lowest=0.0, highest=1.0)
LAMBDA = Parameter(1.0)
