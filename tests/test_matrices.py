"""Leaves as matrices: every layout is merged as its matrices are by themselves."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import jaxmerge
from jaxmerge import Matrices, MatrixSpec, checkpoint, merge_leaves
from jaxmerge._parts import Parts

pytestmark = pytest.mark.usefixtures("quick_compilation")

# Two passes, statistics, a post-step, a solve: what has to go through every layout.
MERGERS = {
    "wudi": jaxmerge.wudi(learning_rate=1e-3, steps=20),
    "iso_cts": jaxmerge.iso_cts(),
    "svc_boosted": jaxmerge.subspace_boosting(jaxmerge.tsv_m(), share=0.3),
    "regmean": jaxmerge.regmean(),
}
merger_of = pytest.mark.parametrize("name", MERGERS)
OUT, IN = 12, 6


def experts_of(rng, shape) -> list[np.ndarray]:
    return [rng.standard_normal(shape).astype(np.float32) for _ in range(2)]


def grams_of(rng, lead=()) -> list[np.ndarray]:
    inputs = [rng.standard_normal((*lead, 20, IN)) for _ in range(2)]
    return [np.float32(np.swapaxes(x, -1, -2) @ x) for x in inputs]


def merged(name, experts, grams, leaf, rules=None):
    merger = MERGERS[name]
    if rules is not None:
        matrices = Matrices.by_pattern(rules)
        merger = dataclasses.replace(merger, matrices=matrices)
    statistics = [{leaf: g} for g in grams] if name == "regmean" else None
    trees = [{leaf: x} for x in experts]
    return np.asarray(merge_leaves(merger, None, trees, statistics=statistics)[leaf])


def assert_close(x, expected):
    assert np.linalg.norm(x - expected) < 1e-5 * np.linalg.norm(expected)


@merger_of
def test_a_flax_kernel_is_merged_as_its_transpose(name, rng):
    experts, grams = experts_of(rng, (OUT, IN)), grams_of(rng)
    expected = merged(name, experts, grams, "weight")
    kernel = merged(name, [x.T for x in experts], grams, "mlp.kernel")
    assert_close(kernel.T, expected)


@merger_of
def test_stacked_layers_are_merged_one_by_one(name, rng):
    experts, grams = experts_of(rng, (3, OUT, IN)), grams_of(rng, (3,))
    whole = merged(name, experts, grams, "layers", {"layers": MatrixSpec()})
    for i in range(3):
        own = [x[i] for x in experts], [g[i] for g in grams]
        assert_close(whole[i], merged(name, *own, "weight"))


@merger_of
def test_a_fused_projection_is_split_or_kept(name, rng):
    experts, grams = experts_of(rng, (OUT, IN)), grams_of(rng)
    cuts = (2, 4, 6)
    split = merged(name, experts, grams, "qkv", {"qkv": MatrixSpec(split=cuts)})
    edges = np.cumsum((0, *cuts))
    for a, b in zip(edges, edges[1:], strict=False):
        own = merged(name, [x[a:b] for x in experts], grams, "weight")
        assert_close(split[a:b], own)
    kept = merged(name, experts, grams, "qkv")
    assert_close(kept, merged(name, experts, grams, "weight"))
    if name != "regmean":  # which solves for each output by itself
        assert np.linalg.norm(split - kept) > 1e-2 * np.linalg.norm(kept)


@merger_of
def test_heads_and_a_layer_axis_in_the_middle(name, rng):
    """MaxText's kernels are [in, layer, heads, size of a head]."""
    experts, grams = experts_of(rng, (2, OUT, IN)), grams_of(rng, (2,))
    rule = {"query": MatrixSpec(out=(-2, -1), in_=-4)}
    laid = [x.transpose(2, 0, 1).reshape(IN, 2, 3, OUT // 3) for x in experts]
    whole = merged(name, laid, grams, "query", rule)
    expected = merged(name, experts, grams, "layers", {"layers": MatrixSpec()})
    assert_close(whole.reshape(IN, 2, OUT).transpose(1, 2, 0), expected)


def test_parts_and_back_is_the_leaf_itself(rng):
    x = rng.standard_normal((3, 4, 6, 5))
    for spec in (
        MatrixSpec(out=-1, in_=-3, split=5),
        MatrixSpec(out=(-1, -4), in_=-2),
        MatrixSpec(out=-2, in_=(-3, -1), split=(1, 2, 3)),
    ):
        parts = Parts(spec, x.shape)
        parts.check("x")
        of = parts.of(jnp.asarray(x, np.float32))
        np.testing.assert_array_equal(parts.whole(of), np.float32(x))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (MatrixSpec(out=-3, in_=-1), r"qkv has shape \(12, 6\).* from -2 to -1"),
        (MatrixSpec(out=-1, in_=-1), "expected different axes"),
        (MatrixSpec(split=5), "qkv has 12 outputs, which cannot be split into 5"),
        (MatrixSpec(split=(4, 4)), r"cannot be split into \(4, 4\)"),
    ],
)
def test_a_spec_that_does_not_fit_is_refused_by_name(spec, message, rng):
    merger = dataclasses.replace(
        jaxmerge.isotropic(), matrices=Matrices.by_pattern({"qkv": spec})
    )
    experts = [{"qkv": x} for x in experts_of(rng, (OUT, IN))]
    with pytest.raises(ValueError, match=message):
        merger(None, experts)


def test_gpt2_is_known_by_its_config(rng, tmp_path):
    """Its Conv1D weights are [in, out]; Linear weights of that name are not."""
    merger = jaxmerge.wudi(learning_rate=1e-3, steps=20)
    base = {"h.0.mlp.c_fc.weight": np.zeros((IN, OUT), np.float32)}
    experts = [{"h.0.mlp.c_fc.weight": x} for x in experts_of(rng, (IN, OUT))]
    for kind, expected in (
        (
            "gpt2",
            merge_leaves(merger, None, [x["h.0.mlp.c_fc.weight"].T for x in experts]).T,
        ),
        (
            "llama",
            merge_leaves(merger, None, [x["h.0.mlp.c_fc.weight"] for x in experts]),
        ),
    ):
        folders = []
        for i, tree in enumerate([base, *experts]):
            folder = tmp_path / kind / str(i)
            folder.mkdir(parents=True)
            checkpoint.save(folder / "model.safetensors", tree)
            (folder / "config.json").write_text(f'{{"model_type": "{kind}"}}')
            folders.append(folder)
        out = tmp_path / kind / "out"
        checkpoint.merge(merger, base=folders[0], experts=folders[1:], out=out)
        found = jaxmerge.named_leaves(checkpoint.load(out))["h.0.mlp.c_fc.weight"]
        assert_close(np.asarray(found), np.asarray(expected))


@pytest.mark.parametrize(
    "merger",
    [
        jaxmerge.iso_cts(),
        jaxmerge.svc(jaxmerge.tsv_m()),
        dataclasses.replace(
            jaxmerge.svc(),
            matrices=Matrices.by_pattern({"w": MatrixSpec(out=-1, in_=-2, split=3)}),
        ),
    ],
    ids=["iso_cts", "svc", "split"],
)
def test_plans_of_several_passes_know_their_memory(merger, rng, tmp_path):
    paths = [tmp_path / f"{i}.safetensors" for i in range(3)]
    for path in paths:
        checkpoint.save(path, {"w": rng.standard_normal((OUT, IN))})
    base, *experts = (checkpoint.open_source(path) for path in paths)
    assert checkpoint.make_plan(merger, base, experts).memory > 3 * 4 * OUT * IN
