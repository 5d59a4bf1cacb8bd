"""Merges made of merges: chains, steps afterwards, other rules for other parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmerge
from jaxmerge import (
    chain,
    checkpoint,
    combine,
    merge_leaves,
    partition,
    then,
    transforms,
)

SHAPES = {"norm.weight": (6,), "a.weight": (6, 4), "b.weight": (6, 4)}


@pytest.fixture
def models(rng):
    """A base and three experts."""
    draw = lambda: {
        k: rng.standard_normal(s).astype(np.float32) for k, s in SHAPES.items()
    }
    return draw(), [draw() for _ in range(3)]


def equal(a, b):
    for name in SHAPES:
        np.testing.assert_array_equal(a[name], b[name], name)


def test_a_chain_is_the_recipe_of_its_parts(models):
    base, experts = models
    made = chain(transforms.KeepLargest(0.2), combine.SignElectedMean(), scale=0.3)
    recipe = jaxmerge.ties(density=0.2, scale=0.3)
    equal(merge_leaves(made, base, experts), merge_leaves(recipe, base, experts))


def test_stages_of_a_chain_are_passes_and_steps_by_their_place():
    made = chain(
        combine.CommonSpace(),
        combine.IsotropicSubspaces(),
        transforms.BoostSpectrum(0.1),
    )
    assert (len(made.transforms), len(made.passes), len(made.post)) == (0, 2, 1)
    with pytest.raises(ValueError, match="no combine: something has to make one"):
        chain(transforms.KeepLargest(0.2))
    with pytest.raises(ValueError, match="given KeepLargest between two combines"):
        chain(
            combine.CommonSpace(),
            transforms.KeepLargest(0.2),
            combine.IsotropicSubspaces(),
        )


def test_then_adds_steps_and_wraps(models):
    base, experts = models
    boosted = then(jaxmerge.tsv_m(), transforms.BoostSpectrum(0.2))
    recipe = jaxmerge.subspace_boosting(jaxmerge.tsv_m(), share=0.2)
    equal(merge_leaves(boosted, base, experts), merge_leaves(recipe, base, experts))
    assert then(jaxmerge.ties(), jaxmerge.svc) == jaxmerge.svc(jaxmerge.ties())
    with pytest.raises(TypeError, match="a step of then is 3"):
        then(jaxmerge.ties(), 3)


@pytest.fixture
def parts():
    """A partition of three methods, one of them random, one with statistics."""
    rules = {r"^norm": jaxmerge.average(), r"^a\.": jaxmerge.dare(density=0.5)}
    return partition(rules, otherwise=jaxmerge.regmean())


def test_each_part_is_merged_by_its_own_merger(models, parts, rng):
    base, experts = models
    key = jax.random.key(3)
    inputs = rng.standard_normal((3, 9, 4)).astype(np.float32)
    statistics = [{"b.weight": x.T @ x} for x in inputs]
    merged = jax.jit(lambda m, *a: m(*a, key=key, statistics=statistics))(
        parts, base, experts
    )
    mean = jax.jit(jaxmerge.average())(base, experts)
    np.testing.assert_array_equal(merged["norm.weight"], mean["norm.weight"])
    dropped = merge_leaves(jaxmerge.dare(density=0.5), base, experts, key=key)
    np.testing.assert_array_equal(merged["a.weight"], dropped["a.weight"])
    solved = merge_leaves(jaxmerge.regmean(), base, experts, statistics=statistics)
    np.testing.assert_allclose(merged["b.weight"], solved["b.weight"], rtol=2e-5)


def test_a_partition_streams_as_it_merges_in_memory(models, parts, tmp_path, rng):
    base, experts = models
    statistics = []
    for i, tree in enumerate([base, *experts]):
        checkpoint.save(tmp_path / f"{i}.safetensors", tree)
        x = rng.standard_normal((9, 4)).astype(np.float32)
        if i:
            statistics.append({"b.weight": x.T @ x})
            path = tmp_path / f"{i}.safetensors"
            checkpoint.save_statistics({"gram": statistics[-1]}, model=path)
    key = jax.random.key(3)
    out = tmp_path / "out.safetensors"
    checkpoint.merge(
        parts,
        base=tmp_path / "0.safetensors",
        experts=[tmp_path / f"{i}.safetensors" for i in (1, 2, 3)],
        out=out,
        key=key,
    )
    found = jaxmerge.named_leaves(checkpoint.load(out))
    merged = merge_leaves(parts, base, experts, key=key, statistics=statistics)
    equal(found, merged)


def test_coefficients_of_a_partition_are_data(models):
    base, experts = models

    def at(scale):
        rest = jaxmerge.task_arithmetic(scale=scale)
        return partition({"norm": jaxmerge.average()}, otherwise=rest)(base, experts)

    swept = jax.vmap(at)(jnp.array([0.1, 0.5]))
    equal(jax.tree.map(lambda x: x[1], swept), jax.jit(at)(0.5))


def test_mergers_that_need_the_whole_model_are_refused():
    for merger, message in (
        (jaxmerge.ties(scope="tree"), "for 'mlp' looks at the whole model"),
        (jaxmerge.emr(), "for 'mlp' has a model for each task"),
        (jaxmerge.rht(space="factors"), "some mergers of partition merge LoRA factors"),
    ):
        with pytest.raises(ValueError, match=message):
            partition({"mlp": merger}, otherwise=jaxmerge.average())
    with pytest.raises(ValueError, match=r"'\(' is no regular expression: missing \)"):
        partition({"(": jaxmerge.ties()}, otherwise=jaxmerge.average())
    with pytest.raises(TypeError, match="given function for 'otherwise'"):
        partition({}, otherwise=jaxmerge.average)
