"""Worlds whose curves are known: what is measured on all subsets is what was said."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common.pools import score
from experiments.toy import curves, matrices, worlds
from experiments.toy.matrices import RegressionConfig
from experiments.toy.worlds import QuadraticConfig
from jaxmerge import laws

QUADRATIC = {
    "optima": QuadraticConfig(tasks=6, dimension=9, floor_spread=0.5),
    "partly trained": QuadraticConfig(
        tasks=6, dimension=9, correlation=0.6, norm_spread=0.5, training_time=2.0
    ),
    "opposed curvatures": QuadraticConfig(
        tasks=5, dimension=4, correlation=0.0, condition=100.0, curvature_spread=1.0
    ),
}
REGRESSION = {
    "little overlap": RegressionConfig(
        tasks=6, inputs=10, outputs=7, rank=2, input_rank=3, norm_spread=0.4
    ),
    "partly trained": RegressionConfig(
        tasks=5, inputs=8, outputs=6, rank=2, input_rank=4, training_time=3.0
    ),
}


def world_of(config):
    module = worlds if isinstance(config, QuadraticConfig) else matrices
    return module.make_world(config)


def measured(pool, coefficients):
    """The loss of linear merges on every task, `[merge, task]`, by the pool's score."""

    @jax.jit
    def losses(rows):
        vectors = jax.tree.map(lambda e, b: e - b, pool.experts, pool.base)

        def one(row):
            merged = jax.tree.map(
                lambda b, v: b + jnp.tensordot(row, v, 1, precision="highest"),
                pool.base,
                vectors,
            )
            return score(pool, merged, "test").loss

        return jax.lax.map(one, rows, batch_size=64)

    return np.asarray(losses(jnp.asarray(coefficients)))


def masks_of(size):
    codes = np.arange(1, 2**size)
    return (codes[:, None] >> np.arange(size) & 1).astype(bool)


@pytest.mark.parametrize("config", [*QUADRATIC.values(), *REGRESSION.values()])
def test_all_subsets_are_what_the_closed_forms_say(config):
    with jax.enable_x64(True):
        world = world_of(config)
        pool, exact = world.pool, world.exact
        masks = masks_of(pool.size)
        sizes = masks.sum(axis=1)
        # Averages, scaled averages, and a plain sum at lambda = 0.4.
        scales = np.stack([np.ones(len(masks)), np.full(len(masks), 1.7), 0.4 * sizes])
        rows = (scales / sizes)[:, :, None] * masks
        losses = measured(pool, rows.reshape(-1, pool.size)).reshape(rows.shape)
        close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-9)
        for which, k in itertools.product(range(3), range(1, pool.size + 1)):
            here = sizes == k
            c, at, members = scales[which, here][0], losses[which, here], masks[here]
            pooled = at.mean(axis=1)
            close(exact.mean(k, c), pooled.mean())
            close(exact.variance(k, c), pooled.var())
            close(exact.members_mean(k, c), np.average(at, axis=0, weights=members))
            if k < pool.size:
                outside = np.average(at, axis=0, weights=~members)
                close(exact.others_mean(k, c), outside)
            if which < 2:
                beyond = 1 / k - 1 / pool.size
                line = exact.mean(pool.size, c) + exact.tail(c) * beyond
                close(line, exact.mean(k, c))


@pytest.mark.parametrize(
    "config",
    [
        QuadraticConfig(tasks=200, dimension=12, training_time=1.0, norm_spread=0.3),
        RegressionConfig(
            tasks=200, layers=1, inputs=12, outputs=8, rank=2, input_rank=3
        ),
    ],
)
def test_two_hundred_tasks_at_the_ends_of_the_curve(config):
    # All subsets of 1, 199 and 200 experts; the middle only by a sample.
    with jax.enable_x64(True):
        world = world_of(config)
        exact, T = world.exact, world.pool.size
        rng = np.random.default_rng(0)
        some = np.stack([rng.permutation(T) < 20 for _ in range(T)])
        masks = {1: np.eye(T, dtype=bool), T - 1: ~np.eye(T, dtype=bool), 20: some}
        rows = np.concatenate([chosen / k for k, chosen in masks.items()])
        losses = measured(world.pool, rows).mean(axis=1).reshape(3, T)
        for k, pooled in zip(masks, losses, strict=True):
            if k == 20:
                error = np.sqrt(exact.variance(k) / T)
                assert abs(pooled.mean() - exact.mean(k)) < 4 * error
                assert 0.7 < pooled.var() / exact.variance(k) < 1.4
                continue
            np.testing.assert_allclose(pooled.mean(), exact.mean(k), rtol=1e-6)
            np.testing.assert_allclose(pooled.var(), exact.variance(k), rtol=1e-5)
        assert exact.variance(T) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    "config", [QUADRATIC["partly trained"], REGRESSION["little overlap"]]
)
def test_the_best_scale_is_the_best(config):
    exact = world_of(config).exact
    for k in (1, 2, 5):
        best = exact.best_scale(k)
        at = [exact.mean(k, best + step) for step in (-1e-3, 0.0, 1e-3)]
        assert at[1] < min(at[0], at[2])
    # Experts that agree little shrink in their average: it pays to undo that.
    assert exact.best_scale(5) > exact.best_scale(1)


