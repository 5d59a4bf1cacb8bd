"""Projections onto cones: Moreau's decomposition, and optimality, path by path."""

import functools
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
    ellipsoid_cone,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")


@jax.jit
def project(cone, points):
    return jax.vmap(cone.project)(points)


@jax.jit
def project_and_differentiate(cone, points):
    gradient = jax.vmap(jax.grad(cone.squared_norm))(points)
    return jax.vmap(cone.project)(points), gradient


@functools.cache
def cones(x64=False):
    numbers = np.random.default_rng(5).standard_normal((6, 7))
    normal = jnp.asarray(numbers, jnp.float64 if x64 else jnp.float32)
    basis = jnp.asarray(np.linalg.qr(numbers.T)[0], normal.dtype)
    signs = jnp.array([1.0, -2.0, 0.0, 0.0, 3.0, 0.0, 0.0])
    apex = jnp.array([2.0, 0.0, -1.0, 0.5, 1.0, 0.0, 2.0])
    return {
        "subspace": LinearSubspace(basis.T[:3]),
        "orthant": Orthant(7),
        "circular": CircularCone(7, 0.4),
        "circular about": CircularCone(7, 1.2, normal[0]),
        "second-order": SecondOrderCone(7),
        "monotone": MonotoneCone(7),
        "nonnegative": MonotoneCone(7, nonnegative=True),
        "semidefinite": PSDCone(3),
        "rays": PolyhedralCone(normal),
        "many rays": PolyhedralCone(normal[:, :4] + 0.8),
        "l1 descent": L1DescentCone(signs),
        "l_inf descent": LInfDescentCone(jnp.sign(signs)),
        "nuclear descent": NuclearDescentCone(4, 3, 1),
        "ellipsoidal": EllipsoidalCone(jnp.array([0.1, 1.0, 3.0, 1.0, 1.0, 30.0])),
        "seen from": ellipsoid_cone(jnp.linspace(0.1, 1.0, 7), apex),
        "product": ProductCone((PSDCone(2), Polar(CircularCone(3, 0.7)))),
    }


# What each kind of program does in float64.
IN_FLOAT64 = (
    "circular",
    "monotone",
    "semidefinite",
    "many rays",
    "l1 descent",
    "seen from",
)


@pytest.mark.parametrize(
    ("name", "x64"),
    [(name, False) for name in cones()] + [(name, True) for name in IN_FLOAT64],
)
def test_moreau(name, x64):
    """g is the sum of its projections onto cone and polar, at a right angle.

    With `project(p) = p` and <p, g - p> = 0, and <q, g - p> <= 0 for the points q of
    the cone, p is the nearest point.
    """
    with jax.enable_x64(x64):
        cone = cones(x64)[name]
        g = 3 * jax.random.normal(jax.random.key(7), (50, *cone.shape))
        g = g.at[0].set(0.0)
        p, slope = project_and_differentiate(cone, g)
        p, slope = (np.asarray(x, np.float64).reshape(50, -1) for x in (p, slope))
        rest = np.asarray(g, np.float64).reshape(50, -1) - p
        rounding = 300 * (2.0**-52 if x64 else 2.0**-23)
        size = np.linalg.norm(g.reshape(50, -1), axis=1)
        assert np.all(np.isfinite(p))
        assert np.all(p[0] == 0)
        assert np.all(np.abs(np.sum(p * rest, axis=1)) <= rounding * size**2)
        assert np.max(p @ rest.T - rounding * np.outer(size, size)) <= 0
        # The gradient of |p|^2 is 2 p, also where g is 0 (but the singular vectors of 0
        # have no derivative).
        some = slice(1 if name == "nuclear descent" else 0, None)
        np.testing.assert_allclose(slope[some], 2 * p[some], atol=rounding * size.max())
        again, _ = project_and_differentiate(
            cone, jnp.asarray(p, g.dtype).reshape(g.shape)
        )
        np.testing.assert_allclose(again.reshape(50, -1), p, atol=rounding * size.max())
        # Not all of them are trivial.
        assert 0 < np.mean(p**2) < np.mean(g**2)


def test_a_polar_has_what_the_cone_leaves(key):
    cone = CircularCone(5, 0.6)
    g = jax.random.normal(key, (20, 5))
    squares = jax.vmap(lambda x: cone.squared_norm(x) + Polar(cone).squared_norm(x))(g)
    np.testing.assert_allclose(squares, np.sum(np.square(g), axis=1), rtol=1e-6)
    np.testing.assert_allclose(
        project(Polar(Polar(cone)), g), project(cone, g), atol=1e-6
    )
    # The polar of a circular cone is one about the opposite axis.
    opposite = CircularCone(5, math.pi / 2 - 0.6, -jnp.eye(5)[0])
    np.testing.assert_allclose(project(opposite, g), project(Polar(cone), g), atol=1e-6)


