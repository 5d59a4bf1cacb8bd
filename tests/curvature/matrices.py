"""Symmetric matrices with known spectra, and a small network trained on digits."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from sklearn.datasets import load_digits

SPECTRA = {
    "powers": 1.0 / np.arange(1, 81),
    "repeated": np.repeat([0.5, 2.0, 7.0], [40, 30, 10]),
    "flat": np.r_[np.zeros(60), np.linspace(1.0, 9.0, 20)],
    "indefinite": np.r_[
        np.linspace(-2.0, -0.1, 20), np.zeros(20), np.geomspace(1e-3, 30, 40)
    ],
}


def rotated(
    eigenvalues: np.ndarray, seed: int = 0, dtype: Any = np.float32
) -> jax.Array:
    """A symmetric matrix with these eigenvalues and random eigenvectors."""
    rng = np.random.default_rng(seed)
    size = len(eigenvalues)
    vectors, _ = np.linalg.qr(rng.normal(size=(size, size)))
    return jnp.asarray(((vectors * eigenvalues) @ vectors.T).astype(dtype))


def logits(params: dict, images: jax.Array) -> jax.Array:
    hidden = jnp.tanh(images @ params["first"]["kernel"] + params["first"]["bias"])
    return hidden @ params["head"]["kernel"] + params["head"]["bias"]


def cross_entropy(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    chosen = jnp.take_along_axis(jax.nn.log_softmax(outputs), labels[:, None], axis=1)
    return -jnp.mean(chosen)


def loss(params: dict, images: jax.Array, labels: jax.Array) -> jax.Array:
    return cross_entropy(logits(params, images), labels)


@functools.cache
def digits(num: int = 150) -> tuple[jax.Array, jax.Array]:
    """Digits in 16 pixels: means over squares of four."""
    images, labels = load_digits(return_X_y=True)
    small = images[:num].reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4)).reshape(num, 16) / 16
    return jnp.asarray(small, jnp.float32), jnp.asarray(labels[:num], jnp.int32)


@functools.cache
def trained() -> dict:
    """A network of 166 parameters after some steps of gradient descent."""
    rng = np.random.default_rng(1)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape) / 3, jnp.float32)
    params = {
        "first": {"kernel": draw(16, 4), "bias": draw(4)},
        "head": {"kernel": draw(4, 10), "bias": draw(10)},
    }

    @jax.jit
    def descend(params: dict, images: jax.Array, labels: jax.Array) -> dict:
        def step(_, params):
            slopes = jax.grad(loss)(params, images, labels)
            return jax.tree.map(lambda p, g: p - 0.5 * g, params, slopes)

        return jax.lax.fori_loop(0, 400, step, params)

    return descend(params, *digits())


def flat_hessian(function: Any, params: Any) -> np.ndarray:
    """The Hessian in full, of a function of params alone."""
    flat, unravel = ravel_pytree(params)
    dense = jax.jit(jax.hessian(lambda x: function(unravel(x))))(flat)
    return np.asarray(dense, np.float64)
