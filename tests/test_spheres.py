"""NuSLERP, Multi-SLERP, Karcher and NearSwap where directions fail them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmerge as J
from tests.reference import spheres as reference

pytestmark = pytest.mark.usefixtures("quick_compilation")

X = np.array([3.0, -1.0, 2.0], np.float32)
Y = np.array([1.0, 2.0, -0.5], np.float32)
ZERO = np.zeros(3, np.float32)


run = jax.jit(lambda merger, base, models: merger(base, models))
slope = jax.jit(jax.grad(lambda models, merger: jnp.sum(merger(None, models) ** 2)))


def merged(merger, *models, base=None):
    return np.asarray(run(merger, base, [jnp.asarray(x) for x in models]))


def assert_finite_gradient(merger, *models):
    gradient = slope([jnp.asarray(x) for x in models], merger)
    assert all(np.isfinite(g).all() for g in gradient)


# --- NuSLERP -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second"),
    [(X, -2 * X), (X, 2 * X), (X, X), (X, ZERO), (ZERO, X), (ZERO, ZERO)],
)
def test_nuslerp_is_a_straight_line_where_there_is_no_one_arc(first, second):
    merger = J.nuslerp(weights=(3.0, 1.0))
    expected = 0.75 * first + 0.25 * second
    np.testing.assert_allclose(merged(merger, first, second), expected, rtol=1e-6)
    assert_finite_gradient(merger, first, second)


def test_nuslerp_of_almost_parallel_vectors_is_as_exact_as_its_numbers():
    for angle in (1e-4, 1e-3, 1e-2, 0.1):
        turned = np.float32([3 * np.cos(angle), 3 * np.sin(angle), 0.0])
        first = np.float32([3.0, 0.0, 0.0])
        expected = reference.nuslerp(ZERO, [first, turned], (0.3, 0.7))
        got = merged(J.nuslerp(weights=(0.3, 0.7)), first, turned)
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6 * angle)


def test_nuslerp_takes_weights_that_cancel_for_halfway_and_others_as_they_are():
    halfway = merged(J.nuslerp(), X, Y)
    np.testing.assert_array_equal(merged(J.nuslerp(weights=(2.0, -2.0)), X, Y), halfway)
    beyond = merged(J.nuslerp(weights=(-0.5, 1.5)), X, Y)
    expected = reference.nuslerp(ZERO, [X, Y], (-0.5, 1.5))
    np.testing.assert_allclose(beyond, expected, rtol=1e-5)


@pytest.mark.slow
def test_nuslerp_by_rows_and_by_columns(rng):
    first, second = rng.standard_normal((2, 4, 5)).astype(np.float32)
    first[1], second[:, 2] = 0.0, 0.0  # a row and a column without direction
    for row_wise, axis in ((False, -1), (True, 0)):
        merger = J.nuslerp(weights=(1.0, 2.0), flatten=False, row_wise=row_wise)
        expected = reference.nuslerp(0 * first, [first, second], (1, 2), axis=axis)
        np.testing.assert_allclose(
            merged(merger, first, second), expected, rtol=1e-5, atol=1e-6
        )
        assert_finite_gradient(merger, first, second)


def test_nuslerp_of_models_differs_from_that_of_their_deltas():
    base = jnp.asarray(10 * X)
    of_deltas = merged(J.nuslerp(), 10 * X + X, 10 * X + Y, base=base)
    expected = reference.nuslerp(10 * X, [11 * X, 10 * X + Y])
    np.testing.assert_allclose(of_deltas, expected, rtol=1e-5)
    of_models = J.nuslerp(frame="absolute")
    got = merged(of_models, 11 * X, 10 * X + Y, base=base)
    np.testing.assert_allclose(got, merged(of_models, 11 * X, 10 * X + Y), rtol=1e-6)
    assert np.abs(got - of_deltas).max() > 0.01


# --- Multi-SLERP ---------------------------------------------------------------------


def test_multislerp_is_the_mean_where_directions_cancel():
    np.testing.assert_allclose(merged(J.multislerp(), X, -3 * X), -X, rtol=1e-5)
    # Three unit vectors at 120 degrees: mergekit refuses them.
    turn = np.float32([[-0.5, -(0.75**0.5)], [0.75**0.5, -0.5]])
    one = np.float32([1.0, 0.0])
    merger = J.multislerp(eps=1e-6)
    got = merged(merger, one, turn @ one, turn @ turn @ one)
    np.testing.assert_allclose(got, 0.0, atol=1e-6)
    assert_finite_gradient(merger, one, turn @ one, turn @ turn @ one)
    assert_finite_gradient(J.multislerp(), X, -X)


def test_multislerp_counts_a_zero_tensor_in_the_norm_only():
    np.testing.assert_allclose(merged(J.multislerp(), X, X, ZERO), X * 2 / 3, rtol=1e-6)
    np.testing.assert_array_equal(merged(J.multislerp(), ZERO, ZERO), ZERO)
    assert_finite_gradient(J.multislerp(), X, ZERO)
    assert_finite_gradient(J.multislerp(), ZERO, ZERO)


@pytest.mark.slow
def test_multislerp_of_two_is_not_slerp():
    weights = (1.0, 3.0)
    got = merged(J.multislerp(weights=weights), X, Y)
    expected = reference.multislerp(ZERO, [X, Y], weights)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert np.abs(got - merged(J.nuslerp(weights=weights), X, Y)).max() > 0.1


# --- Karcher -------------------------------------------------------------------------


def test_karcher_minimises_the_squared_angles():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        models = list(rng.standard_normal((4, 6)) + 0.7)
        weights = np.array([1.0, 2.0, 0.5, 1.5])
        got = merged(J.karcher(weights=weights, max_iter=60, tol=1e-12), *models)
        norms = np.linalg.norm(models, axis=1)
        assert np.linalg.norm(got) == pytest.approx(np.average(norms, weights=weights))
        u = got / np.linalg.norm(got)

        def loss(v):
            cosines = models @ v / norms / np.linalg.norm(v)
            return np.sum(weights * np.arccos(cosines) ** 2)

        least = loss(u)
        for direction in rng.standard_normal((20, 6)):
            assert loss(u + 1e-3 * direction) > least
        few = merged(J.karcher(weights=weights), *models)
        expected = reference.karcher(0, models, weights)
        np.testing.assert_allclose(few, expected, rtol=1e-10)


@pytest.mark.slow
def test_karcher_bisects_an_arc_and_without_steps_takes_the_chord():
    flat = lambda angle: np.float32([np.cos(angle), np.sin(angle)])
    arc = merged(J.karcher(weights=(1.0, 3.0)), flat(0.0), flat(2.0))
    np.testing.assert_allclose(arc, flat(1.5), atol=1e-5)
    chord = 0.25 * flat(0.0) + 0.75 * flat(2.0)
    chord /= np.linalg.norm(chord)
    none = merged(J.karcher(weights=(1.0, 3.0), max_iter=0), flat(0.0), flat(2.0))
    np.testing.assert_allclose(none, chord, atol=1e-6)
    assert np.abs(none - arc).max() > 0.01


def test_karcher_of_opposite_models_is_the_direction_of_the_first():
    # Every direction is as far from both; no step leaves the start.
    np.testing.assert_allclose(merged(J.karcher(), X, -X), X, rtol=1e-6)
    np.testing.assert_allclose(merged(J.karcher(), X, -3 * X), 2 * X, rtol=1e-6)
    assert_finite_gradient(J.karcher(), X, -X)
    # A third one decides: the opposite one has no logarithm there, and is left out.
    got = merged(J.karcher(), X, -X, Y)
    assert np.isfinite(got).all()
    assert got @ Y > 0


def test_karcher_counts_a_zero_model_in_the_norm_only():
    np.testing.assert_allclose(merged(J.karcher(), X, ZERO, X), X * 2 / 3, rtol=1e-6)
    np.testing.assert_array_equal(merged(J.karcher(), ZERO, ZERO), ZERO)
    np.testing.assert_allclose(merged(J.karcher(), X), X, rtol=1e-6)
    for models in ((X, ZERO), (ZERO, ZERO), (X, X)):
        assert_finite_gradient(J.karcher(), *models)


# --- NearSwap ------------------------------------------------------------------------


def test_nearswap_moves_no_entry_by_more_than_t():
    base, model = jnp.asarray(Y), Y + np.float32([1e-7, 0.2, -3.0])
    np.testing.assert_array_equal(merged(J.nearswap(t=0.0), model, base=base), Y)
    np.testing.assert_allclose(merged(J.nearswap(t=9.0), model, base=base), model)
    got = merged(J.nearswap(t=0.5), model, base=base) - Y
    np.testing.assert_allclose(got, [0.0, 0.2, -0.5], atol=2e-7)


# --- refusals ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("merger", "models", "message"),
    [
        (J.nuslerp(), (X,), "two models and was given 1"),
        (J.nuslerp(), (X, X, X), "two models and was given 3; merge more with multi"),
        (J.nearswap(), (X, X), "one model into its base and was given 2"),
        (J.multislerp(weights=(1.0, -1.0)), (X, Y), "sum to zero"),
        (J.karcher(weights=(1.0, -1.0)), (X, Y), "sum to zero"),
    ],
)
def test_what_cannot_be_merged_is_refused(merger, models, message):
    with pytest.raises(ValueError, match=message):
        merger(None, [jnp.asarray(x) for x in models])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: J.nearswap(t=-1.0), "t is -1.0; expected a number of at least 0"),
        (lambda: J.multislerp(eps=0.0), "eps is 0.0; expected a number above 0"),
        (lambda: J.karcher(max_iter=-1), "max_iter is -1"),
        (lambda: J.karcher(tol=-1.0), "tol is -1.0"),
        (lambda: J.karcher(frame="deltas"), "frame is 'deltas'"),
        (lambda: J.nuslerp(frame="x"), "frame is 'x'"),
    ],
)
def test_arguments_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
