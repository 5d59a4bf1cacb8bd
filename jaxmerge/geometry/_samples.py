"""Independent samples, the same ones whatever computes them.

Sample i draws from its own key, `fold_in(key, i)`. So neither the number of samples
computed at a time nor the number of devices changes which samples there are.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import PyTree

from jaxmerge._types import PRNGKey

BATCH_BYTES = 32 * 2**20


def float_dtype(tree: PyTree) -> jnp.dtype:
    """The dtype in which to sample: the widest float in a tree, at least float32."""
    dtypes = [jnp.asarray(x).dtype for x in jax.tree.leaves(tree)]
    wide = any(dtype == jnp.float64 for dtype in dtypes if dtype is not None)
    return jnp.dtype(jnp.float64 if wide else jnp.float32)


def batch_size(num_samples: int, floats: int, dtype: Any, batch_bytes: int) -> int:
    """How many samples of so many floats each are computed at a time."""
    fit = batch_bytes // max(1, floats * jnp.dtype(dtype).itemsize)
    return max(1, min(num_samples, fit))


def sample(
    function: Callable[[Any, PRNGKey], Any],
    arguments: PyTree,
    key: PRNGKey,
    num_samples: int,
    *,
    batch: int,
    mesh: Mesh | None = None,
) -> Any:
    """`function(arguments, key_i)` for every sample, stacked.

    Args:
      function: of the arguments and one sample's key.
      arguments: replicated on every device.
      key: a typed key.
      num_samples: how many.
      batch: how many a device computes at a time.
      mesh: whose devices share the samples; None for no sharding.

    Example:
      >>> draw = lambda scale, key: scale * jax.random.normal(key)
      >>> sample(draw, 2.0, jax.random.key(0), 5, batch=2).shape
      (5,)
    """

    def some(arguments: Any, key: PRNGKey, indices: Any) -> Any:
        one = lambda i: function(arguments, jax.random.fold_in(key, i))
        if indices.size == batch:
            return jax.vmap(one)(indices)
        return lax.map(one, indices, batch_size=batch)

    # Batches of one size, so that the function is compiled once.
    devices = 1 if mesh is None else mesh.size
    batches = -(-num_samples // (batch * devices))
    batch = -(-num_samples // (batches * devices))
    indices = jnp.arange(batch * batches * devices)
    if mesh is None:
        values = some(arguments, key, indices)
    else:
        everywhere, split = PartitionSpec(), PartitionSpec(mesh.axis_names)
        shares = jax.shard_map(
            some,
            mesh=Mesh(mesh.devices, mesh.axis_names),  # axes that need no annotations
            in_specs=(everywhere, everywhere, split),
            out_specs=split,
        )
        values = shares(arguments, key, indices)
    return jax.tree.map(lambda x: x[:num_samples], values)
