"""Plans, returns and forecasts against the paper's numbers and brute force."""

import math

import numpy as np
import pytest

from jaxmerge import laws
from tests.laws import paper

JOINT = paper.joint_laws()
AVERAGE = {
    domain: law for (method, domain), law in JOINT.items() if method == "average"
}


def test_experts_within_a_slack_of_the_floor():
    # T9, from Table 12.
    table = {
        row["domain"]: laws.JointLaw(
            *(float(row[n]) for n in ("Lstar", "B", "beta", "A0", "gamma", "b"))
        )
        for row in paper.rows("joint_fit_average_alt_table12")
    }
    at = lambda domain, size: laws.experts_within(table[domain].at(size), 0.01)
    assert [at("code", 0.5), at("code", 32)] == [8, 5]
    assert [at("biology", 0.5), at("biology", 32)] == [18, 18]


def test_returns_of_the_law():
    # T10.
    np.testing.assert_allclose(laws.law_return(0.0, [5, 4], most=9), [0.9, 0.84375])
    reaching = lambda b, share: laws.experts_for_return(b, share, most=9)
    assert [reaching(0.0, 0.85), reaching(0.0, 0.9)] == [5, 5]
    assert [reaching(0.5, 0.85), reaching(0.5, 0.9)] == [5, 6]
    # The claim that k85 = 5 and k90 = 6 holds exactly for 0 < b <= 0.714.
    assert [reaching(0.714, 0.85), reaching(0.72, 0.85)] == [5, 6]
    assert [reaching(1e-6, 0.9), reaching(0.714, 0.9)] == [6, 6]


@pytest.mark.parametrize("offset", [0.0, 0.3, 2.0, 7.5])
@pytest.mark.parametrize("most", [1, 2, 9, 40])
def test_returns_by_brute_force(offset, most):
    k = np.arange(1, most + 1)
    curve = laws.Curve(0.3, 0.2, offset)
    if most > 1:
        np.testing.assert_allclose(
            laws.law_return(offset, k, most=most), laws.fractional_return(curve(k))
        )
    for share in (0.0, 0.5, 0.8, 0.9, 1.0):
        first = k[laws.law_return(offset, k, most=most) >= share - 1e-9][0]
        assert laws.experts_for_return(offset, share, most=most) == first
    many = np.arange(1, 2000)
    first = many[laws.law_return(offset, many) >= 0.95 - 1e-9][0]
    assert laws.experts_for_return(offset, 0.95) == first


def test_plans_for_algebra_at_7b():
    # T11.
    law = AVERAGE["algebra"]
    curve = law.at(7.0)
    assert abs(curve.amplitude - 0.05147) < 1e-5
    assert [laws.stop_after(curve, g) for g in (0.005, 0.002, 0.001)] == [3, 5, 7]
    targets = [laws.experts_for_loss(curve, t) for t in (0.24, 0.235, 0.231)]
    assert targets == [6, 14, None]
    assert abs(laws.smallest_size(law, 0.24) - 4.78) < 0.005
    assert laws.smallest_size(law, law.floor) is None


def test_the_best_size_and_count_for_a_budget():
    # T12.
    product = lambda size, k: size * k
    for budget, expected in {
        63: [(14, 4), (14, 4), (14, 4)],
        9: [(3, 3), (7, 1), (7, 1)],
    }.items():
        found = [
            laws.best_choice(AVERAGE[d], paper.SIZES, range(1, 10), product, budget)[:2]
            for d in ("algebra", "biology", "code")
        ]
        assert found == expected
    assert laws.best_choice(AVERAGE["code"], [7], [1], product, 6) is None


@pytest.mark.parametrize("domain", AVERAGE)
def test_plans_by_brute_force(domain):
    law = AVERAGE[domain]
    k = np.arange(1, 3000)
    for size in (0.5, 7.0, 72.0):
        curve = law.at(size)
        loss, gain = curve(k), curve.gain(k)
        for tau in (0.02, 1e-3, 1e-5):
            assert laws.stop_after(curve, tau) == k[gain <= tau * (1 + 1e-9)][0]
            first = k[loss - curve.floor <= tau * (1 + 1e-9)]
            if first.size:
                assert laws.experts_within(curve, tau) == first[0]
        target = float(curve(5))
        assert laws.experts_for_loss(curve, target) == 5
    # Along N k = const, the loss is least at the balance.
    k_star = laws.balanced_experts(law, 7.0)
    shift = np.linspace(-0.2, 0.2, 401)
    along = law(7.0 * np.exp(-shift), (k_star or 3.0) * np.exp(shift))
    if k_star is None:  # With b = 0.43 a larger model is always worth more.
        assert domain == "code"
        assert np.all(np.diff(along) > 0)
    else:
        assert abs(shift[np.argmin(along)]) < 1e-3


def test_balance_in_closed_form():
    law = laws.JointLaw(0.2, 0.1, 0.4, 0.05, 0.0, 0.0)
    expected = 0.05 * 8**0.4 / (0.4 * 0.1)
    np.testing.assert_allclose(laws.balanced_experts(law, 8.0), expected)
    assert laws.balanced_experts(laws.JointLaw(0, 0, 0.4, 0.05, 0.0), 8.0) == math.inf
    assert laws.balanced_experts(laws.JointLaw(0, 0.1, 0.4, 0.0, 0.0), 8.0) is None


