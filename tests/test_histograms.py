"""Whole-model thresholds from two histograms, against a sort of everything."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmerge import _limbs, histograms, ranks


def leaves(rng) -> list[np.ndarray]:
    gaussian = rng.standard_normal((40, 30)).astype(np.float32)
    return [gaussian, np.round(gaussian[:20], 1) * 3, 0 * gaussian]


def test_a_histogram_counts_every_magnitude_once(rng):
    x = leaves(rng)[0]
    bits = np.abs(x).view(np.uint32)
    high = jax.jit(histograms.high_histogram)(jnp.asarray(x))
    assert high.dtype == jnp.uint32
    expected = np.bincount(bits.reshape(-1) >> 16, minlength=2**16)
    np.testing.assert_array_equal(high, expected)
    bin_ = int(np.argmax(high))
    low = jax.jit(histograms.low_histogram)(jnp.asarray(x), np.int32(bin_))
    inside = bits[(bits >> 16) == bin_] & 0xFFFF
    np.testing.assert_array_equal(low, np.bincount(inside, minlength=2**16))


@pytest.mark.parametrize("k", [0, 300, 1850, 3000])
def test_three_reads_find_the_threshold_of_a_model(rng, k):
    model = leaves(rng)
    magnitudes = np.concatenate([np.abs(x).reshape(-1) for x in model])
    # On the host, in int64.
    read = jax.jit(histograms.high_histogram)
    total = sum(np.asarray(read(jnp.asarray(x)), np.int64) for x in model)
    high, rank = histograms.locate(total, k)
    read = jax.jit(histograms.low_histogram)
    total = sum(np.asarray(read(jnp.asarray(x), high), np.int64) for x in model)
    low, _ = histograms.locate(total, rank)
    threshold = high << 16 | low
    kept = magnitudes.view(np.uint32) >= threshold
    expected = magnitudes >= np.sort(magnitudes)[-k] if k else magnitudes < 0
    np.testing.assert_array_equal(kept, expected)

    @jax.jit
    def traced(model, k):  # joined as limbs
        def join(read):
            pairs = [(counts, jnp.zeros_like(counts)) for counts in map(read, model)]
            total = pairs[0]
            for pair in pairs[1:]:
                total = ranks.add_counts(total, pair)
            return total

        high, rank = histograms.locate(join(histograms.high_histogram), k)
        low, _ = histograms.locate(
            join(lambda x: histograms.low_histogram(x, high)), rank
        )
        return high, low

    assert tuple(map(int, traced(model, np.int32(k)))) == (high, low)


def test_locate_beyond_32_bits():
    counts = np.array([7, 2**33, 2**34, 5], np.int64)
    k = 2**34 + 2**32 + 9
    expected = (1, 2**32 + 4)
    assert histograms.locate(counts, k) == expected
    bin_, (low, high) = histograms.locate(_limbs.split(counts), _limbs.split(k))
    assert (int(bin_), int(low) + 2**32 * int(high)) == expected


def test_locate_beyond_the_sum_is_the_first_bin():
    assert histograms.locate(np.array([3, 1]), 9)[0] == 0
    assert int(histograms.locate(jnp.array([3, 1], jnp.uint32), 9)[0]) == 0


def test_float64_has_four_digits(rng):
    with jax.enable_x64(True):
        x = jnp.asarray(1 + 1e-13 * rng.standard_normal(500))
        k, prefix = 77, 0
        for digit in range(4):
            counts = histograms.digit_histogram(x, digit, prefix)
            bin_, k = histograms.locate(np.asarray(counts), k)
            prefix = prefix << 16 | bin_
        assert float(ranks.from_bits(jnp.uint64(prefix))) == np.sort(x)[-77]


def test_refusals():
    with pytest.raises(ValueError, match="digit is 2"):
        histograms.digit_histogram(jnp.ones(3), 2)
    huge = jax.ShapeDtypeStruct((2**17, 2**16), jnp.float32)
    with pytest.raises(ValueError, match="parts"):
        jax.eval_shape(histograms.high_histogram, huge)
