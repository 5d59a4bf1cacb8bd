"""The loop of a measurement: what is known is read, the rest is computed and saved."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.core import eval_jaxpr
from jaxtyping import Array

from jaxmerge.laws._saved import Saved
from jaxmerge.laws.tables import check_losses

Progress = Callable[[int, int], Any]

# A loss that was saved and one measured again may differ by rounding, no more.
_SAME = 1e-4


def _compiled(function: Callable[[Any], Array], rows: np.ndarray) -> Callable:
    """Compiles a function for as many rows; any number is cut to that, or filled up.

    What it closes over (a base, experts, data) is handed to the program as arguments:
    as constants it would be copied into it.
    """
    closed = jax.make_jaxpr(function)(rows)
    program = jax.jit(lambda consts, x: eval_jaxpr(closed.jaxpr, consts, x))

    def piece(some: np.ndarray) -> np.ndarray:
        fill = np.repeat(some[-1:], len(rows) - len(some), axis=0)
        (values,) = program(closed.consts, np.concatenate([some, fill]))
        return np.asarray(values, np.float64)[: len(some)]

    def call(items: np.ndarray) -> np.ndarray:
        starts = range(0, len(items), len(rows))
        return np.concatenate([piece(items[i : i + len(rows)]) for i in starts])

    return call


def collect(
    function: Callable[[Any], Array],
    items: np.ndarray,
    names: list[list[str]],
    saved: Saved,
    save_every: int,
    progress: Progress | None,
) -> dict[str, np.ndarray]:
    """The losses `(domain,)` of every set; item i gives those of `names[i]`."""
    found = saved.read()
    call = _compiled(function, items[: max(1, save_every)])
    done = [i for i, own in enumerate(names) if all(name in found for name in own)]
    _check_same(call, items, names, found, _anchors(done, names), saved)
    wanted = {name for own in names for name in own}
    todo = sorted(set(range(len(items))) - set(done))
    for start in range(0, len(todo), max(1, save_every)):
        some = todo[start : start + max(1, save_every)]
        fresh: dict[str, np.ndarray] = {}
        for i, values in zip(some, call(items[some]), strict=True):
            for name, losses in zip(names[i], values, strict=True):
                if name not in found:
                    fresh.setdefault(name, losses)
        _check_finite(fresh, saved)
        saved.append(list(fresh), np.asarray(list(fresh.values())))
        found |= fresh
        if progress is not None:
            progress(len(wanted & found.keys()), len(wanted))
    return found


def _check_finite(fresh: dict[str, np.ndarray], saved: Saved) -> None:
    losses = np.asarray(list(fresh.values()))
    if not np.all(np.isfinite(losses) & (losses >= 0)):
        by = f" by {saved.method}" if saved.method else ""
        places = [f"the set {n}{by} on {d}" for n in fresh for d in saved.domains]
        check_losses(losses.reshape(-1), places)


def _anchors(done: list[int], names: list[list[str]]) -> list[int]:
    """Items that were measured before, of the last ones, with every expert in them."""
    covered: set[str] = set()
    anchors = []
    for i in reversed(done):
        members = {t for name in names[i] for t in name.split("-")}
        if members - covered:
            anchors.append(i)
            covered |= members
    return anchors


def _check_same(
    call: Callable,
    items: np.ndarray,
    names: list[list[str]],
    found: dict[str, np.ndarray],
    anchors: list[int],
    saved: Saved,
) -> None:
    """Refuses to go on with a file in which the same sets have other losses."""
    again = call(items[anchors]) if anchors else ()
    for i, values in zip(anchors, again, strict=True):
        for name, now in zip(names[i], values, strict=True):
            differs = ~np.isclose(now, found[name], rtol=_SAME, atol=1e-7)
            for at in np.flatnonzero(differs).tolist():
                raise ValueError(
                    f"{saved.path} has the loss {found[name][at]:g} for the set {name} "
                    f"on {saved.domains[at]}, and now it is {now[at]:g}: the merge, "
                    "the experts or the data are others; choose another path"
                )
