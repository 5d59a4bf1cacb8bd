"""Merges by FusionBench and by methods' own authors, on a model of six tensors.

Task vectors go in and merged task vectors come out, so the error is compared with the
deltas themselves: `ROUNDING` of the expected tensor's norm for elementwise methods.
Where an oracle computes another thing than the paper, the test says what.
"""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

import jaxmerge
from jaxmerge import Leaf, _random, merge_leaves
from jaxmerge.combine import ConsensusMask
from tests.oracles.compare import error, merge, one_more
from tests.oracles.compare_research import (
    actmat_of_a_port,
    esm_of_the_authors,
    tsv_c_of_the_authors,
)
from tests.oracles.fixtures import ResearchCase, adapter_cases, research_cases, under

pytestmark = pytest.mark.usefixtures("quick_compilation")

CASES = {
    case.name: case
    for folder in ("research", "spectral", "subspaces", "essential", "compressed")
    for case in research_cases(folder=folder)
}
ROUNDING = 2e-7


def named(prefix: str):
    cases = [case for name, case in CASES.items() if name.startswith(prefix)]
    assert cases, f"nothing is recorded under {prefix!r}"
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


def total(case: ResearchCase) -> dict[str, np.ndarray]:
    return {k: sum(np.float64(d[k]) for d in case.deltas) for k in case.base}


# --- means ---------------------------------------------------------------------------


def test_average():
    case = CASES["average"]
    merged = merge_leaves(jaxmerge.average(), None, case.experts)
    assert error(merged, case.expected) < ROUNDING


@named("model_stock")
def test_model_stock(case):
    """For two experts the paper's; for three FusionBench averages angles, not cosines.

    So for three only the ratios differ, and each is what its own mean gives.
    """
    num = case.about["num_experts"]
    experts = case.experts[:num]
    merged = merge_leaves(jaxmerge.model_stock(), case.base, experts)
    for name, base in case.base.items():
        deltas = [np.float64(d[name]) for d in case.deltas[:num]]
        mean = sum(deltas) / num
        pairs = itertools.combinations(deltas, 2)
        cosines = np.array(
            [np.sum(a * b) / (np.linalg.norm(a) * np.linalg.norm(b)) for a, b in pairs]
        )
        ratio = lambda c: num * c / (1 + (num - 1) * c)
        angles = ratio(np.cos(np.mean(np.arccos(cosines))))
        for weights, expected in (
            (merged[name], ratio(np.mean(cosines))),
            (case.expected[name], angles),
        ):
            # The base's rounding is seen in the difference, relative to a small mean.
            difference = np.float64(weights) - base
            bound = 1e-5 * np.linalg.norm(deltas[0])
            assert np.linalg.norm(difference - expected * mean) < bound, name
    if num == 2:
        assert error(merged, case.expected) < ROUNDING


# --- agreement -----------------------------------------------------------------------


@named("ties")
def test_ties_over_the_whole_model(case):
    size = sum(x.size for x in case.base.values())
    density = one_more(case.about["density"], size)
    merged = merge(jaxmerge.ties(density=density, scope="tree"), case)
    assert error(merged, case.expected) < ROUNDING
    for name, x in merged.items():
        np.testing.assert_array_equal(x == 0, case.expected[name] == 0)


def test_ties_keeps_one_entry_less_than_the_authors():
    """With their density itself the entries that differ are that one of each expert."""
    case = CASES["ties_0.2"]
    merged = merge(jaxmerge.ties(density=0.2, scope="tree"), case)
    differ = [np.abs(merged[k] - case.expected[k]) > 1e-6 for k in case.base]
    assert 1 <= sum(map(np.count_nonzero, differ)) <= len(case.experts)


@named("fusion_ties")
def test_ties_of_fusion_bench(case):
    """Its mean and its sum; there is no recipe that takes the largest (`max`)."""
    function = case.about["merge_func"]
    size = sum(x.size for x in case.base.values())
    ties = jaxmerge.ties(
        density=one_more(case.about["density"], size),
        scope="tree",
        normalize=function == "mean",
    )
    off = error(merge(ties, case), case.expected)
    assert off > 0.1 if function == "max" else off < ROUNDING


