"""ACE: its closed form, its gate, what its terms do, and where it is only a mean."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmerge
from jaxmerge import Leaf, MatrixSpec, merge_leaves
from jaxmerge.combine import ace_diagnostics, input_covariance
from tests.oracles.fixtures import research_cases
from tests.reference.methods import ace_delta

pytestmark = pytest.mark.usefixtures("quick_compilation")

CASES = research_cases(folder="ace")
named = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
SHAPE = (48, 32)
# Of energy far from 1, where the paper's gate is off; and far apart, where it is on.
ALIKE, APART = (1.0, 1.1, 0.9, 1.2), (0.05, 0.2, 0.01, 0.04)


@pytest.fixture
def draw(rng):
    """Deltas of given scales, in float64."""

    def deltas(scales=ALIKE, shape=SHAPE):
        return [s * rng.standard_normal(shape) for s in scales]

    return deltas


def merged(deltas, **options) -> np.ndarray:
    with jax.enable_x64(np.result_type(*deltas) == np.float64):
        return np.asarray(merge_leaves(jaxmerge.ace(**options), None, deltas))


def relative(x, truth) -> float:
    return float(np.linalg.norm(x - truth) / np.linalg.norm(truth))


diagnose = jax.jit(lambda combine, deltas: ace_diagnostics(deltas, combine=combine))


def diagnosed(deltas, merger=None):
    with jax.enable_x64(np.result_type(*deltas) == np.float64):
        combine = (jaxmerge.ace() if merger is None else merger).combine
        layers = diagnose(combine, [{"w": d, "bias": d[0]} for d in deltas])
        assert layers.keys() == {"w"}
        return jax.tree.map(np.asarray, layers["w"])


# --- the formula ---------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_equals_the_dense_inverse_in_both_states_of_the_gate(draw, variant):
    """The reference inverts `M + 1 m^T` as it stands, non-symmetric."""
    for scales, on in ((ALIKE, False), (APART, True)):
        deltas = draw(scales)
        options = {"variant": variant, "eps": 1e-2}
        x, truth = merged(deltas, **options), ace_delta(deltas, **options)
        assert relative(x, truth) < 1e-9
        unrefined = ace_delta(deltas, **options, k_frac=0)
        assert (relative(truth, unrefined) > 1e-3) == on
        order = [2, 0, 3, 1]
        again = merged([deltas[t] for t in order], **options)
        assert relative(again, x) < 1e-12


def test_float32_is_right_as_far_as_the_condition_number_allows(draw):
    narrow = [np.float32(d) for d in draw(shape=(6, 32))]
    wide = [np.float64(d) for d in narrow]
    for eps in (1.0, 1e-2, 1e-3):
        off = relative(merged(narrow, eps=eps), ace_delta(wide, eps=eps))
        condition = float(diagnosed(wide, jaxmerge.ace(eps=eps)).condition)
        assert 1 / eps < condition < 1e3 / eps
        assert off < 1e-7 * condition


def test_float32_of_rank_two_keeps_a_ridge_that_it_can_resolve(rng):
    """With the ridge asked for alone the error is 10 percent, or Cholesky fails."""
    factors = lambda: (rng.standard_normal((6, 2)), rng.standard_normal((2, 32)))
    narrow = [np.float32(np.matmul(*factors())) for _ in range(4)]
    wide = [np.float64(d) for d in narrow]
    assert relative(merged(narrow, eps=1e-7), ace_delta(wide, eps=1e-7)) < 0.02


@named
def test_equals_the_authors(case):
    """Where they take the mean of no singular values they have NaN, and ours none."""
    eps, scales = case.about["eps"], case.about["scales"]
    pairs = list(zip(scales, case.deltas, strict=True))
    wide = [{k: s * np.float64(x) for k, x in tree.items()} for s, tree in pairs]
    narrow = [{"wide.weight": np.float32(s * x["wide.weight"])} for s, x in pairs]
    merger = jaxmerge.ace(variant="released", eps=eps)
    with jax.enable_x64(True):
        ours = merge_leaves(merger, None, wide)
    assert ours.keys() == case.expected.keys()
    for name, x in ours.items():
        x, expected = np.asarray(x), case.expected[name]
        if name in case.about["not_finite"]:
            assert np.all(np.isfinite(x))
            assert np.any(np.isnan(expected))
            continue
        assert relative(x, expected) < 1e-9, name
    if eps == 1e-2:
        single = np.asarray(merge_leaves(merger, None, narrow)["wide.weight"])
        assert relative(single, case.expected["wide.weight"]) < 1e-5


# --- what the terms do ---------------------------------------------------------------


def test_the_prior_halves_every_row_along_the_all_ones_input(draw):
    """And does nothing else, where the ridge goes to zero."""
    deltas, ones = draw(), np.ones((32, 32))
    plain = merged(deltas, eps=1e-11, csp=False)
    halved = plain @ (np.eye(32) - ones / 64)
    assert relative(merged(deltas, eps=1e-11), halved) < 1e-9
    assert relative(halved, plain) > 1e-2


def test_equal_experts_are_returned_without_prior_only(draw):
    """Idempotence fails by design: the prior takes a tenth off, centring more."""
    deltas = draw((1.0,)) * 4
    same = lambda **options: relative(merged(deltas, **options), deltas[0])
    assert same(csp=False) < 1e-12
    assert 0.05 < same() < 0.15
    assert same() < same(variant="released") < 0.25
    restored = merged(deltas, csp=False, center="both", restore_mean=True)
    assert relative(restored, deltas[0]) < 1e-12


def test_a_large_ridge_is_the_mean_and_the_diagnostics_say_so(draw):
    deltas = draw()
    mean = np.mean(deltas, axis=0)
    assert relative(merged(deltas, eps=1e12), mean) < 1e-8
    centred = mean - mean.mean(axis=0)
    assert relative(merged(deltas, eps=1e12, variant="released"), centred) < 1e-8
    assert relative(merged(deltas), mean) > 0.1
    assert np.all(diagnosed(deltas, jaxmerge.ace(eps=1e12)).eps_ratio > 1e6)
    assert np.all(diagnosed(deltas).eps_ratio < 1e-3)


def test_equal_gram_matrices_give_the_mean(draw, rng):
    (delta,) = draw((1.0,))
    turned = [np.linalg.qr(rng.standard_normal((48, 48)))[0] @ delta for _ in range(4)]
    x = merged(turned, center="none", csp=False)
    assert relative(x, np.mean(turned, axis=0)) < 1e-10


def test_experts_on_inputs_of_their_own_are_added(rng):
    """Each row space keeps its expert whole, where the mean keeps a quarter of each."""
    deltas = []
    for t in range(4):
        delta = np.zeros(SHAPE)
        delta[:, 8 * t : 8 * t + 8] = rng.standard_normal((48, 8))
        deltas.append(delta)
    assert relative(merged(deltas, csp=False, center="none"), sum(deltas)) < 1e-6


def test_one_expert(draw):
    deltas = draw((0.1,))
    assert relative(merged(deltas), ace_delta(deltas)) < 1e-9


def test_the_input_may_be_the_first_axis(draw):
    deltas = draw(APART)
    x = merged([d.T.copy() for d in deltas], in_axis="first")
    np.testing.assert_allclose(x.T, merged(deltas), rtol=1e-8, atol=1e-12)


# --- the gate ------------------------------------------------------------------------


def test_the_gate_of_the_paper_depends_on_units_and_the_other_does_not(draw):
    """Log energies pass through zero, so the paper's ratio has a pole there."""
    deltas = [d / np.linalg.norm(d) for d in draw((1.0,) * 4)]
    spread = (0.9, 1.0, 1.0, 1.1)
    free = jaxmerge.ace(gate="scale_free")
    gammas, variances = [], []
    for scale in (1.0, 1.05, 1.5, 0.1):
        scaled = [scale * s * d for s, d in zip(spread, deltas, strict=True)]
        gammas.append(float(diagnosed(scaled).gamma))
        variances.append(float(diagnosed(scaled, free).gamma))
    logs = np.log(np.square(spread))
    np.testing.assert_allclose(
        gammas[1], logs.var() / (logs + np.log(1.1025)).mean() ** 2
    )
    assert gammas[0] > 50 > gammas[1] > 0.3 > gammas[2] > gammas[3]
    np.testing.assert_allclose(variances, logs.var(), rtol=1e-9)


