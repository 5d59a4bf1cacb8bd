"""Numbers as they come in: one dtype, and refusals in sentences.

Values are looked at only where they are concrete; traced ones pass.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from jaxmerge._checks import check_values

# A number, a NumPy or JAX array, or a list of numbers; traced or not.
Numbers = Any


def as_floats(*values: Any) -> tuple[Array, ...]:
    """Values as arrays of one float dtype: float64 if one of them is, else float32.

    Python numbers and lists are weak: alone, they take JAX's default dtype.
    """
    arrays = [jnp.asarray(value) for value in values]
    strong = [
        array.dtype
        for array, value in zip(arrays, values, strict=True)
        if isinstance(value, jax.Array | np.ndarray | np.generic)
        and jnp.issubdtype(array.dtype, jnp.floating)
    ]
    if not strong:
        dtype = jnp.asarray(0.0).dtype
    elif jnp.dtype("float64") in strong:
        dtype = jnp.dtype("float64")
    else:
        dtype = jnp.dtype("float32")
    return tuple(array.astype(dtype) for array in arrays)


def subtract(dimension: Numbers, statistical_dimensions: Numbers) -> Array:
    """Codimensions d - delta; of concrete numbers in float64, where nothing cancels.

    In a space of 10^9 dimensions float32 cannot tell codimensions below 64 from 0.
    """
    d, delta = as_floats(dimension, statistical_dimensions)
    if isinstance(dimension, Tracer) or isinstance(statistical_dimensions, Tracer):
        return d - delta
    wide = [
        np.asarray(v).astype(np.float64) for v in (dimension, statistical_dimensions)
    ]
    return jnp.asarray((wide[0] - wide[1]).astype(delta.dtype))


def check_at_most(name: str, value: Any, bound_name: str, bound: Any) -> None:
    """Refuses a concrete value above a concrete bound, rounding apart."""
    if isinstance(value, Tracer) or isinstance(bound, Tracer):
        return
    largest = np.asarray(value).astype(np.float64)
    limit = np.asarray(bound).astype(np.float64)
    if not np.all(largest <= limit * (1 + 1e-5)):
        raise ValueError(
            f"{name} is {value} and {bound_name} is {bound}; "
            f"expected {name} of at most {bound_name}"
        )


def require(definition: str, name: str, value: Any, source: str) -> None:
    """Refuses a missing input: what it is, who needs it, where it comes from."""
    if value is None:
        raise ValueError(
            f"`{definition}` needs `{name}`, and none was given; it comes from {source}"
        )


def check_eta(eta: Any) -> None:
    """Refuses a failure probability outside (0, 1)."""
    check_values("eta", eta, lambda x: (x > 0) & (x < 1), "a probability in (0, 1)")


def check_dimension(name: str, dimension: Any) -> None:
    """Refuses a dimension that is not positive and finite."""
    check_values(
        name, dimension, lambda x: (x > 0) & np.isfinite(x), "a positive finite number"
    )


def check_cones(dimension: Any, statistical_dimensions: Any) -> None:
    """Refuses statistical dimensions that no cone of the ambient space has."""
    check_dimension("dimension", dimension)
    check_values(
        "statistical_dimensions",
        statistical_dimensions,
        lambda x: x >= 0,
        "numbers of at least 0",
    )
    check_at_most(
        "statistical_dimensions", statistical_dimensions, "dimension", dimension
    )
    if np.ndim(statistical_dimensions) > 1:
        raise ValueError(
            "statistical_dimensions has shape "
            f"{np.shape(statistical_dimensions)}; expected one number for experts "
            "that are alike, or `(task,)` in the order in which they are merged"
        )
