"""A decoder of the Llama family, as functions of its parameters.

The parameters' tree has the names of a Hugging Face checkpoint, so that converting is
renaming the last entry: a `kernel` is the transpose of a `weight`.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Llama3Scaling:
    """How Llama 3.1 stretches its rotary embedding to longer contexts.

    Attributes:
      factor: by which low frequencies are divided.
      low_freq_factor: wavelengths above `original_length / low_freq_factor` are low.
      high_freq_factor: those below `original_length / high_freq_factor` are kept.
      original_length: the context that the model was first trained on.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_length: int


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The shape of a decoder.

    Attributes:
      vocab_size: number of tokens.
      hidden_size: width of the residual stream.
      intermediate_size: width of the gated layer.
      num_layers: number of blocks.
      num_heads: heads of queries.
      num_kv_heads: heads of keys and values; divides `num_heads`.
      head_dim: of a head, even.
      rope_theta: base of the rotary embedding's wavelengths.
      rope_scaling: of the rotary embedding, or None.
      norm_eps: added to mean squares.
      tied: whether the head is the embedding.
      qkv_bias: whether queries, keys and values have biases (Qwen2 does).
      out_bias: whether the attention's output has.
      mlp_bias: whether the gated layer has.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope_theta: float = 10_000.0
    rope_scaling: Llama3Scaling | None = None
    norm_eps: float = 1e-6
    tied: bool = True
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False


