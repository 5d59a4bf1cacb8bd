"""What a function multiplies some of its parameters by, found by walking its jaxpr.

The program is evaluated primitive by primitive. A value that is a parameter, or a cut
of one, with its axes in another order, is followed; where one is contracted with
something, the listener is told, and where one is used in any other way, too.
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
from jax.extend import core

from jaxmerge._origins import Origin, Pile, Source, cut, moved
from jaxmerge._products import PRODUCTS, Product

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
        return _unrolled(eqn, given, sources, listener)
    results = _bound(eqn, given)
    results = list(results) if eqn.primitive.multiple_results else [results]
    found: list[Source] = [None] * len(results)
    if followed and not _told(eqn, given, sources, listener):
        found = moved(eqn, given, sources)
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


def _parts(eqn: Any, body: Any) -> tuple[int, int]:
    """How many arguments of a scan are fixed, and how many are carried.

    Versions of jax name these numbers differently. The shapes tell them in all: what is
    stacked has an axis more than a step of it, and nothing else has.
    """
    longer = lambda outside, inside: sum(
        len(x.aval.shape) > len(y.aval.shape)
        for x, y in zip(outside, inside, strict=True)
    )
    carries = len(eqn.outvars) - longer(eqn.outvars, body.outvars)
    return len(eqn.invars) - longer(eqn.invars, body.invars) - carries, carries


def _unrolled(
    eqn: Any,
    given: list[Any],
    sources: list[Source],
    listener: Listener,
) -> tuple[list[Any], list[Source]]:
    """A scan, step by step: each step's parameters are a cut of the stacked ones."""
    params = eqn.params
    body, constants = _opened(params)
    consts, carries = _parts(eqn, body)
    fixed, carry = given[:consts], given[consts : consts + carries]
    stacked = given[consts + carries :]
    fixed_sources, carried = sources[:consts], sources[consts : consts + carries]
    stacked_sources = sources[consts + carries :]
    steps = range(params["length"])
    outputs: list[list[Any]] = []
    for i in reversed(steps) if params["reverse"] else steps:
        cut_sources = [cut(source, i) for source in stacked_sources]
        for source, own in zip(stacked_sources, cut_sources, strict=True):
            if own is None:
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


def _told(
    eqn: Any, given: list[Any], sources: list[Source], listener: Listener
) -> bool:
    """Tells of a product of one parameter; False if there is nothing to tell."""
    if eqn.primitive.name not in PRODUCTS or all(sources):
        return False
    side = 0 if sources[0] is not None else 1
    origin = sources[side]
    if not isinstance(origin, Origin):
        return False
    find = PRODUCTS[eqn.primitive.name]
    product = find(origin, side, given[1 - side], eqn.params)
    if product is not None:
        listener.multiplied(product)
    return product is not None
