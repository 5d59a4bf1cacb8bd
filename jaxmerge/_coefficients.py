"""Coefficients: a number, one per expert, or a tree prefix of the model with either.

Wherever a merge takes a number it takes these forms, resolved here for one leaf:

- a number, or an array of shape `()`;
- one number per expert: a flat sequence of numbers, or an array of shape `(task,)`;
- a tree prefix of the model (nested mappings, or a flat mapping of dotted names) whose
  entries are either of those;
- a `Named`, which makes one from the leaf's name: `by_layer(...)`, `by_pattern(...)`.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmerge._trees import canonical_name
from jaxmerge._types import Coef, pytree, static

# The index of a layer in a leaf's name, as most models have it.
LAYERS = r"(?:layers?|blocks?|h)[._](\d+)(?:\.|$)"


def _is_number(x: Any) -> bool:
    return isinstance(x, (int, float, np.number)) or (
        hasattr(x, "shape") and x.shape == ()
    )


def _is_terminal(x: Any) -> bool:
    """Whether a node of a coefficient is a value: a number, or one per expert."""
    if x is None or _is_number(x) or isinstance(x, Named):
        return True
    if isinstance(x, (list, tuple)):
        return all(_is_number(entry) for entry in x)
    return hasattr(x, "shape")


class Named:
    """A coefficient that is a function of the leaf's name."""

    def at(self, name: str) -> Any:
        """Its value for a leaf: a number, or one per expert."""
        raise TypeError(f"{type(self).__name__} has no value for {name}")


@pytree
class ByLayer(Named):
    """A coefficient that varies with depth; see `by_layer`."""

    values: Any
    num_layers: int = static(default=1)
    pattern: str = static(default="")
    otherwise: Any = None

    def at(self, name: str) -> Any:
        found = re.search(self.pattern, name)
        if found is None:
            return self.values[0] if self.otherwise is None else self.otherwise
        layer = int(found.group(1))
        if layer >= self.num_layers:
            raise ValueError(
                f"{name} is in layer {layer}, but by_layer was told that there are "
                f"{self.num_layers} layers"
            )
        position = layer / (self.num_layers - 1) if self.num_layers > 1 else 1.0
        return interpolate(self.values, position)


@pytree
class ByPattern(Named):
    """A coefficient that is chosen by name; see `by_pattern`."""

    patterns: tuple[str, ...] = static()
    values: tuple[Any, ...] = ()
    otherwise: Any = None

    def at(self, name: str) -> Any:
        for pattern, value in zip(self.patterns, self.values, strict=True):
            if re.search(pattern, name):
                return _at(value, name)
        if self.otherwise is None:
            raise ValueError(
                f"no pattern of by_pattern matches {name}; give a value for the rest "
                "with otherwise="
            )
        return _at(self.otherwise, name)


@pytree
class Times(Named):
    """The product of two coefficients, of any forms."""

    first: Any
    second: Any

    def at(self, name: str) -> Any:
        first, second = (
            _at(_entry(coef, name, "a factor"), name)
            for coef in (self.first, self.second)
        )
        return _times(first, second)


def _times(a: Any, b: Any) -> Any:
    several = isinstance(a, (list, tuple)), isinstance(b, (list, tuple))
    if all(several):
        return [x * y for x, y in zip(a, b, strict=True)]
    if several[0]:
        return [x * b for x in a]
    return [a * y for y in b] if several[1] else a * b


def _at(value: Any, name: str) -> Any:
    return value.at(name) if isinstance(value, Named) else value


def interpolate(values: Sequence[Any], position: float) -> Any:
    """Linear interpolation between equally spaced values, `position` from 0 to 1.

    >>> interpolate([0.0, 1.0, 0.0], 0.25)
    0.5
    """
    if len(values) == 1:
        return values[0]
    scaled = position * (len(values) - 1)
    low = min(int(scaled), len(values) - 2)
    fraction = scaled - low
    return (1 - fraction) * values[low] + fraction * values[low + 1]


def by_layer(
    values: Sequence[Any],
    *,
    num_layers: int,
    pattern: str = LAYERS,
    otherwise: Any = None,
) -> ByLayer:
    """A coefficient that is interpolated along the depth of the model.

    Layer i of n gets the value at `i / (n - 1)` of the equally spaced `values`.

    Args:
      values: numbers from the first layer to the last; at least one.
      num_layers: n, at least 1.
      pattern: a regular expression whose first group is the layer's index.
      otherwise: the value of leaves that are in no layer; the first value if None.

    Returns:
      A coefficient for any field that takes one.

    >>> by_layer([0.0, 1.0], num_layers=3).at("model.layers.1.mlp.weight")
    0.5
    """
    if not len(values) or num_layers < 1:
        raise ValueError("by_layer needs at least one value and one layer")
    return ByLayer(tuple(values), num_layers, pattern, otherwise)


