"""`jaxmerge merge` from its arguments to the files, against what mergekit wrote."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import textwrap

import jax
import ml_dtypes
import numpy as np
import pytest

import jaxmerge.cli.merge
from jaxmerge import checkpoint
from jaxmerge.checkpoint import SafetensorsFile, SafetensorsWriter, TensorInfo
from jaxmerge.cli.main import main
from tests.oracles.fixtures import (
    FIXTURES,
    mergekit_cases,
    mergekit_models,
    read_safetensors,
)

ROOT = FIXTURES / "mergekit"
CASES = {case.name: case for case in mergekit_cases()}
RANDOM = [name for name in CASES if name.startswith(("dare", "della"))]
HALF = ["linear_bfloat16", "ties_bfloat16"]
NOT_SUPPORTED = ["passthrough_stack", "slices_ties"]
EXACT = sorted(set(CASES) - {*RANDOM, *HALF, *NOT_SUPPORTED})
# Each compiles programs of its own; others say nearly the same.
SLOW = {
    "arcee_fusion",
    "breadcrumbs",
    "breadcrumbs_rescale",
    "breadcrumbs_ties",
    "dare_linear",
    "dare_linear_unrescaled",
    "dare_ties_normalize_lambda",
    "della",
    "della_linear",
    "karcher",
    "karcher_with_base",
    "linear_unnormalized",
    "model_stock_filter_wise",
    "multislerp",
    "multislerp_of_deltas",
    "nuslerp",
    "nuslerp_by_row",
    "nuslerp_rowwise_no_base",
    "ramplus_tl",
    "sce",
    "slerp",
    "task_arithmetic",
    "ties_rescale",
}


def cases(names):
    slow = pytest.mark.slow
    return [pytest.param(n, marks=slow if n in SLOW else ()) for n in names]


@pytest.fixture(autouse=True)
def _no_cache_of_the_user(monkeypatch):
    monkeypatch.setattr(jaxmerge.cli.merge, "use_compilation_cache", lambda: None)


@pytest.fixture(scope="module", autouse=True)
def _compile_quickly():
    """Most of the time here would be XLA's optimisations, for tensors of 16 numbers."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def recipe(tmp_path):
    """Writes a recipe over the recorded models `base`, `a`, `b`, `c`."""

    def write(text="", name="recipe.yml"):
        path = tmp_path / name
        path.write_text(
            textwrap.dedent(text) or (ROOT / "cases/linear.yml").read_text()
        )
        return str(path)

    return write


def norm(x):
    return np.linalg.norm(np.asarray(x, np.float64))


def run(case, tmp_path, *options):
    """Merges a recorded case; the result's tensors and those that were the start."""
    out = tmp_path / "out"
    assert main(["merge", str(case.recipe), str(out), "--quiet", *options]) == 0
    models = mergekit_models()
    text = case.recipe.read_text()
    start = models["base" if "base_model: base" in text else "a"]
    return read_safetensors(out / "model.safetensors"), start


# --- parity with mergekit 0.1.5 ------------------------------------------------------


@pytest.mark.usefixtures("in_root")
@pytest.mark.parametrize("name", cases(EXACT))
def test_agrees_with_mergekit(name, tmp_path):
    case = CASES[name]
    merged, start = run(case, tmp_path)
    assert len(merged) == case.about["num_tensors"]
    for tensor, expected in case.expected.items():
        got = merged[tensor]
        assert got.dtype == expected.dtype
        # Both were rounded to the dtype written, from numbers that may differ.
        rounding = np.finfo(np.float32).eps * norm(expected)
        delta = norm(np.float64(expected) - start[tensor])
        error = norm(np.float64(got) - np.float64(expected))
        assert error <= 1e-5 * delta + rounding, tensor
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["torch_dtype"] == case.about["config"]["dtype"]
    assert (tmp_path / "out/mergekit_config.yml").read_bytes() == (
        case.recipe.read_bytes()
    )


