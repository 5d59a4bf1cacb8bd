"""LoRA adapters: which tensor, which scale, which way round."""

import json

import numpy as np
import pytest

from jaxmerge.checkpoint.errors import CheckpointError
from jaxmerge.checkpoint.peft import lora_delta, lora_pairs, read_adapter
from jaxmerge.checkpoint.source import open_source

CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 8}
Q = "model.layers.0.self_attn.q_proj"
V = "model.layers.11.self_attn.v_proj"


@pytest.fixture
def adapter(tmp_path, save_safetensors, rng):
    """A function that writes an adapter with a pair for each module, and opens it."""

    def make(modules=(Q,), rank=2, extra=(), config=CONFIG, pattern=None):
        a, b = pattern or (".lora_A.weight", ".lora_B.weight")
        tensors = {}
        for module in modules:
            prefix = f"base_model.model.{module}"
            tensors[prefix + a] = rng.normal(size=(rank, 5)).astype(np.float32)
            tensors[prefix + b] = rng.normal(size=(3, rank)).astype(np.float32)
        tensors |= {name: np.ones(shape, np.float32) for name, shape in extra}
        save_safetensors(tmp_path / "adapter_model.safetensors", tensors)
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
        return open_source(tmp_path)

    return make


@pytest.mark.parametrize(
    "pattern",
    [
        (".lora_A.weight", ".lora_B.weight"),
        (".lora_A.default.weight", ".lora_B.default.weight"),
    ],
)
def test_a_pair_is_the_delta_of_its_tensor(adapter, pattern):
    source = adapter(pattern=pattern)
    (pair,) = lora_pairs(source).values()
    assert (pair.target, pair.scale) == (f"{Q}.weight", 4.0)
    assert pair.shape(source) == (3, 5)
    a, b = source.read(pair.a_name), source.read(pair.b_name)
    expected = 4.0 * b.astype(np.float64) @ a.astype(np.float64)
    delta = pair.read(source).dense()
    assert delta.dtype == np.float32
    np.testing.assert_allclose(delta, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(lora_delta(a, b, 4.0), expected, rtol=1e-5, atol=1e-6)
    flipped = lora_delta(a, b, 4.0, fan_in_fan_out=True)
    np.testing.assert_allclose(flipped, expected.T, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "scales"),
    [
        ({}, (4.0, 4.0)),
        ({"use_rslora": True}, (8 / 2**0.5, 8 / 2**0.5)),
        ({"alpha_pattern": {"v_proj": 1}}, (4.0, 0.5)),
        ({"alpha_pattern": {"layers.1.self_attn.v_proj": 1}}, (4.0, 4.0)),
        ({"alpha_pattern": {r"layers\.\d+\.self_attn.*": 6, "v_proj": 1}}, (3.0, 3.0)),
        ({"alpha_pattern": {"^model.layers.11.self_attn.v_proj": 1}}, (4.0, 0.5)),
        ({"r": 7, "rank_pattern": {"self_attn..*": 2}}, (4.0, 4.0)),
        ({"use_dora": False, "init_lora_weights": True, "bias": "none"}, (4.0, 4.0)),
    ],
)
def test_scales(adapter, changes, scales):
    pairs = lora_pairs(adapter([Q, V], config=CONFIG | changes))
    assert tuple(pairs[f"{m}.weight"].scale for m in (Q, V)) == pytest.approx(scales)


def test_a_transposed_layer(adapter):
    source = adapter(config=CONFIG | {"fan_in_fan_out": True})
    (pair,) = lora_pairs(source).values()
    assert pair.shape(source) == (5, 3)
    a, b = source.read(pair.a_name), source.read(pair.b_name)
    np.testing.assert_allclose(pair.read(source).dense(), (4 * b @ a).T, rtol=1e-5)


def test_gpt2_is_transposed_whatever_the_config_says(adapter):
    source = adapter(["transformer.h.0.attn.c_attn", "transformer.h.0.score"])
    gpt2 = lora_pairs(source, base_config={"model_type": "gpt2"})
    assert [pair.fan_in_fan_out for pair in gpt2.values()] == [True, False]
    llama = lora_pairs(source, base_config={"model_type": "llama"})
    assert [pair.fan_in_fan_out for pair in llama.values()] == [False, False]


def test_an_embedding_is_transposed(adapter):
    pattern = (".lora_embedding_A", ".lora_embedding_B")
    source = adapter(["model.embed_tokens"], pattern=pattern)
    (pair,) = lora_pairs(source).values()
    assert pair.target == "model.embed_tokens.weight"
    assert pair.shape(source) == (5, 3)


def test_whole_tensors(adapter):
    prefix = "base_model.model."
    source = adapter(
        extra=[
            (f"{prefix}lm_head.weight", (4,)),
            (f"{prefix}score.modules_to_save.default.weight", (4,)),
            (f"{prefix}{Q}.base_layer.bias", (4,)),
        ]
    )
    assert read_adapter(source).full == {
        "lm_head.weight": f"{prefix}lm_head.weight",
        "score.weight": f"{prefix}score.modules_to_save.default.weight",
        f"{Q}.bias": f"{prefix}{Q}.base_layer.bias",
    }
    with pytest.raises(CheckpointError, match=r"'lm_head\.weight' whole"):
        lora_pairs(source)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"peft_type": "IA3"}, "type 'IA3'"),
        ({"peft_type": None}, "type None"),
        ({"use_dora": True}, "use_dora.*DoRA"),
        ({"layer_replication": [[0, 4], [2, 5]]}, "layer_replication"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"target_parameters": ["experts"]}, "target_parameters"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the base"),
        ({"init_lora_weights": "olora"}, "changes the base"),
        ({"r": 4}, "have rank 2 and its config says 4"),
        ({"rank_pattern": {"q_proj": 3}}, "have rank 2 and its config says 3"),
        ({"r": None}, "r is None"),
        ({"lora_alpha": "8"}, "lora_alpha is '8'"),
    ],
)
def test_what_is_not_supported(adapter, changes, sentence):
    with pytest.raises(CheckpointError, match=sentence):
        lora_pairs(adapter(config=CONFIG | changes))


def test_tensors_that_do_not_fit(adapter):
    prefix = "base_model.model.x"
    for extra, sentence in [
        ([(f"{prefix}.lora_A.weight", (2, 5))], "'x' has only factor A"),
        ([(f"{prefix}.lora_magnitude_vector", (3,))], "not a plain LoRA factor"),
        ([(f"{prefix}.lora_B.bias", (3,))], "not a plain LoRA factor"),
        (
            [(f"{prefix}.lora_A.weight", (2, 5)), (f"{prefix}.lora_B.weight", (3, 1))],
            r"shapes \(2, 5\) and \(3, 1\)",
        ),
        (
            [
                (f"{prefix}.lora_A.weight", (2, 5, 3)),
                (f"{prefix}.lora_B.weight", (3, 2)),
            ],
            "convolutions",
        ),
    ]:
        source = adapter(extra=extra)
        with pytest.raises(CheckpointError, match=sentence):
            lora_pairs(source)
        (source.path / "adapter_model.safetensors").unlink()
    source = adapter(
        extra=[(f"base_model.model.{Q}.lora_A.other.weight", (2, 5))],
    )
    with pytest.raises(CheckpointError, match="several adapters"):
        lora_pairs(source)
    (source.path / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no LoRA factors"):
        lora_pairs(adapter(modules=[], extra=[("w", (1,))]))
