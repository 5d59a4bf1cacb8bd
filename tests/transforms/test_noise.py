"""Noise of three laws from one normal draw."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmerge._types import Leaf
from jaxmerge.transforms import ReparameterizedNoise

run = jax.jit(lambda transform, x, leaf: transform(x, leaf))


def test_the_laws_are_quantiles_of_one_draw(rng, key):
    x = jnp.asarray(rng.standard_normal((40, 50)), jnp.float32)
    rms = np.sqrt(np.mean(np.asarray(x, np.float64) ** 2))
    leaf = Leaf(key=key)
    noise = {
        law: np.asarray(run(ReparameterizedNoise(0.5, law=law), x, leaf) - x)
        / (0.5 * rms)
        for law in ("normal", "student", "laplace")
    }
    z = jax.random.normal(key, x.shape)
    np.testing.assert_allclose(noise["normal"], z, atol=2e-6)
    order = np.argsort(noise["normal"], axis=None)
    for law, kurtosis in (("student", 4), ("laplace", 3.5)):
        assert np.all(np.diff(noise[law].reshape(-1)[order]) > -1e-5)
        moments = noise[law].astype(np.float64)
        assert np.mean(moments**4) / np.mean(moments**2) ** 2 > kurtosis
    # The variance of Laplace's law is 2; its mean square has a standard error of 5%.
    np.testing.assert_allclose(np.mean(noise["laplace"] ** 2), 2.0, rtol=0.2)


def test_it_is_differentiable_in_its_parameters(rng, key):
    with jax.enable_x64(True):
        x = jnp.asarray(rng.standard_normal(20))
        c = jnp.asarray(rng.standard_normal(20))
        leaf = Leaf(key=key)
        loss = jax.jit(lambda t: jnp.vdot(c, t(x, leaf)))
        at = ReparameterizedNoise(jnp.float64(0.3), jnp.float64(2.5))
        gradient = jax.grad(loss)(at)
        for name in ("strength", "degrees_of_freedom"):
            value = getattr(at, name)
            up = dataclasses.replace(at, **{name: value + 1e-5})
            down = dataclasses.replace(at, **{name: value - 1e-5})
            slope = (loss(up) - loss(down)) / 2e-5
            np.testing.assert_allclose(getattr(gradient, name), slope, rtol=1e-6)


def test_a_zero_delta_stays_zero_with_a_finite_gradient(key):
    leaf = Leaf(key=key)
    noise = ReparameterizedNoise(0.5)
    np.testing.assert_array_equal(run(noise, jnp.zeros(5), leaf), np.zeros(5))
    gradient = jax.grad(lambda x: jnp.sum(run(noise, x, leaf)))(jnp.zeros(5))
    assert np.isfinite(gradient).all()


def test_refusals(key):
    with pytest.raises(ValueError, match="no key"):
        ReparameterizedNoise()(jnp.ones(3), Leaf())
    with pytest.raises(ValueError, match="cauchy"):
        ReparameterizedNoise(law="cauchy")(jnp.ones(3), Leaf(key=key))