@pytest.mark.usefixtures("in_root")
@pytest.mark.parametrize("name", HALF)
def test_in_half_precision_it_is_closer_to_the_truth_than_mergekit(name, tmp_path):
    # mergekit also calculates in bfloat16. The truth: the same in float64.
    merged, _ = run(CASES[name], tmp_path)
    exact, models = name.replace("bfloat16", "truth"), mergekit_models()
    truth = {}
    for tensor in CASES[name].expected:
        x = {m: np.float64(models[m][tensor]) for m in models}
        if "linear" in exact:
            truth[tensor] = (x["a"] + 0.3 * x["b"] + 0.7 * x["c"]) / 2.0
        else:
            deltas = [x[m] - x["base"] for m in "abc"]
            w = np.array([1.0, 0.5, 0.7]).reshape(3, *[1] * deltas[0].ndim)
            weighted = np.stack(deltas) * w
            sign = np.where(weighted.sum(0) >= 0, 1.0, -1.0)
            agrees = np.sign(weighted) == sign
            share = np.where(agrees, w, 0).sum(0)
            mean = (weighted * agrees).sum(0) / np.where(share == 0, 1, share)
            truth[tensor] = x["base"] + mean
    ours = sum(norm(merged[k].astype(np.float64) - truth[k]) for k in truth)
    theirs = CASES[name].expected
    theirs = sum(norm(theirs[k].astype(np.float64) - truth[k]) for k in truth)
    assert ours < theirs
    rounded = sum(norm(x.astype(ml_dtypes.bfloat16) - x) for x in truth.values())
    assert ours <= 1.001 * rounded


@pytest.mark.usefixtures("in_root")
@pytest.mark.parametrize("name", cases(RANDOM))
def test_random_methods_agree_where_the_masks_do_not_matter(name, tmp_path):
    """Other random numbers than mergekit's: compare what does not depend on them."""
    case, models = CASES[name], mergekit_models()
    merged, base = run(case, tmp_path, "--seed", "3")
    for tensor in (f"model.layers.{i}.mlp.up_proj.weight" for i in range(4)):
        delta = np.float64(merged[tensor]) - base[tensor]
        kept = np.mean(delta != 0)
        densities = {
            "dare_ties": [0.53, 0.7, 0.3],
            "dare_linear_unrescaled": [0.7] * 3,
            "della_linear": [0.6] * 3,
        }
        drops = [1 - d for d in densities.get(name, [0.5] * 3)]
        assert kept == pytest.approx(1 - np.prod(drops), abs=0.12)
    again, _ = run(case, tmp_path, "--seed", "3", "--overwrite")
    other, _ = run(case, tmp_path, "--seed", "4", "--overwrite")
    assert all(np.array_equal(merged[k], again[k]) for k in models["base"])
    assert any(not np.array_equal(merged[k], other[k]) for k in models["base"])


@pytest.mark.usefixtures("in_root")
@pytest.mark.parametrize("name", NOT_SUPPORTED)
def test_what_is_not_supported_is_refused_by_name(name, tmp_path, capsys):
    assert main(["merge", f"cases/{name}.yml", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"jaxmerge: error: cases/{name}.yml: line ")
    assert "not supported" in error
    assert not (tmp_path / "out").exists()


# --- models --------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path):
    """A Hugging Face cache with `org/model` (at main and v1) and `org/other`."""
    cache = tmp_path / "hub"
    for model, commit, ref, source in [
        ("org--model", "1" * 40, "main", "a"),
        ("org--model", "2" * 40, "v1", "b"),
        ("org--other", "3" * 40, "main", "c"),
    ]:
        folder = cache / f"models--{model}"
        shutil.copytree(ROOT / source, folder / "snapshots" / commit)
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / ref).write_text(commit)
    return cache


HUB_RECIPE = """
merge_method: linear
models:
  - {model: org/model@v1, parameters: {weight: 1}}
  - {model: org/other, parameters: {weight: 3}}
"""


def test_models_of_the_cache_by_revision(recipe, hub, tmp_path):
    out = tmp_path / "out"
    assert main([recipe(HUB_RECIPE), str(out), "--cache", str(hub), "-q"]) == 0
    models = mergekit_models()
    name = "model.norm.weight"
    expected = (np.float64(models["b"][name]) + 3 * models["c"][name]) / 4
    merged = read_safetensors(out / "model.safetensors")[name]
    np.testing.assert_allclose(merged, expected, rtol=1e-6)


def test_the_usual_variables_name_the_cache(recipe, hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(hub))
    assert main(["merge", recipe(HUB_RECIPE), "--dry-run"]) == 0


def test_a_model_that_is_nowhere_is_not_downloaded(recipe, hub, tmp_path, capsys):
    text = HUB_RECIPE.replace("org/other", "org/odder")
    code = main(["merge", recipe(text), str(tmp_path / "o"), "--cache", str(hub)])
    error = capsys.readouterr().err
    assert code == 1
    assert "org/odder is neither a path nor a model" in error
    assert "'org/other'" in error