def test_plans_refuse_what_they_are_not_for():
    curve = laws.Curve(0.2, 0.1, 0.5)
    with pytest.raises(ValueError, match="slack is 0; expected a positive number"):
        laws.experts_within(curve, 0)
    with pytest.raises(ValueError, match="least_gain is nan"):
        laws.stop_after(curve, float("nan"))
    with pytest.raises(ValueError, match="closed forms of floor"):
        laws.experts_within(laws.Curve(0.2, 0.1, 0.5, form="power"), 0.1)
    with pytest.raises(ValueError, match="bounded term"):
        laws.experts_within(laws.Curve(0.2, 0.1, 0.5, rise=0.1), 0.1)
    with pytest.raises(ValueError, match="amplitude -0.1"):
        laws.experts_within(laws.Curve(0.2, -0.1, 0.5), 0.1)
    with pytest.raises(ValueError, match="share is 1;"):
        laws.experts_for_return(0.5, 1)


@pytest.mark.parametrize(("method", "domain"), JOINT)
def test_three_points_give_the_whole_curve(method, domain):
    # T7.
    for size in (0.5, 72.0):
        curve = JOINT[method, domain].at(size)
        found = laws.three_point([1, 2, 4], curve(np.array([1, 2, 4])))
        k = np.arange(1, 10)
        np.testing.assert_allclose(found.curve(k), curve(k), atol=1e-8)
        if curve.offset > 1e-7:
            assert not found.cautions
            got = [found.curve.floor, found.curve.amplitude, found.curve.offset]
            want = [curve.floor, curve.amplitude, curve.offset]
            np.testing.assert_allclose(got, want, atol=1e-8)


def test_three_points_of_the_measured_curve():
    # T8.
    points = paper.sixteen()
    found = laws.three_point([2, 4, 8], points.mean[[0, 1, 3]])
    got = [found.ratio, found.curve.offset, found.curve.amplitude, found.curve.floor]
    np.testing.assert_allclose(got, [0.9694, 4.392, 1.188, 0.5915], rtol=4e-4)
    np.testing.assert_allclose(found.curve(points.k), points.mean, rtol=0.01)


def test_three_points_that_no_curve_goes_through():
    with pytest.raises(ValueError, match="does not saturate yet"):
        laws.three_point([1, 2, 4], [1.0, 0.9, 0.7])
    with pytest.raises(ValueError, match="do not fall"):
        laws.three_point([1, 2, 4], [1.0, 0.9, 0.95])
    with pytest.raises(ValueError, match="expected three of each"):
        laws.three_point([1, 2], [1.0, 0.9])
    with pytest.raises(ValueError, match="ascending"):
        laws.three_point([1, 1, 4], [1.0, 0.9, 0.8])
    steep = laws.three_point([1, 2, 4], [1.0, 0.6, 0.5])
    assert steep.curve.offset == 0
    assert [c.name for c in steep.cautions] == ["offset_clamped"]
    # Weights k: the line in 1 / k by hand.
    w, x, y = np.array([1, 2, 4.0]), np.array([1, 0.5, 0.25]), np.array([1, 0.6, 0.5])
    centred = x - np.average(x, weights=w)
    slope = np.sum(w * centred * y) / np.sum(w * centred**2)
    np.testing.assert_allclose(steep.curve.amplitude, slope)


def test_returns_of_the_llama_curves():
    # T20, from Table 23.
    curves = {
        row["backbone"]: laws.Curve(
            float(row["Linf"]), float(row["A"]), float(row["b"])
        )
        for row in paper.rows("llama_fits")
        if row["source_table"] == "23"
    }
    k = np.arange(1, 10)
    small, large = (
        laws.fractional_return(curves[name](k))
        for name in ("LLaMA-3.2-3B", "LLaMA-3-8B")
    )
    np.testing.assert_allclose(small[[4, 5]], [0.8516, 0.9054], atol=1e-4)
    np.testing.assert_allclose(large[3], 0.8437, atol=1e-4)
    reached = [
        [laws.first_reaching(k, series, share) for share in (0.8, 0.9)]
        for series in (small, large)
    ]
    assert reached == [[5, 6], [4, 5]]
    both = laws.summarise_returns(k, [curve(k) for curve in curves.values()])
    np.testing.assert_allclose(both.median, (small + large) / 2)
    assert both.k90.tolist() == [6, 5]


def test_returns_use_the_envelope():
    loss = [1.0, 0.7, 0.8, 0.6, 0.9]
    np.testing.assert_allclose(laws.fractional_return(loss), [0, 0.75, 0.75, 1, 1])
    assert np.all(np.isnan(laws.fractional_return([0.5, 0.6])))
    with pytest.raises(ValueError, match="no series improves"):
        laws.summarise_returns([1, 2], [[0.5, 0.6]])


def test_variance_of_subsets_of_a_pool():
    # T19.
    pool = laws.FinitePool(1.0, 9)
    np.testing.assert_allclose(pool(2) / pool(8), 28)
    np.testing.assert_allclose(pool(1) / pool(8), 64)
    k = np.arange(1, 10)
    noise = np.exp(0.2 * np.random.default_rng(0).standard_normal(9))
    limited = laws.fit_variance(
        laws.curve_points(k, 1.0, variance=pool(k) * noise), pool=9
    )
    assert limited.better == "finite_pool"
    np.testing.assert_allclose(limited.finite_pool.amplitude, 1.0, rtol=0.2)
    unlimited = laws.fit_variance(
        laws.curve_points(k, 1.0, variance=laws.Curve(0, 2.0, 0.5)(k) * noise), pool=9
    )
    assert unlimited.better == "population"
    assert not unlimited.cautions
    # Table 20 rises first: no law of weights that sum to one.
    measured = laws.fit_variance(paper.sixteen("biology"), pool=16)
    assert [c.name for c in measured.cautions] == ["variance_grows"]
    with pytest.raises(ValueError, match="1 k below the pool's 2"):
        laws.fit_variance(laws.curve_points([1, 2], 1.0, variance=1.0), pool=2)
