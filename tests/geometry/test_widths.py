"""Gaussian widths against what is known: formulas, published values, other methods."""

import collections
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxmerge import geometry as geo
from jaxmerge.geometry._normals import normal

KEY = jax.random.key(20261122)
_RNG = np.random.default_rng(0)


@pytest.fixture
def quick():
    """Compiles without optimizing: for tests that compile longer than they run."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def unit_rows(num: int, dimension: int) -> np.ndarray:
    rows = np.random.default_rng(1).standard_normal((num, dimension))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def orthonormal_rows(num: int, dimension: int) -> np.ndarray:
    return np.linalg.qr(_RNG.standard_normal((dimension, num)))[0].T


def union_of_balls(num: int, cast) -> geo.ConvexUnion:
    return geo.ConvexUnion(
        tuple(geo.Subspace(cast(orthonormal_rows(16, 512))) for _ in range(num))
    )


# A set, its width (from the theory, not from this code), how far the value may be off
# besides the standard error (asymptotic values), and a number of samples.
KNOWN = {
    "ball 10": (lambda a: geo.Ball(10), 3.084328, 0, 8000),
    "ball 100": (lambda a: geo.Ball(100), 9.975032, 0, 4000),
    "ball 1000": (lambda a: geo.Ball(1000), 31.614872, 0, 2000),
    "subspace": (lambda a: geo.Subspace(a(orthonormal_rows(7, 32))), 2.553231, 0, 8000),
    "cube": (lambda a: geo.Box(a(np.ones(100))), 79.788456, 0, 4000),
    "cube at a corner": (
        lambda a: geo.Translate(geo.Box(a(np.full(100, 0.5))), a(np.full(100, 0.5))),
        39.894228,
        0,
        4000,
    ),
    "l1 10": (lambda a: geo.LpBall(10, 1.0), 1.880716, 0, 8000),
    "l1 1000": (lambda a: geo.LpBall(1000, 1.0), 3.435410, 0, 2000),
    "simplex 2": (lambda a: geo.Simplex(2), 0.564190, 0, 8000),
    "simplex 5": (lambda a: geo.Simplex(5), 1.162964, 0, 8000),
    "simplex 100": (lambda a: geo.Simplex(100), 2.507594, 0, 4000),
    "hull of random vectors": (
        lambda a: geo.Hull(a(unit_rows(16, 2000))),
        1.7660,
        0.02,  # they are only nearly orthogonal
        1000,
    ),
    "equicorrelated .3": (
        lambda a: geo.Hull.from_gram(a(geo.equicorrelated(32, 0.3))),
        1.731609,
        0,
        8000,
    ),
    "equicorrelated .8": (
        lambda a: geo.Hull.from_gram(a(geo.equicorrelated(32, 0.8))),
        0.925584,
        0,
        8000,
    ),
    "segment": (lambda a: geo.SymmetricHull(a([[3.0, 4.0]])), 3.989423, 0, 8000),
    "half segment": (
        lambda a: geo.Zonotope(a([[3.0, 4.0]]), symmetric=False),
        1.994711,
        0,
        8000,
    ),
    "zonotope": (
        lambda a: geo.Zonotope(a(2.0 * unit_rows(12, 20))),
        24 * math.sqrt(2 / math.pi),
        0,
        8000,
    ),
    "l1.5 200": (lambda a: geo.LpBall(200, 1.5), 6.8153, 0.004, 4000),
    "l4/3 200": (lambda a: geo.LpBall(200, 4 / 3), 4.9245, 0.006, 4000),
    "ellipsoid 1/i": (
        lambda a: geo.Ellipsoid(a(1 / np.arange(1, 51))),
        1.178207,
        0,
        8000,
    ),
    "ellipsoid 2^-i": (
        lambda a: geo.Ellipsoid(a(0.5 ** np.arange(1, 21))),
        0.510702,
        0,
        8000,
    ),
    "sparse 10": (lambda a: geo.SparseBall(1000, 10), 9.135, 0.016, 2000),
    "sparse 100": (lambda a: geo.SparseBall(1000, 100), 20.934, 0.024, 2000),
    "groups": (lambda a: geo.GroupL1Ball(50, 20), 6.071832, 0, 4000),
    "nuclear 40": (lambda a: geo.NuclearBall(40, 40), 12.170, 0.044, 400),
    "nuclear 30x60": (lambda a: geo.NuclearBall(30, 60), 12.725, 0.044, 400),
    "operator 40": (lambda a: geo.OperatorBall(40, 40), 214.07, 0.44, 400),
    "spectraplex": (lambda a: geo.Spectraplex(40), 8.417, 0.052, 400),
    "union of balls": (lambda a: union_of_balls(4, a), 4.663, 0.036, 2000),
    "span of a union": (
        lambda a: geo.SpanBall(a(orthonormal_rows(64, 512))),
        7.969,
        0.001,
        2000,
    ),
}


@functools.cache
def known_samples(wide: bool, few: bool) -> dict[str, np.ndarray]:
    """Samples of the sets with few or many of them, those of one space together."""
    spaces = collections.defaultdict(dict)
    samples = {}
    with jax.enable_x64(wide):
        cast = lambda x: jnp.asarray(np.asarray(x), jnp.float64 if wide else None)
        for name, (make, _, _, num) in KNOWN.items():
            if (num <= 1000) == few:
                known = make(cast)
                spaces[known.shape, num][name] = known
        for (_, num), sets in spaces.items():
            columns = geo.width_samples(list(sets.values()), key=KEY, num_samples=num)
            samples |= dict(zip(sets, np.asarray(columns, np.float64).T, strict=True))
    return samples


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("name", "wide"),
    [
        pytest.param(name, wide, marks=[pytest.mark.slow] * (wide and num <= 1000))
        for name, (_, _, _, num) in KNOWN.items()
        for wide in (False, True)
    ],
)
def test_width_is_the_known_one(name: str, wide: bool):
    _, known, slack, num = KNOWN[name]
    samples = known_samples(wide, num <= 1000)[name]
    assert samples.shape == (num,)
    stderr = samples.std(ddof=1) / math.sqrt(num)
    assert abs(samples.mean() - known) < 4 * stderr + slack + 2e-6 * known


WITHOUT_FORMULA = {
    *("hull of random vectors", "equicorrelated .3", "equicorrelated .8", "l1.5 200"),
    *("l4/3 200", "sparse 10", "sparse 100", "nuclear 40", "nuclear 30x60"),
    *("operator 40", "spectraplex", "union of balls"),
}


@pytest.mark.parametrize(
    "name", [name for name in KNOWN if name not in WITHOUT_FORMULA]
)
def test_formulas_agree_with_the_known_widths(name: str):
    make, known, slack, _ = KNOWN[name]
    width = geo.exact_width(make(jnp.asarray))
    assert width == pytest.approx(known, abs=max(slack, 2e-6))


@pytest.mark.parametrize("name", sorted(WITHOUT_FORMULA))
def test_where_no_formula_is_known_a_sentence_says_so(name: str):
    with pytest.raises(TypeError, match="estimate it with gaussian_width"):
        geo.exact_width(KNOWN[name][0](jnp.asarray))


def test_quadratures_far_out():
    known = {10**6: 4.9986, 2**24: 5.5181, 10**8: 5.8242, 10**9: 6.1978}
    for dimension, width in known.items():
        assert geo.max_of_magnitudes(dimension) == pytest.approx(width, abs=1e-4)
    expected = [0, 0.56419, 0.846284, 1.029375, 1.162964, 1.267206, 1.352178, 1.4236]
    found = [geo.max_of_normals(n) for n in range(1, 9)]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    chi = [0.797885, 1.253314, 1.595769, 1.879971, 2.127692, 2.349964, 2.553231]
    np.testing.assert_allclose([geo.chi_mean(n) for n in range(1, 8)], chi, atol=1e-6)
    assert geo.chi_mean(10**6) == pytest.approx(geo.chi_mean(10**6 + 1), rel=1e-6)


def test_the_quadratures_of_weighted_and_repeated_axes_agree():
    axes = jnp.array([2.0, 2.0, 1.0, 0.0])
    assert geo.exact_width(geo.WeightedL1Ball(2 * jnp.ones(50))) == pytest.approx(
        2 * geo.max_of_magnitudes(50), rel=1e-9
    )
    assert geo.ellipsoid_width(axes) == pytest.approx(
        geo.ellipsoid_width(np.array([2.0, 1.0]), np.array([2, 1])), rel=1e-12
    )


# --- sets as sets


def every_set() -> dict[str, geo.ConvexSet]:
    vectors = jnp.asarray(_RNG.standard_normal((5, 6)), jnp.float32)
    axes = jnp.asarray(_RNG.uniform(0.5, 2.0, 6), jnp.float32)
    hessian = jnp.diag(axes) + 0.1
    low_rank = geo.LowRankHessian(
        0.5, jnp.asarray(orthonormal_rows(2, 6).T, jnp.float32), jnp.array([3.0, 1.0])
    )
    return {
        "ball": geo.Ball(6, 2.0),
        "subspace": geo.Subspace(jnp.asarray(orthonormal_rows(3, 6), jnp.float32)),
        "box": geo.Box(axes),
        "l1": geo.LpBall(6, 1.0, 3.0),
        "l1.5": geo.LpBall(6, 1.5),
        "linf": geo.LpBall(6, math.inf),
        "weighted l1": geo.WeightedL1Ball(axes),
        "simplex": geo.Simplex(6),
        "ellipsoid": geo.Ellipsoid(axes),
        "sparse": geo.SparseBall(6, 2),
        "hull": geo.Hull(vectors),
        "symmetric hull": geo.SymmetricHull(vectors),
        "zonotope": geo.Zonotope(vectors),
        "half zonotope": geo.Zonotope(vectors, symmetric=False),
        "span": geo.SpanBall(vectors),
        "groups": geo.GroupL1Ball(2, 3),
        "nuclear": geo.NuclearBall(2, 3),
        "operator": geo.OperatorBall(2, 3),
        "spectraplex": geo.Spectraplex(3),
        "well, diagonal": geo.QuadraticSublevel(vectors[0], axes, 0.3),
        "well, dense": geo.QuadraticSublevel(vectors[0], hessian, 0.3),
        "well, low rank": geo.QuadraticSublevel(vectors[0], low_rank, 0.3),
        "scaled": geo.Scale(geo.Simplex(6), -2.0),
        "moved": geo.Translate(geo.Box(axes), vectors[1]),
        "image": geo.LinearImage(geo.LpBall(5, 1.0), vectors.T),
        "sum": geo.MinkowskiSum((geo.Ball(6), geo.Hull(vectors))),
        "union": geo.ConvexUnion((geo.Ball(6), geo.Hull(vectors))),
        "difference": geo.Difference(geo.Hull(vectors)),
        "product": geo.Product((geo.Ball(2), geo.NuclearBall(2, 2))),
    }


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", every_set())
def test_support_points_support(name: str):
    """The support point is in the set (no direction rises above h), and attains h."""
    s = every_set()[name]
    directions = jax.random.normal(KEY, (40, *s.shape))
    zero = jnp.zeros(s.shape)

    @jax.jit
    def measure(s, g):
        return (
            jax.vmap(s.support)(g),
            jax.vmap(s.support_point)(g),
            jax.vmap(s.support)(2 * g),
            s.support(zero),
            jax.grad(s.support)(zero),
            s.radius,
        )

    heights, points, doubled, at_zero, gradient, radius = measure(s, directions)
    flat = np.reshape(points, (40, -1)), np.reshape(directions, (40, -1))
    products = flat[0] @ flat[1].T
    np.testing.assert_allclose(np.diagonal(products), heights, rtol=2e-5, atol=1e-5)
    assert np.all(products <= heights[None, :] + 1e-4 * (1 + np.abs(heights)))
    assert np.all(np.linalg.norm(flat[0], axis=1) <= float(radius) * (1 + 1e-5))
    np.testing.assert_allclose(doubled, 2 * heights, rtol=1e-5, atol=1e-5)
    assert float(at_zero) == 0.0
    if name not in ("nuclear", "operator", "spectraplex", "product"):
        assert np.all(np.isfinite(gradient))


@pytest.mark.usefixtures("quick")
def test_low_rank_well_is_the_dense_one():
    vectors = jnp.asarray(orthonormal_rows(2, 6).T, jnp.float32)
    values = jnp.array([3.0, -0.2])
    thin = geo.LowRankHessian(0.5, vectors, values)
    dense = 0.5 * jnp.eye(6) + (vectors * values) @ vectors.T
    g, center = jnp.arange(6.0), jnp.ones(6)
    one = geo.QuadraticSublevel(center, thin, 0.3)
    two = geo.QuadraticSublevel(center, dense, 0.3)
    np.testing.assert_allclose(one.support(g), two.support(g), rtol=1e-5)
    np.testing.assert_allclose(one.radius, two.radius, rtol=1e-5)


def test_a_direction_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"Ball holds points of shape \(3,\)"):
        geo.Ball(3).support(jnp.ones(4))
    with pytest.raises(ValueError, match="sets in one space"):
        geo.MinkowskiSum((geo.Ball(3), geo.Ball(4))).support(jnp.ones(3))
    with pytest.raises(ValueError, match="needs at least one set"):
        geo.ConvexUnion(()).support(jnp.ones(3))
    with pytest.raises(ValueError, match="convex from p = 1 on"):
        geo.LpBall(3, 0.5).support(jnp.ones(3))
    with pytest.raises(ValueError, match="expected 1 to 3 entries"):
        geo.SparseBall(3, 0).support(jnp.ones(3))
    with pytest.raises(ValueError, match="a Gram matrix is square"):
        geo.Hull.from_gram(jnp.ones((2, 3)))


# --- the algebra of widths, sample by sample


def samples(sets, **kwargs):
    return geo.width_samples(sets, key=KEY, num_samples=64, **kwargs)


@pytest.mark.usefixtures("quick")
def test_widths_obey_their_algebra_in_every_direction():
    vectors = jnp.asarray(_RNG.standard_normal((5, 6)), jnp.float32)
    a, b = geo.Hull(vectors), geo.Ellipsoid(jnp.arange(1.0, 7.0))
    pool = [
        *(a, b, geo.MinkowskiSum((a, b)), geo.ConvexUnion((a, b))),
        *(
            geo.Scale(a, 3.0),
            geo.Difference(a),
            geo.LpBall(6, 1.0),
            geo.SparseBall(6, 1),
        ),
    ]
    h = samples(pool)
    np.testing.assert_array_equal(h[:, 2], h[:, 0] + h[:, 1])
    np.testing.assert_array_equal(h[:, 3], np.maximum(h[:, 0], h[:, 1]))
    np.testing.assert_allclose(h[:, 4], 3 * h[:, 0], rtol=1e-5, atol=1e-6)
    assert np.all(h[:, 5] >= 0)
    np.testing.assert_allclose(h[:, 6], h[:, 7], rtol=1e-5)
    turned = geo.Hull(vectors @ jnp.asarray(orthonormal_rows(6, 6), jnp.float32))
    width = geo.gaussian_width(turned, key=KEY, num_samples=4000)
    other = geo.gaussian_width(a, key=jax.random.key(1), num_samples=4000)
    error = math.hypot(float(width.stderr), float(other.stderr))
    assert abs(float(width.mean - other.mean)) < 4 * error


def test_hulls_of_a_gram_matrix_have_the_law_of_the_vectors():
    vectors = jnp.asarray(_RNG.standard_normal((6, 400)), jnp.float32)
    full = [
        c(vectors) for c in (geo.Hull, geo.SymmetricHull, geo.Zonotope, geo.SpanBall)
    ]
    small = [s.compressed() for s in full]
    draw = functools.partial(geo.width_samples, num_samples=2000, method="plain")
    direct, compressed = draw(full, key=KEY), draw(small, key=jax.random.key(3))
    for i, (a, b) in enumerate(zip(full, small, strict=True)):
        assert b.shape == (6,)
        assert stats.ks_2samp(direct[:, i], compressed[:, i]).pvalue > 1e-3
        np.testing.assert_allclose(b.radius, a.radius, rtol=1e-5)


@pytest.mark.usefixtures("quick")
def test_a_singular_gram_matrix_has_no_direction_too_many():
    vectors = jnp.ones((4, 3)) * jnp.array([1.0, 2.0, 3.0, 0.0])[:, None]
    rows = geo.gram_factor(vectors @ vectors.T)
    np.testing.assert_allclose(rows @ rows.T, vectors @ vectors.T, rtol=1e-5)
    assert int(np.linalg.matrix_rank(rows, tol=1e-4)) == 1
    zero = geo.Hull.from_gram(jnp.zeros((3, 3)))
    assert float(geo.gaussian_width(zero, key=KEY, num_samples=8).mean) == 0.0


def test_radial_and_plain_agree_and_radial_is_tighter():
    s = geo.Box(jnp.ones(10))
    plain = geo.gaussian_width(s, key=KEY, num_samples=4000, method="plain")
    radial = geo.gaussian_width(s, key=KEY, num_samples=4000)
    assert radial.method == "radial"
    assert float(radial.stderr) < 0.5 * float(plain.stderr)
    assert abs(float(plain.mean - radial.mean)) < 4 * float(plain.stderr)
    bound = float(geo.width_error_bound(s, 4000, 0.01))
    assert abs(float(plain.mean) - geo.exact_width(s)) < bound
    with pytest.raises(ValueError, match='expected "radial" or "plain"'):
        geo.gaussian_width(s, key=KEY, num_samples=4, method="polar")
    with pytest.raises(ValueError, match="no standard error"):
        geo.gaussian_width(s, key=KEY, num_samples=1)


@pytest.mark.usefixtures("quick")
def test_neither_mesh_nor_chunks_change_the_samples():
    s = [geo.Hull(jnp.asarray(unit_rows(4, 32), jnp.float32)), geo.LpBall(32, 1.0)]
    reference = samples(s)
    for batch_bytes in (1, 5000):  # by default one batch holds them all
        np.testing.assert_allclose(
            samples(s, batch_bytes=batch_bytes), reference, rtol=0, atol=1e-6
        )
    for devices in (1, 2, 8):
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]), ("samples",))
        np.testing.assert_allclose(samples(s, mesh=mesh), reference, atol=1e-6)
    fewer = geo.width_samples(s, key=KEY, num_samples=7)
    np.testing.assert_allclose(fewer, reference[:7], atol=1e-6)


@pytest.mark.usefixtures("quick")
def test_widths_are_jitted_vmapped_and_differentiated():
    draw = lambda scale: (
        geo.gaussian_width(
            geo.Scale(geo.Simplex(4), scale), key=KEY, num_samples=100
        ).mean
    )
    at_one = float(draw(1.0))
    np.testing.assert_allclose(jax.jit(draw)(2.0), 2 * at_one, rtol=1e-6)
    np.testing.assert_allclose(
        jax.vmap(draw)(jnp.array([1.0, 3.0])), [at_one, 3 * at_one], rtol=1e-6
    )
    np.testing.assert_allclose(jax.grad(draw)(2.0), at_one, rtol=1e-5)


def test_extreme_normals_reach_as_far_as_they_should():
    """At 2^24 coordinates jax.random.normal would give 5.36 on average, not 5.52."""
    shape, single = (2**22,), jnp.dtype(jnp.float32)
    draw = jax.jit(lambda key: normal(key, shape, single, extreme=True))
    values = [draw(jax.random.fold_in(KEY, i)) for i in range(8)]
    largest = np.array([float(jnp.max(jnp.abs(v))) for v in values])
    expected = geo.max_of_magnitudes(2**22)
    assert abs(largest.mean() - expected) < 4 * largest.std(ddof=1) / math.sqrt(8)
    z = np.asarray(values[0], np.float64)
    assert abs(z.mean()) < 4 / math.sqrt(z.size)
    assert abs((z**2).mean() - 1) < 4 * math.sqrt(2 / z.size)
    assert abs((z**4).mean() - 3) < 4 * math.sqrt(96 / z.size)
    assert stats.kstest(z[:100_000], "norm").pvalue > 1e-3


def test_the_widest_l1_ball_is_wide_enough():
    """A10 of the theory: 5.639 at 2^25; clipped tails give 5.420."""
    one = jax.jit(
        lambda key: geo.width_samples(
            geo.LpBall(2**25, 1.0), key=key, num_samples=1, method="plain"
        )[0]
    )
    runs = [float(one(jax.random.fold_in(KEY, i))) for i in range(5)]
    assert np.median(runs) == pytest.approx(5.6388, abs=0.25)
    assert max(runs) > 5.45
