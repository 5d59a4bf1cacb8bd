"""What a Monte Carlo estimator returns: a mean with its standard error."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from jaxmerge._types import pytree, static


@pytree
class Estimate:
    """A mean and how well it is known.

    Attributes:
      mean: the estimate, of any shape.
      stderr: its standard error, of the same shape; 0 where the value is exact.
      num_samples: how many independent samples there were; 0 for exact values.
      method: how it was estimated, in a word or two.

    Example:
      >>> Estimate.from_samples(jnp.array([1.0, 3.0]), method="plain").mean
      Array(2., dtype=float32)
    """

    mean: Any
    stderr: Any
    num_samples: int = static(default=0)
    method: str = static(default="exact")

    @classmethod
    def from_samples(cls, samples: Array, *, method: str) -> "Estimate":
        """The mean over the leading axis.

        Args:
          samples: independent, `(num_samples, ...)`, at least two.
          method: how they were drawn.

        Raises:
          ValueError: with fewer than two samples there is no standard error.
        """
        num = samples.shape[0]
        if num < 2:
            raise ValueError(f"{num} samples have no standard error; draw at least two")
        mean = jnp.mean(samples, axis=0)
        spread = jnp.std(samples, axis=0, ddof=1)
        return cls(mean, spread / num**0.5, num, method)

    @classmethod
    def exact(cls, value: Any) -> "Estimate":
        """A value without error."""
        value = jnp.asarray(value)
        return cls(value, jnp.zeros_like(value))

    def __mul__(self, factor: Any) -> "Estimate":
        """The estimate times a constant."""
        return Estimate(
            self.mean * factor,
            self.stderr * jnp.abs(factor),
            self.num_samples,
            self.method,
        )