def inverse_wavelengths(config: ModelConfig) -> np.ndarray:
    """Radians a position, for each half of a head's dimensions."""
    exponents = np.arange(0, config.head_dim, 2) / config.head_dim
    radians = config.rope_theta**-exponents
    scaling = config.rope_scaling
    if scaling is None:
        return radians
    turns = scaling.original_length * radians / (2 * np.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return radians * (kept + (1 - kept) / scaling.factor)


def _rotate(x: Float[Array, "batch length head dim"], angles: Array) -> Array:
    """The rotary embedding of Hugging Face: dimension i turns with i + dim / 2."""
    cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate(
        [first * cos - second * sin, second * cos + first * sin], axis=-1
    )


def causal_attention(
    q: Float[Array, "batch length head dim"],
    k: Float[Array, "batch length shared dim"],
    v: Float[Array, "batch length shared dim"],
) -> Float[Array, "batch length head dim"]:
    """Each position attends to itself and all before; softmax in float32.

    The heads of a group stand below one another in one matrix, so that all products
    are of plain matrices: on CPUs nearly three times as fast as JAX's own.
    """
    batch, length, heads, dim = q.shape
    shared = k.shape[2]
    groups = heads // shared
    q = q.reshape(batch, length, shared, groups, dim).transpose(0, 2, 3, 1, 4)
    q = q.reshape(batch, shared, groups * length, dim)
    k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
    scores = jnp.einsum("bsqd,bskd->bsqk", q, k, preferred_element_type=jnp.float32)
    seen = np.tile(np.tri(length, dtype=bool), (groups, 1))
    scores = jnp.where(seen, scores * dim**-0.5, -jnp.inf)
    largest = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
    weights = jnp.exp(scores - largest)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    mixed = jnp.einsum("bsqk,bskd->bsqd", weights.astype(v.dtype), v)
    mixed = (mixed / total.astype(v.dtype)).reshape(batch, shared, groups, length, dim)
    return mixed.transpose(0, 3, 1, 2, 4).reshape(batch, length, heads, dim)


class Attention(nnx.Module):
    """Causal attention in which groups of query heads share keys and values."""

    def __init__(self, config: ModelConfig, linear: Any):
        hidden, head = config.hidden_size, config.head_dim
        inner, shared = config.num_heads * head, config.num_kv_heads * head
        self.q_proj = linear(hidden, inner, use_bias=config.qkv_bias)
        self.k_proj = linear(hidden, shared, use_bias=config.qkv_bias)
        self.v_proj = linear(hidden, shared, use_bias=config.qkv_bias)
        self.o_proj = linear(inner, hidden, use_bias=config.out_bias)
        self.head_dim = head

    def __call__(self, x: Float[Array, "batch length hidden"], angles: Array) -> Array:
        heads = lambda y: y.reshape(*y.shape[:2], -1, self.head_dim)
        mixed = causal_attention(
            _rotate(heads(self.q_proj(x)), angles),
            _rotate(heads(self.k_proj(x)), angles),
            heads(self.v_proj(x)),
        )
        return self.o_proj(mixed.reshape(*x.shape[:2], -1))


class GatedMLP(nnx.Module):
    """SwiGLU."""

    def __init__(self, config: ModelConfig, linear: Any):
        linear = functools.partial(linear, use_bias=config.mlp_bias)
        self.gate_proj = linear(config.hidden_size, config.intermediate_size)
        self.up_proj = linear(config.hidden_size, config.intermediate_size)
        self.down_proj = linear(config.intermediate_size, config.hidden_size)

    def __call__(self, x: Array) -> Array:
        return self.down_proj(nnx.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nnx.Module):
    """Attention and a gated layer, each on normalised inputs and added to them."""

    def __init__(self, config: ModelConfig, linear: Any, norm: Any):
        self.input_layernorm = norm()
        self.self_attn = Attention(config, linear)
        self.post_attention_layernorm = norm()
        self.mlp = GatedMLP(config, linear)

    def __call__(self, x: Array, angles: Array) -> Array:
        x = x + self.self_attn(self.input_layernorm(x), angles)
        return x + self.mlp(self.post_attention_layernorm(x))


class Body(nnx.Module):
    """All but the head."""

    def __init__(self, config: ModelConfig, linear: Any, norm: Any, embed: Any):
        self.embed_tokens = embed(config.vocab_size, config.hidden_size)
        self.layers = nnx.List(
            [Block(config, linear, norm) for _ in range(config.num_layers)]
        )
        self.norm = norm()

    def __call__(
        self, tokens: Int[Array, "batch length"], angles: Array, scanned: bool
    ) -> Array:
        x = self.embed_tokens(tokens)
        if scanned:
            graph = nnx.graphdef(self.layers[0])
            states = [nnx.state(block) for block in self.layers]
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
            one = lambda x, state: (nnx.merge(graph, state)(x, angles), None)
            x, _ = jax.lax.scan(one, x, stacked)
        else:
            for block in self.layers:
                x = block(x, angles)
        return self.norm(x)


class Decoder(nnx.Module):
    """Tokens in, a distribution over the next token out, as logits."""

    def __init__(self, config: ModelConfig, *, dtype: Any, rngs: nnx.Rngs):
        linear = functools.partial(nnx.Linear, dtype=dtype, rngs=rngs)
        norm = functools.partial(
            nnx.RMSNorm,
            config.hidden_size,
            epsilon=config.norm_eps,
            dtype=dtype,
            rngs=rngs,
        )
        embed = functools.partial(nnx.Embed, dtype=dtype, rngs=rngs)
        self.model = Body(config, linear, norm, embed)
        if not config.tied:
            self.lm_head = linear(config.hidden_size, config.vocab_size, use_bias=False)
        self.config = config

    def __call__(
        self, tokens: Int[Array, "batch length"], *, scanned: bool = False
    ) -> Array:
        positions = np.arange(tokens.shape[-1])[:, None]
        angles = positions * inverse_wavelengths(self.config)
        angles = jnp.asarray(angles, self.model.embed_tokens.dtype)
        x = self.model(tokens, angles, scanned)
        if self.config.tied:
            return self.model.embed_tokens.attend(x)
        return self.lm_head(x)


class Architecture:
    """A decoder as functions of its parameters, which are nested dicts of arrays.

    Args:
      config: its shape.
      dtype: of the arithmetic, whatever the parameters' is.
      scanned: whether the blocks are one scan, over a copy that stacks them. What is
        compiled then does not grow with their number.

    Attributes:
      config: its shape.
      abstract: shapes of the parameters, in their tree.
    """

    def __init__(
        self, config: ModelConfig, *, dtype: Any = jnp.float32, scanned: bool = False
    ):
        self.config, self._scanned = config, scanned
        make = lambda: Decoder(config, dtype=dtype, rngs=nnx.Rngs(0))
        self._graph, self._state = nnx.split(nnx.eval_shape(make))
        self.abstract: Params = nnx.to_pure_dict(self._state)

    @property
    def num_parameters(self) -> int:
        """Of a model, N."""
        return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(self.abstract))

    def _spread(self, name: str, shape: tuple[int, ...]) -> float:
        """The standard deviation of a leaf's entries at the start."""
        if not name.endswith("kernel"):
            return self.config.hidden_size**-0.5
        # The sum of all blocks starts with the variance of one.
        last = name.endswith(("o_proj.kernel", "down_proj.kernel"))
        blocks = 2 * self.config.num_layers if last else 1
        return (shape[0] * blocks) ** -0.5

    def init(self, key: Array) -> Params:
        """Random parameters, float32: one draw, cut into the leaves."""
        drawn, at, leaves = jax.random.normal(key, (self.num_parameters,)), 0, []
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.abstract):
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            size = int(np.prod(leaf.shape))
            values = drawn[at : at + size].reshape(leaf.shape)
            at += size
            match name.rsplit(".", 1)[-1]:
                case "scale":
                    values = jnp.ones(leaf.shape)
                case "bias":
                    values = jnp.zeros(leaf.shape)
                case _:
                    values = values * self._spread(name, leaf.shape)
            leaves.append(values)
        return jax.tree.structure(self.abstract).unflatten(leaves)

    def logits(
        self, params: Params, tokens: Int[Array, "*batch length"]
    ) -> Float[Array, "*batch length vocab"]:
        """What is said of the token after each, before the softmax."""
        state = jax.tree.map(lambda x: x, self._state)
        nnx.replace_by_pure_dict(state, params)
        decoder = nnx.merge(self._graph, state)
        flat = tokens.reshape(-1, tokens.shape[-1])
        logits = decoder(flat, scanned=self._scanned)
        return logits.reshape(*tokens.shape, -1)
