"""What models of a pool score on held-out sequences, and which experts gained."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from experiments.common.pools import Batch
from experiments.llm.model import Architecture, ModelConfig, Params
from experiments.llm.train import sequence_losses


class TooFewExpertsError(ValueError):
    """Fewer than two experts gained enough: there is nothing to merge."""


class Targets(NamedTuple):
    """What follows each token, and which of them accuracy counts."""

    tokens: Array
    counted: Array


def loss(logits: Array, targets: Targets) -> Array:
    """The mean cross-entropy of all tokens of each sequence."""
    return sequence_losses(logits, targets.tokens)


def correct(logits: Array, targets: Targets) -> Array:
    """The share of what counts that is the likeliest: answers, or all of a text."""
    right = (jnp.argmax(logits, axis=-1) == targets.tokens) & targets.counted
    counted = jnp.sum(targets.counted, axis=-1, dtype=jnp.float32)
    return jnp.sum(right, axis=-1, dtype=jnp.float32) / counted


@functools.partial(jax.jit, static_argnums=0)
def _score(shape: ModelConfig, params: Params, data: Batch) -> tuple[Array, Array]:
    """Loss and accuracy of every sequence: `[domain, sample]` each."""
    architecture = Architecture(shape, scanned=True)

    def on_one(batch: Batch) -> tuple[Array, Array]:
        logits = architecture.logits(params, batch.inputs)
        return loss(logits, batch.targets), correct(logits, batch.targets)

    return jax.lax.map(on_one, data)


def score_all(
    shape: ModelConfig, data: Batch, models: Sequence[Params]
) -> tuple[np.ndarray, np.ndarray]:
    """Losses and accuracies of models: `[model, domain, sample]` each."""
    found = [jax.device_get(_score(shape, params, data)) for params in models]
    losses, shares = (np.stack(x) for x in zip(*found, strict=True))
    return losses, shares


def find_gains(
    names: Sequence[str], losses: np.ndarray, required: float
) -> tuple[list[int], list[dict[str, Any]]]:
    """Which experts gained clearly on their own domains, and what each did.

    Args:
      names: of the domains.
      losses: `[model, domain, sample]` of the base, then of each expert.
      required: what the mean gain must exceed by two standard errors.

    Returns:
      Positions of those that did, and for each expert the mean over paired samples of
      its gain over the base, with the standard error.

    Raises:
      TooFewExpertsError: if there are not two.
    """
    own = np.arange(len(names))
    pairs = losses[0] - losses[1:][own, own]
    errors = pairs.std(axis=-1, ddof=1) / np.sqrt(pairs.shape[-1])
    gains = [
        {"task": name, "gain": round(float(m), 5), "stderr": round(float(e), 5)}
        for name, m, e in zip(names, pairs.mean(axis=-1), errors, strict=True)
    ]
    kept = np.flatnonzero(pairs.mean(axis=-1) - 2 * errors >= required).tolist()
    if len(kept) < 2:
        told = ", ".join(f"{gain['task']} ({gain['gain']:+.3f})" for gain in gains)
        raise TooFewExpertsError(
            f"fewer than two experts gain {required:g} nats a token over the base on "
            f"their own domains: {told}; train them longer"
        )
    return kept, gains
