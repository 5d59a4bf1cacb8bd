"""Estimators of noise, heterogeneity, smoothness and stability against exact values."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxmerge import stability
from jaxmerge.stability import ExpertSpec
from tests.stability import model

pytestmark = pytest.mark.usefixtures("quick_compilation")
SAMPLES = 96


def predict(params, x):
    return jnp.tanh(x @ params["w1"] + params["b1"]) @ params["w2"]


def loss(params, x, y):
    logits = predict(params, x)
    return -jnp.mean(jnp.sum(jax.nn.log_softmax(logits) * y, axis=-1))


@functools.cache
def network():
    """A 6-16-3 tanh network, three tasks' data, and what is exact about them."""
    rng = np.random.default_rng(0)
    normal = lambda *shape: np.float32(rng.standard_normal(shape))
    params = {"w1": normal(6, 16) / 2, "b1": normal(16) / 4, "w2": normal(16, 3) / 2}
    x = normal(3, SAMPLES, 6)
    labels = np.argmax(np.einsum("isa,iab->isb", x, normal(3, 6, 3)), axis=-1)
    return params, x, np.eye(3, dtype=np.float32)[labels]


@jax.jit
def sample_gradients(params, x, y):
    """Of every task and sample, as rows."""
    one = lambda x, y: ravel_pytree(jax.grad(loss)(params, x[None], y[None]))[0]
    return jax.vmap(jax.vmap(one))(x, y)


def test_noise_is_that_of_single_samples():
    params, x, y = network()
    rows = np.asarray(sample_gradients(params, x, y), np.float64)[0]
    exact = np.mean(np.sum((rows - rows.mean(0)) ** 2, -1))
    for parallel in (7, 96):
        found = jax.jit(
            lambda params, *data, parallel=parallel: stability.per_sample_noise(
                loss, params, *data, parallel_samples=parallel
            )
        )(params, x[0], y[0])
        np.testing.assert_allclose(found.mean, exact, rtol=1e-5)
        assert float(found.stderr) == 0


def test_two_batches_estimate_the_noise_without_bias(key):
    params, x, y = network()
    rows = np.asarray(sample_gradients(params, x, y), np.float64)[0]
    exact = np.mean(np.sum((rows - rows.mean(0)) ** 2, -1))
    found = jax.jit(
        lambda params, *data: stability.two_batch_noise(
            loss, params, *data, key=key, small=2, large=32, num_pairs=2000
        )
    )(params, x[0], y[0])
    assert abs(float(found.mean) - exact) < 4 * float(found.stderr)
    assert float(found.stderr) < 0.03 * exact


def test_heterogeneity_is_estimated_without_the_noise_of_batches():
    params, x, y = network()
    rows = np.asarray(sample_gradients(params, x, y))
    noise = np.mean(np.sum((rows - rows.mean(1, keepdims=True)) ** 2, -1), axis=1)
    weights = np.array([0.5, 0.3, 0.2], np.float32)
    exact = stability.gradient_statistics(rows.mean(1), target_weights=weights)
    mean = weights @ rows.mean(1)
    known = weights @ np.sum((rows.mean(1) - mean) ** 2, -1)
    np.testing.assert_allclose(exact.heterogeneity, known, rtol=1e-5)
    whole = weights @ np.asarray(exact.gradient_norms)
    np.testing.assert_allclose(exact.gradient + exact.heterogeneity, whole, rtol=1e-5)
    # Batches with repetition, of sizes that differ.
    sizes, rng = np.array([4, 8, 16]), np.random.default_rng(1)
    draws = np.stack(
        [
            [rows[t, rng.integers(0, SAMPLES, sizes[t])].mean(0) for t in range(3)]
            for _ in range(3000)
        ]
    )
    estimates = jax.jit(
        jax.vmap(
            lambda g: stability.debiased_heterogeneity(
                g, noise, sizes, target_weights=weights
            )
        )
    )(draws)
    error = float(jnp.std(estimates)) / np.sqrt(len(draws))
    assert abs(float(jnp.mean(estimates)) - known) < 4 * error
    biased = np.mean([np.sum((g - weights @ g) ** 2, -1) @ weights for g in draws])
    assert biased - known > 20 * error


