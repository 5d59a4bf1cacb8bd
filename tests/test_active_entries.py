"""RAM, SCE and Arcee Fusion by hand, at their edges, and in fewer passes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmerge as J
from jaxmerge._types import Leaf
from jaxmerge.combine import EnergyWeightedElection, VaryingEntries, row_divergence

pytestmark = pytest.mark.usefixtures("quick_compilation")

run = jax.jit(lambda merger, models: merger(None, models))


def merged(merger, *models):
    return np.asarray(run(merger, [jnp.asarray(x, jnp.float32) for x in models]))


# --- RAM -----------------------------------------------------------------------------


def test_ram_averages_over_those_that_changed_an_entry():
    models = [1.0, 2.0, 0.0, 0.1], [0.0, 4.0, 0.0, -0.2], [0.0, 3.0, 0.0, 0.05]
    expected = [1.0, 3.0, 0.0, -0.05]
    np.testing.assert_allclose(merged(J.ram(threshold=0.07), *models), expected)
    weighted = J.ram(threshold=0.07, weights=(2.0, 1.0, 1.0), scale=0.5)
    np.testing.assert_allclose(merged(weighted, *models), [1.0, 11 / 6, 0.0, 0.0])


def test_the_threshold_is_strict():
    np.testing.assert_array_equal(merged(J.ram(threshold=0.5), [0.5, 0.75]), [0, 0.75])


def test_ram_plus_enlarges_what_one_expert_alone_changed():
    # Expert 0: three entries alone, one shared. Expert 1: one alone, one shared.
    # Expert 2: none.
    models = [1.0, 1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 3.0, 2.0], [0.0] * 5
    plus = lambda alpha: J.ram(plus=True, r=0.3, alpha=alpha)
    first, second = 1 + 0.3 / 3, 1 + 0.3
    expected = [first, first, first, 2.0, 2 * second]
    np.testing.assert_allclose(merged(plus(1.0), *models), expected, rtol=1e-6)
    clipped = [1.03, 1.03, 1.03, 2.0, 2.06]
    np.testing.assert_allclose(merged(plus(0.1), *models), clipped, rtol=1e-6)
    np.testing.assert_allclose(
        merged(J.ram(plus=True, r=0.0), *models), merged(J.ram(), *models)
    )


def test_members_of_ram_are_merged_as_if_alone():
    models = [[1.0, 2.0], [0.0, 4.0], [5.0, 0.0]]
    models = [jnp.asarray(x) for x in models]
    alone = J.ram()(None, models[:2])
    some = J.ram()(None, models, members=np.array([True, True, False]))
    np.testing.assert_array_equal(some, alone)
    with pytest.raises(ValueError, match="a place for every expert"):
        J.ram(plus=True)(None, models, members=np.array([True, True, False]))


@pytest.mark.parametrize("name", ["threshold", "r", "alpha"])
def test_ram_refuses_negative_numbers(name):
    with pytest.raises(ValueError, match=f"{name} is -1.0; expected a number of at"):
        J.ram(**{name: -1.0})


# --- Arcee Fusion --------------------------------------------------------------------


def test_the_divergence_has_its_digits_however_small_the_delta_is(rng):
    base = rng.standard_normal((4, 30))
    delta = rng.standard_normal((4, 30))
    softmax = lambda x: np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)
    q = softmax(base) + 1e-8
    for scale in (3.0, 0.1, 1e-3, 1e-5):
        p = softmax(base + scale * delta) + 1e-8
        terms = p * np.log1p((p - q) / q) - (p - q)
        got = row_divergence(jnp.float32(base), jnp.float32(scale * delta))
        # The terms in float64 have 1e-16 / (p - q)^2 left to lose.
        tolerance = 1e-4 if scale > 1e-4 else 1e-2
        np.testing.assert_allclose(
            got, terms.sum(-1, keepdims=True), rtol=tolerance, atol=0
        )


def test_arcee_fusion_needs_a_base_and_one_model():
    with pytest.raises(ValueError, match="with its base and was given none"):
        J.arcee_fusion()(None, [jnp.ones(3)])
    with pytest.raises(ValueError, match="one model into its base and was given 2"):
        J.arcee_fusion()(jnp.ones(3), [jnp.ones(3)] * 2)


# --- SCE -----------------------------------------------------------------------------


def test_sce_by_hand():
    # Energies (4 + 1) / 2 and (1 + 0) / 2; both votes are positive.
    got = merged(J.sce(), [2.0, -1.0], [1.0, 0.0])
    np.testing.assert_allclose(got, [(2.5 * 2 + 0.5) / 3, -1.0])
    # The second entry varies more, and the first is erased before energies are taken.
    got = merged(J.sce(select_topk=0.5), [2.0, -1.0], [1.0, 3.0])
    np.testing.assert_allclose(got, [0.0, 3.0])


def test_sce_of_equal_experts_is_the_expert_but_nothing_in_mergekit():
    x = [0.1, -0.7, 0.3]
    np.testing.assert_allclose(merged(J.sce(select_topk=0.3), x, x, x), x, rtol=1e-6)
    mergekit = J.sce(select_topk=0.3, compat="mergekit")
    np.testing.assert_array_equal(merged(mergekit, x, x, x), np.zeros(3))
    np.testing.assert_allclose(merged(J.sce(), x), x, rtol=1e-6)


def test_equal_experts_have_a_variance_of_exactly_zero(rng):
    x = jnp.asarray(rng.standard_normal(100), jnp.float32)
    varying, one = VaryingEntries(0.5), jnp.float32(1.0)
    state = varying.lift(x, one, Leaf())
    for _ in range(6):
        state = varying.join(state, varying.lift(x, one, Leaf()))
    np.testing.assert_array_equal(state[2], np.zeros(100))
    halves = varying.join(state, state)
    np.testing.assert_array_equal(halves[2], np.zeros(100))
    assert float(halves[0]) == 14.0


def test_variances_join_in_any_tree(rng):
    x = rng.standard_normal((5, 50)) + 100.0  # a sum of squares would lose digits
    varying = VaryingEntries()
    leaf = [varying.lift(jnp.float32(row), jnp.float32(1), Leaf()) for row in x]
    left = varying.join(varying.join(leaf[0], leaf[1]), leaf[2])
    total = varying.join(left, varying.join(leaf[3], leaf[4]))
    np.testing.assert_allclose(total[2] / total[0], np.var(x, axis=0), rtol=1e-4)


def test_small_energies_weigh_alike_in_mergekit_only():
    small = 1e-4 * np.array([[2.0, 1.0], [1.0, 0.0]])
    np.testing.assert_allclose(
        merged(J.sce(compat="mergekit"), *small), [1.5e-4, 1e-4], rtol=1e-6
    )
    expected = 1e-4 * (2.5 * 2 + 0.5) / 3
    np.testing.assert_allclose(merged(J.sce(), *small)[0], expected, rtol=1e-6)
    large = 1e4 * small
    np.testing.assert_allclose(
        merged(J.sce(compat="mergekit"), *large), merged(J.sce(), *large), rtol=1e-6
    )


@pytest.mark.slow
def test_all_entries_need_one_pass_only(rng):
    models = rng.standard_normal((3, 20)).astype(np.float32)
    one = J.sce()
    assert one.passes == (EnergyWeightedElection(),)
    two = J.Merger(combine=(VaryingEntries(1.0), EnergyWeightedElection()))
    np.testing.assert_allclose(merged(one, *models), merged(two, *models), rtol=1e-6)


def test_sce_refuses_shares_out_of_range():
    with pytest.raises(ValueError, match="select_topk is 1.5; expected from 0 to 1"):
        J.sce(select_topk=1.5)
    with pytest.raises(ValueError, match="compat is 'peft'"):
        J.sce(compat="peft")