def by_pattern(rules: Mapping[str, Any], *, otherwise: Any = None) -> ByPattern:
    """A coefficient that is chosen by the first pattern found in the leaf's name.

    Args:
      rules: regular expression to a number, one number per expert, or `by_layer(...)`.
      otherwise: the value where no pattern matches; if None that is an error.

    Returns:
      A coefficient for any field that takes one.

    >>> by_pattern({"mlp": 0.5}, otherwise=1.0).at("layers.0.mlp.weight")
    0.5
    """
    return ByPattern(tuple(rules), tuple(rules.values()), otherwise)


def _covers(prefix: str, name: str) -> bool:
    return prefix == "" or name == prefix or name.startswith(prefix + ".")


def _entries(coef: Coef) -> dict[str, Any]:
    flat = jax.tree_util.tree_flatten_with_path(coef, is_leaf=_is_terminal)[0]
    return {canonical_name(path): value for path, value in flat}


def resolve(coef: Coef, name: str, num_experts: int, *, label: str) -> Any:
    """The value of a coefficient for one leaf: a number or an array `(task,)`.

    Args:
      coef: any of the forms of this module.
      name: the leaf's canonical name.
      num_experts: T.
      label: what the coefficient is called, for errors.

    Raises:
      ValueError: if no entry covers the leaf, or a value has the wrong length.
    """
    if coef is None:
        return None
    value = _at(_entry(coef, name, label), name)
    return _per_expert(value, name, num_experts, label)


def _entry(coef: Coef, name: str, label: str) -> Any:
    """What a tree prefix says of a leaf: its longest entry that covers it."""
    if _is_terminal(coef):
        return coef
    covering = [(p, v) for p, v in _entries(coef).items() if _covers(p, name)]
    if not covering:
        raise ValueError(
            f"{label} has no entry for {name}; its entries are {_some(_entries(coef))}"
        )
    return max(covering, key=lambda entry: len(entry[0]))[1]


def _per_expert(value: Any, name: str, num_experts: int, label: str) -> Any:
    if isinstance(value, (list, tuple)):
        numbers = all(isinstance(v, (int, float, np.number)) for v in value)
        value = np.asarray(value, np.float64) if numbers else jnp.stack(value)
    shape = np.shape(value)
    if shape not in ((), (num_experts,)):
        raise ValueError(
            f"{label} for {name} has shape {shape}; expected one number, or one for "
            f"each of the {num_experts} experts"
        )
    return value


def check_entries(coef: Coef, names: Iterable[str], *, label: str) -> None:
    """Refuses a tree prefix with an entry that covers no leaf: a misspelt name.

    Raises:
      ValueError: naming the entry and leaves that exist.
    """
    names = list(names)
    if isinstance(coef, Times):
        for factor in (coef.first, coef.second):
            check_entries(factor, names, label=label)
    if coef is None or _is_terminal(coef):
        return
    for prefix in _entries(coef):
        if not any(_covers(prefix, name) for name in names):
            raise ValueError(
                f"{label} has an entry {prefix!r} that covers no leaf of the model; "
                f"its leaves are {_some(names)}"
            )


def _some(names: Iterable[str], limit: int = 4) -> str:
    names = list(names)
    shown = ", ".join(repr(name) for name in names[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")


def coefficient_fields(stage: Any) -> list[str]:
    """The names of a stage's fields that are coefficients."""
    return [
        field.name
        for field in dataclasses.fields(stage)
        if field.metadata.get("coefficient")
    ]


def map_coefficients(stage: Any, change: Callable[[str, Any], Any]) -> Any:
    """Replaces each coefficient of a stage, and of the stages inside it."""
    if isinstance(stage, tuple):
        return tuple(map_coefficients(inner, change) for inner in stage)
    if not dataclasses.is_dataclass(stage) or isinstance(stage, type):
        return stage
    changes = {}
    own = set(coefficient_fields(stage))
    for field in dataclasses.fields(stage):
        value = getattr(stage, field.name)
        if field.name in own:
            changes[field.name] = change(f"{type(stage).__name__}.{field.name}", value)
        elif isinstance(value, tuple) or dataclasses.is_dataclass(value):
            changes[field.name] = map_coefficients(value, change)
    return dataclasses.replace(stage, **changes) if changes else stage


def select(stage: Any, t: Any, dtype: Any) -> Any:
    """The stage as one expert sees it: `(task,)` coefficients become scalars.

    Args:
      stage: a stage whose coefficients are resolved.
      t: the expert's position, or None to keep the task axis.
      dtype: the dtype of the arithmetic; floating coefficients are cast to it.
    """

    def choose(_: str, value: Any) -> Any:
        if value is None:
            return None
        value = jnp.asarray(value)
        if t is not None and value.ndim == 1:
            value = value[t]
        return (
            value.astype(dtype) if jnp.isdtype(value.dtype, "real floating") else value
        )

    return map_coefficients(stage, choose)
