"""Statistical dimensions against what is known exactly."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmerge.geometry import (
    CircularCone,
    EllipsoidalCone,
    L1DescentCone,
    LinearSubspace,
    LInfDescentCone,
    MonotoneCone,
    NuclearDescentCone,
    Orthant,
    Polar,
    PolyhedralCone,
    ProductCone,
    PSDCone,
    SecondOrderCone,
    circular_dimension,
    exact_dimension,
    intrinsic_volumes,
    l1_descent_dimension,
    projection_moments,
    statistical_dimension,
    volumes_variance,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

STATIC = ("num_samples", "method", "batch_bytes", "mesh")
moments = jax.jit(projection_moments, static_argnames=STATIC)
dimension = jax.jit(statistical_dimension, static_argnames=STATIC)


def l_inf_descent(d, s):
    return LInfDescentCone(jnp.where(jnp.arange(d) < s, -1.0, 0.5))


def random_subspace(k, d):
    basis, _ = jnp.linalg.qr(jax.random.normal(jax.random.key(1), (d, k)))
    return LinearSubspace(basis.T)


# The cone, its dimension, the variance of its random dimension, samples.
ROWS = {
    "subspace": (lambda: random_subspace(20, 50), 20, 0, 8000),
    "orthant": (lambda: Orthant(60), 30, 15, 8000),
    "circular 10": (lambda: CircularCone(10, math.pi / 6), 2.98355, None, 8000),
    "circular 50": (lambda: CircularCone(50, math.pi / 6), 13.0, 18, 8000),
    "circular wide": (lambda: CircularCone(50, math.pi / 3), 37.0, 18, 8000),
    "circular 500": (lambda: CircularCone(500, math.pi / 6), 125.5, 186.75, 4000),
    "second-order": (lambda: SecondOrderCone(10), 5, None, 8000),
    "semidefinite": (lambda: PSDCone(12), 39, None, 4000),
    "monotone 10": (lambda: MonotoneCone(10), 2.92897, 1.37922, 8000),
    "monotone 100": (lambda: MonotoneCone(100), 5.18738, 3.55240, 4000),
    "nonnegative": (lambda: MonotoneCone(10, True), 1.464484, 1.077041, 8000),
    "l_inf descent": (lambda: l_inf_descent(100, 30), 85, 7.5, 8000),
    "product": (
        lambda: ProductCone((Orthant(10), Polar(MonotoneCone(10)))),
        5 + 10 - 2.92897,
        2.5 + 1.37922,
        8000,
    ),
}
LONG = ("monotone 100", "circular wide", "product")


@pytest.mark.parametrize(
    ("row", "x64"),
    [
        pytest.param(row, x64, marks=[pytest.mark.slow] * (x64 and row in LONG))
        for row in ROWS
        for x64 in (False, True)
    ],
)
def test_rows_of_known_dimension(row, x64, key):
    make, delta, variance, num_samples = ROWS[row]
    with jax.enable_x64(x64):
        cone = make()
        result = moments(cone, key=key, num_samples=num_samples)
        assert result.dimension.mean.dtype == (jnp.float64 if x64 else jnp.float32)
        error = float(result.dimension.mean) - delta
        # The expected values have five digits.
        assert abs(error) < 4 * float(result.dimension.stderr) + 1e-4
        if variance is not None:
            error = float(result.variance.mean) - variance
            assert abs(error) < 4 * float(result.variance.stderr) + 1e-4
        known = exact_dimension(cone)
        assert known is not None
        np.testing.assert_allclose(known, delta, rtol=1e-5)
        if variance is not None and row != "semidefinite":
            found = volumes_variance(intrinsic_volumes(cone))
            np.testing.assert_allclose(found, variance, rtol=1e-4, atol=1e-12)


def test_the_spread_of_the_semidefinite_cone(key):
    result = moments(PSDCone(12), key=key, num_samples=4000)
    # (4 / pi^2 - 1/4) n^2 = 22.4, up to lower orders.
    assert abs(result.variance.mean - 22.8) < 4 * result.variance.stderr + 1
    assert result.variance.stderr < 3


IN_FLOAT64 = pytest.mark.parametrize(
    "x64", [False, pytest.param(True, marks=pytest.mark.slow)]
)


@IN_FLOAT64
def test_nuclear_descent_cones(x64, key):
    with jax.enable_x64(x64):
        result = dimension(NuclearDescentCone(20, 40, 4), key=key, num_samples=400)
        # The formula is that of large matrices; measured, 1 to 1.5 above it.
        assert abs(result.mean - (380.22 + 1.2)) < 4 * result.stderr + 1
        assert result.stderr < 1.5


@IN_FLOAT64
def test_l1_descent_cones_lie_under_the_curve(x64, key):
    with jax.enable_x64(x64):
        check_l1_descent_cones(key)


def check_l1_descent_cones(key):
    expected = {5: 19.851, 10: 32.337, 20: 50.516, 30: 63.877, 50: 82.359, 70: 93.303}
    points = jnp.stack([jnp.where(jnp.arange(100) < s, 1.0, 0.0) for s in expected])
    run = lambda point: statistical_dimension(
        L1DescentCone(point), key=key, num_samples=4000
    )
    result = jax.jit(jax.vmap(run))(points)
    known = np.array(list(expected.values()))
    # Known to 0.04 itself.
    assert np.all(np.abs(result.mean - known) < 4 * result.stderr + 0.15)
    above = 100 * l1_descent_dimension(jnp.array(list(expected)) / 100) - known
    assert np.all((above > 0.4) & (above < 1.0))


@pytest.mark.parametrize("x64", [False, True])
def test_the_l1_curve(x64):
    table = {0.01: 0.06124396, 0.05: 0.20389986, 0.1: 0.32879351, 0.2: 0.51112961}
    table |= {0.3: 0.64557229, 0.5: 0.83129991, 0.7: 0.94156366, 0.9: 0.99362023}
    with jax.enable_x64(x64):
        rho = jnp.array([0.0, *table, 1.0])
        psi, slope = jax.jit(jax.vmap(jax.value_and_grad(l1_descent_dimension)))(rho)
        expected = [0.0, *table.values(), 1.0]
        np.testing.assert_allclose(psi, expected, atol=1e-8 if x64 else 2e-6)
        assert np.all(np.isfinite(slope))
        if x64:
            ends = jax.jit(l1_descent_dimension)(0.2 + jnp.array([1e-5, -1e-5]))
            np.testing.assert_allclose(slope[4], (ends[0] - ends[1]) / 2e-5, rtol=1e-6)


@pytest.mark.parametrize("x64", [False, True])
def test_the_circular_dimension_is_its_volumes_mean(x64):
    with jax.enable_x64(x64):
        angles = jnp.array([0.0, 0.1, math.pi / 6, math.pi / 3, 1.5, math.pi / 2])
        for d in (2, 500) if x64 else (3, 10):
            found = jax.jit(circular_dimension, static_argnums=0)(d, angles)
            known = [exact_dimension(CircularCone(d, a)) for a in angles.tolist()]
            np.testing.assert_allclose(found, known, rtol=1e-9 if x64 else 2e-5)
        huge = jax.jit(circular_dimension, static_argnums=0)(10**9, 0.5)
        expected = 1e9 * math.sin(0.5) ** 2 + math.cos(1)
        np.testing.assert_allclose(huge, expected, rtol=1e-9 if x64 else 2e-5)


def test_radial_samples_say_more(key):
    cone = CircularCone(10, 0.6)
    radial = moments(cone, key=key, num_samples=8000)
    plain = moments(cone, key=key, num_samples=8000, method="plain")
    assert plain.dimension.stderr > 1.15 * radial.dimension.stderr
    assert (radial.dimension.method, radial.dimension.num_samples) == ("radial", 8000)
    variance = volumes_variance(intrinsic_volumes(cone))
    for result in (radial, plain):
        assert abs(result.variance.mean - variance) < 4 * result.variance.stderr
        assert result.variance.stderr < 0.4
    single = dimension(cone, key=key, num_samples=8000)
    np.testing.assert_allclose(single.mean, radial.dimension.mean, rtol=1e-6)


@pytest.mark.parametrize("name", ["rays", "monotone", "ellipsoidal", "l1"])
@pytest.mark.slow
def test_neither_mesh_nor_chunks_change_samples(name, key):
    normal = jax.random.normal(jax.random.key(3), (5, 8))
    cone = {
        "rays": PolyhedralCone(normal),
        "monotone": MonotoneCone(6),
        "ellipsoidal": EllipsoidalCone(jnp.abs(normal[0]), jnp.eye(9)),
        "l1": L1DescentCone(jnp.maximum(normal[0], 0.0)),
    }[name]
    whole = dimension(cone, key=key, num_samples=33)
    settings: list[dict] = [{"batch_bytes": 4000}] if name == "monotone" else []
    for size in (1, 2, 8) if name == "monotone" else (8,):
        mesh = jax.make_mesh((size,), ("x",), devices=jax.devices()[:size])
        settings.append({"mesh": mesh, "batch_bytes": 4000})
    for setting in settings:
        other = dimension(cone, key=key, num_samples=33, **setting)
        np.testing.assert_allclose(other.mean, whole.mean, rtol=3e-6)
        np.testing.assert_allclose(other.stderr, whole.stderr, rtol=3e-6)


def test_gradients_follow_the_angle(key):
    with jax.enable_x64(True):
        run = lambda angle: (
            dimension(CircularCone(20, angle), key=key, num_samples=20000).mean
        )
        slope = jax.grad(run)(0.8)
        exact = jax.grad(lambda a: circular_dimension(20, a))(0.8)
        np.testing.assert_allclose(slope, exact, rtol=0.02)


def test_refusals_are_sentences(key):
    with pytest.raises(ValueError, match="method is 'sobol'"):
        statistical_dimension(Orthant(3), key=key, num_samples=4, method="sobol")
    with pytest.raises(
        ValueError, match=r"angle of the circular cone is 2.0; expected"
    ):
        statistical_dimension(CircularCone(3, 2.0), key=key, num_samples=4)
    cone = LinearSubspace(jnp.ones((2, 3)))
    with pytest.raises(ValueError, match="not orthonormal"):
        statistical_dimension(cone, key=key, num_samples=4)
    with pytest.raises(ValueError, match="1 samples have no standard error"):
        statistical_dimension(Orthant(3), key=key, num_samples=1)
    assert exact_dimension(PolyhedralCone(jnp.ones((1, 2)))) is None
    assert exact_dimension(Polar(L1DescentCone(jnp.ones(3)))) is None
    unknown = ProductCone((Orthant(2), L1DescentCone(jnp.ones(3))))
    assert exact_dimension(unknown) is None