def test_statistics_from_a_gram_matrix_are_those_of_the_vectors(rng):
    rows = np.float32(rng.standard_normal((5, 30)))
    weights = np.float32([0.1, 0.2, 0.3, 0.15, 0.25])
    direct = stability.gradient_statistics(rows, target_weights=weights)
    found = stability.gram_statistics(rows @ rows.T, target_weights=weights)
    for name in ("gradient_norms", "gradient", "heterogeneity"):
        np.testing.assert_allclose(
            getattr(found, name), getattr(direct, name), rtol=1e-4
        )


def test_smoothness_is_the_largest_eigenvalue(key):
    params, x, y = network()
    flat, unravel = ravel_pytree(params)
    dense = jax.jit(jax.hessian(lambda v, *data: loss(unravel(v), *data)))
    points = [params, jax.tree.map(lambda v: 2 * v, params)]
    exact = [
        np.abs(np.linalg.eigvalsh(dense(ravel_pytree(p)[0], x[0], y[0])))
        for p in points
    ]
    exact = np.max(exact, axis=1)
    found = jax.jit(
        lambda points, *data: stability.measure_smoothness(loss, points, *data, key=key)
    )(points, x[0], y[0])
    np.testing.assert_allclose(found.values, exact, rtol=1e-3)
    np.testing.assert_allclose(found.value, exact.max(), rtol=1e-3)
    assert np.all(found.residuals < 0.05 * exact)
    # Between two points the gradient changes by no more than the curvature allows.
    gradient = jax.jit(jax.grad(loss))
    near = jax.tree.map(lambda v: v * 1.001, params)
    secant = stability.secant_smoothness(
        gradient(params, x[0], y[0]), gradient(near, x[0], y[0]), params, near
    )
    assert 0 < float(secant) <= 1.01 * exact[0]
    middle = stability.between(*points, 1)[0]
    np.testing.assert_allclose(middle["w1"], 1.5 * params["w1"], rtol=1e-6)


def test_single_samples_are_less_smooth_than_their_mean(key):
    params, x, y = network()
    last = lambda weights, *data: loss({**params, "w2": weights}, *data)
    x, y = x[0, :8], y[0, :8]
    # In the last layer a sample's Hessian is (diag q - q q^T) times h h^T.
    hidden = np.tanh(x @ params["w1"] + params["b1"])
    q = np.exp(hidden @ params["w2"])
    q = q / q.sum(-1, keepdims=True)
    outer = np.einsum("si,ij->sij", q, np.eye(3)) - q[:, :, None] * q[:, None, :]
    exact = np.linalg.eigvalsh(outer)[:, -1] * np.sum(hidden**2, axis=-1)
    found = jax.jit(
        lambda weights, *data: stability.measure_sample_smoothness(
            last, weights, *data, key=key, num_steps=6, parallel_samples=4
        )
    )(params["w2"], x, y)
    np.testing.assert_allclose(found.values, exact, rtol=1e-3)
    np.testing.assert_allclose(found.quantile(0.5), np.median(exact), rtol=1e-3)
    assert float(found.value) == np.max(found.values)
    whole = jax.jit(
        lambda weights, *data: stability.measure_smoothness(
            last, [weights], *data, key=key, num_steps=12
        )
    )(params["w2"], x, y)
    assert float(whole.value) < np.mean(exact)


def test_pseudo_gradients_are_right_for_short_training_and_low_for_long():
    family = model.make(spread=1.0)
    gradients = np.einsum("iab,ib->ia", family.hessians, family.centres)
    exact = np.mean(np.sum((gradients - gradients.mean(0)) ** 2, -1))

    def guessed(steps, momentum, rate=0.01):
        x, velocity = np.zeros_like(gradients), np.zeros_like(gradients)
        for _ in range(steps):
            slope = np.einsum("iab,ib->ia", family.hessians, x - family.centres)
            velocity = momentum * velocity + slope
            x = x - rate * velocity
        spec = ExpertSpec(rate, 1, steps, 1)
        return float(
            stability.pseudo_gradient_statistics(
                np.float32(x @ x.T), spec, momentum=momentum
            ).heterogeneity
        )

    for momentum in (0.0, 0.9):
        short, long = guessed(4, momentum), guessed(250, momentum)
        assert 0.9 * exact < short < exact
        assert long < 0.6 * exact


