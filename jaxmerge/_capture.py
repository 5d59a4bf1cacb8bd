"""What a function multiplies its parameters by, found by walking its jaxpr.

The program is evaluated primitive by primitive. A value that is a parameter, or a cut
of one, with its axes in another order, is followed; where one is contracted with
something, or multiplies it entry by entry, whoever listens is told.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend import core

# These return what they are given, in the same order of axes.
_SAME = {
    "convert_element_type",
    "copy",
    "name",
    "reduce_precision",
    "sharding_constraint",
}
_CALLS = {
    "jit",
    "pjit",
    "closed_call",
    "core_call",
    "remat2",
    "checkpoint",
    "custom_jvp_call",
    "custom_vjp_call",
    "custom_vjp_call_jaxpr",
}
_BODIES = ("jaxpr", "call_jaxpr", "fun_jaxpr")


@dataclasses.dataclass(frozen=True)
class Origin:
    """Which parameter a value is.

    Attributes:
      name: of the leaf.
      axes: for each axis of the value that of the leaf; None for one that is none.
      at: the leaf's axes that were cut down to one index, and the index.
    """

    name: str
    axes: tuple[int | None, ...]
    at: tuple[tuple[int, int], ...] = ()


@dataclasses.dataclass(frozen=True)
class Pile:
    """Parameters stacked along a new first axis, as layers are that will be scanned."""

    origins: tuple[Origin, ...]


Source = Origin | Pile | None


@dataclasses.dataclass(frozen=True)
class Contraction:
    """A product of a parameter with something else.

    Attributes:
      origin: the parameter.
      other: what it is multiplied by.
      over: pairs of axes that are summed over: of the leaf, and of `other`.
      along: pairs of axes that both have.
    """

    origin: Origin
    other: Any
    over: tuple[tuple[int, int], ...]
    along: tuple[tuple[int, int], ...]


def walk(
    jaxpr: Any,
    constants: Sequence[Any],
    values: Sequence[Any],
    origins: Sequence[Source],
    tell: Callable[[Contraction], None],
) -> tuple[list[Any], list[Source]]:
    """Evaluates a jaxpr and tells of every product of a parameter.

    Args:
      jaxpr: an open jaxpr.
      constants: of it.
      values: its arguments.
      origins: for each argument, which parameter it is, or None.
      tell: is called for each product.

    Returns:
      The results, and which of them are parameters.

    Raises:
      ValueError: if a parameter goes into control flow of which its products cannot be
        read off.
    """
    known: dict[Any, Any] = dict(zip(jaxpr.constvars, constants, strict=True))
    known.update(zip(jaxpr.invars, values, strict=True))
    whence: dict[Any, Source] = dict(zip(jaxpr.invars, origins, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else known[atom]

    def source(atom: Any) -> Source:
        return None if isinstance(atom, core.Literal) else whence.get(atom)

    for eqn in jaxpr.eqns:
        given = [read(atom) for atom in eqn.invars]
        sources = [source(atom) for atom in eqn.invars]
        results, found = _equation(eqn, given, sources, tell)
        known.update(zip(eqn.outvars, results, strict=True))
        whence.update(zip(eqn.outvars, found, strict=True))
    outvars = jaxpr.outvars
    return [read(atom) for atom in outvars], [source(atom) for atom in outvars]


def _equation(
    eqn: Any, given: list[Any], sources: list[Source], tell: Any
) -> tuple[list[Any], list[Source]]:
    name = eqn.primitive.name
    if any(sources):
        if name in _CALLS:
            body, constants = _opened(
                next(eqn.params[k] for k in _BODIES if k in eqn.params)
            )
            return walk(body, constants, given, sources, tell)
        if name == "scan":
            return _unrolled(eqn.params, given, sources, tell)
        if any(_has_body(value) for value in eqn.params.values()):
            where = next(_name(s) for s in sources if s is not None)
            raise ValueError(
                f"{where} goes into a {name}, where what it is multiplied by cannot be "
                "read off; give a function that uses it outside of one"
            )
        if name == "dot_general":
            _tell_of_product(eqn.params["dimension_numbers"], given, sources, tell)
        elif name == "mul":
            _tell_of_gain(given, sources, tell)
    results = _bound(eqn, given)
    results = list(results) if eqn.primitive.multiple_results else [results]
    moved = _moved(name, eqn.params, given, sources) if any(sources) else None
    return results, [moved, *[None] * (len(results) - 1)]


def _name(source: Origin | Pile) -> str:
    return source.name if isinstance(source, Origin) else source.origins[0].name


def _bound(eqn: Any, given: list[Any]) -> Any:
    """The primitive's results, as `jax.core.eval_jaxpr` computes them."""
    params = eqn.primitive.get_bind_params(eqn.params)
    functions, params = params if isinstance(params, tuple) else ((), params)
    with eqn.ctx.manager:
        return eqn.primitive.bind(*functions, *given, **params)


def _opened(body: Any) -> tuple[Any, Sequence[Any]]:
    if isinstance(body, core.ClosedJaxpr):
        return body.jaxpr, body.consts
    return body, ()


