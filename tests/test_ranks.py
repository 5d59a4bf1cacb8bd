"""Selection by counting: exact against a stable sort, wherever JAX may run it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from jaxmerge import _limbs, _search, _sorting, _ties, ranks

pytestmark = pytest.mark.usefixtures("quick_compilation")

mask = jax.jit(ranks.largest_mask, static_argnames="ties")
kth = jax.jit(ranks.kth_largest)
both_ways = pytest.mark.usefixtures("way")


@pytest.fixture(params=["small ones are sorted", "all are counted"])
def way(request, monkeypatch):
    """Programs of each way are compiled apart, whatever shapes the others have seen."""
    if request.param == "all are counted":
        monkeypatch.setattr(_sorting, "MOST", 0)
    own = lambda x, k, ties="first": ranks.largest_mask(x, k, ties=ties)
    monkeypatch.setitem(globals(), "mask", jax.jit(own, static_argnames="ties"))
    monkeypatch.setitem(globals(), "kth", jax.jit(lambda x, k: ranks.kth_largest(x, k)))


def reference_mask(x: np.ndarray, k: int) -> np.ndarray:
    """The k of largest magnitude, of equal ones the first, by a stable sort."""
    keep = np.zeros(x.size, bool)
    order = np.argsort(-np.abs(x.reshape(-1).astype(np.float64)), kind="stable")
    keep[order[:k]] = True
    return keep.reshape(x.shape)


def reference_bits(x: np.ndarray, k: int) -> int:
    if k == 0:
        return 2**31
    bits = np.sort(np.abs(x).astype(np.float32).reshape(-1).view(np.uint32))
    return int(bits[-k])


def ranks_of_interest(size: int) -> list[int]:
    return sorted({0, min(1, size), size // 5, size // 2, max(size - 1, 0), size})


def tensors(rng: np.random.Generator, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    x = np.asarray(rng.standard_normal(shape), np.float32)
    sparse = np.where(rng.random(shape) < 0.1, x, 0)
    infinite = np.where(rng.random(shape) < 0.1, np.inf, x)
    named = {
        "gaussian": x,
        "tied": np.round(x * 2) / 2,
        "zero": 0 * x,
        "sparse": sparse,
        "infinite": infinite,
        "wide": x * np.exp(10 * np.asarray(rng.standard_normal(shape))),
        "subnormal": x * 1e-40,
    }
    return {name: np.asarray(value, np.float32) for name, value in named.items()}


@both_ways
@pytest.mark.parametrize("shape", [(), (1,), (97,), (5, 6), (2, 3, 4), (20_001,)])
def test_equals_a_stable_sort(rng, shape):
    for name, x in tensors(rng, shape).items():
        for k in ranks_of_interest(x.size):
            kept = mask(jnp.asarray(x), np.int32(k))
            np.testing.assert_array_equal(kept, reference_mask(x, k), err_msg=name)
            bits = kth(jnp.asarray(x), np.int32(k))
            assert int(bits) == reference_bits(x, k), (name, k)
            everything = mask(jnp.asarray(x), np.int32(k), ties="all")
            expected = np.abs(x).view(np.uint32) >= reference_bits(x, k)
            np.testing.assert_array_equal(everything, expected, err_msg=name)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(width=32, allow_nan=False), min_size=12, max_size=12),
    st.integers(0, 14),
)
def test_any_floats(values, k):
    x = np.asarray(values, np.float32)
    expected = reference_mask(x, min(k, x.size))
    np.testing.assert_array_equal(mask(jnp.asarray(x), np.int32(k)), expected)
    # Not zeros: they would tie for the places that are left.
    many = np.concatenate([x, np.full(_sorting.MOST, np.nan, np.float32)])
    kept = mask(jnp.asarray(many), np.int32(k + _sorting.MOST))
    np.testing.assert_array_equal(kept[:12], expected)


def test_an_empty_tensor_keeps_nothing():
    assert mask(jnp.zeros((0, 3)), np.int32(0)).shape == (0, 3)
    assert int(ranks.count_above(jnp.zeros(0), jnp.uint32(0))) == 0


def test_nan_counts_as_the_largest():
    x = jnp.array([1.0, jnp.nan, jnp.inf, -2.0])
    np.testing.assert_array_equal(mask(x, np.int32(1)), [False, True, False, False])


@both_ways
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float8_e4m3fn])
def test_narrow_floats_tie_often_and_keep_the_first(rng, dtype):
    x = jnp.asarray(rng.standard_normal((40, 50)), jnp.float32).astype(dtype)
    for k in (0, 3, 400, 2000):
        expected = reference_mask(np.asarray(x.astype(jnp.float32)), k)
        np.testing.assert_array_equal(mask(x, np.int32(k)), expected)


def test_float64_is_ranked_in_64_bits(rng):
    with jax.enable_x64(True):
        for rows in (30, 300):
            x = 1 + 1e-12 * rng.standard_normal((rows, 40))
            for k in (0, 1, 8 * rows, 40 * rows):
                kept = jax.jit(ranks.largest_mask)(jnp.asarray(x), k)
                np.testing.assert_array_equal(kept, reference_mask(x, k))
            bits = ranks.kth_largest(jnp.asarray(x), 8 * rows)
            expected = np.sort(x.reshape(-1))[-8 * rows]
            assert float(ranks.from_bits(bits)) == expected


def test_integers_are_refused():
    with pytest.raises(TypeError, match="int32"):
        ranks.magnitude_bits(jnp.arange(3))
    with pytest.raises(TypeError, match="float"):
        ranks.largest_mask(jnp.ones(3), 1.5)


def test_one_k_is_asked_of_a_mask():
    with pytest.raises(ValueError, match=r"\(2,\)"):
        ranks.largest_mask(jnp.ones(3), np.array([1, 2]))
    with pytest.raises(ValueError, match="ties"):
        ranks.largest_mask(jnp.ones(3), 1, ties="random")


@both_ways
@pytest.mark.parametrize("shape", [(17,), (30, 31), (20_000,)])
def test_several_ranks_share_the_passes(rng, shape):
    for name, x in tensors(rng, shape).items():
        ks = np.array([ranks_of_interest(x.size)] * 2, np.int32)
        bits = kth(jnp.asarray(x), ks)
        expected = [[reference_bits(x, k) for k in row] for row in ks]
        np.testing.assert_array_equal(bits, expected, err_msg=name)


def test_count_above(rng):
    x = np.round(rng.standard_normal((30, 40)).astype(np.float32), 1)
    bits = np.float32(0.5).view(np.uint32)
    above = jax.jit(ranks.count_above)(jnp.asarray(x), bits)
    assert above.dtype == jnp.int32
    assert int(above) == np.sum(np.abs(x) > 0.5)


@both_ways
def test_vmap_over_k_over_x_and_over_both(rng):
    x = jnp.asarray(np.round(rng.standard_normal((3, 6, 7)), 1), jnp.float32)
    k = jnp.array([0, 5, 42])
    for axes in ((None, 0), (0, None), (0, 0)):
        one = jax.vmap(ranks.largest_mask, in_axes=axes)
        tensor = x[0] if axes[0] is None else x
        kept = jax.jit(one)(tensor, k[1] if axes[1] is None else k)
        for i in range(3):
            own = x[0] if axes[0] is None else x[i]
            own_k = int(k[1] if axes[1] is None else k[i])
            np.testing.assert_array_equal(
                kept[i], reference_mask(np.asarray(own), own_k)
            )


@both_ways
def test_inside_scan(rng):
    x = jnp.asarray(rng.standard_normal((4, 50)), jnp.float32)
    step = lambda total, row: (total + ranks.largest_mask(row, 10), None)
    total, _ = jax.jit(lambda x: jax.lax.scan(step, jnp.zeros(50, bool), x))(x)
    expected = np.any([reference_mask(np.asarray(row), 10) for row in x], axis=0)
    np.testing.assert_array_equal(total, expected)


@both_ways
def test_the_gradient_sees_a_constant_mask(rng):
    x = jnp.asarray(rng.standard_normal(30), jnp.float32)
    loss = lambda x: jnp.sum(jnp.where(ranks.largest_mask(x, 7), x**2, 0))
    expected = np.where(reference_mask(np.asarray(x), 7), 2 * x, 0)
    np.testing.assert_allclose(jax.grad(loss)(x), expected)
    bits = lambda x: ranks.from_bits(ranks.kth_largest(x, 3))
    np.testing.assert_array_equal(jax.grad(bits)(x), np.zeros(30))


@pytest.mark.parametrize(
    "mode", [AxisType.Auto, pytest.param(AxisType.Explicit, marks=pytest.mark.slow)]
)
def test_sharded_equals_unsharded(rng, mode):
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(mode, mode))
    k = np.int32(3000)
    shapes = {
        (20_000,): [P(("a", "b"))],
        (104, 200): [P("a"), P(None, "b")],
        (8, 52, 50): [P("a", None, "b")],
    }
    with jax.set_mesh(mesh):
        for shape, specs in shapes.items():
            x = np.round(rng.standard_normal(shape), 1).astype(np.float32)
            for spec in specs:
                sharded = jax.device_put(jnp.asarray(x), NamedSharding(mesh, spec))
                kept = mask(sharded, k)
                np.testing.assert_array_equal(kept, reference_mask(x, 3000))
                assert int(kth(sharded, k)) == reference_bits(x, 3000)
                above = jax.jit(ranks.count_above)(sharded, jnp.uint32(0x3F800000))
                assert int(above) == np.sum(np.abs(x) > 1)


def test_only_counts_travel_between_devices():
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    with jax.set_mesh(mesh):
        x = jax.device_put(jnp.ones((4096, 16)), NamedSharding(mesh, P("d")))
        hlo = mask.lower(x, np.int32(5)).compile().as_text() or ""
    sizes = [
        np.prod([int(n) for n in line.split("[")[1].split("]")[0].split(",") if n])
        for line in hlo.splitlines()
        if " all-gather(" in line or " all-to-all(" in line
    ]
    assert max(sizes, default=0) <= 4096


# --- counts ------------------------------------------------------------------------


@pytest.mark.parametrize("density", [0.0, 0.29, 0.57, 0.2, 1.0, 1.5, -0.5])
def test_a_concrete_density_is_counted_in_float64(density):
    for size in (0, 1, 7, 100, 12_345):
        expected = int(min(max(density, 0), 1) * size)
        for given_ in (density, np.float64(density)):
            counted = ranks.count(given_, size)
            assert counted == expected
            assert counted.dtype == np.int32
        traced = jax.jit(ranks.count, static_argnums=1)(density, size)
        assert abs(int(traced) - expected) <= 1


def test_a_concrete_array_is_widened_before_it_is_multiplied():
    assert ranks.count(jnp.float32(0.3), 10_000_000) == int(
        float(np.float32(0.3)) * 1e7
    )
    np.testing.assert_array_equal(ranks.count(np.array([0.1, 0.5]), 30), [3, 15])


def test_nan_density_is_refused():
    with pytest.raises(ValueError, match="nan"):
        ranks.count(float("nan"), 3)


def test_counts_beyond_31_bits_are_limbs():
    size = 3 * 2**33 + 5
    low, high = ranks.count(0.5, size)
    assert int(low) + 2**32 * int(high) == size // 2
    low, high = jax.jit(ranks.count, static_argnums=1)(0.5, size)
    assert abs(int(low) + 2**32 * int(high) - size // 2) <= size / 2**24
    low, high = jax.jit(ranks.count, static_argnums=1)(1.0, size)
    assert int(low) + 2**32 * int(high) == size


def limbs(values) -> tuple[jax.Array, jax.Array]:
    return _limbs.split(np.asarray(values, np.uint64))


def integers(pair) -> list[int]:
    pairs = zip(np.ravel(pair[0]), np.ravel(pair[1]), strict=True)
    return [int(low) + 2**32 * int(high) for low, high in pairs]


@given(
    st.lists(st.integers(0, 2**63), min_size=4, max_size=4), st.integers(0, 2**32 - 1)
)
@settings(deadline=None, max_examples=30)
def test_limb_arithmetic(values, factor):
    a, b = values[:2], values[2:]
    pair_a, pair_b = limbs(a), limbs(b)
    assert integers(_limbs.add(pair_a, pair_b)) == [
        (x + y) % 2**64 for x, y in zip(a, b, strict=True)
    ]
    larger = [max(x, y) for x, y in zip(a, b, strict=True)]
    difference = _limbs.subtract(limbs(larger), pair_a)
    assert integers(difference) == [x - y for x, y in zip(larger, a, strict=True)]
    at_least = [x >= y for x, y in zip(a, b, strict=True)]
    np.testing.assert_array_equal(_limbs.at_least(pair_a, pair_b), at_least)
    low = pair_a[0]
    assert integers(_limbs.times(low, factor)) == [int(v) * factor for v in low]


def test_a_total_beyond_32_bits_carries():
    rows = jnp.full((5, 3), 2**32 - 1, jnp.uint32)
    summed = _limbs.total(rows, (0,), bound=2**40)
    assert integers(summed) == [5 * (2**32 - 1)] * 3


@pytest.mark.parametrize("shape", [(2**33,), (2**20, 2**14), (70_000, 3, 2**16)])
def test_huge_tensors_are_counted_in_limbs(shape):
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    size = functools.reduce(lambda a, b: a * b, shape)
    k = ranks.count(0.2, size)
    kept = jax.eval_shape(ranks.largest_mask, x, k)
    assert kept.shape == shape
    assert jax.eval_shape(ranks.kth_largest, x, k).shape == ()
    low, high = jax.eval_shape(ranks.count_above, x, jnp.uint32(0))
    assert (low.dtype, high.shape) == (jnp.uint32, ())
    mask.lower(x, k)


def test_positions_of_huge_tensors_are_two_digits():
    for shape in ((2**20, 2**14), (70_000, 3, 2**16)):
        digits = _ties.digits_of_position(shape, _ties.fewest_rows(shape))
        assert [largest < 2**32 for _, largest in digits] == [True, True]
        assert np.prod([float(largest) for _, largest in digits]) == np.prod(
            [float(n) for n in shape]
        )


@pytest.mark.parametrize("by_rows", [True, False])
def test_two_digits_of_position_choose_the_same_ties(rng, monkeypatch, by_rows):
    monkeypatch.setattr(_sorting, "MOST", 0)
    x = np.round(rng.standard_normal((6, 5, 7)), 0).astype(np.float32)
    whole = _ties.digits_of_position((6, 5, 7), 0)[0][0](jnp.uint32(0))
    np.testing.assert_array_equal(whole, 210 - np.arange(210).reshape(6, 5, 7))
    monkeypatch.setattr(_search, "_SHORT_ROW", 1)
    if not by_rows:
        monkeypatch.setattr(_ties, "_MOST_ROWS", 0)
        monkeypatch.setattr(_ties, "_DIGIT", 40)
        assert _ties.fewest_rows((6, 5, 7)) == 1
    two_digits = jax.jit(lambda x, k: ranks.largest_mask(x, k))
    for k in range(0, 211, 7):
        kept = two_digits(jnp.asarray(x), np.int32(k))
        np.testing.assert_array_equal(kept, reference_mask(x, k))
