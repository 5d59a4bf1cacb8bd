"""Merges of LoRA factors as RHT's authors and as PEFT compute them.

All 228 recorded merges of `fixtures/rht` and all 136 of `fixtures/peft`. The bound is
that of float32 rounding: per element a few eps of `sum_t |w_t d_t|`. What is not
rounding (which entries are kept, which sign is elected) is thereby exact, for a wrong
choice is off by a whole term.
"""

import dataclasses
import itertools

import jax.numpy as jnp
import numpy as np
import pytest

import jaxmerge
from jaxmerge import _random
from jaxmerge.combine import SignElectedMean, WeightedSum
from tests.oracles.fixtures import LoraCase, lora_cases

pytestmark = pytest.mark.usefixtures("quick_compilation")

EPS = np.finfo(np.float32).eps


def groups(folder: str) -> dict[str, list[LoraCase]]:
    """The cases by what has to be compiled anew: method, number of experts, dtype."""
    kind = lambda case: "-".join(
        [
            case.method,
            str(case.params["num_experts"]),
            case.params["dtype"],
            case.params.get("sign") or case.params.get("majority_sign_method", "total"),
        ]
    )
    ordered = sorted(lora_cases(folder), key=kind)
    return {k: list(cases) for k, cases in itertools.groupby(ordered, kind)}


RHT, PEFT = groups("rht"), groups("peft")


def weights_of(case: LoraCase) -> np.ndarray:
    return np.asarray(case.params["weights"], np.float32)


def merge(merger: jaxmerge.Merger, case: LoraCase) -> np.ndarray:
    """The merge, in the float32 that bfloat16 times the oracles' weights gives.

    Of more than two experts as the map, expert by expert, and then the reduce: the
    search for the largest entries takes long to compile, and is so compiled once for
    all numbers of experts. That both are one is what `test_conformance.py` checks.
    """
    zeros = jnp.zeros(case.expected.shape, case.expected.dtype)
    experts = list(case.inputs)
    if len(experts) > 2:
        one = dataclasses.replace(
            merger, combine=WeightedSum(), weights=None, scale=None
        )
        experts = [jaxmerge.merge_leaves(one, zeros, [x]) for x in experts]
        merger = dataclasses.replace(merger, transforms=(), rounding="none")
    return np.asarray(jaxmerge.merge_leaves(merger, zeros, experts))


def summed(case: LoraCase, weights: np.ndarray) -> np.ndarray:
    """`sum_t |w_t d_t|`, relative to which sums of the d_t round."""
    terms = zip(weights, case.inputs, strict=True)
    return sum(np.abs(np.float64(w) * np.float64(x)) for w, x in terms)


def at_a_tie(case: LoraCase) -> np.ndarray:
    """Where some expert's entry is as large as the last that is kept, and not alone."""
    found = np.zeros(case.expected.shape, bool)
    for x in case.inputs:
        sizes = np.abs(np.float64(x))
        order = np.sort(sizes.ravel())[::-1]
        kept = int(case.params["density"] * x.size)
        if 0 < kept < x.size and order[kept - 1] == order[kept]:
            found |= sizes == order[kept]
    return found


def assert_rounding(case: LoraCase, merged, bound: np.ndarray, eps: float) -> None:
    """Equal to `eps * bound` per element, but for ties at a cut: either is right."""
    assert merged.dtype == case.expected.dtype, case.name
    error = np.abs(np.float64(merged) - np.float64(case.expected))
    compared = ~at_a_tie(case) if case.params["tied"] else np.ones(error.shape, bool)
    assert compared.mean() > 0.5, case.name
    worst = np.max(np.where(compared, error / (eps * bound), 0))
    assert worst <= 1, f"{case.name}: {worst:.3g} times the bound; {case.params}"
    # Nobody agrees in the same places: also those are not a matter of rounding.
    both = (merged == 0) == (case.expected == 0)
    assert both[compared].all(), case.name


