"""The decoder and its checkpoints: equal to transformers, and bit for bit."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.llm import huggingface
from experiments.llm.model import Architecture, ModelConfig
from jaxmerge import Matrices, checkpoint
from tests.oracles.fixtures import FIXTURES, read_safetensors, recorded

pytestmark = pytest.mark.usefixtures("quick_compilation")
FOLDER = FIXTURES / "llama"
CASES = sorted(recorded("llama")["cases"])
SMALL = ModelConfig(
    vocab_size=11,
    hidden_size=8,
    intermediate_size=12,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=4,
)


def tensors_of(folder):
    tensors = {}
    for shard in sorted(folder.glob("*.safetensors")):
        tensors |= read_safetensors(shard)
    return tensors


@pytest.fixture
def tied(tmp_path):
    """A copy of a tied model that a test may spoil, and its config."""
    folder = tmp_path / "model"
    shutil.copytree(FOLDER / "llama-tied", folder)
    return folder


def rewrite(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_transformers(case):
    expected = read_safetensors(FOLDER / "expected.safetensors")
    model = huggingface.load(FOLDER / case)
    logits = jax.jit(Architecture(model.config).logits)
    found = logits(
        jax.tree.map(jnp.asarray, model.params),
        jnp.asarray(expected["tokens"], jnp.int32),
    )
    assert found.dtype == jnp.float32
    assert np.std(expected[case]) > 0.5
    np.testing.assert_allclose(found, expected[case], rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_a_round_trip_keeps_every_bit(case, tmp_path):
    model = huggingface.load(FOLDER / case)
    huggingface.save(tmp_path / "again", model.params, like=FOLDER / case)
    before, after = tensors_of(FOLDER / case), tensors_of(tmp_path / "again")
    assert before.keys() == after.keys()
    assert ("lm_head.weight" in after) == (not model.config.tied)
    for name, tensor in before.items():
        assert tensor.dtype == after[name].dtype
        assert tensor.tobytes() == after[name].tobytes()
    config = "config.json"
    assert (tmp_path / "again" / config).read_bytes() == (
        FOLDER / case / config
    ).read_bytes()


@pytest.mark.parametrize("case", CASES)
def test_a_written_config_is_read_as_the_same_shape(case, tmp_path):
    model = huggingface.load(FOLDER / case)
    huggingface.save(tmp_path / "new", model.params, config=model.config)
    again = huggingface.load(tmp_path / "new")
    assert again.config == model.config
    jax.tree.map(np.testing.assert_array_equal, again.params, model.params)


def test_a_head_that_is_tied_and_stored_as_well_is_read_once(tied, tmp_path):
    tensors = tensors_of(tied)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    checkpoint.save(tied / "model.safetensors", tensors, overwrite=True)
    model = huggingface.load(tied)
    assert set(model.params) == {"model"}
    huggingface.save(tmp_path / "again", model.params, like=tied)
    assert "lm_head.weight" not in tensors_of(tmp_path / "again")
    tensors["lm_head.weight"] = tensors["lm_head.weight"] + np.float32(1)
    checkpoint.save(tied / "model.safetensors", tensors, overwrite=True)
    with pytest.raises(ValueError, match=r"lm_head\.weight that differs from"):
        huggingface.load(tied)


def test_tensors_that_do_not_fit_are_named(tied):
    tensors = tensors_of(tied)
    norm = tensors.pop("model.norm.weight")
    checkpoint.save(tied / "model.safetensors", tensors, overwrite=True)
    with pytest.raises(ValueError, match=r"no tensor 'model\.norm\.weight'"):
        huggingface.load(tied)
    tensors |= {"model.norm.weight": norm, "model.extra": norm}
    checkpoint.save(tied / "model.safetensors", tensors, overwrite=True)
    with pytest.raises(ValueError, match=r"has a tensor 'model\.extra'"):
        huggingface.load(tied)
    del tensors["model.extra"]
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name] = tensors[name].T
    checkpoint.save(tied / "model.safetensors", tensors, overwrite=True)
    with pytest.raises(ValueError, match=rf"{name}.*\(16, 24\).*asks for \(24, 16\)"):
        huggingface.load(tied)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model_type": "gemma"}, "type 'gemma'"),
        ({"hidden_act": "gelu"}, "activation 'gelu'"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "by 'yarn'"),
        ({"use_sliding_window": True}, "full attention"),
        ({"layer_types": ["sliding_attention"]}, "full attention"),
        ({"partial_rotary_factor": 0.5}, "a part of each head"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
    ],
)
def test_other_models_are_refused(tied, changes, sentence):
    raw = json.loads((tied / "config.json").read_text())
    with pytest.raises(ValueError, match=sentence):
        huggingface.read_config("it", raw | changes)


def test_rope_is_read_as_older_versions_wrote_it(tied):
    raw = json.loads((tied / "config.json").read_text())
    del raw["rope_parameters"]
    old = raw | {"rope_theta": 123.0, "rope_scaling": None}
    assert huggingface.read_config("it", old).rope_theta == 123.0


def test_biases_that_no_family_has_are_refused():
    with pytest.raises(ValueError, match="neither Llama nor Qwen2"):
        huggingface.write_config(dataclasses.replace(SMALL, out_bias=True))


def test_leaves_are_matrices_for_spectral_methods():
    abstract = Architecture(dataclasses.replace(SMALL, tied=False)).abstract
    found = {
        name: Matrices().spec(name, leaf.shape)
        for name, leaf in checkpoint.flatten_names(abstract).items()
    }
    matrices = {name for name, spec in found.items() if spec is not None}
    assert matrices == {name for name in found if name.endswith("kernel")}
    assert len(matrices) == 2 * 7 + 1
    assert {found[name].in_ for name in matrices} == {-2}


def test_later_tokens_change_nothing_before_them():
    architecture = Architecture(SMALL)
    params = jax.jit(architecture.init)(jax.random.key(1))
    tokens = np.arange(16).reshape(2, 8) % 7
    tokens[1] = tokens[0]
    tokens[1, 5] = 9
    first, second = np.asarray(jax.jit(architecture.logits)(params, tokens))
    changed = first[None] != second[None]
    assert not changed[0, :5].any()
    assert changed[0, 5:].any(axis=-1).all()


def test_logits_keep_leading_axes_and_parameters_are_counted():
    architecture = Architecture(SMALL)
    params = jax.eval_shape(architecture.init, jax.random.key(0))
    tokens = jnp.zeros((2, 3, 5), jnp.int32)
    shape = jax.eval_shape(architecture.logits, params, tokens).shape
    assert shape == (2, 3, 5, 11)
    sizes = [x.size for x in jax.tree.leaves(params)]
    assert architecture.num_parameters == sum(sizes)
    assert jax.tree.structure(params) == jax.tree.structure(architecture.abstract)
