"""Reparameterized noise: a post-step that adds scaled random entries to a merged delta."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxmerge import _random
from jaxmerge._types import Coef, Leaf, coefficient, pytree, static


@pytree
class ReparameterizedNoise:
    r"""Adds noise in proportion to the delta's root mean square (a reconstruction).

        y = x + strength * rms(x) * e,    e of the law, with unit scale

    The paper's code calls its evaluation with a noise switch whose definition was not
    published; law, place and size here are ours.

    Attributes:
      strength: s, at least 0.
      degrees_of_freedom: of the Student law.
      law: `"normal"`, `"student"` or `"laplace"`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxmerge._types import Leaf
      >>> ReparameterizedNoise(0.0)(jnp.ones(2), Leaf(key=jax.random.key(0))).tolist()
      [1.0, 1.0]

    References:
      Wang et al., Why Do More Experts Fail? A Theoretical Analysis of Model Merging,
      2025.
    """

    strength: Coef = coefficient(default=0.1)
    degrees_of_freedom: Coef = coefficient(default=3.0)
    law: str = static(default="student")

    def __call__(self, delta: Array, leaf: Leaf) -> Array:
        if leaf.key is None:
            raise ValueError(
                "ReparameterizedNoise draws random numbers and was given no key; "
                "call the merge with key=jax.random.key(seed)"
            )
        mean_square = jnp.mean(delta * delta)
        zero = mean_square == 0
        rms = jnp.sqrt(jnp.where(zero, 1.0, mean_square))
        size = jnp.where(
            zero, 0.0, jnp.asarray(self.strength).astype(delta.dtype) * rms
        )
        return delta + size * self._draw(leaf.key, delta)

    def _draw(self, key: Array, like: Array) -> Array:
        if self.law == "normal":
            return _random.normal(key, like.shape).astype(like.dtype)
        if self.law == "laplace":
            return jax.random.laplace(key, like.shape, like.dtype)
        if self.law == "student":
            df = jnp.asarray(self.degrees_of_freedom).astype(like.dtype)
            return jax.random.t(key, df, like.shape, like.dtype)
        raise ValueError(f"law is {self.law!r}; expected normal, student or laplace")
