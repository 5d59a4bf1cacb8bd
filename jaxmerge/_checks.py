"""Checks made while tracing, or before: what was expected, what came, what to do."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def is_concrete(x: Any) -> bool:
    """Whether a value can be looked at now, that is, is no tracer."""
    return not isinstance(x, Tracer)


def check_values(
    name: str, value: Any, allowed: Callable[[np.ndarray], Any], expected: str
) -> None:
    """Refuses concrete numbers outside their range; NaN is outside of every range.

    Args:
      name: what the numbers are called, for the error.
      value: a number or an array; a traced one passes.
      allowed: from float64 numbers to whether each is in the range.
      expected: the range in words.

    Raises:
      ValueError: naming what was expected.
    """
    if is_concrete(value) and not np.all(allowed(np.asarray(value, np.float64))):
        raise ValueError(f"{name} is {value}; expected {expected}")


def check_key(key: Any) -> None:
    """Refuses anything but one typed key."""
    if key is None:
        return
    if not jnp.issubdtype(jnp.asarray(key).dtype, jax.dtypes.prng_key):
        raise TypeError(
            "key is a legacy array key; make a typed one with jax.random.key(seed)"
        )
    if key.shape != ():
        raise TypeError(f"key has shape {key.shape}; expected one key of shape ()")


def check_names(expected: Sequence[str], got: Sequence[str], what: str) -> None:
    """Refuses a model whose leaves are not those of the base."""
    missing = [name for name in expected if name not in set(got)]
    if missing:
        raise ValueError(
            f"{what} has no leaf {missing[0]!r}"
            + (f" (nor {len(missing) - 1} others)" if len(missing) > 1 else "")
            + "; experts need every leaf of the base"
        )
    extra = [name for name in got if name not in set(expected)]
    if extra:
        raise ValueError(
            f"{what} has a leaf {extra[0]!r}"
            + (f" (and {len(extra) - 1} others)" if len(extra) > 1 else "")
            + " that the base has not; remove it, or merge models of one structure"
        )


def check_shape(name: str, expected: tuple, got: tuple, what: str) -> None:
    """Refuses an expert's leaf of another shape than the base's."""
    if tuple(expected) != tuple(got):
        raise ValueError(
            f"{what}: {name} has shape {tuple(got)}; expected {tuple(expected)}, the "
            "base's"
        )


def is_merged(dtype: Any) -> bool:
    """Whether leaves of this dtype take part in a merge (floating), or are copied."""
    return jnp.issubdtype(dtype, jnp.floating)


def check_mergeable(name: str, dtype: Any) -> None:
    """Refuses dtypes that can neither be merged nor simply copied."""
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise TypeError(
            f"{name} is {dtype}: complex leaves have no sign and no order to merge by; "
            "split them into real and imaginary parts"
        )


def check_equal(name: str, base: Any, other: Any, what: str) -> None:
    """Refuses integer and boolean leaves that differ from the base's."""
    check_shape(name, base.shape, other.shape, what)
    if not (is_concrete(base) and is_concrete(other)):
        return
    if jnp.issubdtype(base.dtype, jax.dtypes.prng_key):
        return
    if not np.array_equal(np.asarray(base), np.asarray(other)):
        raise ValueError(
            f"{what}: {name} is {base.dtype} and differs from the base's; integers "
            "are copied, not merged, so all models have to agree on them"
        )


def check_weight_sum(name: str, weights: Any, num_experts: int) -> None:
    """Refuses concrete weights that cannot be normalised."""
    if not is_concrete(weights):
        return
    array = np.broadcast_to(np.asarray(weights, np.float64), (num_experts,))
    if not np.all(np.isfinite(array)):
        raise ValueError(f"the weights for {name} are {array.tolist()}: not finite")
    if abs(array.sum()) < 1e-12 * max(np.abs(array).sum(), 1e-300):
        raise ValueError(
            f"the weights for {name} are {array.tolist()}: they sum to zero, and this "
            "method divides by their sum"
        )
