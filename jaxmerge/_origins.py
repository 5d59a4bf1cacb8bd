"""Which parameter a value of a program is, and what primitives make of it."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

# These give back each thing that they are given, with the same axes.
_SAME = {
    "convert_element_type",
    "copy",
    "device_put",
    "name",
    "optimization_barrier",
    "reduce_precision",
    "sharding_constraint",
}


@dataclasses.dataclass(frozen=True)
class Origin:
    """Which parameter a value is.

    Attributes:
      name: of the leaf.
      axes: for each axis of the value those of the leaf, several if they were merged;
        none if it is new.
      bounds: for each axis of the leaf where it begins and ends in the value, which has
        one entry of an axis that it has no more.
    """

    name: str
    axes: tuple[tuple[int, ...], ...]
    bounds: tuple[tuple[int, int], ...]

    @staticmethod
    def whole(name: str, shape: Sequence[int]) -> "Origin":
        """The leaf as it is."""
        axes = tuple((i,) for i in range(len(shape)))
        return Origin(name, axes, tuple((0, size) for size in shape))

    def cut(self, axis: int, start: int, stop: int) -> "Origin":
        """The same with a further cut of a leaf's axis."""
        bounds, first = list(self.bounds), self.bounds[axis][0]
        bounds[axis] = (first + start, first + stop)
        return dataclasses.replace(self, bounds=tuple(bounds))

    def with_axes(self, axes: Sequence[tuple[int, ...]]) -> "Origin":
        """The same with other axes."""
        return dataclasses.replace(self, axes=tuple(axes))

    def extent(self, axis: int) -> int:
        """How many entries of a leaf's axis the value has."""
        start, stop = self.bounds[axis]
        return stop - start


@dataclasses.dataclass(frozen=True)
class Pile:
    """Parameters stacked along a new first axis, as layers are that will be scanned."""

    origins: tuple[Origin, ...]


Source = Origin | Pile | None


def cut(source: Source, index: int) -> Origin | None:
    """One index of a value's first axis."""
    if isinstance(source, Pile):
        return source.origins[index]
    if source is None or len(source.axes[0]) != 1:
        return None
    (axis,), *others = source.axes
    return source.cut(axis, index, index + 1).with_axes(others)


def moved(eqn: Any, given: list[Any], sources: list[Source]) -> list[Source]:
    """What a primitive makes of parameters; None where it is a parameter no more."""
    name, params, source = eqn.primitive.name, eqn.params, sources[0]
    nothing: list[Source] = [None] * len(eqn.outvars)
    if name in _SAME:
        inexact = jnp.issubdtype(eqn.outvars[0].aval.dtype, jnp.inexact)
        return list(sources) if inexact else nothing
    if name == "stack" and params["axis"] == 0:
        return [_piled(sources, given, new=True)]
    if name == "concatenate" and params["dimension"] == 0:
        return [_piled(sources, given, new=False)]
    if isinstance(source, Pile) and name == "slice":
        return [_of_pile(params, given[0].shape, source)]
    if isinstance(source, Origin) and name in _MOVES:
        return [_MOVES[name](params, given[0].shape, source)]
    return nothing


def _transposed(params: Any, shape: Any, origin: Origin) -> Origin:
    del shape
    return origin.with_axes([origin.axes[a] for a in params["permutation"]])


def _squeezed(params: Any, shape: Any, origin: Origin) -> Origin:
    left = [i for i in range(len(shape)) if i not in params["dimensions"]]
    return origin.with_axes([origin.axes[i] for i in left])


def _broadcast(params: Any, shape: Any, origin: Origin) -> Origin:
    found: list[tuple[int, ...]] = [()] * len(params["shape"])
    for i, position in enumerate(params["broadcast_dimensions"]):
        if shape[i] == params["shape"][position]:
            found[position] = origin.axes[i]
    return origin.with_axes(found)


def _reshaped(params: Any, shape: Any, origin: Origin) -> Origin | None:
    """A reshape that cuts no axis of the leaf: it merges them, and parts them again."""
    if 0 in shape:
        return None
    factors: list[tuple[tuple[int, ...], int]] = []
    for axes, size in zip(origin.axes, shape, strict=True):
        factors += [((a,), origin.extent(a)) for a in axes] if axes else [((), size)]
    left = iter([factor for factor in factors if factor[1] != 1])
    found: list[tuple[int, ...]] = []
    for size in params["new_sizes"]:
        parts: list[tuple[int, ...]] = []
        reached = 1
        while reached < size:
            part, extent = next(left)
            parts.append(part)
            reached *= extent
        if reached != size or (len(parts) > 1 and () in parts):
            return None
        found.append(tuple(axis for part in parts for axis in part))
    return origin.with_axes(found)


def _sliced(params: Any, shape: Any, origin: Origin) -> Origin | None:
    """A slice without strides."""
    if params["strides"] is not None and any(x != 1 for x in params["strides"]):
        return None
    bounds = zip(params["start_indices"], params["limit_indices"], shape, strict=True)
    for axes, (start, limit, size) in zip(origin.axes, bounds, strict=True):
        if limit - start == size:
            continue
        if len(axes) != 1:
            return None
        origin = origin.cut(axes[0], start, limit)
    return origin


_MOVES = {
    "transpose": _transposed,
    "squeeze": _squeezed,
    "broadcast_in_dim": _broadcast,
    "reshape": _reshaped,
    "slice": _sliced,
}


def _of_pile(params: Any, shape: Any, pile: Pile) -> Origin | None:
    """One of a pile, with a first axis of size one that is new."""
    starts, limits = params["start_indices"], params["limit_indices"]
    whole = all(limits[i] - starts[i] == shape[i] for i in range(1, len(shape)))
    if limits[0] - starts[0] != 1 or not whole:
        return None
    origin = pile.origins[starts[0]]
    return origin.with_axes([(), *origin.axes])


def _piled(sources: list[Source], given: list[Any], *, new: bool) -> Pile | None:
    """Parameters one after the other along a first axis.

    Args:
      sources: what is put there.
      given: the values.
      new: whether the axis is new; else it has to be one of size one that the
        parameter has not.
    """
    origins = [s for s in sources if isinstance(s, Origin)]
    if len(origins) < len(sources):
        return None
    if new:
        return Pile(tuple(origins))
    shapes = [jnp.shape(x) for x in given]
    if any(s.axes[0] for s in origins) or any(s[0] != 1 for s in shapes):
        return None
    return Pile(tuple(s.with_axes(s.axes[1:]) for s in origins))
