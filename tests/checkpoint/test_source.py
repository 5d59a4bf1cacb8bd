"""Opening checkpoints: folders as Hugging Face's tools write them, and bad ones."""

import json
import pickle
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from jaxmerge.checkpoint.errors import CheckpointError
from jaxmerge.checkpoint.source import open_source

F32 = np.float32
A = {"a": np.arange(6, dtype=F32).reshape(2, 3)}
B = {"b": np.ones(4, ml_dtypes.bfloat16)}
EMBED = "model.embed_tokens.weight"
LLAMA = {"architectures": ["LlamaForCausalLM"]}


def test_a_single_file(tmp_path, save_safetensors):
    path = save_safetensors(tmp_path / "x.safetensors", A, {"format": "pt"})
    (tmp_path / "config.json").write_text("{}")
    with open_source(path) as source:
        assert (source.kind, source.sidecars, source.config) == (
            "safetensors",
            [],
            None,
        )
        assert source.metadata == {"format": "pt"}
        assert source.read("a").tolist() == A["a"].tolist()
        assert source.read_range("a", 2, 4).tolist() == [2, 3]
        assert "a" in source
        assert "b" not in source
        with pytest.raises(CheckpointError, match="no tensor 'A'"):
            source.read("A")


def test_a_file_is_told_by_its_bytes(tmp_path, save_safetensors):
    with open_source(save_safetensors(tmp_path / "blob", A)) as source:
        assert source.kind == "safetensors"
    (tmp_path / "y.gguf").write_bytes(b"GGUF    12345678")
    with pytest.raises(CheckpointError, match="neither a safetensors nor"):
        open_source(tmp_path / "y.gguf")


def test_a_lone_shard_says_so(tmp_path, save_safetensors):
    path = save_safetensors(tmp_path / "model-00001-of-00003.safetensors", A)
    with open_source(path) as source:
        assert "one of 3 shards" in source.notes[0]


def test_a_sharded_folder(tmp_path, save_folder):
    with open_source(save_folder(tmp_path / "m", A, B, config=LLAMA)) as source:
        assert source.kind == "huggingface"
        assert list(source.infos) == ["a", "b"]
        assert source.config == LLAMA
        assert source.read("b").tobytes() == B["b"].tobytes()
        assert source.aliases == {}


def test_shards_without_an_index(tmp_path, save_folder):
    folder = save_folder(tmp_path / "m", A, B)
    (folder / "model.safetensors.index.json").unlink()
    with open_source(folder) as source:
        assert set(source.infos) == {"a", "b"}
    (folder / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="not one set of shards"):
        open_source(folder)


def test_one_file_of_another_name(tmp_path, save_safetensors):
    save_safetensors(tmp_path / "diffusion_pytorch_model.safetensors", A)
    with open_source(tmp_path) as source:
        assert list(source.infos) == ["a"]
    save_safetensors(tmp_path / "other.safetensors", A)
    with pytest.raises(CheckpointError, match="several safetensors files"):
        open_source(tmp_path)


def edit_index(folder: Path, **changes: object) -> None:
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("weight_map", "sentence"),
    [
        ({"a": "model-00003-of-00002.safetensors"}, "'a' into .*, which is missing"),
        ({"c": "model-00001-of-00002.safetensors"}, "'c' into .*, which does not have"),
        ({"a": "../m/model-00001-of-00002.safetensors"}, "not the name"),
        ({"a": "/etc/passwd"}, "not the name"),
        ({"a": "config.json"}, "not the name"),
        ({"a": 3}, "has no weight_map"),
        ([], "has no weight_map"),
        (None, "has no weight_map"),
    ],
)
def test_a_bad_index(tmp_path, save_folder, weight_map, sentence):
    folder = save_folder(tmp_path / "m", A, B)
    edit_index(folder, weight_map=weight_map)
    with pytest.raises(CheckpointError, match=sentence):
        open_source(folder)


