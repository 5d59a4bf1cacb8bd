"""Designs: every set once, uniform samples, and orders that are far from each other."""

import itertools
import math

import jax
import numpy as np
import pytest

from jaxmerge.laws import designs


def test_nine_experts_have_511_sets_each_once():
    design = designs.all_subsets(9)
    assert len(design) == designs.num_subsets(9) == 511
    assert len(set(design.names)) == 511
    assert np.bincount(design.k).tolist() == [0] + [
        math.comb(9, k) for k in range(1, 10)
    ]
    listed = ["-".join(map(str, subset)) for subset in designs.iterate_subsets(9)]
    assert design.names == listed
    assert designs.all_subsets(5, [4, 2]).k.tolist() == [2] * 10 + [4] * 5


def test_large_pools_are_iterated_and_refused_as_a_mask():
    with pytest.raises(ValueError, match="iterate_subsets"):
        designs.all_subsets(40)
    assert designs.num_subsets(40) == 2**40 - 1
    first = list(itertools.islice(designs.iterate_subsets(40, [20]), 2))
    assert first[0] == tuple(range(20))
    assert len(designs.all_subsets(40, [1, 39])) == 80
    with pytest.raises(ValueError, match="sizes has 41"):
        designs.num_subsets(40, [41])


@pytest.mark.parametrize("count", [3, 10])
def test_uniform_sets_are_different_and_each_equally_likely(count):
    """C(5, 2) = 10: three of them are drawn by rejection, ten by a permutation."""
    draws = 300
    seen = np.zeros(5)
    first = dict.fromkeys(designs.all_subsets(5, [2]).names, 0)
    for seed in range(draws):
        key = jax.random.key(seed)
        design = designs.uniform_subsets(key, 5, 2, count)
        assert len(set(design.names)) == len(design) == count
        assert np.all(design.k == 2)
        seen += design.masks.sum(axis=0)
        first[design.names[0]] += 1
    # Ten cells of mean 40; chi-squared with 9 degrees of freedom is below 27.9 but in
    # one of a thousand keys.
    assert sum((n - draws / 10) ** 2 for n in first.values()) / (draws / 10) < 27.9
    assert np.abs(seen / (draws * count) - 0.4).max() < 0.05


def test_uniform_sets_of_a_large_pool():
    key = jax.random.key(3)
    design = designs.uniform_subsets(key, 64, 8, 500)
    assert len(set(design.names)) == 500
    assert np.abs(design.masks.mean(axis=0) - 1 / 8).max() < 0.06
    again = designs.uniform_subsets(key, 64, 8, 500)
    assert np.array_equal(design.masks, again.masks)
    with pytest.raises(ValueError, match="6 sets of 2"):
        designs.uniform_subsets(key, 4, 2, 7)


def test_orders_are_those_of_the_algorithm(key):
    orders = designs.permutations(key, 9, 15)
    assert orders.shape == (15, 9)
    assert orders[0].tolist() == list(range(9))
    assert orders[1].tolist() == list(range(8, -1, -1))
    assert (orders[0] != orders[1]).sum() == 8  # the middle one stays
    assert all(sorted(order) == list(range(9)) for order in orders.tolist())
    for number in range(2, 15):
        values = [
            min(sum(a != b for a, b in zip(c, o, strict=True)) for o in orders[:number])
            for c in designs._candidates(key, 9, number).tolist()
        ]
        kept = min((orders[number] != o).sum() for o in orders[:number])
        assert kept == max(values)
        assert 7 <= kept <= 9
    assert np.array_equal(orders, designs.permutations(key, 9, 15))
    assert np.array_equal(orders[:4], designs.permutations(key, 9, 4))
    other = designs.permutations(jax.random.key(1), 9, 15)
    assert not np.array_equal(orders, other)


def test_candidates_are_uniform_permutations(key):
    drawn = designs._candidates(key, 4, 2)
    places = np.stack([(drawn == t).sum(axis=0) for t in range(4)])
    assert np.abs(places / len(drawn) - 0.25).max() < 0.05


def test_small_pools_run_out_of_orders(key):
    assert len(designs.permutations(key, 3, 6)) == 6
    assert designs.permutations(key, 1, 1).tolist() == [[0]]
    for num_experts, count in ((1, 2), (2, 3), (3, 7)):
        with pytest.raises(ValueError, match="is new"):
            designs.permutations(key, num_experts, count)


def test_prefixes_are_nested_and_few_at_both_ends(key):
    orders = designs.permutations(key, 9, 15)
    design = designs.prefixes(orders)
    names = set(design.names)
    assert len(names) == len(design)
    for order in orders.tolist():
        for k in range(1, 10):
            assert designs.subset_name(sorted(order[:k])) in names
    counts = np.bincount(design.k)[1:]
    assert counts[-1] == 1
    assert counts[0] <= 9
    assert 80 <= counts.sum() <= 120  # about a hundred of 135
    with pytest.raises(ValueError, match="order 1 is"):
        designs.prefixes(np.array([[0, 1], [1, 1]]))


def test_sets_that_are_none_are_refused():
    for wrong in ([], [0, 0], [3], [-1]):
        with pytest.raises(ValueError, match="is no set of experts"):
            designs.Design.from_members([[0], wrong], 3)
