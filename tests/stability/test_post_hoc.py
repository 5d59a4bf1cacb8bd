"""Bounds of what a finished merge costs, and what sparsifiers change."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmerge import stability
from jaxmerge.stability import ExpertSpec, Measured, ProblemStats
from tests.stability import model
from tests.stability.model import Settings

pytestmark = pytest.mark.usefixtures("quick_compilation")
STATS = ProblemStats(1.0, 5.8, 6.2, 5.7, 0.5, 0.6, 3.4)
SPEC = ExpertSpec(0.02, 8, np.full(4, 8.0), 64)


@functools.cache
def trained():
    """Converged experts of M1 from one run, and the means of their data."""
    family, settings = model.make(spread=1.0), Settings(rate=0.05, steps=300)
    rng = np.random.default_rng(0)
    samples = model.draw(family, settings, 1, rng)
    *_, experts = model.train(family, samples, settings, 300, rng)
    return family, np.float32(samples.mean(2)[0]), np.float32(experts[0])


def losses_of(family, means):
    def loss(hessian, mean, x):
        apart = x - mean
        return apart @ jnp.asarray(hessian, jnp.float32) @ apart / 2

    pairs = zip(family.hessians, means, strict=True)
    return [functools.partial(loss, hessian, mean) for hessian, mean in pairs]


def test_the_post_hoc_bound_holds_for_any_merge_rule():
    family, means, experts = trained()
    losses = losses_of(family, means)
    rules = {
        "average": lambda x: x.mean(0),
        "task arithmetic": lambda x: 0.5 * x.sum(0),
        "sum": lambda x: x.sum(0),
        "median": lambda x: jnp.median(x, axis=0),
        "largest": lambda x: jnp.max(x, axis=0),
        "sign-elected": lambda x: jnp.where(x > 0, x, 0).sum(0) / 4,
    }
    bounds = jax.jit(
        lambda experts, merged: stability.post_hoc_bound(experts, merged, losses, 1.0)
    )
    for name, rule in rules.items():
        merged = rule(jnp.asarray(experts))
        found = bounds(list(experts), merged)
        rises = [float(f(merged) - f(x)) for f, x in zip(losses, experts, strict=True)]
        np.testing.assert_allclose(found.rise, np.mean(rises), rtol=1e-5, err_msg=name)
        assert float(found.rise) <= float(found.bound), name
        # Eigenvalues from 0.7 to 1 leave no more room, and experts have converged.
        assert float(found.bound) <= 1.6 * float(found.rise), name
        np.testing.assert_allclose(
            found.bound, found.dispersion / 2, rtol=0.2, err_msg=name
        )


def test_dispersion_is_that_of_the_gram_matrix_and_smallest_for_the_average():
    _, _, experts = trained()
    weights = np.array([0.4, 0.3, 0.2, 0.1], np.float32)
    gram = experts @ experts.T
    function = jax.jit(
        lambda alphas: stability.gram_dispersion(
            gram, coefficients=alphas, target_weights=weights
        )
    )
    for alphas in (weights, np.full(4, 0.5, np.float32), weights[::-1].copy()):
        direct = stability.dispersion(
            list(experts), alphas @ experts, target_weights=weights
        )
        np.testing.assert_allclose(function(alphas), direct, rtol=1e-5)
    slope = jax.jit(jax.grad(function))(weights)
    np.testing.assert_allclose(slope, 0, atol=1e-4)


def test_dispersion_grows_with_the_square_of_the_training_length():
    family, settings = model.make(spread=1.0), Settings(batch=64, rate=0.002)
    rng = np.random.default_rng(0)
    samples = model.draw(family, settings, 1, rng)
    paths = [x[0] for x in model.train(family, samples, settings, 20, rng)]
    apart = [float(stability.gram_dispersion(x @ x.T)) for x in np.float32(paths)]
    np.testing.assert_allclose(apart[19] / apart[9], 4, rtol=0.05)
    np.testing.assert_allclose(apart[9] / apart[0], 100, rtol=0.05)


@pytest.mark.parametrize("rescale", [False, True])
def test_random_masks_cost_what_the_formula_says(rescale):
    family = model.make(diagonal=True, spread=1.0)
    curvature = family.hessians.mean(0).diagonal()
    taus = family.centres  # experts that have converged
    target = family.centres.mean(0)
    rate, alphas, rng = 0.5, np.full(4, 0.25), np.random.default_rng(0)
    masks = rng.random((40_000, *taus.shape)) < rate
    factor = 1 / rate if rescale else 1.0
    points = np.einsum("i,sia->sa", alphas, factor * masks * taus)
    loss = lambda x: np.sum(curvature * (x - target) ** 2, -1) / 2
    mean = alphas @ taus * (1.0 if rescale else rate)
    samples = loss(points) - loss(mean)
    squares = np.sum(curvature * taus**2, axis=-1)
    formula = float(
        stability.dropout_variance_loss(squares, rate, 1.0, alphas, rescale=rescale)
    )
    error = samples.std() / np.sqrt(len(samples))
    assert abs(samples.mean() - formula) < 4 * error
    assert error < 0.01 * formula


MASKS = jax.jit(
    stability.random_mask_effect, static_argnames=("rescale",)
)  # one program for either


def test_masks_contract_stability_and_rescaling_expands_it():
    effect = lambda rate, rescale: MASKS(SPEC, STATS, rate, rescale=rescale)
    before = effect(1.0, True)
    np.testing.assert_allclose(before.after.total, before.before.total, rtol=1e-6)
    assert float(before.extra_loss) == 0
    for rate in (0.1, 0.5, 0.9):
        masked, dare = effect(rate, False), effect(rate, True)
        np.testing.assert_allclose(masked.stability_factor, rate)
        np.testing.assert_allclose(dare.stability_factor, 1 / rate, rtol=1e-6)
        squares = masked.after.stability_square, dare.after.stability_square
        ratios = np.array(squares) / float(masked.before.stability_square)
        np.testing.assert_allclose(ratios, [rate, 1 / rate], rtol=1e-5)
        assert float(masked.generalisation_change) < 0
        assert float(dare.generalisation_change) > 0
        # What training gained is masked as well: here no mask tightens the bound.
        assert not bool(masked.tightens)
        assert not bool(dare.tightens)


def test_a_mask_tightens_the_bound_of_experts_that_were_trained_too_long():
    long = ExpertSpec(0.02, 8, np.full(4, 40.0), 64)
    found = MASKS(long, STATS, 0.3, rescale=False)
    assert bool(found.tightens)
    assert float(found.total_change) < 0
    endless = ExpertSpec(0.02, 8, np.full(4, 1e6), 64)
    lost = MASKS(endless, STATS, 0.5, rescale=True)
    assert np.isposinf(lost.after.total)
    assert float(lost.total_change) == 0
    assert not bool(lost.tightens)


def test_one_mask_lowers_heterogeneity_and_a_mask_each_may_raise_it(rng):
    gradients = {
        "w": np.float32(rng.standard_normal((4, 10))),
        "b": np.ones((4, 3), "f"),
    }
    function = jax.jit(stability.gradient_statistics)
    whole = function(gradients)
    for seed in range(5):
        keep = np.float32(np.random.default_rng(seed).random(10) < 0.5)
        mask = {"w": keep, "b": np.ones(3, np.float32)}
        found = function(gradients, mask)
        by_hand = gradients["w"] * keep
        by_hand = np.mean(np.sum((by_hand - by_hand.mean(0)) ** 2, -1))
        np.testing.assert_allclose(found.heterogeneity, by_hand, rtol=1e-5)
        assert float(found.heterogeneity) <= float(whole.heterogeneity)
        assert np.all(found.gradient_norms <= whole.gradient_norms)
    same = np.ones((2, 4), np.float32)
    apart = np.array([[1, 1, 0, 0], [0, 0, 1, 1]], np.float32)
    assert float(stability.gradient_statistics(same).heterogeneity) == 0
    assert float(stability.gradient_statistics(same, apart).heterogeneity) == 1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: stability.post_hoc_bound(
                [np.ones(2, "f")], np.ones(2, "f"), [], 1.0
            ),
            "0 losses were given for 1 experts",
        ),
        (
            lambda: stability.dispersion([np.ones(3, "f")], np.ones(2, "f")),
            "expert 0 is no model like the merged one",
        ),
        (lambda: stability.dispersion([], np.ones(2, "f")), "no experts were given"),
        (
            lambda: stability.gram_dispersion(np.ones((2, 3))),
            r"gram has shape \(2, 3\)",
        ),
        (
            lambda: stability.gram_dispersion(np.eye(2), coefficients=np.ones(3)),
            "numbers of experts differ",
        ),
        (
            lambda: stability.random_mask_effect(SPEC, STATS, 0.0, rescale=True),
            r"keep_rate is 0.0; expected a share in \(0, 1\]",
        ),
        (
            lambda: stability.random_mask_effect(
                SPEC, STATS, 0.5, rescale=True, measured=Measured(optimisation=1.0)
            ),
            "were measured without masks",
        ),
        (
            lambda: stability.gradient_statistics(np.ones((2, 3), "f"), np.ones(4)),
            r"a mask has shape \(4,\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