def test_an_index_that_is_not_json(tmp_path, save_folder):
    folder = save_folder(tmp_path / "m", A, B)
    (folder / "model.safetensors.index.json").write_text("{")
    with pytest.raises(CheckpointError, match="is not JSON"):
        open_source(folder)
    (folder / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(CheckpointError, match="has to be a JSON object"):
        open_source(folder)


def test_tensors_that_the_index_forgot(tmp_path, save_folder):
    folder = save_folder(tmp_path / "m", A, B)
    edit_index(folder, weight_map={"a": "model-00001-of-00002.safetensors"})
    with open_source(folder) as source:
        assert list(source.infos) == ["a"]  # A shard that nothing names is not read.
    shard = "model-00002-of-00002.safetensors"
    folder = save_folder(tmp_path / "n", A, B | {"c": np.ones(1, F32)})
    first = "model-00001-of-00002.safetensors"
    edit_index(folder, weight_map={"a": first, "b": shard})
    with open_source(folder) as source:
        assert set(source.infos) == {"a", "b", "c"}
        assert "'c' among them" in source.notes[0]


def test_a_tensor_in_two_shards(tmp_path, save_folder):
    folder = save_folder(tmp_path / "m", A | {"c": A["a"]}, B | A)
    with pytest.raises(CheckpointError, match="tensor 'a' is in model-00001.* and in"):
        open_source(folder)


def test_nothing_there(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere does not exist"):
        open_source(tmp_path / "nowhere")
    with pytest.raises(
        CheckpointError, match=r"no weights: looked for .*; it has nothi"
    ):
        open_source(tmp_path)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(CheckpointError, match=r"no weights: .*; it has notes\.txt"):
        open_source(tmp_path)


def test_pickles_are_never_opened(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin, which is not read"):
        open_source(tmp_path)
    np.savez(tmp_path / "x.npz", a=np.array([{}], object))
    with pytest.raises(CheckpointError, match="'a' .* never loaded"):
        open_source(tmp_path / "x.npz")


@pytest.mark.parametrize(
    ("names", "config"),
    [
        (["layer.qweight", "layer.scales"], None),
        (["layer.qzeros"], None),
        (["layer.weight_packed"], None),
        (["layer.weight_scale_inv", "layer.weight"], None),
        (["layer.weight_scale"], None),
        (["layer.weight.absmax"], None),
        (["layer.weight.quant_state.bitsandbytes__nf4"], None),
        (["experts.up_proj_blocks", "experts.up_proj_scales"], None),
        (["layer.weight"], {"quantization_config": {"quant_method": "fp8"}}),
        (["layer.weight"], {"quantization": {"bits": 4}}),
    ],
)
def test_quantised_checkpoints(tmp_path, save_folder, names, config):
    folder = save_folder(
        tmp_path / "m", dict.fromkeys(names, np.ones(1, F32)), config=config
    )
    with pytest.raises(CheckpointError, match="is quantised .*dequantise it first"):
        open_source(folder)


def test_plain_float8_and_innocent_names_are_fine(tmp_path, save_folder):
    tensors = {
        "layer.weight": np.ones(4, ml_dtypes.float8_e4m3fn),
        "attention.scales": np.ones(4, F32),
        "learned_scales": np.ones(4, F32),
    }
    config = {"quantization_config": None}
    with open_source(save_folder(tmp_path / "m", tensors, config=config)) as source:
        assert source.read("layer.weight").dtype == ml_dtypes.float8_e4m3fn


def tied(tmp_path, save_folder, tensors, config):
    return open_source(save_folder(tmp_path / "m", tensors, config=config))


@pytest.mark.parametrize(
    ("embedding", "alias"),
    [
        (EMBED, "lm_head.weight"),
        ("transformer.wte.weight", "lm_head.weight"),
        ("wte.weight", "lm_head.weight"),
        ("gpt_neox.embed_in.weight", "embed_out.weight"),
        ("model.language_model.embed_tokens.weight", "lm_head.weight"),
        (
            "language_model.model.embed_tokens.weight",
            "language_model.lm_head.weight",
        ),
        ("model.decoder.embed_tokens.weight", "lm_head.weight"),
    ],
)
def test_a_tied_head_is_an_alias(tmp_path, save_folder, embedding, alias):
    config = {"tie_word_embeddings": True}
    with tied(tmp_path, save_folder, {embedding: A["a"]}, config) as source:
        assert source.aliases == {alias: embedding}
        assert list(source.infos) == [embedding]
        assert alias in source
        assert source.info(alias).name == embedding
        assert source.read(alias).tolist() == A["a"].tolist()


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"tie_word_embeddings": False} | LLAMA, False),
        ({"tie_word_embeddings": True} | LLAMA, True),
        (LLAMA, True),  # A causal model without a head can only be tied.
        ({"architectures": ["GPT2LMHeadModel"]}, True),
        ({"text_config": {"tie_word_embeddings": True}}, True),
        ({"text_config": {"tie_word_embeddings": False}}, False),
        ({"architectures": ["LlamaModel"], "tie_word_embeddings": True}, False),
        ({"architectures": ["LlamaForSequenceClassification"]}, False),
        ({}, False),
        (None, False),
    ],
)
def test_when_a_missing_head_is_tied(tmp_path, save_folder, config, expected):
    with tied(tmp_path, save_folder, {EMBED: A["a"]}, config) as source:
        assert bool(source.aliases) is expected


