"""Merges of some of the experts by a mask: those of these experts alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmerge
from jaxmerge._types import pytree, static

NUM = 4
WEIGHTS = np.array([1.0, 2.0, 0.5, -0.25], np.float32)
KEY = jax.random.key(7)
RECIPES = {
    "average": lambda w: jaxmerge.average(weights=w),
    "task_arithmetic": lambda w: jaxmerge.task_arithmetic(weights=w),
    "task_arithmetic_mean": lambda w: jaxmerge.task_arithmetic(
        weights=w, scale=0.8, normalize=True
    ),
    "ties": lambda w: jaxmerge.ties(density=0.4, weights=w),
    "ties_tree": lambda w: jaxmerge.ties(density=0.4, scope="tree", weights=w),
    "dare": lambda w: jaxmerge.dare(density=0.4, weights=w),
    "rht": lambda w: jaxmerge.rht(weights=w),
    "magnitude_prune": lambda w: jaxmerge.magnitude_prune(weights=w),
    "consensus": lambda w: jaxmerge.consensus(weights=w),
}
# Ranking and drawing compile slowly, once an expert.
SLOW = ("ties", "ties_tree", "dare", "rht", "magnitude_prune")


@pytree
class TimesExperts:
    """A transform that depends on how many experts are merged."""

    power: int = static(default=1)

    def __call__(self, delta, leaf):
        return delta * jnp.asarray(leaf.num_experts).astype(delta.dtype) ** self.power


def trees(num=NUM, shape=(5, 4), dtype=jnp.float32):
    rng = np.random.default_rng(3)
    draw = lambda: {"w": jnp.asarray(rng.standard_normal(shape), dtype)}
    return draw(), [draw() for _ in range(num)]


def alone(make, base, experts, chosen, **kwargs):
    """The same merge of the chosen experts, called with nothing else."""
    merge = lambda base, experts: make(WEIGHTS[chosen])(
        base, experts, ids=chosen, **kwargs
    )
    return jax.jit(merge)(base, [experts[t] for t in chosen])


def equal(a, b):
    return np.array_equal(np.asarray(a["w"]), np.asarray(b["w"]))


# Of the three that rank by leaf, one is enough in every run.
CASES = [
    pytest.param(name, marks=[pytest.mark.slow] * (name in ("rht", "magnitude_prune")))
    for name in RECIPES
]


@pytest.mark.parametrize("name", CASES)
def test_a_mask_merges_its_experts_alone_bit_for_bit(name):
    make = RECIPES[name]
    base, experts = trees()
    kwargs = {"key": KEY} if name == "dare" else {}
    # Not the first expert, and with gaps; one alone; all, which needs every join.
    masks = np.array([[0, 1, 0, 1], [0, 0, 1, 0], [1, 1, 1, 1]], bool)
    merge = lambda mask: make(WEIGHTS)(base, experts, members=mask, **kwargs)
    merged = jax.jit(jax.vmap(merge))(masks)
    for row in (0,) if name in SLOW else (0, 1, 2):
        chosen = np.flatnonzero(masks[row]).tolist()
        direct = alone(make, base, experts, chosen, **kwargs)
        assert equal({"w": merged["w"][row]}, direct), chosen


def test_the_other_merges_agree_within_rounding():
    base, experts = trees()
    mask, chosen = np.array([1, 0, 1, 1], bool), [0, 2, 3]
    some = [experts[t] for t in chosen]
    counts = jaxmerge.Merger(transforms=(TimesExperts(),), scale=0.5)
    for merger in (jaxmerge.model_stock(), jaxmerge.isotropic(), counts):
        got = jax.jit(lambda m, f=merger: f(base, experts, members=m))(mask)
        np.testing.assert_allclose(got["w"], merger(base, some)["w"], atol=3e-6)


def test_experts_beyond_the_unrolled_are_scanned():
    base, experts = trees(num=40)
    mask = np.zeros(40, bool)
    mask[[3, 4, 38]] = True
    merger = jaxmerge.task_arithmetic()
    some = [experts[t] for t in (3, 4, 38)]
    direct = jax.jit(merger)(base, some)
    for given in (experts, jaxmerge.stack(experts)):
        got = jax.jit(lambda m, e=given: merger(base, e, members=m))(mask)
        assert equal(got, direct)


def test_low_rank_experts_and_leaf_by_leaf_merges():
    rng = np.random.default_rng(5)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
    base = {"w": draw(6, 5)}
    experts = [{"w": jaxmerge.LowRank(draw(2, 5), draw(6, 2), 0.5)} for _ in range(NUM)]
    mask = np.array([0, 1, 0, 1], bool)
    merger = jaxmerge.consensus(threshold=0.2)
    direct = jaxmerge.merge_leaves(merger, base, [experts[1], experts[3]])
    assert equal(jaxmerge.merge_leaves(merger, base, experts, members=mask), direct)


def test_transforms_are_computed_once_for_all_masks():
    """No random word of DARE has the masks' axis; only the sums do."""
    base, experts = trees()
    masks = np.ones((11, NUM), bool)
    merge = lambda m: jaxmerge.dare(density=0.4)(base, experts, key=KEY, members=m)
    jaxpr = jax.make_jaxpr(jax.vmap(merge))(masks)
    made = [out.aval for equation in jaxpr.eqns for out in equation.outvars]
    words = [aval.shape for aval in made if aval.dtype == jnp.uint32]
    assert (5, 4) in words
    assert all(shape[:1] != (11,) for shape in words)
    assert any(aval.shape[:1] == (11,) for aval in made)


