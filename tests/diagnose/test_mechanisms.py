"""The six mechanisms on experts for which each is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmerge.diagnose import Interval, measure, mechanisms
from jaxmerge.diagnose.intervals import interval
from jaxmerge.diagnose.mechanisms import depth_compounding
from jaxmerge.diagnose.statistics import columns_of, statistics_of
from tests.diagnose.models import base, normal, rows_apart

KEY = jax.random.key(0)
pytestmark = pytest.mark.usefixtures("quick_compilation")


def found_of(experts: list) -> dict:
    return mechanisms(measure(base(), experts, key=KEY), key=KEY, resamples=200)


def scale_of(experts: list) -> float:
    columns = columns_of(measure(base(), experts, key=KEY))
    statistic = statistics_of(columns)["least interference"]
    return statistic(np.ones(len(columns.energies)), np.ones(len(experts)))


def test_experts_apart_are_diluted_and_nothing_else():
    found = found_of(rows_apart(4))
    values = {name: one.found.value for name, one in found.items()}
    assert values["dilution"] == pytest.approx(1 / 4, rel=1e-5)
    assert values["over-accumulation"] == pytest.approx(1, rel=1e-4)
    assert values["directional conflict"] == pytest.approx(0, abs=1e-6)
    assert values["capacity"] == pytest.approx(4 * 1 / 10)  # rank one in 12 x 10
    assert values["heterogeneity"] == pytest.approx(1)
    assert found["dilution"].verdict == "at work"
    for name in ("over-accumulation", "directional conflict", "heterogeneity"):
        assert found[name].verdict == "not at work"
    assert found["depth compounding"].verdict == "not measured"
    assert "`drift`" in str(found["depth compounding"].needs)
    assert scale_of(rows_apart(4)) == pytest.approx(1, rel=1e-4)


def test_equal_experts_need_the_scale_of_the_mean_and_no_more():
    experts = normal(1) * 4
    found = found_of(experts)
    for name in ("dilution", "over-accumulation", "directional conflict"):
        assert found[name].verdict == "not at work", name
    assert found["dilution"].found.value == pytest.approx(1, rel=1e-5)
    assert scale_of(experts) == pytest.approx(1 / 4, rel=1e-4)


def test_a_shared_direction_accumulates():
    """One strong rank-one part that all share, and independent parts."""
    rng = np.random.default_rng(0)
    u, v = rng.standard_normal(12), rng.standard_normal(10)
    experts = normal(12)
    for expert in experts:
        for layer in expert["layers"]:
            layer["w"] = layer["w"] + 0.6 * jnp.asarray(np.outer(u, v), jnp.float32)
    piled = found_of(experts)["over-accumulation"]
    assert piled.verdict == "at work"
    assert piled.found.value > 1.5
    apart = found_of(normal(12))["over-accumulation"]
    assert abs(apart.found.value - 1) < 0.25


def test_opposite_experts_cancel():
    expert = normal(1)[0]
    experts = [expert, jax.tree.map(lambda x: -x, expert)]
    found = found_of(experts)
    assert found["dilution"].found.value == pytest.approx(0, abs=1e-6)
    assert found["directional conflict"].found.value == pytest.approx(1)
    assert found["over-accumulation"].verdict == "not measured"  # the sum is zero
    assert np.isnan(scale_of(experts))


def test_more_experts_than_directions_exceed_the_capacity():
    experts = normal(12)
    found = found_of(experts)
    assert found["capacity"].verdict == "at work"
    (matrix, _) = measure(base(), experts, key=KEY).whole.matrices
    assert all(one.retained == 0 for one in matrix.experts)  # 10 // 12 directions each
    needed = np.mean([one.energy90 for one in matrix.experts])
    assert found["capacity"].found.value == pytest.approx(12 * needed / 10, rel=0.1)


def test_one_expert_and_none_that_differ_have_a_defined_answer():
    one = found_of(normal(1))
    assert one["dilution"].found.value == pytest.approx(1)
    assert one["directional conflict"].found.value == pytest.approx(0, abs=1e-6)
    none = found_of([base()] * 3)
    assert {m.verdict for m in none.values()} == {"not measured"}
    assert all("experts that differ" in m.needs or m.name.startswith("depth")
               for m in none.values())  # fmt: skip
    some = found_of([base(), *normal(2)])
    assert some["dilution"].found.value == pytest.approx(1 / 3, abs=0.1)


def test_a_long_expert_is_seen():
    experts = normal(4)
    experts[2] = jax.tree.map(lambda x: 4 * x, experts[2])
    unequal = found_of(experts)["heterogeneity"]
    assert unequal.found.value == pytest.approx(4, rel=0.2)
    assert unequal.found.over_layers > 0


def test_depth_is_measured_from_drift():
    rng = np.random.default_rng(0)
    drift = 1.5 ** np.arange(6) * np.exp(0.1 * rng.standard_normal((20, 6)))
    grown = depth_compounding(drift)
    assert grown.lower < 1.5 < grown.upper
    assert grown.lower > 1.4
    measured = measure(base(), normal(3), key=KEY)
    given = mechanisms(measured, key=KEY, drift=drift, resamples=50)
    assert given["depth compounding"].verdict == "at work"
    with pytest.raises(ValueError, match=r"shape \(3,\); expected \(samples, layers\)"):
        depth_compounding(np.ones(3))
    with pytest.raises(ValueError, match="not positive and finite"):
        depth_compounding(np.zeros((3, 3)))


def test_an_interval_holds_the_mean_as_often_as_it_says():
    """Layers drawn from one law: 95 % intervals of 30 layers hold its mean."""
    rng = np.random.default_rng(0)
    inside = 0
    for i in range(60):
        values = rng.standard_normal(30)
        mean = lambda w, _, v=values: float(w @ v / w.sum())
        found = interval(mean, 30, 1, key=jax.random.fold_in(KEY, i), resamples=200)
        assert found.over_layers == pytest.approx(values.std() / 30**0.5, rel=0.3)
        inside += not found.crosses(99.0) and found.lower <= 0 <= found.upper
    assert 50 <= inside <= 60


def test_an_interval_leaves_out_experts_and_knows_when_it_knows_nothing():
    values = np.array([1.0, 2.0, 3.0, 6.0])
    mean = lambda _, experts: float(experts @ values / experts.sum())
    found = interval(mean, 1, 4, key=KEY)
    assert found.over_experts == pytest.approx(values.std(ddof=1) / 2)
    assert np.isnan(found.over_layers)
    nothing = interval(lambda layers, experts: 1.0, 1, 1, key=KEY)
    assert nothing.crosses(5.0)
    assert not np.isfinite(nothing.upper)
    assert Interval(np.nan, 1.0, 2.0).crosses(9.0)