def test_equal_energies_leave_the_gate_off_at_a_threshold_of_zero(draw):
    deltas = draw((1.0,)) * 4
    layer = diagnosed(deltas, jaxmerge.ace(tau=0.0))
    assert float(layer.gamma) == 0
    assert not layer.active


# --- what cannot be right is defined -------------------------------------------------


def test_zero_deltas_and_shared_rows_have_finite_merges_and_gradients(rng):
    a = rng.standard_normal((2, 32))
    shared = [rng.standard_normal((48, 2)) @ a for _ in range(4)]
    idle = [np.zeros(SHAPE), *shared[:3]]
    # Of rank two, the raised directions end among singular values that are zero.
    merger = jaxmerge.ace(tau=0.0)
    loss = lambda deltas: jnp.sum(merger(None, deltas) ** 2)
    gradient = jax.jit(jax.value_and_grad(loss))
    for deltas in (shared, idle, [np.zeros(SHAPE)] * 4):
        found = gradient([np.float32(d) for d in deltas])
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(found))
    assert bool(diagnosed(shared).shared_rows)
    own = [
        d + np.outer(rng.standard_normal(48), rng.standard_normal(32)) for d in shared
    ]
    assert not bool(diagnosed(own).shared_rows)


def test_an_expert_that_did_not_move_keeps_the_base_where_the_gate_is_on(draw):
    """`eps / tr S_t` has no bound: its ridge outweighs what the others know."""
    deltas = [np.zeros(SHAPE), *draw(APART)]
    assert np.linalg.norm(merged(deltas, spectral=False)) < 1e-3 * np.linalg.norm(
        deltas[1]
    )


