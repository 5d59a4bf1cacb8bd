"""What must hold of merges of matrices, whatever the numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmerge
from jaxmerge.combine import thin_svd
from jaxmerge.combine.interference import WudiFilter, filters

pytestmark = pytest.mark.usefixtures("quick_compilation")

SPECTRAL = {
    "isotropic": jaxmerge.isotropic(),
    "iso_cts": jaxmerge.iso_cts(common=0.5),
    "tsv_m": jaxmerge.tsv_m(),
    "wudi": jaxmerge.wudi(learning_rate=1e-4, steps=10),
    "swudi": jaxmerge.swudi(time=2.0),
    "aswudi": jaxmerge.swudi(rank="participation"),
    "svc": jaxmerge.svc(jaxmerge.task_arithmetic(scale=1.0)),
    "default": jaxmerge.default(),
    "boosting": jaxmerge.subspace_boosting(jaxmerge.task_arithmetic(scale=1.0)),
}
methods = pytest.mark.parametrize("name", SPECTRAL)


@functools.cache
def merged_by(name):
    def merge(deltas):
        return SPECTRAL[name](None, [{"w": delta} for delta in deltas])["w"]

    return jax.jit(merge)


def draws(seed, num=3, shape=(9, 6)):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape) for _ in range(num)]


def rotation(seed, size):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))[0]


# Adam works entry by entry, in the weights' own unit.
EQUIVARIANT = [name for name in SPECTRAL if name != "wudi"]


@pytest.mark.parametrize("name", EQUIVARIANT)
def test_rotated_inputs_and_outputs_rotate_the_merge(name):
    with jax.enable_x64(True):
        left, right = rotation(1, 9), rotation(2, 6)
        deltas = draws(0)
        turned = merged_by(name)([left @ d @ right.T for d in deltas])
        expected = left @ np.asarray(merged_by(name)(deltas)) @ right.T
        np.testing.assert_allclose(turned, expected, atol=1e-9)


@methods
def test_order_does_not_matter_and_size_scales(name):
    with jax.enable_x64(True):
        deltas = draws(3)
        merged = np.asarray(merged_by(name)(deltas))
        np.testing.assert_allclose(merged_by(name)(deltas[::-1]), merged, atol=1e-10)
        if name in EQUIVARIANT:
            tripled = merged_by(name)([3 * d for d in deltas])
            np.testing.assert_allclose(tripled, 3 * merged, atol=1e-9)


@methods
def test_one_expert(name):
    """It is kept by all but those that change the spectrum by design."""
    with jax.enable_x64(True):
        (delta,) = draws(4, num=1)
        merged = np.asarray(merged_by(name)([delta]))
        if name in ("isotropic", "iso_cts"):
            s = np.linalg.svd(merged, compute_uv=False)
            np.testing.assert_allclose(s, s.mean(), rtol=1e-9)
        elif name == "boosting":
            assert np.linalg.norm(merged) > np.linalg.norm(delta)
        else:
            np.testing.assert_allclose(merged, delta, atol=1e-9)


@methods
@pytest.mark.parametrize("shape", [(2, 7), (5, 1), (6, 6)])
def test_more_experts_than_directions_and_nothing_at_all(name, shape):
    deltas = [d.astype(np.float32) for d in draws(5, num=7, shape=shape)]
    assert np.all(np.isfinite(merged_by(name)(deltas)))
    nothing = [np.zeros(shape, np.float32)] * 7
    assert not np.any(merged_by(name)(nothing))
    one = [np.zeros(shape, np.float32)] * 6 + deltas[:1]
    assert np.all(np.isfinite(merged_by(name)(one)))


def test_orthogonal_tasks_are_summed_by_tsv():
    with jax.enable_x64(True):
        left, right = rotation(6, 9), rotation(7, 6)
        parts = [np.outer(left[:, i], right[:, i]) * (i + 1) for i in range(6)]
        deltas = [parts[0] + parts[3], parts[1] + parts[4], parts[2] + parts[5]]
        np.testing.assert_allclose(merged_by("tsv_m")(deltas), sum(deltas), atol=1e-9)


def test_tasks_with_inputs_of_their_own_are_summed_by_wudi():
    """Row spaces that are orthogonal do not interfere: the sum has no loss."""
    with jax.enable_x64(True):
        right = rotation(8, 6)
        deltas = [
            d[:, :2] @ right[:, 2 * t : 2 * t + 2].T for t, d in enumerate(draws(9))
        ]
        for name in ("swudi", "aswudi"):
            merged = np.asarray(merged_by(name)(deltas))
            np.testing.assert_allclose(merged, sum(deltas), atol=1e-9)


def test_the_default_is_between_two_norms_and_does_not_count_copies():
    with jax.enable_x64(True):
        deltas = draws(12)
        merged = np.asarray(merged_by("default")(deltas))
        mean = np.linalg.norm(np.mean(deltas, axis=0))
        typical = np.sqrt(np.mean([np.sum(d**2) for d in deltas]))
        np.testing.assert_allclose(np.linalg.norm(merged), np.sqrt(mean * typical))
        np.testing.assert_allclose(merged_by("default")(deltas * 2), merged, atol=1e-9)
        same = merged_by("default")(deltas[:1] * 3)
        np.testing.assert_allclose(same, deltas[0], atol=1e-9)


def test_with_a_large_ridge_the_default_has_the_direction_of_the_mean():
    with jax.enable_x64(True):
        deltas = [{"w": jnp.asarray(d)} for d in draws(13)]
        merged = np.asarray(jaxmerge.default(ridge=1e9)(None, deltas)["w"])
        mean = np.mean([d["w"] for d in deltas], axis=0)
        direction = merged / np.linalg.norm(merged)
        np.testing.assert_allclose(direction, mean / np.linalg.norm(mean), atol=1e-8)


def test_the_default_at_the_edges_of_its_numbers():
    """Low rank and a ridge of next to nothing; a ridge an expert; no weight at all."""
    deltas = [(d[:, :2] @ d[:2]).astype(np.float32) for d in draws(14, shape=(6, 6))]
    trees = [{"w": jnp.asarray(d)} for d in deltas]
    merged = np.asarray(jaxmerge.default(ridge=1e-12)(None, trees)["w"])
    assert np.all(np.isfinite(merged))
    with pytest.raises(ValueError, match="one number for the leaf"):
        jaxmerge.default(ridge=jnp.ones(3))(None, trees)
    with pytest.raises(ValueError, match="sum to zero"):
        jaxmerge.default(weights=[0.0, 0.0, 0.0])(None, trees)


@pytest.mark.parametrize("given", [{"ridge": 0.0}, {"weights": [1.0, -1.0]}])
def test_the_default_refuses_what_has_no_meaning(given):
    with pytest.raises(ValueError, match="expected .*above 0|expected .*at least 0"):
        jaxmerge.default(**given)


def test_the_gradient_of_interference():
    """It is 2 (M C - D), sums over tasks."""
    with jax.enable_x64(True):
        deltas, m = draws(10), draws(11, num=1)[0]

        def loss(m):
            parts = [
                jnp.sum(((m - d) @ d.T) ** 2) / jnp.sum(d**2)
                for d in map(jnp.asarray, deltas)
            ]
            return sum(parts)

        kernel = sum(d.T @ d / np.sum(d**2) for d in deltas)
        target = sum(d @ d.T @ d / np.sum(d**2) for d in deltas)
        np.testing.assert_allclose(
            jax.grad(loss)(jnp.asarray(m)), 2 * (m @ kernel - target), atol=1e-10
        )


def test_the_filter_is_where_gradient_flow_is():
    """With all directions kept; many small steps are the reference."""
    with jax.enable_x64(True):
        deltas = draws(12)
        kernel = sum(d.T @ d / np.sum(d**2) for d in deltas)
        target = sum(d @ d.T @ d / np.sum(d**2) for d in deltas)
        m, steps = sum(deltas), 4000
        for _ in range(steps):
            m = m - (2.0 / steps) * (m @ kernel - target)
        swudi = jaxmerge.swudi(time=2.0, share=1.0)
        merged = swudi(None, [{"w": d} for d in deltas])["w"]
        np.testing.assert_allclose(merged, m, atol=2e-3)
    assert WudiFilter().share == 0.65


def test_derivatives_of_decompositions():
    """Against differences, of what does not depend on signs and bases."""
    with jax.enable_x64(True):
        x, direction = map(jnp.asarray, draws(13, num=2, shape=(7, 4)))
        tests = {
            "svd": lambda x: (lambda u, s, v: (u[:, :2] * s[:2]) @ v[:, :2].T)(
                *thin_svd(x)
            ),
            "share": lambda x: filters(x.T @ x, jnp.asarray(0.3), "share", 0.5),
            "participation": lambda x: filters(
                x.T @ x, jnp.asarray(0.3), "participation", 0.5
            ),
        }
        for function in tests.values():
            along = jax.jit(lambda h, f=function: f(x + h * direction))
            _, slope = jax.jvp(along, (0.0,), (1.0,))
            numeric = jax.tree.map(
                lambda a, b: (a - b) / 2e-6, along(1e-6), along(-1e-6)
            )
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
                slope,
                numeric,
            )


def test_refusals():
    with pytest.raises(ValueError, match="svc was given a merger with a post-step"):
        jaxmerge.svc(jaxmerge.subspace_boosting())
    with pytest.raises(ValueError, match="no deltas but weights"):
        jaxmerge.svc(jaxmerge.average())
    with pytest.raises(ValueError, match="a model for each task"):
        jaxmerge.svc(jaxmerge.emr())
    with pytest.raises(ValueError, match="common is 0; expected a share"):
        jaxmerge.iso_cts(common=0)
    with pytest.raises(ValueError, match="share is 1.5"):
        jaxmerge.swudi(share=1.5)
    with pytest.raises(ValueError, match="steps is 0"):
        jaxmerge.wudi(steps=0)


# --- ways to a polar factor ----------------------------------------------------------


@pytest.mark.parametrize("method", ["qdwh", "newton_schulz"])
@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (24, 24)])
def test_iterations_find_the_polar_factor_of_the_svd(method, shape, rng):
    matrix = jnp.asarray(rng.standard_normal(shape), jnp.float32)
    factors = jax.jit(
        lambda x: [jaxmerge.combine.polar(x, how) for how in ("svd", method)]
    )
    expected, found = factors(matrix * 1e-3)
    scale = np.linalg.norm(expected)
    assert np.linalg.norm(found - expected) < 1e-5 * scale
    assert not np.any(factors(0 * matrix)[1])


def test_recipes_take_any_of_them(rng):
    deltas = [rng.standard_normal((16, 12)).astype(np.float32) for _ in range(3)]
    for recipe in (jaxmerge.isotropic, jaxmerge.tsv_m):
        by = {how: recipe(polar=how) for how in ("svd", "qdwh", "newton_schulz")}
        merged = {
            k: np.asarray(jaxmerge.merge_leaves(m, None, deltas)) for k, m in by.items()
        }
        for how in ("qdwh", "newton_schulz"):
            off = np.linalg.norm(merged[how] - merged["svd"])
            assert off < 1e-5 * np.linalg.norm(merged["svd"])
    with pytest.raises(ValueError, match="polar is 'eigh'"):
        jaxmerge.tsv_m(polar="eigh")


def test_newton_schulz_has_the_derivative_of_the_polar_factor(rng):
    matrix = jnp.asarray(rng.standard_normal((6, 4)), jnp.float32)
    change = jnp.asarray(rng.standard_normal((6, 4)), jnp.float32)
    slope = lambda how: jax.jvp(
        lambda x: jaxmerge.combine.polar(x, how), (matrix,), (change,)
    )[1]
    np.testing.assert_allclose(slope("newton_schulz"), slope("svd"), atol=2e-4)


@pytest.mark.parametrize("method", ["gram", "randomized"])
@pytest.mark.parametrize("shape", [(60, 48), (48, 60)])
def test_leading_directions_are_those_of_the_svd(method, shape, rng):
    """Of a spectrum that falls; and what is rounding is zero."""
    u, _, vt = np.linalg.svd(rng.standard_normal(shape), full_matrices=False)
    matrix = jnp.asarray(u * 0.8 ** np.arange(48) @ vt, jnp.float32)
    leading = jax.jit(
        lambda x, how: jaxmerge.combine.leading_svd(x, 6, how), static_argnums=1
    )
    product = lambda parts: (parts[0] * parts[1]) @ parts[2].T
    expected, found = leading(matrix, "svd"), leading(matrix, method)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-4)
    off = np.linalg.norm(product(found) - product(expected))
    assert off < 1e-4 * np.linalg.norm(product(expected))
    low = jnp.asarray(u[:, :2] @ vt[:2], jnp.float32)
    values = leading(low, method)[1]
    np.testing.assert_allclose(values, [1, 1, 0, 0, 0, 0], atol=1e-3)


@pytest.mark.parametrize("svd", ["gram", "randomized"])
def test_task_singular_vectors_by_faster_decompositions(svd, rng):
    fall = 0.7 ** np.arange(40)
    deltas = [(rng.standard_normal((50, 40)) * fall).astype(np.float32) for _ in "abcd"]
    exact = jaxmerge.merge_leaves(jaxmerge.tsv_m(), None, deltas)
    fast = jaxmerge.merge_leaves(jaxmerge.tsv_m(svd=svd), None, deltas)
    # The last of the ten directions is 25 times smaller than the first.
    assert np.linalg.norm(fast - exact) < 1e-3 * np.linalg.norm(exact)
    with pytest.raises(ValueError, match="svd is 'lanczos'"):
        jaxmerge.tsv_m(svd="lanczos")


def test_a_decomposition_that_lapack_gives_up_is_made_again(rng, monkeypatch):
    real = jnp.linalg.svd

    def gives_up(matrix, full_matrices=True):
        found = real(matrix, full_matrices)
        tall = matrix.shape[0] > matrix.shape[1]
        return tuple(jnp.full_like(x, jnp.nan) if tall else x for x in found)

    monkeypatch.setattr(jnp.linalg, "svd", gives_up)
    matrix = jnp.asarray(rng.standard_normal((7, 5)), jnp.float32)
    u, s, v = jax.jit(lambda x: thin_svd(x))(matrix)
    np.testing.assert_allclose((u * s) @ v.T, matrix, atol=1e-5)
    np.testing.assert_allclose(s, np.linalg.svd(matrix)[1], rtol=1e-5)
    # What is not finite stays so: there is nothing to find.
    _, s, _ = jax.jit(lambda x: thin_svd(x))(matrix.at[0, 0].set(jnp.nan))
    assert np.isnan(s).all()
