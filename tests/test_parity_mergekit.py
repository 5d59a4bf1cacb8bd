"""Recipes against mergekit's recordings, on a matrix, and a vector where it is quick.

`tests/cli` runs every recorded recipe through the command, whole models; this is the
arithmetic alone, and the random methods with mergekit's own draws.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmerge as J
from jaxmerge import _random
from tests.oracles.fixtures import mergekit_cases, mergekit_models

pytestmark = pytest.mark.usefixtures("quick_compilation")

CASES = {case.name: case for case in mergekit_cases()}
MODELS = mergekit_models()
MATRIX, VECTOR = "model.layers.0.mlp.up_proj.weight", "model.norm.weight"
W = {"weights": (0.6, 0.3, 0.4)}
MERGEKIT = {"compat": "mergekit"}

# The merger, its experts, and whether there is a base.
EXACT = {
    "breadcrumbs": (J.breadcrumbs(density=0.7, gamma=0.1, scale=1.0, **W), "abc", True),
    "breadcrumbs_ties": (
        J.breadcrumbs(
            density=0.9, gamma=0.05, scale=1.0, consensus="ties", **W, **MERGEKIT
        ),
        "abc",
        True,
    ),
    "sce": (J.sce(select_topk=0.6, **MERGEKIT), "abc", True),
    "ram": (J.ram(threshold=0.012), "abc", True),
    "ramplus_tl": (J.ram(plus=True, threshold=0.015, r=0.5, alpha=0.6), "abc", True),
    "arcee_fusion": (J.arcee_fusion(), "a", True),
    "nearswap": (J.nearswap(t=0.004), "a", True),
    "nuslerp": (J.nuslerp(weights=(0.7, 0.2)), "ab", True),
    "nuslerp_by_row": (J.nuslerp(weights=(0.7, 0.2), flatten=False), "ab", True),
    "nuslerp_rowwise_no_base": (
        J.nuslerp(weights=(0.7, 0.2), flatten=False, row_wise=True, frame="absolute"),
        "ab",
        False,
    ),
    "multislerp": (J.multislerp(weights=(0.5, 0.3, 0.2)), "abc", False),
    "multislerp_of_deltas": (
        J.multislerp(weights=(0.5, 0.3, -0.2), normalize_weights=False),
        "abc",
        True,
    ),
    "karcher": (J.karcher(), "abc", False),
    "karcher_with_base": (J.karcher(max_iter=2), ("base", *"abc"), False),
}


def inputs(names, experts, based):
    at = lambda model: {name: MODELS[model][name] for name in names}
    return at("base") if based else None, [at(model) for model in experts]


def assert_as_recorded(merged, case, start):
    for name, got in merged.items():
        expected = np.float64(case.expected[name])
        delta = np.linalg.norm(expected - MODELS[start][name])
        rounding = np.finfo(np.float32).eps * np.linalg.norm(expected)
        error = np.linalg.norm(np.float64(got) - expected)
        assert error <= 1e-5 * delta + rounding, name


# Others say nearly the same.
SLOW = {
    "arcee_fusion",
    "breadcrumbs",
    "della_linear",
    "karcher_with_base",
    "multislerp",
    "nuslerp",
    "nuslerp_by_row",
    "dare_linear",
    "dare_ties",
}


def cases(names):
    slow = pytest.mark.slow
    return [pytest.param(n, marks=slow if n in SLOW else ()) for n in names]


# These rank entries, which is slow to compile.
SELECT = ("arcee_fusion", "breadcrumbs", "breadcrumbs_ties", "sce")


@pytest.mark.parametrize("name", cases(EXACT))
def test_equals_mergekit(name):
    merger, experts, based = EXACT[name]
    names = [MATRIX] if name in SELECT else [MATRIX, VECTOR]
    base, models = inputs(names, experts, based)
    merged = J.merge_leaves(merger, base, models)
    assert_as_recorded(merged, CASES[name], "base" if based else "a")


RANDOM = {
    "della": J.della(density=0.5, epsilon=0.1, scale=0.9, **W, **MERGEKIT),
    "della_linear": J.della(
        density=0.6,
        epsilon=0.15,
        scale=1.0,
        consensus="linear",
        normalize=False,
        **W,
        **MERGEKIT,
    ),
    "dare_linear": J.dare(density=0.5, **W, **MERGEKIT),
    "dare_ties": J.dare(density=(0.53, 0.7, 0.3), consensus="ties", **W, **MERGEKIT),
}


@pytest.mark.parametrize("name", cases(RANDOM))
def test_equals_mergekit_given_its_draws(name, monkeypatch):
    case = CASES[name]
    base, models = inputs([MATRIX], "abc", True)
    masks = iter([case.masks[expert, MATRIX] for expert in "abc"])
    asked = []

    def bernoulli(key, p, shape, *, offset=0):
        del key, offset
        asked.append(np.broadcast_to(p, shape))
        return jnp.asarray(next(masks))

    monkeypatch.setattr(_random, "bernoulli", bernoulli)
    merged = RANDOM[name](base, models, key=jax.random.key(0))
    assert_as_recorded(merged, case, "base")
    # What was drawn is likely under the probabilities that were asked for: 768 draws.
    p, kept = np.stack(asked), np.stack([case.masks[e, MATRIX] for e in "abc"])
    surprise = (kept - p) / np.sqrt(p * (1 - p))
    assert abs(surprise.sum()) < 4 * np.sqrt(p.size)


def test_mergekit_keeps_the_large_entries_more_often_in_della():
    case, low, high = CASES["della_linear"], [], []
    for (expert, name), kept in case.masks.items():
        if kept.ndim != 2:
            continue
        sizes = np.abs(MODELS[expert][name] - MODELS["base"][name])
        p = reference_probabilities(sizes)
        low += kept[p < 0.6].tolist()
        high += kept[p > 0.6].tolist()
    # Means of 0.6 -/+ 0.08 over some 3000 entries each: the error is below 0.01.
    assert np.mean(low) == pytest.approx(0.52, abs=0.03)
    assert np.mean(high) == pytest.approx(0.68, abs=0.03)


def reference_probabilities(sizes):
    ranks = np.argsort(np.argsort(sizes, axis=1), axis=1) / (sizes.shape[1] - 1)
    return 0.6 - 0.15 + 0.3 * ranks