def test_stacked_matrices_are_merged_one_by_one(draw):
    rule = jaxmerge.Matrices.by_pattern({"stack": MatrixSpec()})
    pairs = zip(draw(APART), draw(ALIKE), strict=True)
    deltas = [{"stack": np.stack(pair)} for pair in pairs]
    with jax.enable_x64(True):
        merger = dataclasses.replace(jaxmerge.ace(), matrices=rule)
        both = np.asarray(merge_leaves(merger, None, deltas)["stack"])
    for i in range(2):
        assert relative(both[i], merged([d["stack"][i] for d in deltas])) < 1e-9


def test_members_are_merged_as_they_are_alone(draw):
    deltas = [np.float32(d) for d in draw(APART)]
    mask = np.array([True, False, True, True])
    some = merge_leaves(jaxmerge.ace(), None, deltas, members=mask)
    alone = ace_delta([np.float64(deltas[t]) for t in (0, 2, 3)])
    assert relative(np.asarray(some), alone) < 1e-4


def test_bad_options_are_refused(draw):
    cases: list[tuple[dict[str, Any], str]] = [
        ({"eps": 0.0}, "eps is .*above 0"),
        ({"tau": -1.0}, "tau is .*at least 0"),
        ({"k_frac": 1.5}, "k_frac is 1.5"),
        ({"variant": "authors"}, "variant is 'authors'"),
        ({"center": "rows"}, "center is 'rows'"),
        ({"gate": "off"}, "gate is 'off'"),
        ({"in_axis": "-1"}, "in_axis is '-1'"),
    ]
    for options, message in cases:
        with pytest.raises(ValueError, match=message):
            jaxmerge.ace(**options)
    deltas = [np.float32(d) for d in draw()]
    with pytest.raises(ValueError, match="eps of ace has shape"):
        merge_leaves(jaxmerge.ace(eps=[0.1, 0.2, 0.1, 0.1]), None, deltas)
    with pytest.raises(ValueError, match="leaves differ"):
        ace_diagnostics([{"w": deltas[0]}, {"v": deltas[1]}])


# --- diagnostics ---------------------------------------------------------------------