@pytest.mark.parametrize("group", [k for k in RHT if k.startswith("rht")])
def test_rht(group):
    """The authors' operator, whose caller has divided the weights by their sum.

    In bfloat16 they round what is kept and divided to bfloat16 before weighting it;
    `compat="reference"` does too, so that the bound is float32's there as well.
    """
    for case in RHT[group]:
        density, weights = case.params["density"], weights_of(case)
        sign = case.params["sign"]
        rht = jaxmerge.rht(
            density=density, weights=weights, sign=sign, compat="reference"
        )
        bound = summed(case, weights / weights.sum(dtype=np.float64)) / density
        assert_rounding(case, merge(rht, case), bound, 4 * EPS)


@pytest.mark.parametrize("group", [k for k in RHT if "ties" in k])
def test_ties_of_the_authors(group):
    """Their `ties` and `magnitude_ties` are one function, and PEFT's.

    The recorded division of the weights by their sum is not part of either.
    """
    for case in RHT[group]:
        weights = weights_of(case) / weights_of(case).sum()
        ties = jaxmerge.ties(
            density=case.params["density"], weights=weights, compat="peft"
        )
        assert_rounding(case, merge(ties, case), summed(case, weights), 4 * EPS)


@pytest.mark.parametrize("group", [k for k in PEFT if k.startswith("ties")])
def test_ties_of_peft(group):
    """PEFT also votes by counting signs; `ties` has the vote of the paper only."""
    for case in PEFT[group]:
        ties = jaxmerge.ties(
            density=case.params["density"], weights=weights_of(case), compat="peft"
        )
        if case.params["majority_sign_method"] == "frequency":
            election = SignElectedMean("frequency", "count")
            ties = dataclasses.replace(ties, combine=election)
        bound = summed(case, weights_of(case))
        assert_rounding(case, merge(ties, case), bound, 4 * EPS)


@pytest.mark.parametrize("group", [k for k in PEFT if k.startswith(("task", "magn"))])
def test_sums_of_peft(group):
    for case in PEFT[group]:
        weights = weights_of(case)
        if case.method == "task_arithmetic":
            merger = jaxmerge.task_arithmetic(scale=1.0, weights=weights)
        else:
            density = case.params["density"]
            merger = jaxmerge.magnitude_prune(density=density, weights=weights)
        assert_rounding(case, merge(merger, case), summed(case, weights), 4 * EPS)


@pytest.mark.parametrize("group", [k for k in PEFT if k.startswith("dare")])
def test_dare_of_peft(group, monkeypatch, key):
    """The recipe itself, with PEFT's draws in place of its own.

    PEFT divides in bfloat16 where tensors are; so does `compat="peft"`.
    """
    for case in PEFT[group]:
        draws = iter(case.masks)
        monkeypatch.setattr(
            _random, "bernoulli", lambda *_, draws=draws, **__: jnp.asarray(next(draws))
        )
        density, weights = case.params["density"], weights_of(case)
        dare = jaxmerge.dare(
            density=density,
            weights=weights,
            consensus=case.method.removeprefix("dare_"),
            normalize=case.method == "dare_ties",
            compat="peft",
        )
        if case.params.get("majority_sign_method") == "frequency":
            election = SignElectedMean("frequency", "count")
            dare = dataclasses.replace(dare, combine=election)
        zeros = jnp.zeros(case.expected.shape, case.expected.dtype)
        merged = np.asarray(dare(zeros, list(case.inputs), key=key))
        assert next(draws, None) is None, "a mask was left over"
        assert_rounding(case, merged, summed(case, weights) / density, 4 * EPS)


def test_every_recorded_case_is_compared():
    assert sum(map(len, RHT.values())) == 228
    assert sum(map(len, PEFT.values())) == 136
    methods = {k.split("-")[0] for k in PEFT}
    tested = {"ties", "task_arithmetic", "magnitude_prune", "dare_linear", "dare_ties"}
    assert methods == tested
    assert {k.split("-")[0] for k in RHT} == {"rht", "ties", "magnitude_ties"}
