"""What a function multiplies some of its parameters by, found by walking its jaxpr.

The program is evaluated primitive by primitive. A value that is a parameter, or a cut
of one, with its axes in another order, is followed; where one is contracted with
something, the listener is told, and where one is used in any other way, too.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
from jax.extend import core

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
# Compiled calls are always opened: as they stand they may donate what others need.
_COMPILED = {"jit", "pjit"}
_CALLS = _COMPILED | {
    "closed_call",
    "core_call",
    "remat2",
    "checkpoint",
    "custom_jvp_call",
    "custom_vjp_call",
    "custom_vjp_call_jaxpr",
}


@dataclasses.dataclass(frozen=True)
class Origin:
    """Which parameter a value is.

    Attributes:
      name: of the leaf.
      axes: for each axis of the value that of the leaf; None for one that is new.
      starts: axes of the leaf that were cut, and where: there are as many entries as
        the value has along the axis, and one if it has the axis no more.
    """

    name: str
    axes: tuple[int | None, ...]
    starts: tuple[tuple[int, int], ...] = ()

    def cut(self, axis: int, start: int) -> "Origin":
        """The same with a further cut of a leaf's axis."""
        starts = dict(self.starts)
        starts[axis] = starts.get(axis, 0) + start
        return dataclasses.replace(self, starts=tuple(starts.items()))

    def with_axes(self, axes: Sequence[int | None]) -> "Origin":
        """The same with other axes."""
        return dataclasses.replace(self, axes=tuple(axes))


@dataclasses.dataclass(frozen=True)
class Pile:
    """Parameters stacked along a new first axis, as layers are that will be scanned."""

    origins: tuple[Origin, ...]


Source = Origin | Pile | None


@dataclasses.dataclass(frozen=True)
class Product:
    """A product of a parameter with something else.

    Attributes:
      origin: the parameter.
      shape: of the value that it is there.
      other: what it is multiplied by.
      over: pairs of axes that are summed over: of the leaf, and of `other`.
      along: pairs of axes that both have.
    """

    origin: Origin
    shape: tuple[int, ...]
    other: Any
    over: tuple[tuple[int, int], ...]
    along: tuple[tuple[int, int], ...]


@runtime_checkable
class Listener(Protocol):
    """What is told of the uses of parameters."""

    def multiplied(self, product: Product) -> None:
        """A parameter was contracted with something that is none of them."""

    def lost(self, name: str, primitive: str) -> None:
        """A parameter was used in another way, and is not followed any further."""


