"""What every method promises, checked over the registry.

One compiled function per method serves most checks; leaves are small.
"""

import dataclasses
import functools

import chex
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import jaxmerge
from jaxmerge import checkpoint
from jaxmerge._side import kinds_needed
from tests.registry import METHODS, Method, statistics_of

SHAPES = {"mlp": {"weight": (16, 8), "bias": (24,)}, "gain": ()}
# Most checks compile the method anew: one matrix is enough for them.
MATRIX = {"weight": (16, 8)}
methods = pytest.mark.parametrize("method", METHODS, ids=str)
# Checks that compile a method several times, or its derivatives.
methods_by_weight = pytest.mark.parametrize(
    "method",
    [
        pytest.param(m, id=m.name, marks=[pytest.mark.slow] if m.heavy else [])
        for m in METHODS
    ],
)


@pytest.fixture(autouse=True)
def compilation(request):
    """Only what has to agree bit for bit is worth the compiler's optimizations."""
    method = request.node.callspec.params["method"]
    quick = method.agreement == "spectral"
    jax.config.update("jax_disable_most_optimizations", quick)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def model(seed: int, dtype=np.float32, scale: float = 1.0, shapes=MATRIX) -> dict:
    rng = np.random.default_rng(seed)
    draw = lambda shape: jnp.asarray(scale * rng.standard_normal(shape), dtype)
    tree = jax.tree.map(draw, shapes, is_leaf=lambda x: isinstance(x, tuple))
    return {**tree, "step": jnp.arange(3), "unused": None}


def problem(method: Method, dtype=np.float32, shapes=MATRIX):
    base = model(0, dtype, shapes=shapes)
    deltas = [model(1 + t, dtype, 0.1, shapes) for t in range(method.experts)]
    add = lambda b, d: b + d if is_float(b) else b
    return base, [jax.tree.map(add, base, delta) for delta in deltas]


def is_float(x) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def run(merger, base, experts, key=None, ids=None):
    statistics = statistics_of(merger, base, experts)
    merged = merger(base, experts, key=key, ids=ids, statistics=statistics)
    if isinstance(merged, jaxmerge.TaskModels):
        return [merged.params(t) for t in range(len(experts))]
    return merged


@functools.cache
def compiled(method: Method):
    """The method as one jitted function of its merger, models and key."""
    return jax.jit(run)


def merge_leafwise(method: Method, base, experts):
    key = key_of(method)
    merger = method.make()
    statistics = statistics_of(merger, base, experts)
    merged = jaxmerge.merge_leaves(
        merger, base, experts, key=key, statistics=statistics
    )
    if isinstance(merged, jaxmerge.TaskModels):
        return [merged.params(t) for t in range(len(experts))]
    return merged


def key_of(method: Method):
    return jax.random.key(7) if method.random else None


def floats(tree) -> list[np.ndarray]:
    leaves = [np.asarray(x) for x in jax.tree.leaves(tree)]
    return [x for x in leaves if np.issubdtype(x.dtype, np.floating)]


def norm_of_delta(method: Method) -> float:
    base, experts = problem(method)
    pairs = zip(floats(base), floats(experts[0]), strict=True)
    return float(np.sqrt(sum(np.sum((x - b) ** 2) for b, x in pairs)))


def assert_agree(method: Method, a, b, *, exact: bool = False):
    """Equal in the method's class of agreement; see the registry."""
    chex.assert_trees_all_equal_structs(a, b)
    if exact and method.agreement == "exact":
        chex.assert_trees_all_equal(a, b)
        return
    tolerance = 1e-5 * norm_of_delta(method) if method.agreement == "spectral" else 2e-6
    for x, y in zip(floats(a), floats(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-6, atol=tolerance)


@methods
def test_equals_numpy_reference(method):
    base, experts = problem(method, shapes=MATRIX if method.selects else SHAPES)
    merged = compiled(method)(method.make(), base, experts, key_of(method))
    named = jaxmerge.named_leaves
    base, experts = named(base), [named(x) for x in experts]
    base.pop("step")
    if method.whole_model:
        expected = method.reference(base, experts)
    else:
        expected = {name: leaf_reference(method, name, base, experts) for name in base}
    results = merged if isinstance(merged, list) else [merged]
    expected = expected if isinstance(expected, list) else [expected]
    for result, truth in zip(results, expected, strict=True):
        for name in base:
            np.testing.assert_allclose(
                named(result)[name], truth[name], rtol=1e-5, atol=1e-5
            )


def leaf_reference(method, name, base, experts):
    inputs = [np.asarray(x[name]) for x in experts]
    if not method.random:
        return method.reference(np.asarray(base[name]), inputs)
    draws = [drawn(name, t, base[name].shape) for t in range(len(inputs))]
    return method.reference(np.asarray(base[name]), inputs, draws)


def drawn(name: str, t: int, shape) -> np.ndarray:
    """What the documented key derivation draws in [0, 1), by jax.random itself."""
    hi, lo = jaxmerge.name_hash(name)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(7), hi), lo)
    key = jax.random.fold_in(jax.random.fold_in(key, np.uint32(t)), 0)
    return np.asarray(jax.random.uniform(key, shape))


