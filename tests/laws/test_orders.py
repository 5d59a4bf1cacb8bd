"""Spread over orders and synergy, from tables whose answers are planted."""

import numpy as np
import pytest

from jaxmerge.laws import LossTable, designs
from jaxmerge.laws.orders import order_sensitivity, synergy, trajectories

NAMES = ["algebra", "biology", "code"]


def table_of(loss, num_experts, domains=NAMES, **columns):
    """All sets of a pool, with the loss that a function of members and domain gives."""
    rows = [
        {
            "subset": "-".join(map(str, members)),
            "domain": domain,
            "loss": loss(members, e),
            **columns,
        }
        for members in designs.iterate_subsets(num_experts)
        for e, domain in enumerate(domains)
    ]
    return LossTable.from_rows(rows)


def test_an_additive_loss_gives_the_planted_matrix_back(key, rng):
    """T22."""
    planted = rng.normal(size=(6, 3))
    table = table_of(lambda members, e: 40 - planted[list(members), e].sum(), 6)
    orders = designs.permutations(key, 6, 9)
    found = synergy(table, orders)
    np.testing.assert_allclose(found.mean, planted, atol=1e-12)
    assert found.stderr.max() < 1e-12
    assert found.count.sum() == 9 * 5
    expected = [sum(t in order[1:] for order in orders.tolist()) for t in range(6)]
    assert found.count.tolist() == expected
    assert found.block([0, 1], ["code"]) == pytest.approx(planted[:2, 2].mean())


def test_fifteen_orders_of_nine_have_the_papers_occurrences(key):
    table = table_of(lambda members, e: 1.0, 9)
    count = synergy(table, designs.permutations(key, 9, 15)).count
    assert count.sum() == 15 * 8
    assert count.min() >= 11


def test_synergy_is_the_mean_of_its_steps(rng):
    losses = {}
    loss = lambda members, e: losses.setdefault((members, e), rng.uniform())
    table = table_of(loss, 3)
    found = synergy(table, [[0, 1, 2], [2, 1, 0], [1, 0, 2]])
    for e in range(3):
        steps = [
            losses[(0,), e] - losses[(0, 1), e],
            losses[(2,), e] - losses[(1, 2), e],
        ]
        assert found.mean[1, e] == pytest.approx(np.mean(steps))
        assert found.stderr[1, e] == pytest.approx(np.std(steps, ddof=1) / 2**0.5)
    alone = synergy(table, [[0, 1, 2]])
    assert alone.count.tolist() == [0, 1, 1]
    assert np.isnan(alone.mean[0]).all()
    assert np.isnan(alone.stderr).all()


def test_spread_has_the_papers_coefficients():
    """T21: CV .0388 / .8164 = .048, and the range falls by 83 % from .0865 to .0148."""
    mean, std, ranges = (0.8164, 0.75), (0.0388, 0.0081), (0.0865, 0.0148)
    deviation = np.asarray(std) / np.sqrt(2)  # of two, with divisor 1

    def loss(members, e):
        del e
        k = len(members)
        return mean[k - 1] + (deviation[k - 1] if 0 in members else -deviation[k - 1])

    orders = [[0, 1, 2, 3], [3, 2, 1, 0]]
    table = table_of(lambda m, e: loss(m, e) if len(m) < 3 else 0.7, 4)
    spread = order_sensitivity(table, orders)
    np.testing.assert_allclose(spread.std, [*std, 0, 0], atol=1e-12)
    np.testing.assert_allclose(spread.cv, [0.0475, 0.0108, 0, 0], atol=5e-5)
    assert spread.num_sets.tolist() == [2, 2, 2, 1]

    wide = table_of(
        lambda m, e: 1.0 if len(m) > 2 else 0.5 + ranges[len(m) - 1] * (0 in m), 4
    )
    found = order_sensitivity(wide, orders).range
    np.testing.assert_allclose(found[:2], ranges)
    assert 1 - found[1] / found[0] == pytest.approx(0.83, abs=0.005)


def test_domains_count_alike_and_methods_are_chosen(key):
    orders = designs.permutations(key, 4, 5)
    plain = lambda members, e: 1 + e + 0.1 * members[0]
    one = table_of(plain, 4, method="Average", size=0.5)
    two = table_of(lambda m, e: 2 * plain(m, e), 4, method="TA", size=0.5)
    both = LossTable.from_rows([*one.rows(), *two.rows()])
    spread = order_sensitivity(both, orders, method="TA")
    assert spread.mean.tolist() == order_sensitivity(two.pooled(), orders).mean.tolist()
    single = order_sensitivity(one, orders, size=0.5)
    np.testing.assert_allclose(spread.std, 2 * single.std)
    losses = trajectories(one, orders)
    assert losses.shape == (5, 4, 3)
    assert losses[1, 0].tolist() == pytest.approx([1.3, 2.3, 3.3])  # the reverse
    with pytest.raises(ValueError, match="several methods"):
        synergy(both, orders)
    with pytest.raises(ValueError, match="no size 7"):
        synergy(one, orders, size=7)


def test_a_table_without_a_prefix_is_refused():
    table = table_of(lambda members, e: 1.0, 3)
    lacking = table.where((table.subset != "0-2") | (table.domain != "code"))
    with pytest.raises(ValueError, match="set 0-2 on 'code', the first 2 of order 1"):
        synergy(lacking, [[0, 1, 2], [2, 0, 1]])
    order_sensitivity(lacking, [[0, 1, 2], [2, 1, 0]])
    twice = LossTable.from_rows(
        [*table.rows(), {"subset": "0", "domain": "code", "loss": 2.0}]
    )
    with pytest.raises(ValueError, match="two losses of the set 0 on 'code'"):
        synergy(twice, [[0, 1, 2]])
    with pytest.raises(ValueError, match="at least two"):
        order_sensitivity(table, [[0, 1, 2]])
    with pytest.raises(ValueError, match="order 0 is"):
        synergy(table, [[0, 1, 1]])
