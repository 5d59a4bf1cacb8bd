"""DC-Merge and KnOTS: what must hold whatever the numbers, and at the edges."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmerge
from jaxmerge.combine.directional import smooth_energies
from jaxmerge.combine.subspaces import principal_basis
from tests.reference import methods as reference

pytestmark = pytest.mark.usefixtures("quick_compilation")

MERGERS = {
    "dc_merge": jaxmerge.dc_merge(density=0.5),
    "knots": jaxmerge.knots(jaxmerge.ties(density=0.5)),
    "knots_consensus": jaxmerge.knots(jaxmerge.consensus(threshold=0.8, scale=1.0)),
    "knots_sum": jaxmerge.knots(jaxmerge.task_arithmetic(scale=1.0)),
    "knots_dare": jaxmerge.knots(jaxmerge.dare(density=0.5)),
}


@functools.cache
def merged_by(name):
    def merge(deltas, key):
        experts = [{"w": delta} for delta in deltas]
        return MERGERS[name](None, experts, key=key)["w"]

    return jax.jit(merge)


def merge(name, deltas, key=None):
    return np.asarray(merged_by(name)([jnp.asarray(d) for d in deltas], key))


def draws(seed, num=2, shape=(8, 6)):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape) for _ in range(num)]


def rotation(seed, size):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))[0]


def test_dc_merge_of_rotated_experts_is_rotated():
    """The signs of singular vectors are nobody's choice, and do not matter."""
    with jax.enable_x64(True):
        left, right = rotation(1, 8), rotation(2, 6)
        deltas = draws(0)
        turned = merge("dc_merge", [left @ d @ right.T for d in deltas])
        expected = left @ merge("dc_merge", deltas) @ right.T
        np.testing.assert_allclose(turned, expected, atol=1e-12)
        assert np.linalg.norm(expected) > 1


def test_knots_turns_with_the_outputs_and_ties_does_not():
    with jax.enable_x64(True):
        left, deltas = rotation(1, 8), draws(0)
        turned = [left @ d for d in deltas]
        expected = left @ merge("knots", deltas)
        np.testing.assert_allclose(merge("knots", turned), expected, atol=1e-12)
    zero = np.zeros((8, 6))
    of_turned = reference.ties(zero, turned, density=0.5)
    turned_of = left @ reference.ties(zero, deltas, density=0.5)
    assert np.abs(of_turned - turned_of).max() > 0.1


def test_knots_loses_nothing():
    """A sum is the same in every basis, of whatever rank the experts are."""
    with jax.enable_x64(True):
        deltas = draws(0)
        np.testing.assert_allclose(merge("knots_sum", deltas), sum(deltas), atol=1e-12)
        weak = [1e-12 * deltas[0] + np.outer(d[:, 0], d[0]) for d in deltas]
        np.testing.assert_allclose(merge("knots_sum", weak), sum(weak), atol=1e-12)


def test_knots_of_a_merge_in_two_passes():
    deltas = draws(0)
    u, s, vt = np.linalg.svd(np.hstack(deltas), full_matrices=False)
    parts = np.split(s[:, None] * vt, 2, axis=1)
    zero = np.zeros_like(parts[0])
    expected = u @ reference.consensus(zero, parts, threshold=0.8, scale=1.0)
    with jax.enable_x64(True):
        merged = merge("knots_consensus", deltas)
    np.testing.assert_allclose(merged, expected, atol=1e-12)
    assert np.linalg.norm(merged - sum(deltas)) > 0.1


def test_knots_of_random_drops_needs_a_key_and_follows_it(key):
    deltas = [np.float32(d) for d in draws(0)]
    first, again = (merge("knots_dare", deltas, key) for _ in range(2))
    other = merge("knots_dare", deltas, jax.random.key(1))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)
    basis = np.linalg.svd(np.hstack(deltas), full_matrices=False)[0]
    parts = [2 * basis.T @ d for d in deltas]
    merged = basis.T @ first
    entries = np.stack([0 * parts[0], parts[0], parts[1], parts[0] + parts[1]])
    # Every coordinate is that of no expert, one, or both.
    assert np.abs(entries - merged).min(axis=0).max() < 1e-4
    with pytest.raises(ValueError, match="no key"):
        merge("knots_dare", deltas)


