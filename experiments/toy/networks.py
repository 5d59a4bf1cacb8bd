"""Small networks as functions of their parameters, nested dicts of float32 arrays.

Kernels are matrices, inputs to outputs, or `[row, column, channel in, channel out]`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from experiments.more_experts.tasks import SIDE

Params = dict[str, Any]


class Network(Protocol):
    """What training asks of a network."""

    def init(self, key: Array) -> Params: ...

    def logits(self, params: Params, inputs: Array) -> Array:
        """`[sample, ...]` to `[sample, class]`."""
        ...


class FromModule:
    """A flax.nnx module as a `Network`."""

    def __init__(self, make: Callable[[nnx.Rngs], nnx.Module]):
        self._make = make
        self._graph, self._state = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))

    def init(self, key: Array) -> Params:
        return nnx.to_pure_dict(nnx.state(self._make(nnx.Rngs(key))))

    def logits(self, params: Params, inputs: Array) -> Array:
        state = jax.tree.map(lambda x: x, self._state)
        nnx.replace_by_pure_dict(state, params)
        return nnx.merge(self._graph, state)(inputs)


class Perceptron:
    """Dense layers with an activation between; softmax regression if there is one."""

    def __init__(self, sizes: Sequence[int], activation: Callable[[Array], Array]):
        self._sizes = tuple(sizes)
        self._activation = activation

    def init(self, key: Array) -> Params:
        shapes = list(zip(self._sizes, self._sizes[1:], strict=False))
        kernel = jax.nn.initializers.he_normal()
        return {
            f"layer{i}": {
                "kernel": kernel(jax.random.fold_in(key, i), shape, jnp.float32),
                "bias": jnp.zeros(shape[1]),
            }
            for i, shape in enumerate(shapes)
        }

    def logits(self, params: Params, inputs: Array) -> Array:
        last = len(self._sizes) - 2
        for i in range(last + 1):
            layer = params[f"layer{i}"]
            inputs = inputs @ layer["kernel"] + layer["bias"]
            inputs = self._activation(inputs) if i < last else inputs
        return inputs


# --- a vision transformer -------------------------------------------------------------


class _Attention(nnx.Module):
    def __init__(self, width: int, heads: int, rngs: nnx.Rngs):
        linear = functools.partial(nnx.Linear, width, width, use_bias=False, rngs=rngs)
        self.query, self.key, self.value, self.out = (linear() for _ in range(4))
        self.heads = heads

    def __call__(self, x: Array) -> Array:
        split = lambda y: y.reshape(*y.shape[:-1], self.heads, -1)
        q, k, v = (split(f(x)) for f in (self.query, self.key, self.value))
        return self.out(jax.nn.dot_product_attention(q, k, v).reshape(x.shape))


class _Block(nnx.Module):
    def __init__(self, width: int, heads: int, rngs: nnx.Rngs):
        self.attention_norm = nnx.LayerNorm(width, rngs=rngs)
        self.attention = _Attention(width, heads, rngs)
        self.mlp_norm = nnx.LayerNorm(width, rngs=rngs)
        self.up = nnx.Linear(width, 2 * width, rngs=rngs)
        self.down = nnx.Linear(2 * width, width, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = x + self.attention(self.attention_norm(x))
        return x + self.down(nnx.gelu(self.up(self.mlp_norm(x))))


class VisionTransformer(nnx.Module):
    """Patches of 3 by 3 pixels, pre-norm blocks, the mean of the tokens."""

    patch = 3

    def __init__(self, width: int, depth: int, heads: int, *, rngs: nnx.Rngs):
        side = SIDE // self.patch
        place = 0.02 * jax.random.normal(rngs.params(), (side * side, width))
        self.embed = nnx.Linear(self.patch**2, width, rngs=rngs)
        # By its name no matrix: it is added.
        self.position_embedding = nnx.Param(place)
        for i in range(depth):
            setattr(self, f"block{i}", _Block(width, heads, rngs))
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, 10, rngs=rngs)
        self.depth = depth

    def __call__(self, inputs: Array) -> Array:
        side, patch = SIDE // self.patch, self.patch
        grid = inputs.reshape(-1, side, patch, side, patch).swapaxes(2, 3)
        x = self.embed(grid.reshape(-1, side * side, patch**2))
        x = x + self.position_embedding[...]
        for i in range(self.depth):
            x = getattr(self, f"block{i}")(x)
        return self.head(jnp.mean(self.norm(x), axis=-2))


# --- a residual network ---------------------------------------------------------------


class _Convolution(nnx.Module):
    """Three by three, as one matrix product of shifted views.

    Under `vmap` over experts a convolution becomes a grouped one, which CPUs are slow
    at; a matrix product becomes a batched one.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, rngs: nnx.Rngs):
        init = nnx.initializers.he_normal()
        self.kernel = nnx.Param(init(rngs.params(), (3, 3, inputs, outputs)))
        self.stride = stride

    def __call__(self, x: Array) -> Array:
        rows, columns = x.shape[1:3]
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        views = [
            x[:, i : i + rows : self.stride, j : j + columns : self.stride]
            for i in range(3)
            for j in range(3)
        ]
        kernel = self.kernel[...]
        return jnp.concatenate(views, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


class _Residual(nnx.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, rngs: nnx.Rngs):
        norm = lambda size: nnx.GroupNorm(size, num_groups=4, rngs=rngs)
        self.first_norm, self.second_norm = norm(inputs), norm(outputs)
        self.first = _Convolution(inputs, outputs, stride, rngs)
        self.second = _Convolution(outputs, outputs, 1, rngs)
        wider = inputs != outputs
        linear = functools.partial(nnx.Linear, use_bias=False, rngs=rngs)
        self.skip = linear(inputs, outputs) if wider else None
        self.stride = stride

    def __call__(self, x: Array) -> Array:
        active = nnx.relu(self.first_norm(x))
        hidden = nnx.relu(self.second_norm(self.first(active)))
        if self.skip is not None:
            x = self.skip(active[:, :: self.stride, :: self.stride])
        return x + self.second(hidden)


class ResNet(nnx.Module):
    """Three stages of pre-activation blocks at 12, 6 and 3 pixels; group norms."""

    def __init__(self, width: int, blocks: int, *, rngs: nnx.Rngs):
        self.stem = _Convolution(1, width, 1, rngs)
        self.blocks = blocks
        size = width
        for stage in range(3):
            for i in range(blocks):
                stride = 2 if stage > 0 and i == 0 else 1
                wide = width * 2**stage
                block = _Residual(size, wide, stride, rngs)
                setattr(self, f"stage{stage}_block{i}", block)
                size = wide
        self.norm = nnx.GroupNorm(size, num_groups=4, rngs=rngs)
        self.head = nnx.Linear(size, 10, rngs=rngs)

    def __call__(self, inputs: Array) -> Array:
        x = self.stem(inputs.reshape(-1, SIDE, SIDE, 1))
        for stage in range(3):
            for i in range(self.blocks):
                x = getattr(self, f"stage{stage}_block{i}")(x)
        return self.head(jnp.mean(nnx.relu(self.norm(x)), axis=(1, 2)))
