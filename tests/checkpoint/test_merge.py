"""Merging files: what comes out, and that bad input leaves nothing behind."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import jaxmerge
from jaxmerge import checkpoint
from jaxmerge.checkpoint import CheckpointError


def model(seed: int, dtype=np.float32, like=None) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {"model.embed_tokens.weight": (12, 4), "model.layers.0.mlp.weight": (6, 4)}
    draws = {n: 0.1 * rng.standard_normal(s) for n, s in shapes.items()}
    if like is not None:
        draws = {n: np.float64(like[n]) + d for n, d in draws.items()}
    return {n: d.astype(dtype) for n, d in draws.items()}


def folder(path, tensors, config=None):
    checkpoint.save(path, tensors, kind="huggingface")
    (path / "config.json").write_text(json.dumps(config or {"model_type": "llama"}))
    return path


@pytest.fixture
def checkpoints(tmp_path):
    base = model(0)
    experts = [model(1 + t, like=base) for t in range(3)]
    paths = [folder(tmp_path / f"x{t}", x) for t, x in enumerate(experts)]
    return folder(tmp_path / "base", base), paths


def merge(checkpoints, out, merger=None, **kwargs):
    base, experts = checkpoints
    merger = merger or jaxmerge.ties(density=0.5)
    return checkpoint.merge(merger, base=base, experts=experts, out=out, **kwargs)


def test_result_is_a_folder_like_the_base_with_its_files(checkpoints, tmp_path):
    report = merge(checkpoints, tmp_path / "out", extra_files={"note.txt": b"hello"})
    assert report.tensors == 2
    assert (tmp_path / "out" / "config.json").exists()
    assert (tmp_path / "out" / "note.txt").read_bytes() == b"hello"
    with checkpoint.open_source(tmp_path / "out") as source:
        made_from = json.loads(source.metadata["jaxmerge"])
    assert made_from["merger"]["combine"]["type"] == "SignElectedMean"
    assert len(made_from["experts"]) == 3
    assert str(tmp_path) not in json.dumps(made_from)


def test_equal_inputs_give_equal_bytes(checkpoints, tmp_path):
    for name in ("one", "two"):
        merge(checkpoints, tmp_path / f"{name}.safetensors")
    one, two = ((tmp_path / f"{n}.safetensors").read_bytes() for n in ("one", "two"))
    assert one == two


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float64])
def test_result_has_the_dtype_asked_for(checkpoints, tmp_path, dtype):
    merge(checkpoints, tmp_path / "out.safetensors", dtype=dtype)
    wide = tmp_path / "wide.safetensors"
    merge(checkpoints, wide)
    expected = checkpoint.load(wide)
    for name, x in jaxmerge.named_leaves(
        checkpoint.load(tmp_path / "out.safetensors")
    ).items():
        assert x.dtype == dtype
        truth = jaxmerge.named_leaves(expected)[name]
        np.testing.assert_array_equal(x, np.asarray(truth).astype(dtype))


def test_float64_is_merged_in_float64(tmp_path):
    base = {"w": np.ones(4)}
    experts = [{"w": 1 + 1e-12 * np.arange(4)}, {"w": 1 - 3e-12 * np.arange(4)}]
    for name, tree in [("b", base), ("x0", experts[0]), ("x1", experts[1])]:
        checkpoint.save(tmp_path / f"{name}.safetensors", tree)
    checkpoint.merge(
        jaxmerge.average(),
        base=tmp_path / "b.safetensors",
        experts=[tmp_path / "x0.safetensors", tmp_path / "x1.safetensors"],
        out=tmp_path / "out.safetensors",
    )
    merged = checkpoint.load(tmp_path / "out.safetensors")["w"]
    np.testing.assert_array_equal(merged, (experts[0]["w"] + experts[1]["w"]) / 2)


def test_every_format_gives_the_same(checkpoints, tmp_path):
    merge(checkpoints, tmp_path / "out.safetensors")
    expected = checkpoint.load(tmp_path / "out.safetensors")
    merge(checkpoints, tmp_path / "out.npz")
    merge(checkpoints, tmp_path / "orbax", kind="orbax")
    merge(checkpoints, tmp_path / "sharded", shard_bytes=100)
    assert len(list((tmp_path / "sharded").glob("model-*.safetensors"))) == 2
    for out in ("out.npz", "orbax", "sharded"):
        tree = checkpoint.load(tmp_path / out)
        jax.tree.map(np.testing.assert_array_equal, tree, expected)


def test_average_needs_no_base(checkpoints, tmp_path):
    _, experts = checkpoints
    checkpoint.merge(jaxmerge.average(), experts=experts, out=tmp_path / "out")
    trees = [checkpoint.load(path) for path in experts]
    jax.tree.map(
        lambda m, *xs: np.testing.assert_allclose(m, np.mean(xs, 0), rtol=1e-6),
        checkpoint.load(tmp_path / "out"),
        *trees,
    )


def adapter(path, seed: int, target="model.layers.0.mlp", rank=2, alpha=4):
    rng = np.random.default_rng(seed)
    prefix = f"base_model.model.{target}.lora_"
    factors = {
        f"{prefix}A.weight": rng.standard_normal((rank, 4)).astype(np.float32),
        f"{prefix}B.weight": rng.standard_normal((6, rank)).astype(np.float32),
    }
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "target_modules": []}
    path.mkdir()
    (path / "adapter_config.json").write_text(json.dumps(config))
    checkpoint.save(
        path / "adapter_model.safetensors", checkpoint.unflatten_names(factors)
    )
    return path, factors


def test_adapters_merge_into_the_base_as_products(checkpoints, tmp_path):
    base, _ = checkpoints
    paths, deltas = [], []
    for t in range(2):
        path, factors = adapter(tmp_path / f"lora{t}", t)
        a, b = factors.values()
        paths.append(path)
        deltas.append(2.0 * b @ a)
    out = tmp_path / "out"
    merger = jaxmerge.task_arithmetic(scale=0.5)
    checkpoint.merge(merger, base=base, experts=paths, out=out)
    merged = jaxmerge.named_leaves(checkpoint.load(out))
    before = jaxmerge.named_leaves(checkpoint.load(base))
    name = "model.layers.0.mlp.weight"
    np.testing.assert_allclose(
        merged[name], before[name] + 0.5 * sum(deltas), rtol=1e-5
    )
    untouched = "model.embed_tokens.weight"
    np.testing.assert_array_equal(merged[untouched], before[untouched])


def test_adapters_merge_in_core_space_by_their_factors(checkpoints, tmp_path):
    base, _ = checkpoints
    made = [adapter(tmp_path / f"lora{t}", t, rank=1 + t) for t in range(3)]
    merger = jaxmerge.core_space(jaxmerge.consensus(threshold=0.8, scale=1.0))
    out = tmp_path / "out"
    paths = [path for path, _ in made]
    checkpoint.merge(merger, base=base, experts=paths, out=out)
    name = "model.layers.0.mlp.weight"
    experts = [
        {"w": jaxmerge.LowRank(*factors.values(), 4 / (1 + t))}
        for t, (_, factors) in enumerate(made)
    ]
    before = jaxmerge.named_leaves(checkpoint.load(base))[name]
    expected = jaxmerge.merge_leaves(merger, {"w": before}, experts)["w"]
    merged = jaxmerge.named_leaves(checkpoint.load(out))[name]
    np.testing.assert_allclose(merged, expected, rtol=1e-5, atol=1e-5)
    assert np.abs(merged - before).max() > 0.1


@pytest.mark.parametrize("name", ["average", "core_space"])
def test_a_plan_knows_the_memory_that_adapters_take(checkpoints, tmp_path, name):
    """At least the merged tensor and what is written, for any kind of leaf."""
    base, _ = checkpoints
    paths = [adapter(tmp_path / f"lora{t}", t, rank=1 + t)[0] for t in range(2)]
    merger = getattr(jaxmerge, name)()
    sources = [checkpoint.open_source(path) for path in (base, *paths)]
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(source) for source in sources]
        plan = checkpoint.make_plan(merger, opened[0], opened[1:])
        assert plan.memory > 2 * 4 * 6 * 4


def test_adapters_merge_into_an_adapter_by_their_factors(tmp_path):
    made = [adapter(tmp_path / f"lora{t}", t) for t in range(2)]
    out = tmp_path / "out"
    checkpoint.merge(jaxmerge.rht(), experts=[path for path, _ in made], out=out)
    with checkpoint.open_source(out) as source:
        assert source.kind == "peft"
        merged = {name: source.read(name) for name in source.infos}
    for name, x in merged.items():
        inputs = [jnp.asarray(factors[name]) for _, factors in made]
        np.testing.assert_array_equal(x, jax.jit(jaxmerge.rht())(None, inputs))


# --- what is refused -----------------------------------------------------------------


def nothing_left(tmp_path):
    return not [p for p in tmp_path.iterdir() if p.name.startswith("out")]


def rewrite(path, change):
    tensors = jaxmerge.named_leaves(checkpoint.load(path))
    checkpoint.save(path, change(tensors), kind="huggingface", overwrite=True)


def with_nan(tensors):
    bad = {n: np.array(x) for n, x in tensors.items()}
    bad["model.layers.0.mlp.weight"][0, 0] = np.nan
    return bad


def with_shape(tensors):
    return {**tensors, "model.layers.0.mlp.weight": np.zeros((6, 5), np.float32)}


def without(tensors):
    return {n: x for n, x in tensors.items() if "mlp" not in n}


def with_more(tensors):
    return {**tensors, "model.layers.1.mlp.weight": np.zeros((6, 4), np.float32)}


def as_integers(tensors):
    return {**tensors, "model.layers.0.mlp.weight": np.zeros((6, 4), np.int8)}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (with_nan, "mlp.weight' has a NaN or an infinity in expert 1"),
        (with_shape, r"mlp.weight' has shape \(6, 5\) in expert 1"),
        (without, "expert 1 .* has no tensor 'model.layers.0.mlp.weight'"),
        (with_more, "expert 1 .* has a tensor 'model.layers.1.mlp.weight'"),
        (as_integers, "mlp.weight' is int8"),
    ],
)
def test_an_expert_that_does_not_fit_is_refused(checkpoints, tmp_path, change, says):
    rewrite(checkpoints[1][1], change)
    with pytest.raises(CheckpointError, match=says):
        merge(checkpoints, tmp_path / "out")
    assert nothing_left(tmp_path)


def test_a_truncated_expert_is_refused(checkpoints, tmp_path):
    file = checkpoints[1][2] / "model.safetensors"
    os.truncate(file, file.stat().st_size - 8)
    with pytest.raises(CheckpointError, match="x2"):
        merge(checkpoints, tmp_path / "out")
    assert nothing_left(tmp_path)


def test_a_quantised_expert_is_refused(checkpoints, tmp_path):
    config = {"model_type": "llama", "quantization_config": {"quant_method": "gptq"}}
    (checkpoints[1][0] / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="quant"):
        merge(checkpoints, tmp_path / "out")
    assert nothing_left(tmp_path)


def test_an_output_that_exists_is_refused_and_kept(checkpoints, tmp_path):
    out = folder(tmp_path / "out", model(9))
    before = (out / "model.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match="exists"):
        merge(checkpoints, out)
    assert (out / "model.safetensors").read_bytes() == before
    merge(checkpoints, out, overwrite=True)
    assert (out / "model.safetensors").read_bytes() != before


def test_no_experts_and_weights_that_sum_to_zero_are_refused(checkpoints, tmp_path):
    base, experts = checkpoints
    with pytest.raises(CheckpointError, match="no experts"):
        merge((base, []), tmp_path / "out")
    with pytest.raises(ValueError, match="sum to zero"):
        merge(checkpoints, tmp_path / "out", jaxmerge.average(weights=[1.0, 1.0, -2.0]))
    assert nothing_left(tmp_path)


def test_numbers_that_the_output_cannot_hold_are_refused(checkpoints, tmp_path):
    with pytest.raises(CheckpointError, match="cannot hold"):
        merge(
            checkpoints,
            tmp_path / "out",
            jaxmerge.task_arithmetic(scale=1e30),
            dtype=np.float16,
        )
    assert nothing_left(tmp_path)


def test_integers_that_differ_are_refused(tmp_path):
    for name, step in [("b", 1), ("x0", 1), ("x1", 2)]:
        tree = {"w": np.ones(2, np.float32), "step": np.int64(step)}
        checkpoint.save(tmp_path / f"{name}.npz", tree)
    with pytest.raises(
        CheckpointError, match="'step' is int64 and differs in expert 1"
    ):
        checkpoint.merge(
            jaxmerge.average(),
            base=tmp_path / "b.npz",
            experts=[tmp_path / "x0.npz", tmp_path / "x1.npz"],
            out=tmp_path / "out.npz",
        )
    assert nothing_left(tmp_path)


def test_a_full_disk_is_told_and_leaves_nothing(checkpoints, tmp_path, monkeypatch):
    real = os.pwrite
    written = []

    def full(fd, data, offset):
        written.append(offset)
        if len(written) > 2:
            raise OSError(28, "No space left on device")
        return real(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises((CheckpointError, OSError), match="(?i)space"):
        merge(checkpoints, tmp_path / "out")
    monkeypatch.undo()
    assert nothing_left(tmp_path)


# --- kills and memory ----------------------------------------------------------------

SLOW_MERGE = """
import sys, time, jaxmerge
from jaxmerge import checkpoint
folder = sys.argv[1]
slow = lambda progress: time.sleep(0.2)
experts = [f"{folder}/x{t}" for t in range(3)]
print("go", flush=True)
checkpoint.merge(jaxmerge.ties(), base=f"{folder}/base", experts=experts,
                 out=f"{folder}/out", progress=slow)
"""


@pytest.mark.slow
def test_a_killed_merge_leaves_no_output_and_a_rerun_works(checkpoints, tmp_path):
    command = [sys.executable, "-c", SLOW_MERGE, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        deadline = time.monotonic() + 60
        while not (tmp_path / "out.partial").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.3)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "out.partial").exists()
    merge(checkpoints, tmp_path / "out", jaxmerge.ties())
    assert sorted(p.name for p in tmp_path.glob("out*")) == ["out"]
    assert checkpoint.load(tmp_path / "out")