def _has_body(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return any(_has_body(x) for x in value)
    return isinstance(value, (core.Jaxpr, core.ClosedJaxpr))


def _unrolled(
    params: dict[str, Any], given: list[Any], sources: list[Source], tell: Any
) -> tuple[list[Any], list[Source]]:
    """A scan, step by step: each step's parameters are a cut of the stacked ones."""
    first, num, length = params["num_consts"], params["num_carry"], params["length"]
    body, constants = _opened(params["jaxpr"])
    fixed, carry, stacked = (
        given[:first],
        given[first : first + num],
        given[first + num :],
    )
    whence = sources[:first]
    carried = sources[first : first + num]
    steps = range(length)
    outputs: list[list[Any]] = []
    for i in reversed(steps) if params["reverse"] else steps:
        cuts = [x[i] for x in stacked]
        cut_sources = [_cut(s, i) for s in sources[first + num :]]
        results, found = walk(
            body,
            constants,
            [*fixed, *carry, *cuts],
            [*whence, *carried, *cut_sources],
            tell,
        )
        carry, carried = results[:num], found[:num]
        outputs.append(results[num:])
    if params["reverse"]:
        outputs.reverse()
    rows = [jax.numpy.stack(column) for column in zip(*outputs, strict=True)]
    return [*carry, *rows], [*carried, *[None] * len(rows)]


def _cut(source: Source, index: int) -> Origin | None:
    """One index of a value's first axis."""
    if isinstance(source, Pile):
        return source.origins[index]
    if source is None or source.axes[0] is None:
        return None
    at = (*source.at, (source.axes[0], index))
    return Origin(source.name, source.axes[1:], at)


def _moved(
    name: str, params: dict[str, Any], given: list[Any], sources: list[Source]
) -> Source:
    """What a primitive makes of a parameter; None if it is a parameter no more."""
    if name == "stack" and params["axis"] == 0:
        return _piled(sources, new=True)
    if name == "concatenate" and params["dimension"] == 0:
        return _piled(sources, new=False)
    origin = sources[0]
    if not isinstance(origin, Origin):
        return None
    axes = origin.axes
    if name in _SAME:
        return origin
    if name == "transpose":
        moved = tuple(axes[a] for a in params["permutation"])
        return Origin(origin.name, moved, origin.at)
    if name == "squeeze":
        left = [a for i, a in enumerate(axes) if i not in params["dimensions"]]
        return Origin(origin.name, tuple(left), origin.at)
    if name == "broadcast_in_dim":
        shape, old = params["shape"], given[0].shape
        found: list[int | None] = [None] * len(shape)
        for i, position in enumerate(params["broadcast_dimensions"]):
            if old[i] == shape[position]:
                found[position] = axes[i]
        return Origin(origin.name, tuple(found), origin.at)
    if name == "slice" and params["strides"] is None:
        return _sliced(params, given[0].shape, origin)
    return None


def _piled(sources: list[Source], *, new: bool) -> Pile | None:
    """Parameters one after the other along a first axis.

    Args:
      sources: what is put there.
      new: whether the axis is new; else it has to be one that the parameter has not.
    """
    origins = [s for s in sources if isinstance(s, Origin)]
    if len(origins) < len(sources):
        return None
    if new:
        return Pile(tuple(origins))
    if not all(s.axes and s.axes[0] is None for s in origins):
        return None
    return Pile(tuple(Origin(s.name, s.axes[1:], s.at) for s in origins))


def _sliced(
    params: dict[str, Any], shape: tuple[int, ...], origin: Origin
) -> Origin | None:
    """A slice that takes all of some axes and one index of the others."""
    found, at = list(origin.axes), list(origin.at)
    bounds = zip(params["start_indices"], params["limit_indices"], shape, strict=True)
    for i, (start, limit, size) in enumerate(bounds):
        if limit - start == size:
            continue
        axis = found[i]
        if limit - start != 1 or axis is None:
            return None
        at.append((axis, start))
        found[i] = None
    return Origin(origin.name, tuple(found), tuple(at))


def _tell_of_product(
    dimensions: Any, given: list[Any], sources: list[Source], tell: Any
) -> None:
    """A `dot_general` of one parameter; of two, it is a product of parameters."""
    if all(sources):
        return
    side = 0 if sources[0] is not None else 1
    origin = sources[side]
    if not isinstance(origin, Origin):
        return
    contracted, shared = dimensions

    def pairs(axes: Any) -> tuple[tuple[int, int], ...] | None:
        own = [origin.axes[a] for a in axes[side]]
        named = [
            (a, b) for a, b in zip(own, axes[1 - side], strict=True) if a is not None
        ]
        return tuple(named) if len(named) == len(own) else None

    over, along = pairs(contracted), pairs(shared)
    if over is not None and along is not None:
        tell(Contraction(origin, given[1 - side], over, along))


def _tell_of_gain(given: list[Any], sources: list[Source], tell: Any) -> None:
    """A product entry by entry: nothing is summed over."""
    if all(sources):
        return
    side = 0 if sources[0] is not None else 1
    origin = sources[side]
    if not isinstance(origin, Origin):
        return
    along = tuple((a, i) for i, a in enumerate(origin.axes) if a is not None)
    if given[0].ndim == given[1].ndim:
        tell(Contraction(origin, given[1 - side], (), along))
