"""Norms and the scalar control."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmerge._types import Leaf
from jaxmerge.transforms import DropRandom, KeepLargest, ScalarControl, Scale
from jaxmerge.transforms.rescale import match_norm, norm

run = jax.jit(lambda transform, x, leaf: transform(x, leaf))


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_norms_do_not_overflow(rng, size):
    x = rng.standard_normal((30, 20))
    single = jnp.asarray(x * size, jnp.float32)
    np.testing.assert_allclose(norm(single, "l2"), np.linalg.norm(x) * size, rtol=1e-6)
    np.testing.assert_allclose(norm(single, "l1"), np.abs(x).sum() * size, rtol=1e-6)
    with pytest.raises(ValueError, match="linf"):
        norm(single, "linf")


@pytest.mark.parametrize("kind", ["l1", "l2"])
def test_match_norm(rng, kind):
    x = jnp.asarray(rng.standard_normal(50), jnp.float32)
    y = x**3
    matched = match_norm(y, x, kind)
    np.testing.assert_allclose(norm(matched, kind), norm(x, kind), rtol=1e-6)
    np.testing.assert_allclose(matched / y, (matched / y)[0], rtol=1e-6)
    np.testing.assert_array_equal(match_norm(y, x, kind, floor=1e6), y)
    np.testing.assert_array_equal(match_norm(y, 0 * x, kind), y)
    np.testing.assert_array_equal(match_norm(0 * y, x, kind), 0 * y)


@pytest.mark.parametrize("kind", ["l1", "l2"])
def test_the_gradient_is_finite_at_zero_and_right_elsewhere(rng, kind):
    loss = lambda x: jnp.sum(match_norm(x**3, x, kind) ** 2)
    zero = jax.grad(loss)(jnp.zeros(5))
    np.testing.assert_array_equal(zero, np.zeros(5))
    with jax.enable_x64(True):
        x = jnp.asarray(rng.standard_normal(5))
        direction = jnp.asarray(rng.standard_normal(5))
        step = 1e-6
        slope = (loss(x + step * direction) - loss(x - step * direction)) / (2 * step)
        np.testing.assert_allclose(
            jnp.vdot(jax.grad(loss)(x), direction), slope, rtol=1e-6
        )


def test_scalar_control_is_the_norm_of_the_chain_alone(rng, key):
    x = jnp.asarray(rng.standard_normal((20, 10)), jnp.float32)
    chain = (Scale(2.0), DropRandom(0.5, rescale="density"), KeepLargest(0.3))
    leaf = Leaf(key=key)
    changed = x
    for i, transform in enumerate(chain):
        own = dataclasses.replace(leaf, key=jax.random.fold_in(key, i))
        changed = run(transform, changed, own)
    controlled = run(ScalarControl(chain), x, leaf)
    np.testing.assert_allclose(
        controlled, x * jnp.linalg.norm(changed) / jnp.linalg.norm(x), rtol=1e-5
    )
    np.testing.assert_array_equal(run(ScalarControl(chain), 0 * x, leaf), 0 * x)


def test_scalar_control_binds_its_chain():
    bound = ScalarControl((Scale(2.0), KeepLargest(0.29))).bind(100)
    assert bound.transforms[1].count == 28


def test_scalar_control_of_amplification_is_the_same(rng):
    x = jnp.asarray(rng.standard_normal(30), jnp.float32)
    np.testing.assert_allclose(
        ScalarControl((Scale(3.0),))(x, Leaf()), 3 * x, rtol=1e-6
    )
