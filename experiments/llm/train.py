"""Training: a base on the mixture, all experts at once, a multitask model."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from experiments.llm.config import Config
from experiments.llm.lora import Factors, add_factors, init_factors
from experiments.llm.model import Architecture, Params


def sequence_losses(
    logits: Float[Array, "*batch length vocab"], targets: Int[Array, "*batch length"]
) -> Float[Array, "*batch"]:
    """The mean cross-entropy of each sequence's tokens, in nats."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return jnp.mean(losses, axis=-1)


def make_optimizer(steps: int, learning_rate: float) -> optax.GradientTransformation:
    """AdamW with a warm-up and a cosine decay to a tenth."""
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, max(1, steps // 20), steps, learning_rate / 10
    )
    # As one vector: less to compile than leaf by leaf.
    return optax.flatten(
        optax.chain(
            optax.clip_by_global_norm(1.0),
            optax.adamw(schedule, b2=0.95, weight_decay=0.01),
        )
    )


def _draw(key: Array, streams: Int[Array, "stream position"], num: int, length: int):
    """Sequences that begin anywhere in any of the streams."""
    which, where = jax.random.split(key)
    rows = jax.random.randint(which, (num, 1), 0, streams.shape[0])
    starts = jax.random.randint(where, (num, 1), 0, streams.shape[1] - length)
    drawn = streams[rows, starts + jnp.arange(length + 1)].astype(jnp.int32)
    return drawn[:, :-1], drawn[:, 1:]


def _fit(
    architecture: Architecture,
    trained: Any,
    whole: Callable[[Any], Params],
    streams: Int[Array, "stream position"],
    key: Array,
    *,
    steps: int,
    batch: int,
    length: int,
    learning_rate: float,
) -> Any:
    """Minimises the cross-entropy of `whole(trained)` over what is drawn."""
    optimizer = make_optimizer(steps, learning_rate)

    def loss(trained: Any, key: Array) -> Array:
        inputs, targets = _draw(key, streams, batch, length)
        logits = architecture.logits(whole(trained), inputs)
        return jnp.mean(sequence_losses(logits, targets))

    def step(carry: Any, key: Array) -> tuple[Any, None]:
        trained, state = carry
        updates, state = optimizer.update(jax.grad(loss)(trained, key), state, trained)
        return (optax.apply_updates(trained, updates), state), None

    start = (trained, optimizer.init(trained))
    (trained, _), _ = jax.lax.scan(step, start, jax.random.split(key, steps))
    return trained


def _in_standard_promotion(train: Callable[..., Any]) -> Callable[..., Any]:
    """Optax's schedules and Adam mix dtypes, which strict promotion refuses."""

    @functools.wraps(train)
    def run(*args: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):
            return jax.block_until_ready(train(*args))

    return run


def _key(config: Config, use: int) -> Array:
    return jax.random.fold_in(jax.random.key(config.seed), use)


@_in_standard_promotion
def train_base(config: Config, mixture: np.ndarray) -> Params:
    """From random parameters, on the mixture of all streams.

    Args:
      config: the settings.
      mixture: `[stream, position]`.
    """
    architecture = Architecture(config.shape, scanned=True)

    @jax.jit
    def run(key: Array, streams: Array) -> Params:
        start, batches = jax.random.split(key)
        return _fit(
            architecture,
            architecture.init(start),
            lambda params: params,
            streams,
            batches,
            steps=config.base_steps,
            batch=config.base_batch,
            length=config.length,
            learning_rate=config.base_learning_rate,
        )

    return run(_key(config, 0), mixture)


@_in_standard_promotion
def train_experts(
    config: Config, base: Params, streams: np.ndarray
) -> tuple[Params, Factors | None]:
    """All experts from the base, each on its own stream, side by side by `vmap`.

    Args:
      config: the settings.
      base: parameters.
      streams: `[task, position]`.

    Returns:
      Parameters with a leading task axis, and the factors of LoRA likewise, or None.
    """
    architecture = Architecture(config.shape, scanned=True)
    fit = functools.partial(
        _fit,
        architecture,
        steps=config.expert_steps,
        batch=config.expert_batch,
        length=config.length,
        learning_rate=config.expert_learning_rate,
    )

    def full(base: Params, key: Array, stream: Array) -> tuple[Params, None]:
        return fit(base, lambda params: params, stream[None], key), None

    def lora(base: Params, key: Array, stream: Array) -> tuple[Params, Factors]:
        assert config.rank is not None
        start, batches = jax.random.split(key)
        factors = init_factors(base, config.rank, start)
        scale = config.alpha / config.rank
        whole = lambda factors: add_factors(base, factors, scale)
        factors = fit(factors, whole, stream[None], batches)
        return whole(factors), factors

    one = full if config.rank is None else lora

    @jax.jit
    def run(base: Params, keys: Array, streams: Array) -> tuple[Params, Any]:
        return jax.lax.map(
            lambda both: one(base, *both),
            (keys, streams),
            batch_size=min(config.experts_at_once, len(streams)),
        )

    return run(base, jax.random.split(_key(config, 1), len(streams)), streams)


@_in_standard_promotion
def train_multitask(config: Config, base: Params, streams: np.ndarray) -> Params:
    """One model on all streams: as many tokens as all experts saw together."""
    architecture = Architecture(config.shape, scanned=True)

    @jax.jit
    def run(base: Params, key: Array, streams: Array) -> Params:
        return _fit(
            architecture,
            base,
            lambda params: params,
            streams,
            key,
            steps=config.expert_steps,
            batch=config.expert_batch * len(streams),
            length=config.length,
            learning_rate=config.expert_learning_rate,
        )

    return run(base, _key(config, 2), streams)
