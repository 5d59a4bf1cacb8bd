"""The bracketed solver: roots, degenerate cases, implicit derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmerge.kinematics import monotone_root
from jaxmerge.kinematics.solver import whole_above, whole_below


def cubic(t, args):
    scale, shift = args
    return scale * (t - shift) ** 3 + (t - shift)


def linear(t, args):
    slope, target = args
    return slope * t - target


def root(function, *args, last=False, lower=0.0, upper=1.0):
    args = tuple(jnp.asarray(a) for a in args)
    low = jnp.full(args[0].shape, lower, args[0].dtype)
    return monotone_root(
        function, args, lower=low, upper=jnp.full_like(low, upper), last=last
    )


@pytest.mark.parametrize(("x64", "rtol"), [(False, 2e-7), (True, 1e-15)])
def test_roots_to_the_last_bit_over_many_scales(x64, rtol):
    with jax.enable_x64(x64):
        shift = jnp.array([1e-6, 0.3, 1.0, 7.25, 1e3, 1e9, 1e15])
        found = root(linear, jnp.ones(7), shift)
        np.testing.assert_allclose(found.value, shift, rtol=rtol)
        assert found.value.dtype == shift.dtype
        assert bool(jnp.all(found.converged))
        found = root(cubic, jnp.ones(7), shift)
        np.testing.assert_allclose(found.value, shift, rtol=2 * rtol)


def test_implicit_derivatives_of_first_and_second_order():
    with jax.enable_x64(True):
        value = lambda p: root(linear, p, jnp.asarray(3.0, p.dtype)).value
        point = jnp.asarray(0.5)
        assert float(value(point)) == 6.0
        assert float(jax.grad(value)(point)) == -12.0
        assert float(jax.jacfwd(value)(point)) == -12.0
        assert float(jax.grad(jax.grad(value))(point)) == 48.0
        smooth = lambda p: root(cubic, p, p * p + 1).value * p
        step = 1e-5
        finite = (smooth(2.0 + step) - smooth(2.0 - step)) / (2 * step)
        np.testing.assert_allclose(jax.grad(smooth)(2.0), finite, rtol=1e-8)


def test_jit_vmap_grad_compose_and_compile_once():
    traces = []

    @jax.jit
    def gradient(slopes):
        traces.append(None)
        one = lambda p: root(linear, p, jnp.ones_like(p)).value
        return jax.vmap(jax.grad(one))(slopes)

    for factor in (1.0, 2.0, 3.0):
        slopes = jnp.array([0.25, 0.5, 4.0]) * factor
        np.testing.assert_allclose(gradient(slopes), -1 / slopes**2, rtol=1e-6)
    assert len(traces) == 1


def test_no_sign_change_is_infinite_and_flagged():
    found = root(linear, jnp.array([0.0, -1.0, 1.0]), jnp.array([3.0, 3.0, 3.0]))
    np.testing.assert_array_equal(found.value, [np.inf, np.inf, 3])
    np.testing.assert_array_equal(found.converged, [False, False, True])
    gradient = jax.grad(
        lambda p: jnp.sum(jnp.where(p > 0, root(linear, p, p * 0 + 3).value, 0.0))
    )(jnp.array([0.0, 1.0]))
    np.testing.assert_allclose(gradient, [0, -3])
    assert float(root(linear, jnp.array(0.0), jnp.array(3.0)).residual) == -3


def test_a_root_at_or_before_the_lower_end_is_the_lower_end():
    value = lambda p: root(linear, p, p * 0 + 2, lower=2.0, upper=3.0)
    for slope in (1.0, 5.0):
        found = value(jnp.array(slope))
        assert float(found.value) == 2
        assert bool(found.converged)
        assert float(jax.grad(lambda p: value(p).value)(jnp.array(slope))) == 0


def test_a_flat_root_has_an_infinite_derivative_and_is_flagged():
    flat = lambda t, shift: (t - shift) ** 3
    solve = lambda s: monotone_root(
        flat, s, lower=jnp.zeros_like(s), upper=jnp.ones_like(s)
    )
    # In float32 the cube is zero near the root: where exactly it is, is not known.
    found = solve(jnp.array(3.0))
    np.testing.assert_allclose(found.value, 3.0, atol=1e-6)
    assert not bool(found.converged)
    gradient = jax.grad(lambda s: solve(s).value)(jnp.array(3.0))
    assert not np.isfinite(gradient)


def test_a_stretch_of_zeros_has_two_ends():
    plateau = lambda t, width: jnp.minimum(t - 1, 0.0) + jnp.maximum(t - width, 0.0)
    ends = [
        float(
            monotone_root(
                plateau,
                jnp.array(3.0),
                lower=jnp.zeros(()),
                upper=jnp.ones(()),
                last=last,
            ).value
        )
        for last in (False, True)
    ]
    np.testing.assert_allclose(ends, [1, 3], atol=1e-6)


def test_nan_stays_nan():
    found = root(linear, jnp.array(1.0), jnp.array(jnp.nan))
    assert np.isnan(found.value)
    assert not bool(found.converged)


@pytest.mark.parametrize("x64", [False, True])
def test_whole_numbers_forgive_rounding_only(x64):
    with jax.enable_x64(x64):
        eps = float(jnp.finfo(jnp.asarray(0.0).dtype).eps)
        value = jnp.array([8 * (1 - eps), 8 * (1 + eps), 7.99, 8.01, 0.389, jnp.inf])
        np.testing.assert_array_equal(whole_below(value), [8, 8, 7, 8, 0, np.inf])
        np.testing.assert_array_equal(whole_above(value), [8, 8, 8, 9, 1, np.inf])