def test_diagnostics_equal_numpy(draw):
    deltas = draw(APART)
    layer = diagnosed(deltas, jaxmerge.ace(eps=1e-3))
    centred = [d - d.mean(axis=0) for d in deltas]
    grams = [c.T @ c for c in centred]
    trace = np.array([np.trace(g) for g in grams])
    logs = np.log([np.sum(d**2) for d in deltas])
    np.testing.assert_allclose(layer.trace, trace)
    np.testing.assert_allclose(layer.eps_ratio, 1e-3 * 32 / trace)
    np.testing.assert_allclose(layer.gamma, logs.var() / logs.mean() ** 2)
    ridged = [(g + 1e-3 * np.eye(32)) / r for g, r in zip(grams, trace, strict=True)]
    np.testing.assert_allclose(layer.condition, np.linalg.cond(sum(ridged)))
    pre = sum(d @ p for d, p in zip(deltas, ridged, strict=True))
    scaled = [g / r for g, r in zip(grams, trace, strict=True)]
    prior = np.mean(sum(scaled), axis=0)
    pre = pre @ np.linalg.inv(sum(ridged) + np.ones((32, 1)) * prior)
    square = np.linalg.svd(pre, compute_uv=False) ** 2
    np.testing.assert_allclose(layer.top_energy, square[:2].sum() / square.sum())
    mean = sum(scaled) / 4
    residual = sum(d @ (x - mean) for d, x in zip(deltas, scaled, strict=True))
    values = np.linalg.svd(pre + residual, compute_uv=False)
    assert layer.active
    assert layer.k == 9
    np.testing.assert_allclose(layer.level, values[:9].mean())


# --- when the estimate is right ------------------------------------------------------


def test_small_noisy_steps_leave_the_input_covariance_in_the_delta(rng):
    """Theorem 1: errors that are noise, one sample a step, a small rate."""
    cov = np.diag(np.logspace(0, -1.5, 24))
    x = rng.standard_normal((4000, 24)) * np.sqrt(np.diag(cov))
    delta = 1e-4 * rng.standard_normal((512, 4000)) @ x
    found = np.asarray(input_covariance(jnp.asarray(delta, jnp.float32)))
    cosine = np.sum(found * cov) / np.linalg.norm(found) / np.linalg.norm(cov)
    assert cosine > 0.98


def test_ace_wins_while_experts_are_not_converged(rng):
    """Linear tasks on inputs of low rank, gradient descent stopped early.

    What is measured is the excess risk of the merge, over that of the base.
    """
    deltas, bases, targets = [], [], []
    for _ in range(4):
        basis = rng.standard_normal((24, 8)) / np.sqrt(8)
        target, cov = rng.standard_normal((512, 24)), basis @ basis.T
        delta = np.zeros_like(target)
        for _ in range(20):
            delta -= 0.05 * (delta - target) @ cov
        deltas.append(delta)
        bases.append(basis)
        targets.append(target)

    def risk(delta):
        pairs = zip(targets, bases, strict=True)
        return sum(np.sum(((delta - t) @ b) ** 2) for t, b in pairs)

    mean = np.mean(deltas, axis=0)
    arithmetic = min(risk(c * mean) for c in np.linspace(0.5, 4, 36))
    assert risk(merged(deltas, csp=False)) < 0.8 * arithmetic
    assert arithmetic < risk(mean)


def test_deltas_of_converged_experts_tell_nothing_and_ace_is_no_better_than_the_mean(
    rng,
):
    """On inputs of full rank they are the targets, whatever the inputs were."""
    targets = [rng.standard_normal((512, 24)) for _ in range(4)]
    turns = [np.linalg.qr(rng.standard_normal((24, 24)))[0] for _ in range(4)]
    halves = [turn * np.logspace(0, -1, 24) for turn in turns]

    def risk(delta):
        pairs = zip(targets, halves, strict=True)
        return sum(np.sum(((delta - t) @ half) ** 2) for t, half in pairs)

    mean = risk(np.mean(targets, axis=0))
    assert 0.95 * mean < risk(merged(targets, csp=False)) < 1.1 * mean
    known = [half @ half.T for half in halves]
    pairs = zip(targets, known, strict=True)
    regression = np.sum([t @ s for t, s in pairs], axis=0) @ np.linalg.inv(
        np.sum(known, axis=0)
    )
    assert risk(regression) < 0.8 * mean


def test_the_state_does_not_grow_with_the_experts(draw):
    merger = jaxmerge.ace()
    assert len(merger.passes) == 1
    combine, leaf = merger.combine, Leaf(matrix=MatrixSpec())
    lift = lambda x: combine.lift(x, jnp.ones(()), leaf)
    one, two = (jnp.asarray(d, jnp.float32) for d in draw(ALIKE[:2]))
    shapes = lambda state: [x.shape for x in jax.tree.leaves(state)]
    state = jax.eval_shape(lift, one)
    assert shapes(state) == shapes(
        jax.eval_shape(lambda: combine.join(lift(one), lift(two)))
    )
