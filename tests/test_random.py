"""Bits equal to `jax.random`'s, chunk by chunk too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from jaxmerge import _random

SHAPES = [(), (1,), (1000,), (3, 5, 7), (0, 4)]


@pytest.mark.parametrize("shape", SHAPES)
def test_equal_to_jax_random(shape):
    for seed in (0, 1, 2**31 - 1):
        key = jax.random.key(seed)
        drawn = jax.jit(_random.bits, static_argnums=1)(key, shape)
        np.testing.assert_array_equal(drawn, jax.random.bits(key, shape))
        np.testing.assert_array_equal(
            _random.uniform(key, shape), jax.random.uniform(key, shape, jnp.float32)
        )
        np.testing.assert_array_equal(
            _random.bernoulli(key, 0.3, shape),
            jax.random.bernoulli(key, jnp.float32(0.3), shape),
        )
        np.testing.assert_array_equal(
            _random.normal(key, shape), jax.random.normal(key, shape, jnp.float32)
        )


def test_equal_to_jax_random_in_float64(key):
    with jax.enable_x64(True):
        for ours, theirs in (
            (_random.uniform, jax.random.uniform),
            (_random.normal, jax.random.normal),
        ):
            drawn = ours(key, (200,), jnp.float64)
            assert drawn.dtype == jnp.float64
            np.testing.assert_array_equal(drawn, theirs(key, (200,), jnp.float64))


def test_known_answers():
    # Random123's test vectors for threefry2x32 with 20 rounds.
    ones = np.uint32(0xFFFFFFFF)
    vectors = [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((ones, ones), (ones, ones), (0x1CB996FC, 0xBB002BE7)),
        (
            (0x13198A2E, 0x03707344),
            (0x243F6A88, 0x85A308D3),
            (0xC4923A9C, 0x483DF7A0),
        ),
    ]
    for key, counter, expected in vectors:
        words = _random.threefry2x32(
            (jnp.uint32(key[0]), jnp.uint32(key[1])),
            (jnp.uint32(counter[0]), jnp.uint32(counter[1])),
        )
        assert tuple(map(int, words)) == expected


def test_a_chunk_has_the_bits_of_the_whole(key):
    whole = jax.random.bits(key, (100,))
    draw = jax.jit(lambda offset: _random.bits(key, (30,), offset=offset))
    for offset in (0, 1, 70):
        np.testing.assert_array_equal(draw(offset), whole[offset : offset + 30])


def test_the_counter_goes_on_beyond_32_bits(key):
    offset = 5 * 2**32 - 2
    drawn = _random.bits(key, (4,), offset=offset)
    data = jax.random.key_data(key)
    for i, word in enumerate(drawn):
        high, low = divmod(offset + i, 2**32)
        x, y = _random.threefry2x32(
            (data[0], data[1]), (jnp.uint32(high), jnp.uint32(low))
        )
        assert int(x ^ y) == int(word)


def test_a_huge_shape_is_indexed_in_two_limbs():
    shape = (2**20, 2**14)
    assert jax.eval_shape(lambda: _random.flat_index(shape))[1].shape == shape
    iota = jnp.array([0, 1, 2**20 - 1], jnp.uint32)
    for stride in (3 * 2**14, 2**32 + 5, 2**40):
        low, high = _random._times_wide(iota, stride)
        assert [int(a) + 2**32 * int(b) for a, b in zip(low, high, strict=True)] == [
            int(i) * stride for i in iota
        ]


def test_keys_of_other_generators_go_to_jax():
    key = jax.random.key(0, impl="rbg")
    for name in ("bits", "uniform", "normal"):
        np.testing.assert_array_equal(
            getattr(_random, name)(key, (20,)), getattr(jax.random, name)(key, (20,))
        )
        with pytest.raises(ValueError, match="rbg"):
            getattr(_random, name)(key, (20,), offset=3)


def test_only_one_typed_key_is_taken():
    with pytest.raises(TypeError, match="typed key"):
        _random.bits(jnp.zeros(2, jnp.uint32), (3,))
    with pytest.raises(ValueError, match="one key"):
        _random.bits(jax.random.split(jax.random.key(0)), (3,))
    with pytest.raises(TypeError, match="bfloat16"):
        _random.uniform(jax.random.key(0), (3,), jnp.bfloat16)


def test_vmap_over_keys(key):
    keys = jax.random.split(key, 3)
    drawn = jax.vmap(lambda key: _random.bits(key, (5,)))(keys)
    for own, row in zip(keys, drawn, strict=True):
        np.testing.assert_array_equal(row, jax.random.bits(own, (5,)))


@pytest.mark.parametrize("mode", [AxisType.Auto, AxisType.Explicit])
def test_a_sharded_consumer_sees_the_same_bits(key, mode):
    mesh = jax.make_mesh((8,), ("d",), axis_types=(mode,))
    expected = jnp.where(jax.random.bernoulli(key, 0.5, (16, 3)), 1.0, 0.0)
    with jax.set_mesh(mesh):
        x = jax.device_put(jnp.ones((16, 3)), NamedSharding(mesh, P("d")))
        drop = jax.jit(lambda x: jnp.where(_random.bernoulli(key, 0.5, x.shape), x, 0))
        np.testing.assert_array_equal(drop(x), expected)