@named("consensus")
def test_consensus(case):
    merger = jaxmerge.consensus(
        threshold=case.about["tall_mask_lambda"],
        min_tasks=case.about["prun_thre_k"],
        scale=1.0,
    )
    merged = merge(merger, case)
    for name, expected in case.expected.items():
        np.testing.assert_array_equal(merged[name] == 0, expected == 0, name)
    assert error(merged, case.expected) < ROUNDING


@named("tall_masks")
def test_tall_masks(case):
    """What each task needs, by the first half of Consensus merging."""
    threshold, sums = case.about["tall_mask_lambda"], total(case)
    rule = ConsensusMask(jnp.float32(threshold), 0)
    for t, delta in enumerate(case.deltas):
        for name, mask in under(case.expected, f"mask/{t}").items():
            leaf = Leaf(stats=jnp.asarray(sums[name], jnp.float32))
            needed = rule.lift(jnp.asarray(delta[name]), jnp.float32(1), leaf)
            np.testing.assert_array_equal(needed, mask, f"{name} of expert {t}")


@pytest.fixture(scope="module")
def emr_models():
    """EMR's task models with either rescaler."""
    case = CASES["emr"]
    zeros = {k: np.zeros_like(x) for k, x in case.base.items()}
    return {
        compat: merge_leaves(jaxmerge.emr(compat=compat), zeros, case.deltas)
        for compat in ("paper", "reference")
    }


def test_emr(emr_models):
    """Unified vector and masks exactly, rescalers of sums of each tensor's means."""
    case, models = CASES["emr"], emr_models["reference"]
    unified = under(case.expected, "unified")
    for name, x in unified.items():
        np.testing.assert_array_equal(models.shared[name], x, name)
    rescalers = np.asarray(case.expected["rescalers"])
    np.testing.assert_allclose(models.tasks, rescalers, rtol=ROUNDING)
    for t, rescaler in enumerate(rescalers):
        masks = under(case.expected, f"mask/{t}")
        expected = {k: rescaler * masks[k] * x for k, x in unified.items()}
        assert error(models.params(t), expected) < 2 * ROUNDING


def test_emr_of_the_paper(emr_models):
    """One mean over the model; masks and vector are as in the other form."""
    rescalers = CASES["emr_tree"].expected["rescalers"]
    models = emr_models["paper"]
    np.testing.assert_allclose(models.tasks, rescalers, rtol=ROUNDING)
    assert not np.allclose(models.tasks, emr_models["reference"].tasks, rtol=1e-4)
    for name, x in under(CASES["emr"].expected, "unified").items():
        np.testing.assert_array_equal(models.shared[name], x, name)


def test_magmax():
    case = CASES["magmax"]
    assert error(merge(jaxmerge.magmax(scale=1.0), case), case.expected) == 0


# --- spectra -------------------------------------------------------------------------


def test_isotropic():
    """Iso-C; what is no matrix, here `bias` and `conv`, is averaged."""
    case = CASES["iso_c"]
    assert error(merge(jaxmerge.isotropic(), case), case.expected) < 2e-6


@named("iso_cts")
def test_isotropic_in_subspaces(case):
    merger = jaxmerge.iso_cts(common=case.about["common_space_fraction"])
    assert error(merge(merger, case), case.expected) < 5e-6


def test_task_singular_vectors():
    """With fewer directions than tasks FusionBench loses the matrix; ours does not."""
    case = CASES["tsv_m"]
    merged = merge(jaxmerge.tsv_m(compat="reference"), case)
    assert error(merged, case.expected) < 5e-6
    assert not np.any(merged["thin.weight"])
    assert np.any(merge(jaxmerge.tsv_m(), case)["thin.weight"])


def test_leading_directions():
    """With fewer directions than tasks the authors lose the matrix; ours does not."""
    pairs = list(tsv_c_of_the_authors(CASES["tsvc"]))
    assert len(pairs) == 3
    assert all(error(pair.merged, pair.expected) < 5e-6 for pair in pairs)


@named("actmat")
def test_covariances_of_deltas(case):
    (pair,) = actmat_of_a_port(case)
    assert error(pair.merged, pair.expected) < 1e-6