def test_a_stored_head_is_an_alias_only_if_it_is_equal(tmp_path, save_folder):
    config = {"tie_word_embeddings": True}
    same = {EMBED: A["a"], "lm_head.weight": A["a"], "norm": B["b"]}
    with open_source(save_folder(tmp_path / "same", same, config=config)) as source:
        assert source.aliases == {"lm_head.weight": EMBED}
        assert set(source.infos) == {EMBED, "norm"}
        assert "lm_head.weight is stored" in source.notes[0]
    other = same | {"lm_head.weight": A["a"] + 1}
    with open_source(save_folder(tmp_path / "other", other, config=config)) as source:
        assert source.aliases == {}
        assert set(source.infos) == set(other)
    untied = {"tie_word_embeddings": False}
    with open_source(save_folder(tmp_path / "untied", same, config=untied)) as source:
        assert source.aliases == {}
        assert set(source.infos) == set(same)


def test_an_encoder_decoder_shares_one_embedding(tmp_path, save_folder):
    config = {"architectures": ["T5ForConditionalGeneration"]}
    with tied(tmp_path, save_folder, {"shared.weight": A["a"]}, config) as source:
        assert source.aliases == dict.fromkeys(
            [
                "lm_head.weight",
                "encoder.embed_tokens.weight",
                "decoder.embed_tokens.weight",
            ],
            "shared.weight",
        )


def test_shared_tensors_noted_in_the_metadata(tmp_path, save_safetensors):
    metadata = {"head": "a", "format": "pt", "x": "y"}
    path = save_safetensors(tmp_path / "x.safetensors", A, metadata)
    with open_source(path) as source:
        assert source.aliases == {"head": "a"}


def test_sidecars(tmp_path, save_folder):
    folder = save_folder(tmp_path / "m", A, config=LLAMA)
    carried = [
        *("LICENSE", "chat_template.jinja", "generation_config.json", "merges.txt"),
        *("modeling_x.py", "preprocessor_config.json", "special_tokens_map.json"),
        *("spiece.model", "tokenizer.json", "tokenizer_config.json", "vocab.json"),
    ]
    left = [
        "README.md",
        "optimizer.pt",
        "trainer_state.json",
        ".gitattributes",
        "x.bin",
    ]
    for name in (*carried, *left):
        (folder / name).write_text(name)
    (folder / "additional_chat_templates").mkdir()
    (folder / ".git").mkdir()
    with open_source(folder) as source:
        names = [path.name for path in source.sidecars]
    assert names == sorted([*carried, "config.json", "additional_chat_templates"])


def test_identity(tmp_path, save_folder):
    one = save_folder(tmp_path / "one", A, B, config=LLAMA)
    two = save_folder(tmp_path / "elsewhere" / "two", A, B, config=LLAMA)
    with open_source(one) as first, open_source(two) as second:
        for checksums in (False, True):
            identity = first.identity(checksums)
            assert identity == second.identity(checksums)
            assert str(tmp_path) not in json.dumps(identity)
            hashed = ["sha256" in file for file in identity["files"]]
            assert hashed == [checksums, checksums, True]
    changed = save_folder(tmp_path / "three", A, {"b": B["b"] * 2}, config=LLAMA)
    with open_source(one) as first, open_source(changed) as second:
        assert first.identity() == second.identity()  # Headers are all it looks at.
        assert first.identity(True) != second.identity(True)


def test_adapter_beside_full_weights(tmp_path, save_folder, save_safetensors):
    folder = tmp_path / "m"
    config = {"peft_type": "LORA"}
    save_safetensors(folder / "adapter_model.safetensors", B)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with open_source(folder) as source:
        assert (source.kind, list(source.infos)) == ("peft", ["b"])
        assert source.config == config
        assert [path.name for path in source.sidecars] == ["adapter_config.json"]
    save_folder(folder, A)
    with open_source(folder) as source:
        assert (source.kind, list(source.infos)) == ("huggingface", ["a"])
        assert "the full weights are used" in source.notes[0]
    (folder / "model.safetensors").unlink()
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="saved as a pickle"):
        open_source(folder)
