"""Two functions that the bounds are made of.

The mean of a chi variable is what Gordon's theorem compares a width with; Bennett's
function is the exponent of a Poisson-like tail. Both are smooth functions of real
numbers here, exact to rounding where their textbook formulas cancel.
"""

import jax.numpy as jnp
from jax.scipy.special import gammaln, xlog1py
from jaxtyping import Array

from jaxmerge._checks import check_values
from jaxmerge.kinematics._inputs import (
    Numbers,
    as_floats,
)

# E chi_n = sqrt(n) (1 - 1/(4n) + ...), DLMF 5.11.13; below that by log-gamma.
_CHI_SERIES = (1.0, -1 / 4, 1 / 32, 5 / 128, -21 / 2048, -399 / 65536, 869 / 262144)
# sum over k >= 2 of (-u)^k / (k (k - 1)): below |u| = 0.1 to the last bit of float64.
_BENNETT_TERMS = tuple((-1.0) ** k / (k * (k - 1)) for k in range(2, 16))


def _polynomial(x: Array, coefficients: tuple[float, ...]) -> Array:
    total = jnp.zeros_like(x)
    for coefficient in reversed(coefficients):
        total = total * x + coefficient
    return total


def chi_mean(degrees: Numbers) -> Array:
    """The mean length of a standard normal vector.

        E |g_n| = sqrt(2) Gamma((n + 1) / 2) / Gamma(n / 2)

    It lies between n / sqrt(n + 1) and sqrt(n).

    Args:
      degrees: n, the number of entries; a number or an array, at least 0.

    Returns:
      The mean, of the same shape; to a few units of rounding at every n.

    Example:
      >>> import jax.numpy as jnp
      >>> [f"{mean:.4f}" for mean in chi_mean(jnp.array([1.0, 2.0, 100.0]))]
      ['0.7979', '1.2533', '9.9750']

    References:
      NIST Digital Library of Mathematical Functions, 5.11.13.
    """
    check_values("degrees", degrees, lambda x: x >= 0, "numbers of at least 0")
    (n,) = as_floats(degrees)
    change = 32.0 if n.dtype == jnp.float32 else 256.0
    small = jnp.clip(n, 1e-6, change)
    large = jnp.maximum(n, change)
    exact = jnp.exp(gammaln((small + 1) / 2) - gammaln(small / 2)) * 2**0.5
    series = jnp.sqrt(large) * _polynomial(1 / large, _CHI_SERIES)
    return jnp.where(n < 1e-6, 0.0, jnp.where(n < change, exact, series))


def bennett(u: Numbers) -> Array:
    """Bennett's function, the exponent of a Poisson-like tail.

        psi(u) = (1 + u) log(1 + u) - u,    u^2 / (2 + 2 u / 3) <= psi(u) for u >= 0

    Args:
      u: deviation relative to the variance, at least -1; a number or an array.

    Returns:
      psi, of the same shape, without cancellation near 0.

    Example:
      >>> import jax.numpy as jnp
      >>> [f"{psi:.4g}" for psi in bennett(jnp.array([0.0, 1e-4, 1.0]))]
      ['0', '5e-09', '0.3863']

    References:
      Boucheron, Lugosi, Massart, Concentration Inequalities, 2013, Theorem 2.9.
    """
    check_values("u", u, lambda x: x >= -1, "numbers of at least -1")
    (u,) = as_floats(u)
    near = jnp.abs(u) < 0.1
    small = jnp.where(near, u, 0.0)
    large = jnp.where(near, 1.0, u)
    series = small * small * _polynomial(small, _BENNETT_TERMS)
    return jnp.where(near, series, xlog1py(1 + large, large) - large)
