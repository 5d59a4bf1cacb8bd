"""Folders of Hugging Face in and out: `config.json` and safetensors, bit for bit."""

import contextlib
import json
import os
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.llm.model import Architecture, Llama3Scaling, ModelConfig, Params
from jaxmerge import checkpoint

FAMILIES = ("llama", "qwen2")
_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
# The last entry of a leaf's name here and there, and whether it is transposed.
_LAST = {
    "kernel": ("weight", True),
    "embedding": ("weight", False),
    "scale": ("weight", False),
    "bias": ("bias", False),
}


class Model(NamedTuple):
    """A model as it was read: its shape, and its parameters as NumPy arrays."""

    config: ModelConfig
    params: Params


def _rope(where: str, raw: dict[str, Any]) -> tuple[float, Llama3Scaling | None]:
    """The rotary embedding, as transformers 5 or as earlier ones write it down."""
    found = {**(raw.get("rope_scaling") or {}), **(raw.get("rope_parameters") or {})}
    theta = float(found.get("rope_theta", raw.get("rope_theta", 10_000.0)))
    kind = found.get("rope_type", found.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise ValueError(
            f"{where} scales its rotary embedding by {kind!r}; only 'default' and "
            "'llama3' are implemented here"
        )
    return theta, Llama3Scaling(
        factor=found["factor"],
        low_freq_factor=found["low_freq_factor"],
        high_freq_factor=found["high_freq_factor"],
        original_length=found["original_max_position_embeddings"],
    )


def _refuse_what_is_different(where: str, raw: dict[str, Any]) -> None:
    """Raises where computing as Llama does would silently be another model."""
    kind = raw.get("model_type")
    if kind not in FAMILIES:
        raise ValueError(
            f"{where} is a model of type {kind!r}; expected one of {FAMILIES}"
        )
    if raw.get("hidden_act", "silu") != "silu":
        raise ValueError(
            f"{where} has the activation {raw['hidden_act']!r}; only 'silu' is "
            "implemented here"
        )
    layers = set(raw.get("layer_types") or ()) - {"full_attention"}
    if raw.get("use_sliding_window") or layers:
        raise ValueError(
            f"{where} has attention that does not see all earlier tokens "
            "(use_sliding_window, layer_types); only full attention is implemented here"
        )
    rope = {**raw, **(raw.get("rope_parameters") or {})}
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise ValueError(
            f"{where} rotates only a part of each head (partial_rotary_factor), which "
            "is not implemented here"
        )
    if raw.get("quantization_config"):
        raise ValueError(f"{where} is quantised; dequantise it first")


def read_config(where: str, raw: dict[str, Any]) -> ModelConfig:
    """The shape that a `config.json` tells of.

    Args:
      where: what errors call it.
      raw: the file's content.

    Raises:
      ValueError: if the model is none that `model.py` implements.
    """
    _refuse_what_is_different(where, raw)
    theta, scaling = _rope(where, raw)
    heads, hidden = raw["num_attention_heads"], raw["hidden_size"]
    qwen = raw["model_type"] == "qwen2"
    attention_bias = bool(raw.get("attention_bias", False)) and not qwen
    return ModelConfig(
        vocab_size=raw["vocab_size"],
        hidden_size=hidden,
        intermediate_size=raw["intermediate_size"],
        num_layers=raw["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=raw.get("num_key_value_heads") or heads,
        head_dim=raw.get("head_dim") or hidden // heads,
        rope_theta=theta,
        rope_scaling=scaling,
        norm_eps=raw.get("rms_norm_eps", 1e-6),
        tied=bool(raw.get("tie_word_embeddings", False)),
        qkv_bias=qwen or attention_bias,
        out_bias=attention_bias,
        mlp_bias=bool(raw.get("mlp_bias", False)) and not qwen,
    )


def write_config(config: ModelConfig) -> dict[str, Any]:
    """The content of a `config.json` that transformers reads as this shape.

    Raises:
      ValueError: if neither Llama nor Qwen2 has its biases.
    """
    qwen = config.qkv_bias and not config.out_bias
    if (config.out_bias and not config.qkv_bias) or (qwen and config.mlp_bias):
        raise ValueError(
            "neither Llama nor Qwen2 has these biases: expected qkv_bias alone, or "
            f"qkv_bias as out_bias; got {config}"
        )
    scaling = config.rope_scaling
    rope = scaling and {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
        "original_max_position_embeddings": scaling.original_length,
    }
    biases = {"attention_bias": config.out_bias, "mlp_bias": config.mlp_bias}
    return {
        "architectures": ["Qwen2ForCausalLM" if qwen else "LlamaForCausalLM"],
        "model_type": "qwen2" if qwen else "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": rope,
        "tie_word_embeddings": config.tied,
        **({} if qwen else biases),
    }


def _renamed(name: str) -> tuple[str, bool]:
    """A leaf's name in a Hugging Face file, and whether it is transposed there."""
    stem, last = name.rsplit(".", 1)
    there, transposed = _LAST[last]
    return f"{stem}.{there}", transposed


def to_tensors(params: Params) -> dict[str, np.ndarray]:
    """The tensors of a Hugging Face file, by its names, in the parameters' dtypes."""
    tensors = {}
    for name, leaf in checkpoint.flatten_names(params).items():
        there, transposed = _renamed(name)
        array = np.asarray(leaf)
        tensors[there] = np.ascontiguousarray(array.T if transposed else array)
    return tensors


def _check_names(source: checkpoint.Source, wanted: set[str], tied: bool) -> None:
    missing = sorted(wanted - source.infos.keys())
    if missing:
        raise ValueError(
            f"{source.path} has no tensor {missing[0]!r}, which its config asks for "
            f"({len(missing)} of {len(wanted)} are missing)"
        )
    unknown = sorted(source.infos.keys() - wanted)
    if tied and _HEAD in unknown:
        unknown.remove(_HEAD)
        head, embedding = source.read(_HEAD), source.read(_EMBEDDING)
        if head.dtype != embedding.dtype or head.tobytes() != embedding.tobytes():
            raise ValueError(
                f"{source.path} stores a {_HEAD} that differs from {_EMBEDDING}, to "
                "which its config ties it; one of them is not what the model computes "
                "with. Set tie_word_embeddings to false, or remove the head"
            )
    if unknown:
        raise ValueError(
            f"{source.path} has a tensor {unknown[0]!r}, which its config does not ask "
            f"for ({len(unknown)} of {len(source.infos)} are unknown)"
        )


def load(folder: str | os.PathLike) -> Model:
    """Reads a Llama or Qwen2 model from a local folder, sharded or not.

    Every tensor is accounted for, and keeps its dtype.

    Raises:
      ValueError: if it is another kind of model, or a tensor is missing, unknown or of
        another shape; the sentence names it.
    """
    with checkpoint.open_source(folder) as source:
        if source.config is None or source.kind != "huggingface":
            raise ValueError(
                f"{folder} is no Hugging Face folder with a config.json and weights"
            )
        config = read_config(str(folder), source.config)
        abstract = Architecture(config).abstract
        template = checkpoint.flatten_names(abstract)
        renamed = {name: _renamed(name) for name in template}
        _check_names(source, {there for there, _ in renamed.values()}, config.tied)
        leaves = []
        for name, leaf in template.items():
            there, transposed = renamed[name]
            array = source.read(there)
            array = array.T if transposed else array
            if array.shape != leaf.shape:
                raise ValueError(
                    f"tensor {there!r} of {folder} has shape "
                    f"{source.info(there).shape}; its config asks for "
                    f"{leaf.shape[::-1] if transposed else leaf.shape}"
                )
            leaves.append(array)
    return Model(config, jax.tree.structure(abstract).unflatten(leaves))


def save(
    folder: str | os.PathLike,
    params: Params,
    *,
    like: str | os.PathLike | None = None,
    config: ModelConfig | None = None,
    overwrite: bool = False,
) -> None:
    """Writes a model as a Hugging Face folder; it appears whole or not at all.

    Args:
      folder: to be.
      params: the parameters; their dtypes are kept. A tied head is written once.
      like: a folder whose config, tokenizer and so on are carried along; or
      config: the shape, of which a `config.json` is made.
      overwrite: whether to replace what is there.

    Raises:
      ValueError: unless one of `like` and `config` is given.
    """
    if (like is None) == (config is None):
        raise ValueError("give either like= (a folder) or config= (a ModelConfig)")
    tensors = to_tensors(params)
    infos = [
        checkpoint.TensorInfo(name, array.shape, array.dtype)
        for name, array in tensors.items()
    ]
    with contextlib.ExitStack() as stack:
        donor = None
        if like is not None:
            donor = stack.enter_context(checkpoint.open_source(like))
        sink = stack.enter_context(
            checkpoint.open_sink(
                folder,
                infos,
                kind="huggingface",
                sidecars=donor.sidecars if donor else (),
                aliases=donor.aliases if donor else None,
                overwrite=overwrite,
            )
        )
        if config is not None:
            text = json.dumps(write_config(config), indent=2) + "\n"
            sink.write_file("config.json", text.encode())
        for name, array in tensors.items():
            sink.write(name, array)
        sink.commit()
