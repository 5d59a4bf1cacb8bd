"""Checks of coefficients by the recipes, where they are still concrete."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxmerge._checks import is_concrete
from jaxmerge._types import Coef


def check_each(
    value: Coef, name: str, valid: Callable[[np.ndarray], Any], expected: str
) -> None:
    """Refuses a coefficient any concrete entry of which is invalid.

    Args:
      value: a number, a sequence, an array, or a tree of these; None and traced entries
        are not looked at.
      name: what the coefficient is called.
      valid: from an entry in float64 to whether it may be so; NaN never may.
      expected: what is expected, to end the sentence "expected ...".

    Raises:
      ValueError: naming the entry.
    """
    for path, entry in jax.tree_util.tree_leaves_with_path(value):
        if not is_concrete(entry):
            continue
        label = name + jax.tree_util.keystr(path)
        numbers = np.asarray(entry)
        if numbers.dtype.kind not in "biufV":
            raise ValueError(f"{label} is {entry!r}; expected {expected}")
        numbers = numbers.astype(np.float64)
        if not (np.all(valid(numbers)) and np.all(~np.isnan(numbers))):
            raise ValueError(f"{label} is {entry}; expected {expected}")