@pytest.mark.parametrize(
    ("name", "num", "shape"), [("dc_merge", 5, (3, 2)), ("knots", 2, (1, 6))]
)
def test_more_experts_than_directions_and_nothing_at_all(name, num, shape):
    deltas = [np.float32(d) for d in draws(0, num, shape)]
    merged = merge(name, deltas)
    assert np.all(np.isfinite(merged))
    assert np.any(merged)
    assert not np.any(merge(name, [np.zeros(shape, np.float32)] * num))


def test_vectors_are_averaged_by_dc_merge():
    weights, deltas = [1.0, 3.0], [np.float32(d) for d in draws(0, shape=(5,))]
    merged = jaxmerge.dc_merge(weights=weights)(None, deltas)
    expected = np.average(deltas, axis=0, weights=weights)
    np.testing.assert_allclose(merged, expected, rtol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 1e-18])
def test_experts_that_cancel_and_experts_that_agree(scale):
    """Two opposite experts leave nothing in DC-Merge, whatever their size.

    Of two equal experts it makes half of what is kept: each has half of the covered
    space, and the blocks between the halves are dropped.
    """
    one = np.float32(scale * draws(3)[0])
    assert not np.any(merge("dc_merge", [one, -one]))
    merged = merge("dc_merge", [one, one])
    u, s, vt = np.linalg.svd(np.float64(one), full_matrices=False)
    half = (u[:, :3] * s[:3] / 2) @ vt[:3]
    np.testing.assert_allclose(merged, half, atol=5e-6 * scale)


def test_one_expert_is_kept():
    (one,) = draws(0, num=1)
    with jax.enable_x64(True):
        for merger in (
            jaxmerge.dc_merge(density=1.0),
            jaxmerge.knots(jaxmerge.task_arithmetic(scale=1.0)),
        ):
            merged = jaxmerge.merge_leaves(merger, None, [{"w": one}])["w"]
            np.testing.assert_allclose(merged, one, atol=1e-12)


@pytest.mark.parametrize(
    ("smoothing", "ratio", "expected"),
    [
        ("none", 5.0, [6.0, 2.0, 1.0, 0.0]),
        ("mean", 5.0, [3.0, 3.0, 3.0, 0.0]),
        ("linear", 2.0, [4.0, 3.0, 2.0, 0.0]),  # falls from 2 to 1
        ("linear", 9.0, [36 / 7, 3.0, 6 / 7, 0.0]),  # from 6, what it is, to 1
    ],
)
def test_smoothing_keeps_the_sum_and_what_is_zero(smoothing, ratio, expected):
    found = smooth_energies(jnp.array([6.0, 2.0, 1.0, 0.0]), smoothing, ratio)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    zero = smooth_energies(jnp.zeros(3), smoothing, ratio)
    np.testing.assert_array_equal(zero, 0)
    one = smooth_energies(jnp.array([2.0, 0.0, 0.0]), smoothing, ratio)
    np.testing.assert_array_equal(one, [2, 0, 0])


def test_the_basis_counts_its_rank_and_has_a_finite_derivative():
    low = draws(0, num=1, shape=(6, 2))[0].astype(np.float32)
    basis, rank = principal_basis(jnp.asarray(low @ low.T))
    assert rank == 2
    np.testing.assert_allclose(basis.T @ basis, np.eye(6), atol=1e-6)
    assert principal_basis(jnp.zeros((4, 4)))[1] == 0
    turn = jax.jvp(lambda g: principal_basis(g)[0], (jnp.eye(4),), (jnp.ones((4, 4)),))
    np.testing.assert_array_equal(turn[1], 0)