def walk(
    jaxpr: Any,
    constants: Sequence[Any],
    values: Sequence[Any],
    sources: Sequence[Source],
    listener: Listener,
) -> tuple[list[Any], list[Source]]:
    """Evaluates a jaxpr and tells of every use of a parameter.

    Args:
      jaxpr: an open jaxpr.
      constants: of it.
      values: its arguments.
      sources: for each argument, which parameter it is, or None.
      listener: is told.

    Returns:
      The results, and which of them are parameters.
    """
    known: dict[Any, Any] = dict(zip(jaxpr.constvars, constants, strict=True))
    known.update(zip(jaxpr.invars, values, strict=True))
    whence: dict[Any, Source] = dict(zip(jaxpr.invars, sources, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else known[atom]

    def source(atom: Any) -> Source:
        return None if isinstance(atom, core.Literal) else whence.get(atom)

    for eqn in _alive(jaxpr):
        given = [read(atom) for atom in eqn.invars]
        own = [source(atom) for atom in eqn.invars]
        results, found = _equation(eqn, given, own, listener)
        known.update(zip(eqn.outvars, results, strict=True))
        whence.update(zip(eqn.outvars, found, strict=True))
    outvars = jaxpr.outvars
    return [read(atom) for atom in outvars], [source(atom) for atom in outvars]


def _alive(jaxpr: Any) -> list[Any]:
    """The equations that results depend on: what is not used has no inputs to count."""
    needed = {atom for atom in jaxpr.outvars if not isinstance(atom, core.Literal)}
    kept = []
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or any(var in needed for var in eqn.outvars):
            kept.append(eqn)
            needed |= {a for a in eqn.invars if not isinstance(a, core.Literal)}
    return kept[::-1]


def _equation(
    eqn: Any, given: list[Any], sources: list[Source], listener: Listener
) -> tuple[list[Any], list[Source]]:
    name, followed = eqn.primitive.name, any(sources)
    if name in _COMPILED or (followed and name in _CALLS):
        body, constants = _opened(eqn.params)
        return walk(body, constants, given, sources, listener)
    if followed and name == "scan" and eqn.params["length"] > 0:
        return _unrolled(eqn.params, given, sources, listener)
    results = _bound(eqn, given)
    results = list(results) if eqn.primitive.multiple_results else [results]
    found: list[Source] = [None] * len(results)
    if followed and not _told(eqn, given, sources, listener):
        found = _moved(eqn, given, sources)
        if not any(found):
            for source in sources:
                _lose(source, name, listener)
    return results, found


def _lose(source: Source, primitive: str, listener: Listener) -> None:
    if isinstance(source, Origin):
        listener.lost(source.name, primitive)
    elif isinstance(source, Pile):
        for origin in source.origins:
            listener.lost(origin.name, primitive)


def _bound(eqn: Any, given: list[Any]) -> Any:
    """The primitive's results, as `jax.core.eval_jaxpr` computes them."""
    params = eqn.primitive.get_bind_params(eqn.params)
    functions, params = params if isinstance(params, tuple) else ((), params)
    with eqn.ctx.manager:
        return eqn.primitive.bind(*functions, *given, **params)


def _opened(params: dict[str, Any]) -> tuple[Any, Sequence[Any]]:
    """The body of a call, and its constants."""
    body = next(
        params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in params
    )
    if isinstance(body, core.ClosedJaxpr):
        return body.jaxpr, body.consts
    return body, ()


def _unrolled(
    params: dict[str, Any],
    given: list[Any],
    sources: list[Source],
    listener: Listener,
) -> tuple[list[Any], list[Source]]:
    """A scan, step by step: each step's parameters are a cut of the stacked ones."""
    consts, carries = params["num_consts"], params["num_carry"]
    body, constants = _opened(params)
    fixed, carry = given[:consts], given[consts : consts + carries]
    stacked = given[consts + carries :]
    fixed_sources, carried = sources[:consts], sources[consts : consts + carries]
    stacked_sources = sources[consts + carries :]
    steps = range(params["length"])
    outputs: list[list[Any]] = []
    for i in reversed(steps) if params["reverse"] else steps:
        cut_sources = [_cut(source, i) for source in stacked_sources]
        for source, cut in zip(stacked_sources, cut_sources, strict=True):
            if cut is None:
                _lose(source, "scan", listener)
        results, found = walk(
            body,
            constants,
            [*fixed, *carry, *(x[i] for x in stacked)],
            [*fixed_sources, *carried, *cut_sources],
            listener,
        )
        carry, carried = results[:carries], found[:carries]
        outputs.append(results[carries:])
        for source in found[carries:]:
            _lose(source, "scan", listener)
    if params["reverse"]:
        outputs.reverse()
    rows = [jnp.stack(column) for column in zip(*outputs, strict=True)]
    return [*carry, *rows], [*carried, *[None] * len(rows)]


def _cut(source: Source, index: int) -> Origin | None:
    """One index of a value's first axis."""
    if isinstance(source, Pile):
        return source.origins[index]
    if source is None or source.axes[0] is None:
        return None
    return source.cut(source.axes[0], index).with_axes(source.axes[1:])


def _told(
    eqn: Any, given: list[Any], sources: list[Source], listener: Listener
) -> bool:
    """Tells of a `dot_general` of one parameter; False if there is nothing to tell."""
    if eqn.primitive.name != "dot_general" or all(sources):
        return False
    side = 0 if sources[0] is not None else 1
    origin = sources[side]
    if not isinstance(origin, Origin):
        return False
    contracted, shared = eqn.params["dimension_numbers"]

    def pairs(axes: Any) -> list[tuple[int | None, int]]:
        own = [origin.axes[a] for a in axes[side]]
        return list(zip(own, axes[1 - side], strict=True))

    over, along = pairs(contracted), pairs(shared)
    if any(axis is None for axis, _ in (*over, *along)):
        return False
    product = Product(
        origin,
        jnp.shape(given[side]),
        given[1 - side],
        tuple((a, b) for a, b in over if a is not None),
        tuple((a, b) for a, b in along if a is not None),
    )
    listener.multiplied(product)
    return True


def _moved(eqn: Any, given: list[Any], sources: list[Source]) -> list[Source]:
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
    found: list[int | None] = [None] * len(params["shape"])
    for i, position in enumerate(params["broadcast_dimensions"]):
        if shape[i] == params["shape"][position]:
            found[position] = origin.axes[i]
    return origin.with_axes(found)


def _reshaped(params: Any, shape: Any, origin: Origin) -> Origin | None:
    """A reshape that adds or drops axes of size one."""
    kept = [i for i, size in enumerate(shape) if size != 1]
    new = params["new_sizes"]
    if [shape[i] for i in kept] != [size for size in new if size != 1]:
        return None
    axes = iter([origin.axes[i] for i in kept])
    return origin.with_axes([None if size == 1 else next(axes) for size in new])


def _sliced(params: Any, shape: Any, origin: Origin) -> Origin | None:
    """A slice without strides."""
    if params["strides"] is not None and any(x != 1 for x in params["strides"]):
        return None
    bounds = zip(params["start_indices"], params["limit_indices"], shape, strict=True)
    for i, (start, limit, size) in enumerate(bounds):
        axis = origin.axes[i]
        if limit - start == size:
            continue
        if axis is None:
            return None
        origin = origin.cut(axis, start)
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
    return origin.with_axes([None, *origin.axes])


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
    if not all(s.axes[0] is None for s in origins) or any(s[0] != 1 for s in shapes):
        return None
    return Pile(tuple(s.with_axes(s.axes[1:]) for s in origins))