def test_training_lengths_are_what_momentum_multiplies_a_gradient_by():
    for momentum, steps in ((0.0, 7), (0.9, 1), (0.9, 30), (0.5, 3)):
        velocity = place = 0.0
        for _ in range(steps):
            velocity = momentum * velocity + 1
            place += 0.1 * velocity
        spec = ExpertSpec(0.1, 1, steps, 1)
        found = stability.training_lengths(spec, momentum=momentum)
        np.testing.assert_allclose(found, place, rtol=2e-6)


def test_coupled_retraining_measures_the_stability_of_sgd(key):
    family, steps, batch = model.make(), 12, 8
    hessian = np.float32(family.hessians[0])

    def train(samples, key):
        def step(x, k):
            marks = jax.random.uniform(jax.random.fold_in(key, k), (64,))
            chosen = jnp.argsort(marks)[:batch]
            return x - 0.02 * hessian @ (x - samples[chosen].mean(0)), None

        return jax.lax.scan(step, jnp.zeros(8), jnp.arange(steps))[0]

    @jax.jit
    @jax.vmap
    def measured(key):
        keys = jax.random.split(key, 3)
        draw = lambda key: jax.random.normal(key, (64, 8)) + family.centres[0]
        data, fresh = draw(keys[0]), draw(keys[1])
        return stability.measure_stability(
            train, data, fresh, keys[2], parallel_runs=64
        ).mean

    means = np.asarray(measured(jax.random.split(key, 24)))
    exact = model.coupled(family.hessians[0], 0.02, batch, 64, steps, runs=40_000)
    error = means.std(ddof=1) / np.sqrt(len(means))
    assert abs(means.mean() - exact[-1]) < 4 * error
    assert error < 0.05 * exact[-1]


def test_positions_say_which_samples_are_replaced(key):
    weights = jnp.arange(1.0, 5.0)
    train = lambda samples, key: {"x": jnp.sum(weights * samples["z"])}
    found = stability.measure_stability(
        train,
        {"z": jnp.zeros(4)},
        {"z": jnp.ones(2)},
        key,
        positions=np.array([3, 1]),
    )
    np.testing.assert_allclose(found.mean, (16 + 4) / 2)
    assert found.num_samples == 2


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda key: stability.measure_stability(
                lambda s, k: s[0], jnp.zeros(4), jnp.zeros(1), key
            ),
            "1 replacement has no standard error",
        ),
        (
            lambda key: stability.measure_stability(
                lambda s, k: s[0], jnp.zeros(4), jnp.zeros(5), key
            ),
            "5 replacements for 4 samples",
        ),
        (
            lambda key: stability.measure_stability(
                lambda s, k: s[0], jnp.zeros(4), jnp.zeros((2, 2)), key
            ),
            r"a replacement is float32\[2\]; expected float32\[\]",
        ),
        (
            lambda key: stability.measure_stability(
                lambda s, k: s[0], jnp.zeros(4), jnp.zeros(2), key,
                positions=np.array([0, 4]),
            ),
            "expected whole numbers from 0 to 3",
        ),
        (
            lambda key: stability.two_batch_noise(
                loss, network()[0], jnp.zeros((4, 6)), jnp.zeros((4, 3)), key=key,
                small=4, large=4, num_pairs=2,
            ),
            "expected 1 <= small < large <= 4",
        ),
        (
            lambda key: stability.per_sample_noise(
                loss, network()[0], jnp.zeros((4, 6)), jnp.zeros((5, 3))
            ),
            "5 samples and another leaf has 4",
        ),
        (
            lambda key: stability.measure_smoothness(loss, [], key=key),
            "no points were given",
        ),
        (
            lambda key: stability.training_lengths(
                ExpertSpec(0.1, 1, 1, 1), momentum=1.0
            ),
            "momentum is 1.0",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_refused(call, words, key):
    with pytest.raises(ValueError, match=words):
        call(key)
