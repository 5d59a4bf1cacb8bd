"""The noise sigma^2 of gradients, measured sample by sample or from two batch sizes.

Losses are means over the samples that they are given, `loss(params, *data)`, as in
`jaxmerge.curvature`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, PyTree

from jaxmerge._checks import check_key
from jaxmerge._types import PRNGKey
from jaxmerge.curvature import _vectors
from jaxmerge.curvature.operators import _num_samples
from jaxmerge.geometry import Estimate


def _one(data: tuple, index: Array) -> tuple:
    return jax.tree.map(lambda x: jnp.asarray(x)[index][None], data)


def per_sample_noise(
    loss: Callable[..., Any],
    params: PyTree,
    *data: Any,
    parallel_samples: int = 16,
) -> Estimate:
    """The variance of a sample's gradient over the data set, exactly.

        sigma^2 = (1/n) sum_j |grad l(x; z_j) - grad f(x)|^2

    Costs two passes over the data, so that nothing cancels where noise is small.

    Args:
      loss: `loss(params, *data)`, a mean over samples.
      params: where; floating leaves.
      *data: pytrees of arrays with one leading axis, of samples.
      parallel_samples: how many gradients are held at a time.

    Returns:
      The variance, with standard error 0: the data set is all there is.

    Raises:
      TypeError: if params are no floats of at least 32 bits.
      ValueError: if leading axes differ, or there is no data.

    Example:
      >>> loss = lambda x, z: jnp.mean((z - x) ** 2) / 2
      >>> float(per_sample_noise(loss, jnp.zeros(()), jnp.array([1.0, 3.0])).mean)
      1.0
    """
    params = _vectors.as_parameters(params)
    num = _num_samples(data, "data")
    gradient = jax.grad(loss)

    def sample(index: Array) -> PyTree:
        return gradient(params, *_one(data, index))

    def added(total: PyTree, start: Array) -> tuple[PyTree, None]:
        return jax.tree.map(lambda x, y: x + y / num, total, sample(start)), None

    zeros = jax.tree.map(jnp.zeros_like, params)
    mean, _ = lax.scan(added, zeros, jnp.arange(num))

    def square(index: Array) -> Array:
        apart = jax.tree.map(jnp.subtract, sample(index), mean)
        return _vectors.inner(apart, apart)

    squares = lax.map(square, jnp.arange(num), batch_size=parallel_samples)
    return Estimate.exact(jnp.mean(squares))


def two_batch_noise(
    loss: Callable[..., Any],
    params: PyTree,
    *data: Any,
    key: PRNGKey,
    small: int,
    large: int,
    num_pairs: int,
) -> Estimate:
    """The variance of a sample's gradient, from the norms of batch gradients.

        sigma^2 = E (|g_b|^2 - |g_B|^2) / (1/b - 1/B) * (n - 1) / n

    Unbiased for batches without repetition, of which the last factor is a correction;
    no single sample's gradient is needed.

    Args:
      loss: `loss(params, *data)`, a mean over samples.
      params: where; floating leaves.
      *data: pytrees of arrays with one leading axis, of n samples.
      key: a typed key.
      small: b, at least 1.
      large: B, above b and at most n.
      num_pairs: how many pairs of batches, at least 2.

    Returns:
      The variance with its standard error.

    Raises:
      TypeError: if the key is no typed key, or params are no floats.
      ValueError: if a number is out of range.

    Example:
      >>> loss = lambda x, z: jnp.mean((z - x) ** 2) / 2
      >>> data = jnp.array([1.0, 3.0])
      >>> found = two_batch_noise(
      ...     loss,
      ...     jnp.zeros(()),
      ...     data,
      ...     key=jax.random.key(0),
      ...     small=1,
      ...     large=2,
      ...     num_pairs=400,
      ... )
      >>> abs(float(found.mean) - 1.0) < 4 * float(found.stderr)
      True

    References:
      McCandlish, Kaplan, Amodei, An empirical model of large-batch training, 2018,
      appendix A.1.
    """
    check_key(key)
    params = _vectors.as_parameters(params)
    num = _num_samples(data, "data")
    if not 1 <= small < large <= num:
        raise ValueError(
            f"small is {small} and large {large}; expected 1 <= small < large <= {num},"
            " the number of samples"
        )
    gradient = jax.grad(loss)

    def square(key: Array, size: int) -> Array:
        chosen = jax.random.choice(key, num, (size,), replace=False)
        batch = jax.tree.map(lambda x: jnp.asarray(x)[chosen], data)
        found = gradient(params, *batch)
        return _vectors.inner(found, found)

    def pair(index: Array) -> Array:
        first, second = jax.random.split(jax.random.fold_in(key, index))
        apart = square(first, small) - square(second, large)
        return apart / (1 / small - 1 / large) * ((num - 1) / num)

    samples = lax.map(pair, jnp.arange(num_pairs))
    return Estimate.from_samples(samples, method="two batches")