def merge_one(make, case: ResearchCase, name: str) -> float:
    """The error of a merge whose recipe depends on the tensor, on one of them."""
    merged = merge_leaves(make(name), None, [delta[name] for delta in case.deltas])
    return error({name: np.asarray(merged)}, {name: case.expected[name]})


@named("dc")
def test_directional_consensus(case):
    """Theirs counts a share of r^2 entries, ours of the (T k)^2 that there are.

    With fewer directions than tasks they lose the matrix; ours does not.
    """

    def make(name):
        rank, num = min(case.base[name].shape), len(case.experts)
        kept = max(1, int(case.about["density"] * rank**2))
        return jaxmerge.dc_merge(density=(kept + 0.5) / (num * (rank // num)) ** 2)

    name = "square.weight" if case.about["density"] < 0.1 else "tall.weight"
    assert merge_one(make, case, name) < 1e-5
    assert not np.any(case.expected["thin.weight"])


def with_adapters(*names: str):
    cases = [case for case in adapter_cases() if case.name in names]
    assert len(cases) == len(names)
    slow = {"dc_avg_5": [pytest.mark.slow]}
    params = [pytest.param(c, id=c.name, marks=slow.get(c.name, [])) for c in cases]
    return pytest.mark.parametrize("case", params)


@with_adapters("dc_avg_5", "dc_linear_5")
def test_directional_consensus_of_adapters(case):
    merger = jaxmerge.dc_merge(
        density=case.about["density"],
        rank=case.about["rank"],
        smoothing={"avg": "mean", "linear": "linear"}[case.about["smoothing"]],
        ratio=case.about["ratio"],
    )
    assert error(merge(merger, case), case.expected) < 1e-5


@named("knots")
def test_knots(case):
    """TIES in the basis of `subspace_alignment`, which keeps one entry more."""

    def make(name):
        density = one_more(case.about["density"], case.base[name].size)
        return jaxmerge.knots(jaxmerge.ties(density=density))

    assert merge_one(make, case, "wide.weight") < 1e-5


@with_adapters("knots_0.2", "knots_0.5")
def test_knots_of_adapters(case):
    """Of rank 32 in 36 rows: only 32 rows of coordinates count as entries."""
    out, columns = case.base["w"].shape
    rank = sum(factors["a"].shape[0] for factors in case.side)
    assert rank < out
    density = one_more(case.about["density"], rank * columns)
    experts = [{"w": jaxmerge.LowRank(f["a"], f["b"])} for f in case.side]
    merged = merge_leaves(jaxmerge.knots(jaxmerge.ties(density=density)), None, experts)
    assert error({"w": np.asarray(merged["w"])}, case.expected) < 1e-5


@with_adapters("core_sum", "core_ties", "core_tsv")
def test_core_space(case):
    entries = sum(factors["a"].shape[0] for factors in case.side) ** 2
    inner = {
        "core_sum": jaxmerge.task_arithmetic(scale=1.0),
        "core_ties": jaxmerge.ties(density=one_more(0.2, entries)),
        "core_tsv": jaxmerge.tsv_m(),
    }[case.name]
    experts = [{"w": jaxmerge.LowRank(f["a"], f["b"])} for f in case.side]
    merged = merge_leaves(jaxmerge.core_space(inner), None, experts)
    assert error({"w": np.asarray(merged["w"])}, case.expected) < 1e-5


@named("wudi")
def test_wudi(case):
    """Where Adam went from the sum, and not only the sum that it started from."""
    about = case.about
    merger = jaxmerge.wudi(learning_rate=about["learning_rate"], steps=about["steps"])
    merged = merge(merger, case)
    assert error(merged, case.expected) < 1e-6
    for name, start in total(case).items():
        if name.endswith(".weight"):
            moved = np.float64(case.expected[name]) - start
            off = np.linalg.norm(np.float64(merged[name]) - start - moved)
            assert off < 2e-2 * np.linalg.norm(moved)


@named("swudi")
def test_swudi(case):
    merger = jaxmerge.swudi(time=case.about["time"], share=case.about["share"])
    # Its deltas come back from weights, rounded as such.
    assert error(merge(merger, case), case.expected) < 1e-5


def test_aswudi():
    merged = merge(jaxmerge.swudi(rank="participation"), CASES["aswudi"])
    assert error(merged, CASES["aswudi"].expected) < 1e-5


@named("svc")
def test_singular_value_calibration(case):
    sums = jaxmerge.task_arithmetic(scale=case.about["scale"])
    merged = merge(jaxmerge.svc(sums, floor=case.about["alpha"]), case)
    assert error(merged, case.expected) < 5e-6
    default = merge(jaxmerge.svc(sums), case)
    is_default = abs(case.about["alpha"] - 1 / 3) < 1e-6
    assert (error(default, case.expected) < 5e-6) == is_default


# --- random and pruned ---------------------------------------------------------------


@named("dare_random")
def test_dare(case, monkeypatch, key):
    """The authors' drop of one expert, with their draws in place of the recipe's."""
    dare = jaxmerge.dare(density=1 - case.about["mask_rate"])
    for t, delta in enumerate(case.deltas):
        masks, expected = (
            under(case.expected, f"mask/{t}"),
            under(case.expected, f"{t}"),
        )
        for name, mask in masks.items():
            draw = jnp.asarray(mask.astype(bool))
            monkeypatch.setattr(_random, "bernoulli", lambda *_, d=draw, **__: d)
            merged = np.asarray(dare(None, [delta[name]], key=key))
            np.testing.assert_array_equal(merged == 0, expected[name] == 0)
            np.testing.assert_allclose(merged, expected[name], rtol=ROUNDING)


def test_dare_by_magnitude():
    """The authors' other strategy is RHT's pruning.

    They drop `int(rate * n)` entries and keep the rest, one more than `int((1 - rate)
    * n)` where n is odd.
    """
    case = CASES["dare_magnitude_0.5"]
    rate = case.about["mask_rate"]
    kept = {k: x.size - int(rate * x.size) for k, x in case.base.items()}
    density = {k: (kept[k] + 0.5) / x.size for k, x in case.base.items()}
    rht = jaxmerge.rht(density=density, divisor=1 - rate)
    for t, delta in enumerate(case.deltas):
        merged = merge_leaves(rht, None, [delta])
        for name, expected in under(case.expected, f"{t}").items():
            assert np.count_nonzero(merged[name]) == kept[name]
            np.testing.assert_array_equal(merged[name], expected, name)


# --- statistics of each expert -------------------------------------------------------


@named("fisher")
def test_fisher(case):
    """Theirs adds its floor, and may divide each Fisher by its norm over the model."""
    weights = np.array(case.about["weights"])
    if case.name.endswith("true"):
        norms = [
            np.sqrt(sum(np.sum(np.float64(x) ** 2) for x in side.values()))
            for side in case.side
        ]
        weights = weights / (np.array(norms) + case.about["minimal_fisher_weight"])
    merger = jaxmerge.fisher(weights=weights, floor=1e-6, compat="reference")
    merged = merge_leaves(merger, case.base, case.experts, statistics=case.side)
    assert error(merged, case.expected, case.base) < 1e-5


@named("regmean")
def test_regmean(case):
    """Gram matrices of weights; what has none is averaged."""
    merger = jaxmerge.regmean(off_diagonal=case.about["reduce_non_diagonal_ratio"])
    merged = merge_leaves(merger, case.base, case.experts, statistics=case.side)
    assert error(merged, case.expected, case.base) < 1e-5


@named("esm")
def test_essential_subspaces(case):
    """With fewer outputs than tasks they lose the matrix; ours does not."""
    merged = merge_leaves(jaxmerge.esm(), None, case.deltas, statistics=case.side)
    assert not np.any(case.expected["thin.weight"])
    assert np.any(merged["thin.weight"])
    for pair in esm_of_the_authors(case):
        assert error(pair.merged, pair.expected) < 1e-5


def test_a_pattern_of_no_layer_is_refused():
    tree = {"w": np.ones(2, np.float32)}
    with pytest.raises(ValueError, match="'mlp' is found in no leaf's name"):
        jaxmerge.balance_layers(tree, tree, ["mlp"])
