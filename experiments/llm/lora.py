"""LoRA adapters: a tree of factors, the deltas they stand for, and PEFT's folders."""

import json
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from experiments.llm.model import Params
from jaxmerge import checkpoint

Factors = dict[str, dict[str, Array]]


def adapted(params: Params) -> list[str]:
    """Names of the leaves that get factors: the kernels of all blocks."""
    names = checkpoint.flatten_names(params)
    return [n for n in names if ".layers." in n and n.endswith(".kernel")]


def init_factors(params: Params, rank: int, key: Array) -> Factors:
    """Random `a [rank, in]` and zero `b [out, rank]`: the delta starts at zero."""
    leaves = checkpoint.flatten_names(params)
    shapes = {name: leaves[name].shape for name in adapted(params)}
    drawn = jax.random.normal(key, (rank, sum(x for x, _ in shapes.values())))
    factors, at = {}, 0
    for name, (inputs, outputs) in shapes.items():
        a = drawn[:, at : at + inputs] / np.sqrt(inputs)
        factors[name] = {"a": a, "b": jnp.zeros((outputs, rank))}
        at += inputs
    return factors


def add_factors(params: Params, factors: Factors, scale: float) -> Params:
    """The base with `scale * (b @ a)` added to each adapted kernel."""
    leaves = checkpoint.flatten_names(params)
    for name, pair in factors.items():
        delta = checkpoint.lora_delta(pair["a"], pair["b"], scale, fan_in_fan_out=True)
        leaves[name] = leaves[name] + delta
    return jax.tree.structure(params).unflatten(leaves.values())


def save_adapter(
    folder: str | os.PathLike, factors: Factors, *, alpha: float, overwrite: bool
) -> None:
    """Writes a folder as PEFT does, for the base as `huggingface.save` writes it."""
    tensors: dict[str, np.ndarray] = {}
    for name, pair in factors.items():
        module = name.removesuffix(".kernel")
        for factor, array in pair.items():
            key = f"base_model.model.{module}.lora_{factor.upper()}.weight"
            tensors[key] = np.asarray(array)
    rank = next(iter(factors.values()))["a"].shape[0]
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "target_modules": sorted({n.split(".")[-2] for n in factors}),
        "inference_mode": True,
    }
    infos = [checkpoint.TensorInfo(n, x.shape, x.dtype) for n, x in tensors.items()]
    with checkpoint.open_sink(folder, infos, kind="peft", overwrite=overwrite) as sink:
        text = json.dumps(config, indent=2) + "\n"
        sink.write_file("adapter_config.json", text.encode())
        for name, array in tensors.items():
            sink.write(name, array)
        sink.commit()


def adapter_path(models: Path, name: str) -> Path:
    """Where the adapter of an expert is kept."""
    return models / f"adapter_{name}"