@pytest.mark.parametrize("config", [QUADRATIC["optima"], REGRESSION["little overlap"]])
def test_the_multitask_model_is_the_minimum(config):
    with jax.enable_x64(True):
        pool = world_of(config).pool
        loss = lambda params: jnp.mean(score(pool, params, "validation").loss)
        value, slope = jax.jit(jax.value_and_grad(loss))(pool.multitask)
        assert max(float(jnp.max(jnp.abs(x))) for x in jax.tree.leaves(slope)) < 1e-12
        assert value < min(measured(pool, np.eye(pool.size)).mean(axis=1))


def test_the_library_predicts_the_same_tail():
    with jax.enable_x64(True):
        world = world_of(QUADRATIC["optima"])
        pool = world.pool
        loss = lambda params: jnp.mean(score(pool, params, "test").loss)
        predict = jax.jit(lambda base, experts: laws.predict_tail(loss, base, experts))
        tail = predict(pool.base, pool.subset(range(pool.size)))
        np.testing.assert_allclose(tail.amplitude, world.exact.tail(), rtol=1e-9)
        np.testing.assert_allclose(
            tail.loss_of_all, world.exact.mean(pool.size), rtol=1e-9
        )


def test_settings_do_what_they_say():
    def cosine(config):
        pool = world_of(config).pool
        leaf = lambda e, b: np.asarray(e - b, float).reshape(pool.size, -1)
        rows = jax.tree.leaves(jax.tree.map(leaf, pool.experts, pool.base))
        v = np.concatenate(rows, axis=1)
        v = v / np.linalg.norm(v, axis=1, keepdims=True)
        return (v @ v.T)[np.triu_indices(pool.size, 1)].mean()

    base = QuadraticConfig(tasks=30, dimension=64)
    for wanted in (0.0, 0.3, 1.0):
        found = cosine(dataclasses.replace(base, correlation=wanted))
        assert found == pytest.approx(wanted, abs=0.08)
    low, high = (
        cosine(RegressionConfig(input_overlap=x, output_overlap=x)) for x in (0.0, 1.0)
    )
    assert high == pytest.approx(1.0, abs=1e-5)
    assert abs(low) < 0.1
    exact = world_of(
        dataclasses.replace(base, correlation=1.0, curvature_spread=0.0)
    ).exact
    np.testing.assert_allclose(exact.retention(20), 1.0, rtol=1e-9)
    assert world_of(base).exact.retention(20).max() < 0.5
    partly = dataclasses.replace(base, training_time=0.5)
    gain = lambda c: world_of(c).exact.levels - world_of(c).exact.members_mean(1)
    assert np.all(gain(partly) < gain(base))
    ranks = [
        np.linalg.matrix_rank(
            np.asarray(e["layer0"]["kernel"] - p.base["layer0"]["kernel"]), tol=1e-4
        )
        for p in [world_of(RegressionConfig(rank=3)).pool]
        for e in p.subset(range(4))
    ]
    assert ranks == [3] * 4


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (QuadraticConfig(correlation=1.2), "correlation is 1.2"),
        (QuadraticConfig(condition=0.5), "condition is 0.5"),
        (QuadraticConfig(training_time=0.0), "training_time is 0.0"),
        (RegressionConfig(rank=9), "rank is 9, input_rank 8"),
        (RegressionConfig(rank=8, outputs=7), "expected at most 7"),
        (RegressionConfig(noise=0.0), "noise is 0.0"),
    ],
)
def test_settings_out_of_range_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        world_of(config)


def test_curves_tell_merges_that_are_as_said_from_others():
    config = QuadraticConfig(tasks=12, dimension=8, correlation=0.3)
    world, other = (world_of(dataclasses.replace(config, seed=s)) for s in (0, 1))
    found = curves.measure(world, (1, 3, 11), subsets=40)
    assert {losses.shape for losses in found.values()} == {(3, 40)}
    assert curves.largest_error(world, found, (1, 3, 11)) < 4
    assert curves.largest_error(other, found, (1, 3, 11)) > 10


@pytest.mark.slow
def test_the_figure_of_the_worlds_is_drawn(tmp_path, capsys):
    assert curves.main(["--out", str(tmp_path / "worlds.png"), "--subsets", "8"]) == 0
    assert (tmp_path / "worlds.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.count("standard errors off at most") == 3
