"""Merges of every set of experts by the package of the scaling law's authors.

Their rules are ours with other settings. Average and task arithmetic need none; TIES
there trims by a value that it keeps, so that one entry more than the rest survives: a
density of its own for every tensor.
"""

import jax
import numpy as np
import pytest

import jaxmerge
from jaxmerge.laws.designs import all_subsets
from jaxmerge.laws.linear import linear_merge
from jaxmerge.laws.measure import measure
from tests.oracles import fixtures
from tests.oracles.comparisons import ties_of_subsets

TENSORS = fixtures.read_safetensors(
    fixtures.FIXTURES / "merging_eval" / "tensors.safetensors"
)
ABOUT = fixtures.recorded("merging_eval")
BASE = fixtures.under(TENSORS, "base")
EXPERTS = [fixtures.under(TENSORS, f"expert/{t}") for t in range(ABOUT["num_experts"])]
DESIGN = all_subsets(ABOUT["num_experts"])


def merger_of(case):
    if case["method"] == "average_merging":
        return jaxmerge.average()
    if case["method"] == "ties_merging":
        return ties_of_subsets(case, BASE)
    if "scale_over_k" in case:
        return jaxmerge.task_arithmetic(scale=case["scale_over_k"], normalize=True)
    return jaxmerge.task_arithmetic(scale=case["scale"])


@pytest.fixture(scope="module")
def merges():
    """Merges of all sets by one program; cases of one rule share it."""

    def run(merger, masks):
        return jax.vmap(lambda m: merger(BASE, EXPERTS, members=m))(masks)

    return jax.jit(run)


def check(name, merged):
    for row, subset in enumerate(DESIGN.names):
        expected = fixtures.under(TENSORS, f"{name}/{subset}")
        assert set(expected) == set(BASE)
        for leaf, x in expected.items():
            size = np.abs(x - BASE[leaf]).max()
            np.testing.assert_allclose(
                np.asarray(merged[leaf][row]), x, rtol=1e-6, atol=2e-6 * size
            )


@pytest.mark.parametrize("name", ABOUT["cases"])
def test_every_set_is_merged_alike(name, merges):
    check(name, merges(merger_of(ABOUT["cases"][name]), DESIGN.masks))


def test_linear_merges_of_the_runner_are_theirs():
    rules = {
        "average": linear_merge(BASE, EXPERTS),
        "task_arithmetic_0.8_over_k": linear_merge(BASE, EXPERTS, scale=0.8),
        "task_arithmetic_0.3": linear_merge(BASE, EXPERTS, scale=0.3, mean=False),
    }
    for name, rule in rules.items():
        check(name, jax.jit(jax.vmap(rule))(DESIGN.masks))


def test_the_runner_measures_their_merges():
    """A loss that tells merges apart, of ours by the runner and of theirs by hand."""
    rng = np.random.default_rng(0)
    target = {k: rng.standard_normal(x.shape).astype("f4") for k, x in BASE.items()}
    loss = lambda params: sum(((params[k] - target[k]) ** 2).sum() for k in BASE)
    merge = lambda members: jaxmerge.average()(BASE, EXPERTS, members=members)
    table = measure(merge, DESIGN, {"distance": loss})
    theirs = [loss(fixtures.under(TENSORS, f"average/{s}")) for s in DESIGN.names]
    np.testing.assert_allclose(table.loss, theirs, rtol=2e-6)


def test_ties_there_keeps_one_entry_more_than_the_rest(merges):
    """Of 17 entries int(13.6) = 13 should go at 0.8: five stay. Ours: int(3.4) = 3."""
    ours = merges(jaxmerge.ties(density=dict.fromkeys(BASE, 0.2)), DESIGN.masks)
    for t in range(len(EXPERTS)):
        alone = fixtures.under(TENSORS, f"ties_0.8/{t}")["bias"]
        assert np.count_nonzero(alone - BASE["bias"]) == 5
        assert np.count_nonzero(np.asarray(ours["bias"][t]) - BASE["bias"]) == 3