@pytest.fixture
def adapter(tmp_path):
    """A LoRA adapter on one matrix of `base`; its folder and what it adds."""
    folder, module = tmp_path / "adapter", "model.layers.0.mlp.up_proj"
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 16)), rng.standard_normal((16, 2))
    factors = {
        f"base_model.model.{module}.lora_{x}.weight": np.float32(0.1 * value)
        for x, value in [("A", a), ("B", b)]
    }
    folder.mkdir()
    infos = [TensorInfo(n, x.shape, x.dtype) for n, x in factors.items()]
    writer = SafetensorsWriter(folder / "adapter_model.safetensors", infos)
    for name, x in factors.items():
        writer.write(name, x)
    writer.close()
    config = {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["up_proj"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder, f"{module}.weight", 2.0 * 0.01 * b @ a


@pytest.mark.usefixtures("in_root")
@pytest.mark.parametrize("reference", ["base+{}", "{}"])
def test_an_adapter_as_an_expert(reference, recipe, adapter, tmp_path):
    folder, target, delta = adapter
    text = f"""
    merge_method: task_arithmetic
    base_model: base
    models:
      - {{model: {reference.format(folder)}, parameters: {{weight: 0.5}}}}
      - {{model: a, parameters: {{weight: 2}}}}
    """
    assert main(["merge", recipe(text), str(tmp_path / "out"), "-q"]) == 0
    merged = read_safetensors(tmp_path / "out" / "model.safetensors")
    models = mergekit_models()
    for name, base in models["base"].items():
        expected = base + 2 * (np.float64(models["a"][name]) - base)
        expected += 0.5 * delta if name == target else 0.0
        np.testing.assert_allclose(merged[name], expected, atol=1e-6)


@pytest.mark.usefixtures("in_root")
def test_the_mean_of_a_model_and_its_adapted_self(recipe, adapter, tmp_path):
    folder, target, delta = adapter
    text = f"""
    merge_method: linear
    models:
      - {{model: base, parameters: {{weight: 1}}}}
      - {{model: base+{folder}, parameters: {{weight: 3}}}}
    """
    assert main(["merge", recipe(text), str(tmp_path / "out"), "-q"]) == 0
    merged = read_safetensors(tmp_path / "out" / "model.safetensors")
    for name, base in mergekit_models()["base"].items():
        expected = base + (0.75 * delta if name == target else 0.0)
        np.testing.assert_allclose(merged[name], expected, atol=1e-6)


@pytest.mark.usefixtures("in_root")
def test_models_that_do_not_fit_are_named(recipe, tmp_path, capsys):
    checkpoint.save(tmp_path / "x.safetensors", {"w": np.ones(2, np.float32)})
    text = f"""
    merge_method: linear
    models:
      - {{model: a, parameters: {{weight: 1}}}}
      - {{model: {tmp_path / "x.safetensors"}, parameters: {{weight: 1}}}}
    """
    assert main(["merge", recipe(text), str(tmp_path / "out")]) == 1
    assert "x.safetensors) has no tensor 'lm_head.weight'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("in_root")
def test_a_complex_tensor_is_a_sentence(recipe, tmp_path, capsys):
    checkpoint.save(tmp_path / "x.safetensors", {"freqs": np.ones(2, np.complex64)})
    text = f"""
    merge_method: linear
    models: [{{model: {tmp_path / "x.safetensors"}, parameters: {{weight: 1}}}}]
    """
    assert main(["merge", recipe(text), str(tmp_path / "out.safetensors")]) == 1
    assert "freqs is complex64" in capsys.readouterr().err


# --- options -------------------------------------------------------------------------


@pytest.mark.usefixtures("in_root")
def test_options_of_mergekit_are_accepted_with_a_note(recipe, tmp_path, capsys):
    out = tmp_path / "out"
    options = "--cuda --lazy-unpickle --no-write-model-card --allow-crimes -j 4 -v "
    options += "--random-seed 7 --out-shard-size 5B --no-trust-remote-code"
    options += " --lora-merge-cache /tmp --transformers-cache /nowhere --copy-tokenizer"
    assert main([recipe(), str(out), *options.split()]) == 0
    captured = capsys.readouterr()
    noted = [line for line in captured.err.splitlines() if "note: --" in line]
    assert [line.split()[2] for line in noted] == [
        "--allow-crimes",
        "--cuda",
        "--lazy-unpickle",
        "--lora-merge-cache",
        "--num-threads",
    ]
    assert captured.out.startswith(f"{out}: 39 tensors, 28.2 kB, in ")


@pytest.mark.usefixtures("in_root")
def test_shards_format_and_checksums(recipe, tmp_path):
    out = tmp_path / "out"
    assert main(["merge", recipe(), str(out), "-q", "--shard-size", "9kB"]) == 0
    shards = sorted(path.name for path in out.glob("*.safetensors"))
    assert shards[0] == f"model-00001-of-{len(shards):05d}.safetensors"
    assert len(shards) == 4
    target = str(tmp_path / "x.npz")
    assert main(["merge", recipe(), target, "-q", "--checksums"]) == 0
    whole, single = checkpoint.load(out), checkpoint.load(target)
    assert jax.tree.all(jax.tree.map(np.array_equal, whole, single))


@pytest.mark.usefixtures("in_root")
def test_the_record_in_the_result(recipe, tmp_path):
    out = tmp_path / "out"
    assert main(["merge", str(CASES["dare_ties"].recipe), str(out), "--seed", "5"]) == 0
    with SafetensorsFile(out / "model.safetensors") as file:
        metadata = file.metadata
    assert metadata["jaxmerge_method"] == "dare_ties"
    assert metadata["jaxmerge_seed"] == "5"
    assert len(json.loads(metadata["jaxmerge"])["experts"]) == 3


@pytest.mark.usefixtures("in_root")
def test_the_tokenizer_is_carried_along_unless_told_not_to(recipe, tmp_path):
    model = tmp_path / "model"
    shutil.copytree("a", model)
    for name in ("tokenizer.json", "special_tokens_map.json", "generation_config.json"):
        (model / name).write_text("{}")
    text = f"""
    merge_method: linear
    models: [{{model: {model}, parameters: {{weight: 1}}}}]
    tokenizer_source: base
    """
    assert main([recipe(text), str(tmp_path / "x"), "-q"]) == 0
    assert main([recipe(text), str(tmp_path / "y"), "-q", "--no-copy-tokenizer"]) == 0
    names = {path.name for path in (tmp_path / "x").iterdir()}
    assert {"tokenizer.json", "special_tokens_map.json"} <= names
    gone = names - {path.name for path in (tmp_path / "y").iterdir()}
    assert gone == {"tokenizer.json", "special_tokens_map.json"}


@pytest.mark.usefixtures("in_root")
def test_an_output_is_replaced_only_when_told_to(recipe, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert main(["merge", recipe(), out, "-q"]) == 0
    assert main(["merge", recipe(), out, "-q"]) == 1
    assert f"jaxmerge: error: {out} exists" in capsys.readouterr().err
    assert main(["merge", recipe(), out, "-q", "--overwrite"]) == 0


@pytest.mark.usefixtures("in_root")
@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "interrupted; nothing was written"),
        (OSError("the disk is gone"), 1, "the disk is gone"),
        (MemoryError(), 1, "not enough memory"),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED"), 1, "RESOURCE_EXHAUSTED"),
    ],
)
def test_what_stops_a_merge_leaves_nothing(
    raised, code, said, recipe, tmp_path, monkeypatch, capsys
):
    def stop(progress):
        raise raised

    out = tmp_path / "results" / "out"
    show = lambda *_args, **_kwargs: contextlib.nullcontext(stop)
    monkeypatch.setattr(jaxmerge.cli.merge, "show_progress", show)
    assert main(["merge", recipe(), str(out)]) == code
    error = capsys.readouterr().err
    assert f"jaxmerge: error: {said}" in error or said in error
    assert "Traceback" not in error
    assert list(out.parent.iterdir()) == []