def test_bad_arguments_are_refused_by_name():
    for merger, what in (
        (jaxmerge.average(), "knots was given a merger with no deltas but weights"),
        (jaxmerge.emr(), "a model for each task"),
        (jaxmerge.ties(scope="tree"), "a threshold over the whole model"),
        (jaxmerge.rht(), "factors in place of deltas"),
        (jaxmerge.dare(compat="peft"), "deltas that are rounded"),
    ):
        with pytest.raises(ValueError, match=what):
            jaxmerge.knots(merger)
    with pytest.raises(ValueError, match="density"):
        jaxmerge.dc_merge(density=0.0)
    with pytest.raises(ValueError, match="rank"):
        jaxmerge.dc_merge(rank=0)
    with pytest.raises(ValueError, match="ratio"):
        jaxmerge.dc_merge(ratio=0.5)
    with pytest.raises(ValueError, match="smoothing"):
        jaxmerge.dc_merge(smoothing="cubic")


# --- core space ----------------------------------------------------------------------


def pairs(ranks=(2, 3), out=8, columns=6, scales=(1.0, 0.5)):
    rng = np.random.default_rng(5)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape))
    return [
        {"w": jaxmerge.LowRank(draw(rank, columns), draw(out, rank), scale)}
        for rank, scale in zip(ranks, scales, strict=True)
    ]


def test_core_space_loses_nothing_of_adapters_of_any_rank():
    merger = jaxmerge.core_space(jaxmerge.task_arithmetic(scale=1.0))
    with jax.enable_x64(True):
        for ranks in ((2, 3), (7, 8)):  # below and above the matrix's own rank
            experts = pairs(ranks)
            expected = sum(x["w"].dense(jnp.float64) for x in experts)
            merged = jaxmerge.merge_leaves(merger, None, experts)["w"]
            np.testing.assert_allclose(merged, expected, atol=1e-12)


def test_core_space_of_nothing_and_of_equal_adapters():
    merger = jaxmerge.core_space(jaxmerge.ties(density=1.0))
    one = pairs((2,), scales=(1.0,))[0]
    zero = jax.tree.map(jnp.zeros_like, one)

    @jax.jit
    def norm(x):
        merged = merger(None, [x, x])["w"]
        return jnp.sum(merged**2), merged

    (_, merged), gradient = jax.value_and_grad(norm, has_aux=True)(one)
    np.testing.assert_allclose(merged, one["w"].dense(), atol=1e-4)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(gradient))
    (_, merged), gradient = jax.value_and_grad(norm, has_aux=True)(zero)
    assert not np.any(merged)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(gradient))


def test_the_gradient_of_core_space_equals_finite_differences():
    merger = jaxmerge.core_space(jaxmerge.ties(density=0.5))
    with jax.enable_x64(True):
        experts = pairs()
        direction = jax.tree.map(lambda x: jnp.sin(3 * x), experts)

        @jax.jit
        def loss(step):
            moved = jax.tree.map(lambda x, d: x + step * d, experts, direction)
            return jnp.sum(merger(None, moved)["w"] ** 2)

        slope = jax.jit(jax.grad(loss))(0.0)
        numeric = (loss(1e-6) - loss(-1e-6)) / 2e-6
        np.testing.assert_allclose(slope, numeric, rtol=1e-6)


def test_core_space_needs_pairs_where_there_is_a_matrix():
    merger = jaxmerge.core_space(jaxmerge.task_arithmetic(scale=1.0))
    with pytest.raises(TypeError, match="core_space merges LowRank pairs"):
        merger(None, [{"w": jnp.ones((3, 2))}] * 2)
    bias = merger(None, [{"b": jnp.ones(3)}] * 2)["b"]
    np.testing.assert_array_equal(bias, 2)


@pytest.mark.slow
def test_a_calibrated_merge_in_a_shared_basis():
    """Wrappers bind what they wrap: with all entries kept it is the calibrated sum."""
    rng = np.random.default_rng(30)
    deltas = [{"w": rng.standard_normal((6, 9)).astype(np.float32)} for _ in range(3)]
    everything = jaxmerge.magnitude_prune(density=1.0)
    merged = jaxmerge.svc(jaxmerge.knots(everything))(None, deltas)["w"]
    expected = jaxmerge.svc(jaxmerge.task_arithmetic(scale=1.0))(None, deltas)["w"]
    np.testing.assert_allclose(merged, expected, atol=1e-4)
    half = jaxmerge.magnitude_prune(density=0.5)
    assert np.all(np.isfinite(jaxmerge.svc(jaxmerge.knots(half))(None, deltas)["w"]))
