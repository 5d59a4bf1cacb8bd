"""The network, and its accuracy on every task in one call."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from experiments.more_experts.tasks import PIXELS

Params = dict[str, Any]


class Network(nnx.Module):
    """Two normalised hidden layers of units that are active above a threshold.

    A unit fires when it lies `threshold` standard deviations above its layer's mean.
    Few units then fire for any one input, different ones for different transforms, and
    an expert's update leaves the units of other tasks nearly alone.
    """

    def __init__(self, width: int, threshold: float, *, rngs: nnx.Rngs):
        linear = functools.partial(
            nnx.Linear,
            use_bias=False,
            kernel_init=nnx.initializers.he_normal(),
            rngs=rngs,
        )
        self.first = linear(PIXELS, width)
        self.second = linear(width, width)
        self.head = linear(width, 10)
        self.threshold = threshold

    def __call__(
        self, inputs: Float[Array, "*batch pixel"]
    ) -> Float[Array, "*batch 10"]:
        hidden = nnx.relu(_normalise(self.first(_normalise(inputs))) - self.threshold)
        hidden = nnx.relu(_normalise(self.second(hidden)) - self.threshold)
        return self.head(hidden)


def _normalise(x: Array) -> Array:
    return nnx.standardize(x, axis=-1, epsilon=1e-5)


class Architecture:
    """A network as functions of its parameters, which are nested dicts of arrays."""

    def __init__(self, width: int, threshold: float):
        self._make = lambda rngs: Network(width, threshold, rngs=rngs)
        abstract = nnx.eval_shape(lambda: self._make(nnx.Rngs(0)))
        self._graph, self._state = nnx.split(abstract)

    def init(self, key: Array) -> Params:
        """Random parameters."""
        return nnx.to_pure_dict(nnx.state(self._make(nnx.Rngs(key))))

    def logits(self, params: Params, inputs: Float[Array, "... pixel"]) -> Array:
        """The outputs before the softmax."""
        state = jax.tree.map(lambda x: x, self._state)
        nnx.replace_by_pure_dict(state, params)
        return nnx.merge(self._graph, state)(inputs)

    def accuracies(
        self,
        params: Params,
        inputs: Float[Array, "task sample pixel"],
        labels: Int[Array, "task sample"],
    ) -> Float[Array, " task"]:
        """The share of samples of each task that one model names rightly."""
        names = jnp.argmax(self.logits(params, inputs), axis=-1)
        return jnp.mean(names == labels, axis=-1, dtype=jnp.float32)
