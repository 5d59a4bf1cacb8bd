"""Normal numbers whose tails are right.

`jax.random.normal` in float32 inverts the normal distribution at uniform numbers of 23
bits, so it never leaves about [-5.4, 5.2]. A supremum over many coordinates lives in
the tail: the width of an l1 ball of a billion dimensions would come out an eighth too
small. Here the tail probability has a relative, not an absolute, precision.
"""

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri
from jaxtyping import Array

from jaxmerge import _random
from jaxmerge._types import PRNGKey

_WORD = np.float32(2.0**-32)


def normal(
    key: PRNGKey, shape: tuple[int, ...], dtype: jnp.dtype, *, extreme: bool
) -> Array:
    """Standard normal numbers; with `extreme` also float32 ones have their tails.

    Args:
      key: a typed key.
      shape: of the result.
      dtype: float32 or float64.
      extreme: whether the largest of very many matter.

    Example:
      >>> import jax
      >>> normal(jax.random.key(0), (3,), jnp.dtype(jnp.float32), extreme=True).shape
      (3,)
    """
    if not extreme or dtype == jnp.float64:
        return _random.normal(key, shape, dtype)
    high, low = _random.words(key, shape)
    sign = jnp.where(low >> 31 == 0, np.float32(1), np.float32(-1))
    # Of the 63 bits of a uniform number, a float keeps the leading ones, wherever they
    # are: P(|x| > t) is right down to 2^-63, where t is 9.
    fraction = ((low & np.uint32(0x7FFFFFFF)).astype(jnp.float32) + 0.5) * (2 * _WORD)
    outside = (high.astype(jnp.float32) + fraction) * _WORD
    return (sign * -ndtri(0.5 * outside)).astype(dtype)
