"""Laws of CAT: what it takes away, and what it leaves alone."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxmerge
from jaxmerge import merge_leaves

pytestmark = pytest.mark.usefixtures("quick_compilation")


def cat(deltas, grams, directions=2, trade_off=0.5):
    merger = jaxmerge.cat(directions=directions, trade_off=trade_off)
    as_trees = lambda xs: [{"w": jnp.asarray(x, jnp.float32)} for x in xs]
    merged = merge_leaves(merger, None, as_trees(deltas), statistics=as_trees(grams))
    return np.asarray(merged["w"])


def draws(num=3, out=5, size=6, seed=0):
    rng = np.random.default_rng(seed)
    deltas = rng.standard_normal((num, out, size)).astype(np.float32)
    inputs = rng.standard_normal((num, 8, size)).astype(np.float32)
    return deltas, np.einsum("tni,tnj->tij", inputs, inputs)


def test_one_expert_stays_as_it_is():
    deltas, grams = draws(1)
    np.testing.assert_array_equal(cat(deltas, grams), deltas[0])


def test_experts_of_disjoint_inputs_are_summed():
    """No delta changes any output of another task: there is nothing to take away."""
    deltas, grams = draws(2, size=6)
    deltas[0, :, 3:] = deltas[1, :, :3] = 0
    grams[0, 3:] = grams[0, :, 3:] = grams[1, :3] = grams[1, :, :3] = 0
    np.testing.assert_allclose(cat(deltas, grams), deltas.sum(0), rtol=1e-6)


def test_all_directions_and_no_trade_off_leave_nothing():
    deltas, grams = draws(3)
    np.testing.assert_allclose(cat(deltas, grams, 5, 0.0), 0, atol=1e-5)


def test_outputs_turned_turn_the_merge():
    deltas, grams = draws(3)
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((5, 5)))[0]
    turned = cat(np.float32(turn @ deltas), grams)
    np.testing.assert_allclose(turned, turn @ cat(deltas, grams), atol=1e-5)


def test_a_gain_loses_the_entries_that_disturb_most():
    """Of 0.9 and 0.1 in a place that matters only to the other task, 0.9 goes."""
    deltas = np.float32([[0.9, 0.1, 0.5], [0.0, 0.0, 0.5]])
    squares = np.float32([[0.0, 0.0, 1.0], [1.0, 1.0, 1.0]])
    merged = cat(deltas, squares, directions=1, trade_off=1.0)
    np.testing.assert_allclose(merged, [0.0, 0.1, 1.0], rtol=1e-6)


def test_what_it_cannot_be_told_is_refused():
    with pytest.raises(ValueError, match="directions is 0; expected at least 1"):
        jaxmerge.cat(directions=0, trade_off=1.0)
    with pytest.raises(ValueError, match="trade_off"):
        jaxmerge.cat(directions=1, trade_off=-1.0)
    deltas, _ = draws(2)
    merger = jaxmerge.cat(directions=1, trade_off=1.0)
    with pytest.raises(ValueError, match="statistic"):
        merge_leaves(merger, None, [{"w": jnp.asarray(d)} for d in deltas])