@methods
@pytest.mark.parametrize(
    "dtype",
    [
        jnp.bfloat16,
        pytest.param(jnp.float16, marks=pytest.mark.slow),
        pytest.param(jnp.float32, marks=pytest.mark.slow),
    ],
)
def test_keeps_structure_shapes_and_dtypes(method, dtype):
    base, experts = problem(method, dtype, SHAPES)
    merged = jax.eval_shape(run, method.make(), base, experts, key_of(method))
    for result in merged if isinstance(merged, list) else [merged]:
        chex.assert_trees_all_equal_shapes_and_dtypes(
            result, jax.eval_shape(lambda: base)
        )


@methods
def test_zero_deltas_give_the_base(method):
    base, _ = problem(method)
    merged = compiled(method)(
        method.make(), base, [base] * method.experts, key_of(method)
    )
    for result in merged if isinstance(merged, list) else [merged]:
        for x, b in zip(floats(result), floats(base), strict=True):
            np.testing.assert_allclose(x, b, rtol=3e-7)


@methods
def test_permuted_experts_with_their_ids_give_the_same(method):
    base, experts = problem(method)
    order = list(range(method.experts))[::-1]
    permuted = [experts[t] for t in order]
    if method.random:
        key = key_of(method)
        a = compiled(method)(method.make(), base, experts, key)
        of_order = jax.jit(functools.partial(run, ids=order))
        b = of_order(method.make(), base, permuted, key)
    else:
        forth, back = method.make(), method.make()
        if method.name == "rht":
            back = dataclasses.replace(back, weights=back.weights[::-1])
        if method.name == "slerp":
            forth, back = method.make(t=0.25), method.make(t=0.75)
        a = compiled(method)(forth, base, experts, None)
        b = compiled(method)(back, base, permuted, None)
    if isinstance(a, list):
        b = [b[order.index(t)] for t in range(method.experts)]
    assert_agree(method, a, b)


@methods_by_weight
def test_jit_eager_leafwise_and_stacked_agree(method):
    base, experts = problem(method)
    key = key_of(method)
    merger = method.make()
    jitted = compiled(method)(merger, base, experts, key)
    assert_agree(method, run(merger, base, experts, key), jitted)
    assert_agree(method, merge_leafwise(method, base, experts), jitted, exact=True)
    together = lambda m, b, e, k: m(b, e, key=k, statistics=statistics_of(m, b, e))
    stacked = jax.jit(together)(merger, base, jaxmerge.stack(experts), key)
    if isinstance(stacked, jaxmerge.TaskModels):
        stacked = [stacked.params(t) for t in range(method.experts)]
    assert_agree(method, stacked, jitted, exact=True)


@methods_by_weight
def test_vmap_sweep_equals_loop_and_compiles_once(method):
    if method.sweep is None:
        assert not jax.tree.leaves(method.make())  # nothing to sweep
        return
    field, (low, high) = method.sweep
    base, experts = problem(method)
    key = key_of(method)
    chex.clear_trace_counter()
    at = chex.assert_max_traces(n=1)(lambda m, b, e, k: run(m, b, e, k))
    at = jax.jit(at)
    values = [low, (low + high) / 2, high]
    loop = [at(method.make(**{field: value}), base, experts, key) for value in values]
    swept = jax.jit(
        jax.vmap(lambda v: run(method.make(**{field: v}), base, experts, key))
    )(jnp.asarray(values))
    for i, one in enumerate(loop):
        assert_agree(method, jax.tree.map(lambda x, i=i: x[i], swept), one)


