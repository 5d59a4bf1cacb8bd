"""Merges of some of the experts: a mask over tasks that may be traced.

Whoever takes part is data, so one compiled program merges every set of experts, and
`jax.vmap` over masks computes the experts' transforms once: they do not depend on it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmerge._checks import is_concrete
from jaxmerge._survey import compares

_ALONE = "merger(base, [experts[t] for t in chosen], ids=chosen)"


def checked(members: Any, num: int, merger: Any) -> Any:
    """The mask as a boolean array `(task,)`, on the host if it is concrete.

    Raises:
      ValueError: if it is no such mask, is empty, or the merger cannot leave experts
        out.
    """
    if members is None:
        return None
    mask = members if hasattr(members, "dtype") else np.asarray(members)
    if mask.dtype != bool or mask.shape != (num,):
        raise ValueError(
            f"members is {mask.dtype} of shape {mask.shape}; expected a boolean mask, "
            f"one entry for each of the {num} experts"
        )
    if (why := refusal(merger)) is not None:
        raise ValueError(
            f"members was given to {why}; merge the members alone: {_ALONE}"
        )
    if not is_concrete(mask):
        return mask
    if not np.any(np.asarray(mask)):
        raise ValueError(
            "members is false for every expert; a merge needs at least one"
        )
    return np.asarray(mask)


def refusal(merger: Any) -> str | None:
    """Why a merger cannot leave experts out, or None."""
    if merger.per_task is not None:
        return "a merger with a model for each task"
    for transform in merger.transforms:
        if compares(transform):
            name = type(transform).__name__
            return f"{name}, which compares all the experts before the merge"
    for combine in merger.passes:
        if getattr(combine, "holds_all", False):
            name = type(combine).__name__
            return f"{name}, whose state has a place for every expert"
    return None


def among(
    members: Any, lift: Callable[..., Any], join: Callable[[Any, Any], Any]
) -> tuple[Callable[..., Any], Callable[[Any, Any], Any]]:
    """`lift` and `join` of states that may be absent: pairs (state, present).

    Joining an absent state changes nothing, so a fold makes of the members what it
    would make of them alone, operation by operation. A state that is absent holds
    anything.
    """

    def lifted(expert: Any, side: Any, t: Any) -> Any:
        return lift(expert, side, t), jnp.asarray(members)[t]

    def joined(a: Any, b: Any) -> Any:
        (left, has_left), (right, has_right) = a, b

        def choose(both: Any, left: Any, right: Any) -> Any:
            return jnp.where(has_right, jnp.where(has_left, both, right), left)

        state = jax.tree.map(choose, join(left, right), left, right)
        return state, has_left | has_right

    return lifted, joined


def or_base(merged: Any, members: Any, base: Any) -> Any:
    """The base's tensor (zeros without one) where no expert takes part."""
    otherwise = jnp.zeros_like(merged) if base is None else jnp.asarray(base)
    return jnp.where(jnp.any(jnp.asarray(members)), merged, otherwise)
