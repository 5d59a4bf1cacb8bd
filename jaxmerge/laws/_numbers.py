"""Numbers of a law: float64 NumPy on the host, JAX arrays where one of them is."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxmerge.kinematics._inputs import as_floats

Real = float | int | np.floating | np.integer
"""A number on the host."""
Reals = Sequence[Real] | np.ndarray
"""Several of them."""

# A quotient this close above a whole number is that number.
_SLACK = 1e-9


def numbers(*values: Any) -> tuple[Any, ...]:
    """Values as float64 NumPy arrays; as JAX arrays of one dtype if one of them is.

    A fitted law is then exact on the host, and still runs under `jit`, `vmap`, `grad`.
    """
    if any(isinstance(value, jax.Array) for value in values):
        return as_floats(*values)
    return tuple(np.asarray(value, np.float64) for value in values)


def whole_above(value: Real) -> int:
    """The smallest whole number of at least a value; rounding errors do not count.

    >>> whole_above(5.0000000001), whole_above(5.1)
    (5, 6)
    """
    return math.ceil(value - _SLACK * max(1.0, abs(float(value))))