# --- the dry run ---------------------------------------------------------------------


def truncated_models(folder):
    """The models without a byte of their weights: headers, then a hole."""
    for model in ("base", "a", "b", "c"):
        shutil.copytree(ROOT / model, folder / model)
        path = folder / model / "model.safetensors"
        data = path.read_bytes()
        header = 8 + int.from_bytes(data[:8], "little")
        nan = np.full((len(data) - header) // 4, np.nan, np.float32)
        path.write_bytes(data[:header] + nan.tobytes())


def test_a_dry_run_reads_no_weight(tmp_path, monkeypatch, capsys):
    def read(*_args, **_kwargs):
        raise AssertionError("a weight was read")

    truncated_models(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(SafetensorsFile, "read_range", read)
    case = CASES["ties_filters"].recipe
    assert main(["merge", str(case), "out", "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "base", "c"]
    lines = text.splitlines()
    assert "method: ties" in lines
    assert "  normalize = 0" in lines
    assert "tensors: 39 merged, 0 copied" in lines
    assert any(
        "model.layers.0.mlp.up_proj.weight" in line
        and "weight=(0.2, 0.3, 1)" in line
        and "density=(0.5, 0.6, 0.3)" in line
        for line in lines
    )
    assert "  … 11 more (--verbose shows them)" in lines
    assert "writes: 28.2 kB" in lines
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jaxmerge.cli.merge, "use_compilation_cache", lambda: None)
    assert main(["merge", str(case), "out"]) == 1
    assert "has a NaN" in capsys.readouterr().err


@pytest.mark.usefixtures("in_root")
def test_a_dry_run_as_json(capsys):
    case = CASES["ties_gradient"].recipe
    assert main(["merge", str(case), "--dry-run", "--json", "--cuda"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["method"] == "ties"
    assert plan["parameters"]["normalize"] == 1.0
    assert plan["parameters"]["density"] == "by tensor"
    assert [model["role"] for model in plan["models"]][0] == "base"
    assert plan["bytes_written"] == 4 * 7056
    reads = 1 + 3 * plan["passes"]  # of the base, and of each of three experts
    assert plan["bytes_read"] == reads * plan["bytes_written"]
    tensor = {t["name"]: t for t in plan["tensors"]}[
        "model.layers.3.mlp.up_proj.weight"
    ]
    assert tensor["parameters"]["density"] == pytest.approx([0.1, 0.5, 0.33])
    assert tensor["parameters"]["weight"] == [1.0, 1.0, 0.5]
    assert len(plan["notes"]) == 2


@pytest.mark.usefixtures("in_root")
def test_a_dry_run_shows_dtypes_and_every_tensor_if_told(capsys):
    case = CASES["linear_out_bfloat16"].recipe
    assert main(["merge", str(case), "--dry-run", "--verbose"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("float32 → bfloat16" in line for line in lines) == 39


@pytest.mark.usefixtures("in_root")
@pytest.mark.parametrize("name", ["dare_linear", "della", "sce", "karcher"])
def test_a_dry_run_knows_the_memory_of_random_merges_and_of_several_passes(
    name, capsys
):
    assert main(["merge", str(CASES[name].recipe), "--dry-run"]) == 0
    assert "memory: about" in capsys.readouterr().out


# --- usage ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["mrege"],
        ["merge"],
        ["merge", "recipe.yml"],
        ["merge", "no.yml", "out"],
        ["merge", "recipe.yml", "out", "--unknown"],
        ["merge", "recipe.yml", "out", "--shard-size", "big"],
        ["merge", "recipe.yml", "out", "--no-safe-serialization"],
        ["inspect"],
    ],
)
def test_bad_usage(argv, capsys):
    assert main(argv) == 2
    assert "error" in capsys.readouterr().err


def test_help_and_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("jaxmerge 0.")
    assert main(["merge", "--help"]) == 0
    assert "--dry-run" in capsys.readouterr().out


def test_the_arguments_are_parsed_without_jax():
    # The package itself may import jax; the command line's own modules must not.
    code = f"""
    import sys, types
    package = types.ModuleType("jaxmerge")
    package.__path__ = [{os.path.dirname(jaxmerge.__file__)!r}]
    sys.modules["jaxmerge"] = package
    from jaxmerge.cli.main import main
    assert main(["merge"]) == 2 and main(["--help"]) == 0
    assert "jax" not in sys.modules and "numpy" not in sys.modules
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    subprocess.run(command, check=True, capture_output=True)


def test_the_compilation_cache_is_the_users_unless_told(tmp_path, monkeypatch):
    monkeypatch.undo()  # The function itself is meant here.
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: jax.config.values[name] for name in names}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    try:
        jax.config.update(names[0], None)
        jaxmerge.cli.merge.use_compilation_cache()
        expected = str(tmp_path / "jaxmerge" / "compiled")
        assert jax.config.values[names[0]] == expected
        jax.config.update(names[0], "/elsewhere")
        jaxmerge.cli.merge.use_compilation_cache()
        assert jax.config.values[names[0]] == "/elsewhere"
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
