"""Side statistics: what some combines are given of each expert besides its weights.

A combine that `needs` statistics names their kind. They are one array for each expert
and leaf, of a shape that the combine knows; leaves may have none.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxmerge import _checks


def kinds_needed(merger: Any) -> tuple[str, ...]:
    """Which kinds of statistics a merger needs, without repetition.

    >>> from jaxmerge import average, regmean
    >>> kinds_needed(average()), kinds_needed(regmean())
    ((), ('gram',))
    """
    kinds = [getattr(combine, "needs", None) for combine in merger.passes]
    return tuple(dict.fromkeys(kind for kind in kinds if kind is not None))


def shape_needed(program: Any, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape of a leaf's statistic, or None where the merge takes none."""
    for combine in program.passes:
        if getattr(combine, "needs", None) is not None:
            return combine.side_shape(tuple(shape), program.parts or program.matrix)
    return None


def problem_of_unused(program: Any, shape: tuple[int, ...]) -> str | None:
    """Why a statistic that is there must not be passed over, or None if it may be.

    A vector's is there for methods that use it. A leaf of more axes has one because it
    was measured as a matrix, and the merge would take the mean of what is none to it.
    """
    if program.needs is None or len(shape) < 2:
        return None
    return (
        f"was measured of a leaf that is a matrix, and this merge takes that of shape "
        f"{tuple(shape)} for none; give the merger the rule that it was measured with, "
        "by dataclasses.replace(merger, matrices=rule), or leave the statistic out"
    )


def check_given(merger: Any, statistics: Any) -> None:
    """Refuses statistics that are missing, or that nothing would read."""
    kinds = kinds_needed(merger)
    if not kinds and statistics is not None:
        raise ValueError(
            "statistics were given to a merge that uses none; leave them out, or "
            "choose a method that does, such as regmean or fisher"
        )
    if kinds and statistics is None:
        raise ValueError(
            f"this merge needs {' and '.join(kinds)} statistics of each expert; give "
            "them as statistics=[...], one mapping from leaf names to arrays for each "
            "expert"
        )


def check_names(names: Mapping[str, Any], leaves: Mapping[str, Any], what: str) -> None:
    """Refuses a statistic of a leaf that the model has not."""
    for name in names:
        if name not in leaves:
            raise ValueError(
                f"{what} have an entry {name!r}, and the model has no such leaf: are "
                "they another model's?"
            )


def check_same(first: Mapping[str, Any], other: Mapping[str, Any], t: int) -> None:
    """Refuses statistics of some experts that others lack."""
    lacking = [
        name for name in {**first, **other} if (name in first) != (name in other)
    ]
    if lacking:
        who = t if lacking[0] in first else 0
        raise ValueError(
            f"the statistics of expert {who} have no {lacking[0]!r}, which those of "
            "others have; all experts need a leaf's statistic, or none"
        )


def check_some(shapes: Mapping[str, Any], used: int, kind: str) -> None:
    """Refuses statistics that cover no leaf at all."""
    if used == 0:
        wanted = next((name for name, shape in shapes.items() if shape), None)
        raise ValueError(
            f"the statistics hold no {kind} of any leaf that this merge works on"
            + (f", such as {wanted!r}" if wanted is not None else "")
        )


def check_shape(name: str, expected: Any, got: tuple[int, ...], what: str) -> None:
    """Refuses a statistic of another shape than its leaf asks for."""
    if tuple(expected) != tuple(got):
        raise ValueError(
            f"{what}: {name} has shape {tuple(got)}; expected {tuple(expected)}: are "
            "they another model's?"
        )


def problem_of(kind: str | None, value: Any) -> str | None:
    """What is wrong with a statistic's numbers, in words; None if nothing is.

    A diagonal Fisher and the diagonal of a Gram matrix are means of squares, and a Gram
    matrix is symmetric. A traced array is not looked at.

    >>> problem_of("fisher", np.array([1.0, -2.0]))
    'has a negative entry; a diagonal Fisher is a mean of squares'
    """
    if not _checks.is_concrete(value):
        return None
    x = np.asarray(value)  # NumPy: JAX would trace even constants inside a jit
    x = x if x.dtype == np.float64 else x.astype(np.float32, copy=False)
    if not np.all(np.isfinite(x)):
        return "has a NaN or an infinity"
    if kind == "fisher" and np.any(x < 0):
        return "has a negative entry; a diagonal Fisher is a mean of squares"
    return _problem_of_gram(x) if kind == "gram" else None


def _problem_of_gram(x: np.ndarray) -> str | None:
    diagonal = x if x.ndim < 2 else np.diagonal(x, axis1=-2, axis2=-1)
    if np.any(diagonal < 0):
        return "has a negative entry on its diagonal; a Gram matrix has sums of squares"
    if x.ndim >= 2:
        gap = np.max(np.abs(x - np.swapaxes(x, -1, -2)), initial=0.0)
        if gap > 1e-2 * np.max(diagonal, initial=0.0):
            return "is not symmetric; a Gram matrix is"
    return None
