"""What theory predicts, where the answer is exact, and where it is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmerge import laws

POOL = 9


pytestmark = pytest.mark.usefixtures("quick_compilation")


def masks(pool=POOL):
    return laws.all_subsets(pool).masks


def merged_losses(loss, base, deltas, scale=1.0):
    weights = jnp.asarray(masks(len(deltas)), deltas.dtype)
    weights = scale * weights / weights.sum(axis=1, keepdims=True)
    return np.asarray(jax.jit(jax.vmap(loss))(base + weights @ deltas))


def by_size(losses, statistic, pool=POOL):
    k = masks(pool).sum(axis=1)
    return np.array([statistic(losses[k == n]) for n in range(1, pool + 1)])


def quadratic(rng, dim=7):
    half = rng.standard_normal((dim, dim))
    matrix, slope = jnp.asarray(half @ half.T), jnp.asarray(rng.standard_normal(dim))
    return lambda x: 3.0 + slope @ x + 0.5 * x @ matrix @ x


@pytest.fixture
def world(rng):
    """A base and nine deltas in seven dimensions, float64."""
    with jax.enable_x64(True):
        base = jnp.asarray(rng.standard_normal(7))
        deltas = jnp.asarray(rng.standard_normal((POOL, 7)) + 0.5)
        yield base, deltas, [base + delta for delta in deltas]


@pytest.mark.parametrize("scale", [1.0, 0.8])
@pytest.mark.parametrize("at", ["mean", "base"])
def test_quadratic_losses_follow_the_law_exactly(world, rng, scale, at):
    # T15.
    base, deltas, experts = world
    loss = quadratic(rng)
    tail = jax.jit(lambda b, e: laws.predict_tail(loss, b, e, scale=scale, at=at))(
        base, experts
    )
    losses = merged_losses(loss, base, deltas, scale)
    mean, k = by_size(losses, np.mean), np.arange(1, POOL + 1)
    np.testing.assert_allclose(tail.curve(k), mean, rtol=1e-12)
    np.testing.assert_allclose(tail.loss_of_all, losses[-1], rtol=1e-12)
    np.testing.assert_allclose(tail.contributions.sum(), tail.amplitude)
    fit = laws.fit_curve(laws.curve_points(k, mean), weights="none").law
    assert fit.offset == 0
    np.testing.assert_allclose(fit.amplitude, tail.amplitude, rtol=1e-10)
    np.testing.assert_allclose(fit.floor, tail.curve.floor, rtol=1e-10)


def test_linear_losses_have_the_variance_of_a_finite_pool(world, rng):
    # T16.
    base, deltas, experts = world
    slope = jnp.asarray(rng.standard_normal(7))
    loss = lambda x: slope @ x
    tail, expansion = jax.jit(
        lambda b, e: (laws.predict_tail(loss, b, e, scale=0.8), laws.expand(loss, b, e))
    )(base, experts)
    variance = by_size(merged_losses(loss, base, deltas, 0.8), np.var)
    k = np.arange(1, POOL + 1)
    np.testing.assert_allclose(tail.variance(k), variance, atol=1e-14)
    assert abs(float(tail.amplitude)) < 1e-14
    np.testing.assert_allclose(expansion.variance(k, scale=0.8), variance, atol=1e-14)


@pytest.mark.parametrize(("critical", "slope"), [(False, -1.0), (True, -2.0)])
def test_variance_of_a_population_falls_as_one_over_k_or_faster(rng, critical, slope):
    # T17: i.i.d. experts; at a stationary point of the mean the first order vanishes.
    dim, draws = 6, 20_000
    half = rng.standard_normal((dim, dim))
    matrix, mean = half @ half.T, rng.standard_normal(dim)
    gradient = -matrix @ mean if critical else 4 * rng.standard_normal(dim)
    spreads = []
    counts = np.array([8, 16, 32, 64])
    for k in counts:
        x = mean + rng.standard_normal((draws, dim)) / np.sqrt(k)
        loss = x @ gradient + 0.5 * np.einsum("ni,ij,nj->n", x, matrix, x)
        spreads.append(loss.var())
    found = np.polyfit(np.log(counts), np.log(spreads), 1)[0]
    assert abs(found - slope) < 0.08


def softmax_family(key, inputs=10, classes=5, samples=200):
    kx, kw, ks, kn = jax.random.split(key, 4)
    x = jax.random.normal(kx, (POOL, samples, inputs))
    teacher = jax.random.normal(kw, (inputs, classes))
    own = teacher + 0.6 * jax.random.normal(ks, (POOL, inputs, classes))
    scores = jnp.einsum("tsi,tic->tsc", x, own)
    labels = jax.random.categorical(kn, scores)

    def task_loss(w, x, y):
        logs = jax.nn.log_softmax(x @ w)
        return -jnp.mean(jnp.take_along_axis(logs, y[:, None], axis=1))

    def descend(x, y):
        step = lambda w, _: (w - 0.5 * jax.grad(task_loss)(w, x, y), None)
        return jax.lax.scan(step, jnp.zeros((inputs, classes)), length=60)[0]

    experts = jax.jit(jax.vmap(descend))(x, labels)
    pooled = lambda w: jnp.mean(jax.vmap(task_loss, (None, 0, 0))(w, x, labels))
    return jnp.zeros((inputs, classes)), experts, pooled


@pytest.mark.slow
def test_the_tail_of_a_softmax_model():
    # T18, and the forecast of the same curve before any merge.
    base, experts, pooled = softmax_family(jax.random.key(3))
    tail = jax.jit(lambda b, e: laws.predict_tail(pooled, b, e))(base, list(experts))
    weights = jnp.asarray(masks(), jnp.float32)
    weights = weights / weights.sum(axis=1, keepdims=True)
    losses = jax.jit(jax.vmap(lambda w: pooled(jnp.tensordot(w, experts, 1))))(weights)
    k = np.arange(1, POOL + 1)
    mean = by_size(np.asarray(losses, np.float64), np.mean)
    fit = laws.fit_curve(laws.curve_points(k, mean), weights="none").law
    assert abs(float(tail.amplitude) / fit.amplitude - 1) < 0.15
    assert 0 <= fit.offset <= 0.3
    expansion = jax.jit(lambda b, e: laws.expand(pooled, b, e))(base, list(experts))
    forecast = laws.forecast_curve(expansion)
    np.testing.assert_allclose(forecast.mean[0], mean[0], rtol=1e-6)
    drop = mean[0] - mean[-1]
    assert np.max(np.abs(forecast.mean - mean)) < 0.05 * drop
    assert np.all((forecast.lower <= mean + 1e-6) & (mean <= forecast.upper + 1e-6))
    assert abs(forecast.fit.law.amplitude / fit.amplitude - 1) < 0.15
    measured = by_size(np.asarray(losses, np.float64), np.std)
    np.testing.assert_allclose(forecast.spread[:-1], measured[:-1], rtol=0.15)


@pytest.mark.parametrize(
    "scale",
    [0.6, *(pytest.param(x, marks=pytest.mark.slow) for x in (1.0, 1.7))],
)
def test_expansions_are_exact_up_to_their_order(world, rng, scale):
    base, deltas, experts = world
    square = quadratic(rng)
    cubes = jnp.asarray(rng.standard_normal((7, 7, 7)))
    cubic = lambda x: square(x) + jnp.einsum("ijk,i,j,k->", cubes, x, x, x)
    members, k = masks(), np.arange(1, POOL + 1)
    for loss, order, exact in (
        (square, 2, True),
        (square, 3, True),
        (cubic, 3, True),
        (cubic, 2, False),
    ):
        expansion = jax.jit(lambda b, e, f=loss: laws.expand(f, b, e))(base, experts)
        predicted, mean = jax.jit(
            lambda e, c, order=order: (
                e.predict(members, scale=c, order=order),
                e.mean(k, scale=c, order=order),
            )
        )(expansion, scale)
        predicted = np.asarray(predicted)
        losses = merged_losses(loss, base, deltas, scale)
        size = np.abs(losses).max()
        assert (np.abs(predicted - losses).max() < 1e-12 * size) == exact
        np.testing.assert_allclose(mean, by_size(predicted, np.mean), atol=1e-11 * size)


def test_one_and_two_experts():
    loss = lambda x: jnp.sum(x**2)
    expand = jax.jit(lambda experts: laws.expand(loss, jnp.zeros(2), experts))
    one = expand([jnp.ones(2)])
    forecast = laws.forecast_curve(one)
    assert forecast.mean.tolist() == [2.0]
    assert forecast.fit is None
    two = expand([jnp.ones(2), -jnp.ones(2)])
    forecast = laws.forecast_curve(two)
    np.testing.assert_allclose(forecast.mean, [2.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(forecast.gains, [2.0], atol=1e-6)


def test_wrong_inputs_are_sentences():
    loss = lambda x: jnp.sum(x["w"] ** 2)
    base = {"w": jnp.zeros(2)}
    with pytest.raises(ValueError, match="the tail takes two or more"):
        laws.predict_tail(loss, base, [base])
    with pytest.raises(ValueError, match="no experts were given"):
        laws.expand(loss, base, [])
    with pytest.raises(ValueError, match=r"w is float32\[3\]; expected float32\[2\]"):
        laws.expand(loss, base, [{"w": jnp.zeros(3)}])
    with pytest.raises(TypeError, match="w is bfloat16"):
        laws.expand(loss, {"w": jnp.zeros(2, jnp.bfloat16)}, [base])
    with pytest.raises(ValueError, match="at is 'middle'"):
        laws.predict_tail(loss, base, [base, base], at="middle")
    log = lambda x: jnp.log(x["w"][0])
    found = jax.jit(lambda e: laws.expand(log, base, [e]))({"w": jnp.ones(2)})
    with pytest.raises(ValueError, match="the loss of the base is -inf"):
        laws.forecast_curve(found)
    with pytest.raises(ValueError, match="level is 0.7; it is calibrated for"):
        laws.forecast_curve(found, level=0.7)
    with pytest.raises(ValueError, match="order is 4"):
        found.mean([1], order=4)