def test_circular_cones_from_a_ray_to_a_half_space(key):
    g = jax.random.normal(key, (20, 4))
    ray = project(CircularCone(4, 0.0), g)
    np.testing.assert_allclose(ray, np.maximum(g, 0) * np.eye(4)[0], atol=1e-6)
    half = np.asarray(g).copy()
    half[:, 0] = np.maximum(half[:, 0], 0)
    np.testing.assert_allclose(
        project(CircularCone(4, math.pi / 2), g), half, atol=1e-6
    )
    line = project(CircularCone(1, 0.3), jnp.array([[2.0], [-2.0]]))
    np.testing.assert_array_equal(line, [[2.0], [0.0]])
    round_one = EllipsoidalCone(jnp.full(3, math.tan(0.6)))
    np.testing.assert_allclose(
        project(round_one, g), project(CircularCone(4, 0.6), g), atol=2e-6
    )


@pytest.mark.parametrize("nonnegative", [False, True])
def test_monotone_fits_are_the_means_of_the_minmax_formula(nonnegative, key):
    g = np.round(np.asarray(jax.random.normal(key, (30, 12))) * 2) / 2  # with ties
    sums = np.cumsum(np.pad(g, ((0, 0), (1, 0))), axis=1)
    expected = np.zeros_like(g)
    for i in range(12):
        least = [
            np.min([(sums[:, k] - sums[:, j]) / (k - j) for k in range(i + 1, 13)], 0)
            for j in range(i + 1)
        ]
        expected[:, i] = np.max(least, axis=0)
    expected = np.maximum(expected, 0) if nonnegative else expected
    fit = project(MonotoneCone(12, nonnegative), jnp.asarray(g))
    np.testing.assert_allclose(fit, expected, atol=1e-6)
    one = project(MonotoneCone(1), jnp.array([[-2.0]]))
    np.testing.assert_array_equal(one, [[-2.0]])


def test_semidefinite_derivatives_survive_repeated_eigenvalues():
    with jax.enable_x64(True):
        cone = PSDCone(3)
        for matrix in (jnp.eye(3), jnp.zeros((3, 3)), -jnp.eye(3)):
            slope = jax.grad(lambda x: jnp.sum(cone.project(x)))(matrix)
            assert np.all(np.isfinite(slope))
        g = jax.random.normal(jax.random.key(2), (3, 3))
        step = jax.random.normal(jax.random.key(3), (3, 3))
        _, tangent = jax.jvp(cone.project, (g,), (step,))
        ends = [cone.project(g + h * step) for h in (1e-6, -1e-6)]
        np.testing.assert_allclose(tangent, (ends[0] - ends[1]) / 2e-6, atol=1e-8)


def test_refusals_are_sentences():
    g = jnp.ones(3)
    with pytest.raises(
        ValueError, match=r"Orthant holds points of shape \(2,\); g has"
    ):
        Orthant(2).project(g)
    with pytest.raises(TypeError, match="a projection needs floats"):
        Orthant(3).project(jnp.arange(3))
    with pytest.raises(ValueError, match=r"axis of the circular cone has shape \(2,\)"):
        CircularCone(3, 0.5, jnp.ones(2)).project(g)
    with pytest.raises(ValueError, match="expected a nonzero finite vector"):
        CircularCone(3, 0.5, jnp.zeros(3)).project(g)
    with pytest.raises(ValueError, match="expected radians"):
        CircularCone(3, math.nan).project(g)
    with pytest.raises(ValueError, match="a basis vector in each row"):
        LinearSubspace(g).project(g)
    with pytest.raises(ValueError, match="semi-axis is .*; expected positive"):
        EllipsoidalCone(jnp.array([1.0, 0.0])).project(g)
    with pytest.raises(
        ValueError, match=r"basis has shape \(2, 2\); expected \(3, 3\)"
    ):
        EllipsoidalCone(jnp.ones(2), jnp.eye(2)).project(g)
    with pytest.raises(ValueError, match="the rank is 3; expected 1 to 2"):
        NuclearDescentCone(2, 4, 3).project(jnp.ones((2, 4)))
    with pytest.raises(ValueError, match=r"the point has shape \(\)"):
        L1DescentCone(jnp.ones(())).project(g)
    with pytest.raises(ValueError, match="the point is .*; expected finite"):
        L1DescentCone(jnp.array([jnp.nan, 0.0, 1.0])).project(g)
