"""Products that round alike in every executor, and divisions without NaN."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array


def safe_divide(numerator: Array, denominator: Array, otherwise: float = 0.0) -> Array:
    """`numerator / denominator`, and `otherwise` where the denominator is zero.

    Both branches are finite, so that gradients are too.
    """
    zero = denominator == 0
    quotient = numerator / jnp.where(zero, jnp.ones_like(denominator), denominator)
    return jnp.where(zero, jnp.asarray(otherwise, quotient.dtype), quotient)


def product(factor: Array, x: Array) -> Array:
    """`factor * x`, rounded before anything is added to it.

    A compiler may contract a product and a sum into one fused multiply-add, and does so
    or not depending on what else is in the program. The selection stands between the
    two (it never acts: where x is NaN the product is), so that all executors round
    alike and agree bit for bit.
    """
    rounded = factor * x
    return jnp.where(x == x, rounded, jnp.asarray(jnp.nan, rounded.dtype))


def quotient(x: Array, divisor: Array) -> Array:
    """`x / divisor` for one divisor: a `product` with its reciprocal.

    Compilers turn it into that product anyway, and then contract it.
    """
    return product(1 / divisor, x)


def accumulate(a: Any, b: Any) -> Any:
    """Adds two states, leaf by leaf."""
    return jax.tree.map(jnp.add, a, b)
