"""Parameters that differ by tensor: gradients along the layers, filters on the name.

A parameter in a recipe is a number, a list of numbers (a *gradient* from the first
layer to the last), or a list of `{filter, value}` of which the first that fits counts.
Several places may set it (a model's own parameters, the slice's, the recipe's); where
the first has nothing for a tensor, the next is asked.
"""

import dataclasses
import re
from collections.abc import Iterable

from jaxmerge._coefficients import Named, interpolate
from jaxmerge._types import pytree, static
from jaxmerge.checkpoint.errors import RecipeError

# The outermost numbered stack that a tensor is in: `model.layers.3.`, `h.0.`.
_LAYER = re.compile(
    r"^(?P<stack>(?:.*?\.)??(?:\w*(?:layers?|blocks?)|h))\.(?P<i>\d+)\."
)


@dataclasses.dataclass(frozen=True)
class Rule:
    """One alternative of a setting.

    Attributes:
      filter: a text that has to occur in the tensor's name; None or `"*"` fits all.
      values: one number, or a gradient.
    """

    filter: str | None
    values: tuple[float, ...]

    def fits(self, name: str) -> bool:
        return self.filter in (None, "*") or str(self.filter) in name


@dataclasses.dataclass(frozen=True)
class Setting:
    """A parameter as a recipe sets it in one place: the first rule that fits.

    >>> Setting((Rule("mlp", (0.0, 1.0)), Rule(None, (0.5,)))).at("mlp.weight", 0.25)
    0.25
    """

    rules: tuple[Rule, ...]

    @property
    def constant(self) -> float | None:
        """The number that it is for all tensors, or None if it differs."""
        first = self.rules[0]
        everywhere = first.filter in (None, "*") and len(first.values) == 1
        return first.values[0] if everywhere else None

    def at(self, name: str, position: float) -> float | None:
        """Its value for a tensor, or None if no rule fits."""
        for rule in self.rules:
            if rule.fits(name):
                return interpolate(rule.values, position)
        return None


@dataclasses.dataclass(frozen=True)
class Depths:
    """How deep in its model each tensor is.

    Attributes:
      layers: the number of layers of each stack, such as `("model.layers", 32)`.

    >>> Depths.of(["h.0.w", "h.1.w", "h.2.w", "head"]).position("h.1.w")
    0.5
    """

    layers: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(cls, names: Iterable[str], num_layers: int | None = None) -> "Depths":
        """Counts the layers of each stack.

        Args:
          names: all tensors of a model.
          num_layers: what the model's config says. Further layers of its only stack
            (heads that predict more tokens) then count as the last.
        """
        stacks: dict[str, int] = {}
        for found in filter(None, map(_LAYER.match, names)):
            stack, index = found["stack"], int(found["i"])
            stacks[stack] = max(stacks.get(stack, 0), index + 1)
        if num_layers and len(stacks) == 1:
            stacks = {stack: min(n, num_layers) for stack, n in stacks.items()}
        return cls(tuple(stacks.items()))

    def position(self, name: str) -> float:
        """From 0 in the first layer to 1 in the last; 0 in no layer, as in mergekit.

        The only layer of a stack is at 1.
        """
        found = _LAYER.match(name)
        if found is None:
            return 0.0
        last = dict(self.layers)[found["stack"]] - 1
        return min(int(found["i"]) / last, 1.0) if last > 0 else 1.0


Chain = tuple[Setting, ...]


@pytree
class Schedule(Named):
    """A coefficient as a recipe sets it, a function of the tensor's name.

    Attributes:
      label: the parameter's name, for errors.
      chains: for each model the settings to be asked, in order.
      models: what those models are called, for errors; empty if it is one number for
        all of them.
      default: its value where no setting has one; None if it has to be set.
      depths: where the tensors are.
    """

    label: str = static()
    chains: tuple[Chain, ...] = static()
    models: tuple[str, ...] = static(default=())
    default: float | None = static(default=None)
    depths: Depths = static(default=Depths())

    def at(self, name: str) -> float | tuple[float, ...]:
        """One number, or one for each model.

        Raises:
          RecipeError: if there is none and no default.
        """
        position = self.depths.position(name)
        values = tuple(self._value(i, name, position) for i in range(len(self.chains)))
        return values if self.models else values[0]

    def _value(self, i: int, name: str, position: float) -> float:
        for setting in self.chains[i]:
            value = setting.at(name, position)
            if value is not None:
                return value
        if self.default is None:
            whose = f" for the model {self.models[i]}" if self.models else ""
            where = f" and {name}" if name else ""
            raise RecipeError(f"{self.label!r} is not set{whose}{where}, and has to be")
        return self.default

    def simplified(self) -> "Schedule | float | tuple[float, ...]":
        """Plain numbers, if it is the same for all tensors."""
        firsts = [next(iter(chain), None) for chain in self.chains]
        if any(first is not None and first.constant is None for first in firsts):
            return self
        return self.at("")
