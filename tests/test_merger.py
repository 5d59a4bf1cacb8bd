"""The merger on every kind of tree, its coefficients, and its sentences."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import jaxmerge
from jaxmerge import _in_memory, _leaf, _merge_leaf
from tests.registry import METHODS

RECIPES = [
    name
    for name in (
        "average",
        "task_arithmetic",
        "ties",
        "dare",
        "magnitude_prune",
        "slerp",
    )
    + ("model_stock", "consensus", "emr", "magmax", "isotropic", "iso_cts", "tsv_m")
    + ("breadcrumbs", "della", "nuslerp", "multislerp", "karcher", "nearswap")
    + ("ram", "sce", "arcee_fusion")
    + ("wudi", "swudi", "svc", "subspace_boosting", "ace", "dc_merge", "knots", "rht")
    + ("fisher", "regmean", "lot", "actmat", "esm", "metagpt", "lines", "pcb")
    + ("tall_masks", "tsv_c", "cat", "default")
]
# The suite's experts are dense, and this one takes factors: see test_subspaces.py.
OF_FACTORS = {"core_space"}


def trees(num=3, shape=(4, 3), seed=0):
    rng = np.random.default_rng(seed)
    base = {"w": jnp.asarray(rng.standard_normal(shape), jnp.float32)}
    draw = lambda: {"w": jnp.asarray(rng.standard_normal(shape), jnp.float32)}
    return base, [draw() for _ in range(num)]


def test_every_public_recipe_is_registered():
    makers = {m.name for m in METHODS}
    registered = {name for name in RECIPES if any(m.startswith(name) for m in makers)}
    public = {
        name
        for name in dir(jaxmerge)
        if getattr(getattr(jaxmerge, name), "__module__", "").startswith(
            "jaxmerge.recipes"
        )
    }
    assert registered == set(RECIPES) == public - OF_FACTORS


# --- trees ---------------------------------------------------------------------------


class Net(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.layers = nnx.List(
            [nnx.Linear(3, 4, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)]
        )
        self.norm = nnx.BatchNorm(2, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)


def test_nnx_state_keeps_its_kind_and_names():
    states = [nnx.state(Net(nnx.Rngs(seed))) for seed in range(3)]
    merged = jax.jit(lambda b, e: jaxmerge.ties()(b, e))(states[0], states[1:])
    assert isinstance(merged, nnx.State)
    assert "layers.0.kernel" in jaxmerge.named_leaves(merged)
    graph, _ = nnx.split(Net(nnx.Rngs(0)))
    model = nnx.merge(graph, merged)
    assert model.layers[0](jnp.ones((1, 3))).shape == (1, 4)


def test_linen_variables():
    model = linen.Dense(4)
    variables = [model.init(jax.random.key(s), jnp.ones((1, 3))) for s in range(3)]
    merged = jaxmerge.average()(variables[0], variables)
    expected = jax.tree.map(lambda *xs: sum(xs) / 3, *variables)
    chex.assert_trees_all_close(merged, expected, rtol=1e-6)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Params:
    weight: jax.Array
    value: jax.Array  # the name that nnx gives to what its variables wrap


def test_dataclass_none_integer_boolean_scalar_and_empty_leaves():
    def tree(x):
        return {
            "net": Params(jnp.full((2, 2), x), jnp.full((3,), x)),
            "none": None,
            "step": jnp.int32(3),
            "mask": jnp.array([True, False]),
            "gain": jnp.float32(x),
            "empty": jnp.zeros((0, 4)),
            "list": [jnp.full((2,), x), (jnp.full((1,), x),)],
            "key": jax.random.key(0),
        }

    merged = jax.jit(jaxmerge.task_arithmetic(scale=1.0))(
        tree(1.0), [tree(2.0), tree(4.0)]
    )
    chex.assert_trees_all_close(
        {k: v for k, v in merged.items() if k != "key"},
        {k: v for k, v in tree(5.0).items() if k != "key"},
    )


def test_bfloat16_is_merged_in_float32_and_rounded_once():
    base = {"w": jnp.asarray([1.0], jnp.bfloat16)}
    experts = [{"w": jnp.asarray([1.0 + 2.0**-7], jnp.bfloat16)}] * 3
    merged = jaxmerge.task_arithmetic(scale=0.5)(base, experts)["w"]
    assert merged.dtype == jnp.bfloat16
    assert float(merged[0]) == 1.0 + 2.0**-7 * 2  # 1.5 steps, rounded to even


def test_without_a_base_experts_are_the_vectors():
    _, experts = trees()
    merged = jaxmerge.ties(density=1.0, scale=2.0)(None, experts)
    zero = {"w": jnp.zeros((4, 3))}
    chex.assert_trees_all_equal(
        merged, jaxmerge.ties(density=1.0, scale=2.0)(zero, experts)
    )


def test_low_rank_leaves_are_deltas_or_leaves():
    base, _ = trees(shape=(4, 3))
    rng = np.random.default_rng(1)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
    pairs = [jaxmerge.LowRank(draw(2, 3), draw(4, 2), 0.5) for _ in range(2)]
    experts = [{"w": pair} for pair in pairs]
    dense = [{"w": base["w"] + pair.dense()} for pair in pairs]
    merger = jaxmerge.task_arithmetic(scale=0.7)
    chex.assert_trees_all_close(merger(base, experts), merger(base, dense), atol=1e-6)
    factors = jaxmerge.rht(scale=1.0)(None, experts)["w"]
    assert isinstance(factors, jaxmerge.LowRank)
    assert factors.scale == 0.5
    expected = jaxmerge.rht(scale=1.0)(None, [{"a": p.a, "b": p.b} for p in pairs])
    np.testing.assert_array_equal(factors.a, expected["a"])
    np.testing.assert_array_equal(factors.b, expected["b"])


def test_many_experts_are_scanned_and_agree_with_the_unrolled_sum():
    base, experts = trees(num=40)
    merged = jax.jit(jaxmerge.task_arithmetic(scale=1.0))(base, experts)
    total = base["w"] + sum(x["w"] - base["w"] for x in experts)
    np.testing.assert_allclose(merged["w"], total, rtol=1e-5, atol=1e-5)
    jaxpr = str(jax.make_jaxpr(jaxmerge.average())(base, experts))
    assert "scan" in jaxpr
    assert "scan" not in str(jax.make_jaxpr(jaxmerge.average())(base, experts[:8]))


@pytest.mark.parametrize(
    "merger",
    [jaxmerge.dare(), jaxmerge.rht(), jaxmerge.tsv_m(), jaxmerge.swudi()],
    ids=["dare", "rht", "tsv_m", "swudi"],
)
def test_long_programs_of_small_leaves_are_scanned_with_the_same_result(
    merger, monkeypatch
):
    base, experts = trees(num=6, shape=(8, 8))
    merge = lambda base, experts: merger(base, experts, key=jax.random.key(0))
    assert "scan" in str(jax.make_jaxpr(merge)(base, experts))
    scanned = jax.jit(merge)(base, experts)
    monkeypatch.setattr(_merge_leaf, "_UNROLLED_LONG", 32)
    unrolled = jax.jit(lambda *trees: merge(*trees))(base, experts)
    np.testing.assert_array_equal(scanned["w"], unrolled["w"])


def test_large_leaves_are_unrolled():
    for shape, scanned in (((256, 256), True), ((256, 257), False)):
        base, experts = trees(num=6, shape=shape)
        merge = lambda *given: jaxmerge.dare()(*given, key=jax.random.key(0))
        assert ("scan" in str(jax.make_jaxpr(merge)(base, experts))) == scanned


# --- compilations --------------------------------------------------------------------


def test_leaves_of_one_shape_share_a_compilation_and_so_do_sweeps():
    base = {"a": jnp.ones((5, 7)), "b": jnp.zeros((5, 7)), "c": jnp.zeros(11)}
    experts = [jax.tree.map(lambda x, t=t: x + t, base) for t in range(3)]
    compiled = _in_memory.jitted(_in_memory.merge_leaf, "out_dtype")
    before = compiled._cache_size()
    for density in np.linspace(0.1, 0.9, 100):
        merger = jaxmerge.ties(density=float(density), scale=float(density))
        jaxmerge.merge_leaves(merger, base, experts)
    assert compiled._cache_size() - before == 2


def test_streamed_experts_and_leaves_share_a_compilation_for_any_number(tmp_path):
    from jaxmerge import checkpoint
    from jaxmerge.checkpoint import _programs

    base = {"a": np.ones((5, 13), np.float32), "b": np.zeros(65, np.float32)}
    paths = []
    for t in range(6):
        paths.append(tmp_path / f"{t}.npz")
        checkpoint.save(paths[-1], jax.tree.map(lambda x, t=t: x + np.float32(t), base))
    before = _programs.fold._cache_size()
    for i, scale in enumerate((0.2, 0.4, 0.6)):
        checkpoint.merge(
            jaxmerge.task_arithmetic(scale=scale),
            base=paths[0],
            experts=paths[1 : 4 + i],
            out=tmp_path / f"out{i}.npz",
        )
    # One for a fresh state, one for a state to be joined to.
    assert _programs.fold._cache_size() - before <= 2


# --- coefficients --------------------------------------------------------------------


def layered():
    names = ["layers.0.mlp.w", "layers.1.mlp.w", "layers.2.attn.w", "head.w"]
    base = {name: jnp.zeros(2) for name in names}
    return base, [{name: jnp.full(2, float(t + 1)) for name in names} for t in range(2)]


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (0.5, [1.5, 1.5, 1.5, 1.5]),
        ([1.0, 0.0], [1.0, 1.0, 1.0, 1.0]),
        ({"layers": {"0": 1.0, "1": [0.0, 1.0], "2": 2.0}, "head": 0.0}, [3, 2, 6, 0]),
        ({"layers.0.mlp.w": 1.0, "layers": 0.0, "head": [1.0, 1.0]}, [3, 0, 0, 3]),
        (jaxmerge.by_layer([0.0, 1.0], num_layers=3), [0, 1.5, 3, 0]),
        (jaxmerge.by_pattern({"mlp": 1.0}, otherwise=[0.0, 0.5]), [3, 3, 1, 1]),
    ],
)
def test_coefficients_in_every_form(weights, expected):
    base, experts = layered()
    merger = jaxmerge.task_arithmetic(scale=1.0, weights=weights)
    for merged in (merger(base, experts), jax.jit(lambda m: m(base, experts))(merger)):
        assert [float(merged[name][0]) for name in base] == expected


def test_gradients_reach_every_coefficient_of_the_merger_object():
    base, experts = layered()
    weights = {"layers": [1.0, 1.0], "head": [0.5, 0.5]}
    merger = jaxmerge.task_arithmetic(scale=1.0, weights=weights)
    gradient = jax.grad(lambda m: jnp.sum(m(base, experts)["head.w"]))(merger)
    assert [float(x) for x in gradient.weights["head"]] == [2.0, 4.0]
    assert [float(x) for x in gradient.weights["layers"]] == [0.0, 0.0]
    assert float(gradient.scale) == 3.0


def test_scalar_control_has_the_norm_and_keeps_the_direction():
    base, experts = trees(num=1)
    merger = jaxmerge.rht(density=0.3, normalize_weights=False)
    control = jaxmerge.scalar_control(merger)
    delta = experts[0]["w"] - base["w"]
    changed, scaled = (m(base, experts)["w"] - base["w"] for m in (merger, control))
    np.testing.assert_allclose(
        jnp.linalg.norm(scaled), jnp.linalg.norm(changed), rtol=1e-5
    )
    ratio = scaled / delta
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-4)


def test_emr_gives_one_model_for_each_task():
    base, experts = trees(num=2)
    models = jaxmerge.emr()(base, experts)
    assert models.num_tasks == 2
    one = jaxmerge.emr()(base, experts[:1]).params(0)
    chex.assert_trees_all_close(one, experts[0], rtol=1e-5, atol=1e-6)


# --- sentences -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda b, e: jaxmerge.ties()(b, []), ValueError, "no experts"),
        (
            lambda b, e: _in_memory._models(e[0], True),
            TypeError,
            "sequence of models",
        ),
        (lambda b, e: jaxmerge.ties()(b, [{}]), ValueError, "expert 0 has no leaf 'w'"),
        (
            lambda b, e: jaxmerge.ties()(b, [{**e[0], "x": e[0]["w"]}]),
            ValueError,
            "expert 0 has a leaf 'x'",
        ),
        (
            lambda b, e: jaxmerge.ties()(b, [{"w": jnp.zeros((4, 4))}]),
            ValueError,
            r"expert 0: w has shape \(4, 4\); expected \(4, 3\)",
        ),
        (lambda b, e: jaxmerge.ties(density=0.0), ValueError, "density"),
        (lambda b, e: jaxmerge.ties(density=[0.5, 1.5]), ValueError, "density"),
        (lambda b, e: jaxmerge.rht(density={"w": -1.0}), ValueError, "density"),
        (lambda b, e: jaxmerge.ties(scope="model"), ValueError, "leaf, tree"),
        (
            lambda b, e: jaxmerge.average(weights=[1.0, 2.0])(b, e),
            ValueError,
            r"weights for w has shape \(2,\)",
        ),
        (
            lambda b, e: jaxmerge.average(weights=[1.0, -2.0, 1.0])(b, e),
            ValueError,
            "sum to zero",
        ),
        (
            lambda b, e: jaxmerge.task_arithmetic(scale=[1.0, 2.0, 3.0])(b, e),
            ValueError,
            "one number per expert goes into weights",
        ),
        (
            lambda b, e: jaxmerge.task_arithmetic(scale={"v": 1.0})(b, e),
            ValueError,
            "entry 'v' that covers no leaf",
        ),
        (lambda b, e: jaxmerge.slerp()(b, e), ValueError, "two models"),
        (lambda b, e: jaxmerge.model_stock()(b, e[:1]), ValueError, "two experts"),
        (lambda b, e: jaxmerge.dare()(b, e), ValueError, "no key"),
        (
            lambda b, e: jaxmerge.dare()(b, e, key=jax.random.PRNGKey(0)),
            TypeError,
            "legacy",
        ),
        (
            lambda b, e: jaxmerge.average()({"w": jnp.int32(1)}, [{"w": jnp.int32(2)}]),
            ValueError,
            "w is int32 and differs",
        ),
        (
            lambda b, e: jaxmerge.average()(
                {"w": jnp.zeros(2, jnp.complex64)}, [{"w": jnp.zeros(2, jnp.complex64)}]
            ),
            TypeError,
            "complex",
        ),
        (
            lambda b, e: jaxmerge.average()({"a.b": b["w"], "a": {"b": b["w"]}}, e),
            ValueError,
            "two leaves are called 'a.b'",
        ),
        (
            lambda b, e: jaxmerge.rht()(
                None,
                [jaxmerge.LowRank(e[0]["w"], e[0]["w"].T, s) for s in (1.0, 2.0)],
            ),
            ValueError,
            "scaled by 2.0 in expert 1",
        ),
        (lambda b, e: jaxmerge.stack([]), ValueError, "at least one expert"),
    ],
)
def test_bad_input_is_told_in_a_sentence(call, error, says):
    base, experts = trees()
    with pytest.raises(error, match=says):
        call(base, experts)


def test_merger_describes_itself():
    assert "KeepLargest(density=0.2" in repr(jaxmerge.ties())
    assert jaxmerge.ties() == jaxmerge.ties()
    program = _leaf.bind(jaxmerge.ties(density=0.29), "w", (100,), 2)
    assert int(program.transforms[0].count) == 28