def test_an_expert_that_is_out_may_hold_anything():
    base, experts = trees()
    experts[0] = {"w": jnp.full((5, 4), jnp.nan)}
    mask = np.array([0, 1, 1, 0], bool)
    for merger in (jaxmerge.average(), jaxmerge.consensus()):
        got = jax.jit(lambda m, f=merger: f(base, experts, members=m))(mask)
        np.testing.assert_allclose(
            got["w"], merger(base, experts[1:3])["w"], rtol=1e-6, atol=1e-6
        )


def test_nobody_is_refused_or_gives_the_base():
    base, experts = trees(dtype=jnp.bfloat16)
    nobody = np.zeros(NUM, bool)
    merger = jaxmerge.average()
    with pytest.raises(ValueError, match="false for every expert"):
        merger(base, experts, members=nobody)
    got = jax.jit(lambda m: merger(base, experts, members=m))(nobody)
    assert got["w"].dtype == jnp.bfloat16
    assert equal(got, base)
    got = jax.jit(lambda m: merger(None, experts, members=m))(nobody)
    assert not np.any(np.asarray(got["w"]))


def test_masks_that_are_none_are_refused():
    base, experts = trees()
    merger = jaxmerge.task_arithmetic()
    for wrong in ([0, 2], [True, False], np.ones((NUM, 1), bool)):
        with pytest.raises(ValueError, match="boolean mask, one entry for each of the"):
            merger(base, experts, members=wrong)
    full = np.ones(NUM, bool)
    for whole in (jaxmerge.emr(), jaxmerge.model_stock(compat="mergekit")):
        assert not whole.takes_members
        with pytest.raises(ValueError, match="merge the members alone"):
            whole(base, experts, members=full)
    assert jaxmerge.partition({"w": merger}, otherwise=merger).takes_members
    assert not jaxmerge.partition(
        {"w": merger}, otherwise=jaxmerge.tsv_m()
    ).takes_members
    with pytest.raises(ValueError, match="two experts or more"):
        jaxmerge.model_stock()(base, experts, members=np.eye(NUM, dtype=bool)[0])


def test_weights_are_those_of_the_members():
    """A pool whose weights sum to zero has sets whose weights do not."""
    base, experts = trees()
    merger = jaxmerge.average(weights=[1.0, -1.0, 2.0, -2.0])
    merged = merger(base, experts, members=[True, False, True, False])
    weighted = dataclasses.replace(merger, weights=[1.0, 2.0])
    direct = weighted(base, [experts[0], experts[2]])
    np.testing.assert_allclose(merged["w"], direct["w"], rtol=1e-6)
    with pytest.raises(ValueError, match="sum to zero"):
        merger(base, experts, members=[True, True, False, False])