@methods_by_weight
def test_gradient_in_the_experts_equals_finite_differences(method):
    with jax.enable_x64(True):
        base, experts = problem(method, np.float64)
        key = key_of(method)
        direction = [model(50 + t, np.float64) for t in range(method.experts)]

        def loss(step):
            move = lambda x, d: x + step * d if is_float(x) else x
            moved = jax.tree.map(move, experts, direction)
            merged = run(method.make(), base, moved, key)
            return sum(jnp.sum(x**2) for x in jax.tree.leaves(merged) if is_float(x))

        value_and_slope = jax.jit(lambda s: jax.jvp(loss, (s,), (jnp.ones_like(s),)))
        step = 1e-6
        above, below = (value_and_slope(jnp.float64(s))[0] for s in (step, -step))
        exact = value_and_slope(jnp.float64(0.0))[1]
        numeric = (above - below) / (2 * step)
        np.testing.assert_allclose(exact, numeric, rtol=1e-5, atol=1e-6)


@methods_by_weight
def test_gradients_are_finite_where_the_method_degenerates(method):
    base, experts = problem(method)
    key = key_of(method)
    zero = [base] * method.experts
    same = [experts[0]] * method.experts

    @jax.jit
    def gradient(xs):
        split = [{k: v for k, v in x.items() if k != "step"} for x in xs]

        def loss(parts):
            models = [{**p, "step": base["step"]} for p in parts]
            leaves = jax.tree.leaves(run(method.make(), base, models, key))
            return sum(jnp.sum(x * x) for x in leaves if x.dtype == jnp.float32)

        return jax.grad(loss)(split)

    for case in (zero, same):
        chex.assert_tree_all_finite(gradient(case))


@methods
def test_streamed_equals_in_memory(method, tmp_path):
    base, experts = problem(method)
    key = key_of(method)
    for name, tree in [("base", base), *((f"x{t}", x) for t, x in enumerate(experts))]:
        checkpoint.save(tmp_path / f"{name}.safetensors", tree)
    paths = [tmp_path / f"x{t}.safetensors" for t in range(method.experts)]
    merger = method.make()
    inputs = {"base": tmp_path / "base.safetensors", "experts": paths}
    jitted = compiled(method)(merger, base, experts, key)
    kinds = kinds_needed(merger)
    for t, side in enumerate(statistics_of(merger, base, experts) or []):
        checkpoint.save_statistics({kinds[0]: side}, model=paths[t])
    if merger.per_task is not None:
        checkpoint.merge_tasks(merger, **inputs, out=tmp_path / "out", key=key)
        streamed = [
            checkpoint.load_task(tmp_path / "out", tmp_path / "base.safetensors", t)
            for t in range(method.experts)
        ]
    else:
        out = tmp_path / "out.safetensors"
        checkpoint.merge(merger, **inputs, out=out, key=key)
        streamed = checkpoint.load(out)
    drop = lambda tree: {k: v for k, v in tree.items() if v is not None}
    jitted = [drop(x) for x in jitted] if isinstance(jitted, list) else drop(jitted)
    assert_agree(method, streamed, jitted, exact=True)


@methods_by_weight
def test_sharded_equals_unsharded(method):
    base, experts = problem(method)
    mesh = jax.make_mesh((8,), ("x",))

    def shard(x):
        spec = PartitionSpec("x") if x.ndim and x.shape[0] % 8 == 0 else PartitionSpec()
        return jax.device_put(x, NamedSharding(mesh, spec))

    key = key_of(method)
    merger = method.make()
    whole = compiled(method)(merger, base, experts, key)
    parts = jax.tree.map(shard, (base, experts))
    sharded = jax.jit(run)(merger, *parts, key)
    assert_agree(method, sharded, whole, exact=True)


@methods
def test_same_key_same_result_and_another_key_another(method):
    base, experts = problem(method)
    f = compiled(method)
    if not method.random:
        chex.assert_trees_all_equal(
            f(method.make(), base, experts, None), f(method.make(), base, experts, None)
        )
        return
    first = f(method.make(), base, experts, jax.random.key(7))
    chex.assert_trees_all_equal(
        first, f(method.make(), base, experts, jax.random.key(7))
    )
    other = f(method.make(), base, experts, jax.random.key(8))
    assert any(
        (x != y).any() for x, y in zip(floats(first), floats(other), strict=True)
    )
    with pytest.raises(ValueError, match="no key"):
        method.make()(base, experts)


@methods_by_weight
def test_lowers_for_cpu_cuda_and_tpu(method):
    base, experts = problem(method)
    exported = jax.export.export(compiled(method), platforms=["cpu", "cuda", "tpu"])(
        method.make(), base, experts, key_of(method)
    )
    assert exported.platforms == ("cpu", "cuda", "tpu")
