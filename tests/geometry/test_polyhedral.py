"""Cones of nonnegative combinations, against SciPy and exact laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, stats

from jaxmerge.geometry import (
    PolyhedralCone,
    _nnls,
    rays_intrinsic_volumes,
    statistical_dimension,
    uncertified_fraction,
    volumes_mean,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")


@jax.jit
def solve(cone, points):
    solution = jax.vmap(cone.coefficients)(points)
    return solution, jax.vmap(cone.squared_norm)(points)


@jax.jit
def squared_norms(cone, points):
    return jax.vmap(cone.squared_norm)(points)


def generators(name):
    rng = np.random.default_rng(11)
    normal = rng.standard_normal((12, 12))
    equal = np.linalg.cholesky(0.05 * np.eye(12) + 0.95)
    return {
        "random": normal,
        "nearly one direction": equal,
        "equal, zero and tiny": np.concatenate(
            [normal[:5], normal[:5], 0 * normal[:2], 1e-3 * normal[4:6]]
        ),
        "dependent": np.concatenate([normal[:8, :4], [[3.0, -1.0, 0.0, 0.0]]]),
        "of many sizes": equal * 10.0 ** rng.uniform(-3, 3, (12, 1)),
        "one": normal[:1],
        "opposite": np.array([[1.0, 0.0], [-1.0, 0.0]]),
        "zero": np.zeros((2, 3)),
    }[name]


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize(
    "name",
    [
        "random",
        "nearly one direction",
        "equal, zero and tiny",
        "dependent",
        "of many sizes",
        "one",
        "opposite",
        "zero",
    ],
)
def test_projections_are_those_of_scipy(name, x64):
    dtype = np.float64 if x64 else np.float32
    vectors = generators(name).astype(dtype)
    if name != "one":  # of one shape, to compile once
        padding = [(0, 14 - vectors.shape[0]), (0, 12 - vectors.shape[1])]
        vectors = np.pad(vectors, padding)
    points = np.random.default_rng(2).standard_normal((40, vectors.shape[1]))
    points = points.astype(dtype)
    points[0] = 0
    with jax.enable_x64(x64):
        cone = PolyhedralCone(jnp.asarray(vectors))
        found, squares = solve(cone, jnp.asarray(points))
    assert np.all(found.certified)
    assert np.all(np.asarray(found.coefficients) >= 0)
    wide, points = vectors.astype(np.float64), points.astype(np.float64)
    fits = [optimize.nnls(wide.T, g, maxiter=10_000)[0] @ wide for g in points]
    tolerance = 1e-10 if x64 else 2e-4
    p = np.asarray(found.coefficients, np.float64) @ wide
    np.testing.assert_allclose(p, fits, atol=tolerance)
    # The value is more accurate than the point.
    expected = np.sum(np.square(fits), axis=1)
    np.testing.assert_allclose(squares, expected, atol=1e-12 if x64 else 2e-5)


def test_a_gram_matrix_gives_the_same_law(key):
    vectors = jax.random.normal(jax.random.key(1), (8, 40)) + 0.7
    cone = PolyhedralCone(vectors)
    small = cone.compress()
    assert small.shape == (8,)
    assert small.compress() is small
    unit = np.asarray(cone.gram) / np.outer(*[np.sqrt(np.diag(cone.gram))] * 2)
    np.testing.assert_allclose(small.gram, unit, atol=2e-6)
    one, other = jax.random.split(key)
    direct = squared_norms(cone, jax.random.normal(one, (3000, 40)))
    compressed = squared_norms(small, jax.random.normal(other, (3000, 8)))
    assert stats.ks_2samp(direct, compressed).pvalue > 1e-3


def test_gram_matrices_of_rank_below_their_size(key):
    rows = np.random.default_rng(4).standard_normal((5, 3))
    rows = np.concatenate([rows, rows[:1], np.zeros((1, 3)), 1e-2 * rows[1:2]])
    rows = np.pad(rows, [(0, 0), (0, 5)])  # of the shape that is compiled already
    cone = PolyhedralCone.from_gram(jnp.asarray(rows @ rows.T, jnp.float32))
    assert cone.shape == (8,)
    assert np.all(np.asarray(cone.generators[6]) == 0)
    one, other = jax.random.split(key)
    direct = squared_norms(
        PolyhedralCone(jnp.asarray(rows, jnp.float32)),
        jax.random.normal(one, (3000, 8)),
    )
    law = squared_norms(cone, jax.random.normal(other, (3000, 8)))
    assert stats.ks_2samp(direct, law).pvalue > 1e-3


@pytest.mark.parametrize("x64", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_random_rays_fill_half_of_their_number(x64, key):
    """E delta = E min(Bin(T, 1/2), d), over the rays and the points."""
    with jax.enable_x64(x64):
        check_random_rays(key)


def check_random_rays(key):
    known = {10: 5.0, 30: 14.967, 40: 18.746, 60: 19.995}
    rays, points = jax.random.split(key)
    vectors = jax.random.normal(rays, (200, 60, 20))
    points = jax.random.normal(points, (200, 20))
    run = jax.jit(jax.vmap(lambda v, g: PolyhedralCone(v).squared_norm(g)))
    for num, delta in known.items():
        assert abs(volumes_mean(rays_intrinsic_volumes(num, 20)) - delta) < 1e-3
        # Rays of length 0 are no rays.
        some = (np.arange(60) < num).astype(vectors.dtype)[:, None]
        squares = np.asarray(run(vectors * some, points))
        assert abs(squares.mean() - delta) < 4 * squares.std() / 200**0.5


def test_uncertified_points_are_counted(key, monkeypatch):
    run = lambda cone: uncertified_fraction(cone, key=key, num_samples=2000)
    cone = PolyhedralCone(jnp.eye(3))
    assert jax.jit(run)(cone).mean == 0
    # Given no time, only points of the polar have a projection that is known.
    monkeypatch.setattr(_nnls, "_ROUNDS", 0)
    result = jax.jit(lambda cone: run(cone))(cone)
    assert abs(result.mean - 7 / 8) < 4 * result.stderr
    assert result.stderr < 0.01


def test_gradients_are_those_of_the_projection(key):
    with jax.enable_x64(True):
        vectors = jax.random.normal(jax.random.key(8), (5, 4))
        g = jax.random.normal(key, (4,))
        step = jax.random.normal(jax.random.key(10), (5, 4))
        along = jax.random.normal(jax.random.key(11), (4,))
        run = jax.jit(lambda v, g: PolyhedralCone(v).project(g))
        forward = jax.jit(lambda x, dx: jax.jvp(run, x, dx)[1])
        tangent = forward((vectors, g), (step, along))
        ends = [run(vectors + h * step, g + h * along) for h in (1e-6, -1e-6)]
        np.testing.assert_allclose(tangent, (ends[0] - ends[1]) / 2e-6, atol=1e-7)
        value = jax.jit(lambda v: PolyhedralCone(v).squared_norm(g))
        slope = jnp.sum(jax.jit(jax.grad(value))(vectors) * step)
        ends = [value(vectors + h * step) for h in (1e-6, -1e-6)]
        np.testing.assert_allclose(slope, (ends[0] - ends[1]) / 2e-6, rtol=1e-6)
        degenerate = jnp.asarray(generators("equal, zero and tiny"))
        total = lambda v: jnp.sum(PolyhedralCone(v).project(jnp.ones(12)))
        assert np.all(np.isfinite(jax.jit(jax.grad(total))(degenerate)))


def test_refusals_are_sentences(key):
    with pytest.raises(ValueError, match="at least one row"):
        PolyhedralCone(jnp.ones((0, 3))).project(jnp.ones(3))
    cone = PolyhedralCone(jnp.array([[jnp.nan, 1.0]]))
    with pytest.raises(ValueError, match="hold numbers that are not finite"):
        statistical_dimension(cone, key=key, num_samples=4)
    for gram, match in (
        ([[1.0, 2.0], [0.0, 1.0]], "not symmetric"),
        ([[1.0, 2.0], [2.0, 1.0]], "has an eigenvalue"),
        ([[1.0, np.inf], [np.inf, 1.0]], "not finite"),
    ):
        with pytest.raises(ValueError, match=match):
            PolyhedralCone.from_gram(jnp.array(gram))
