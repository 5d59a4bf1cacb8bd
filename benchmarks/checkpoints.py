"""A Llama-like bfloat16 checkpoint and its experts, with random weights."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from benchmarks.common import Preset
from jaxmerge import checkpoint

_FILES = 4  # experts that exist; more are the same files once more


def shapes(preset: Preset) -> dict[str, tuple[int, ...]]:
    """The tensors of a Llama with an untied head and no grouped queries."""
    width, rows = preset.hidden, preset.vocabulary
    inner = 11 * width // 4
    named: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (rows, width)}
    for i in range(preset.layers):
        layer = f"model.layers.{i}"
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            named[f"{layer}.self_attn.{name}.weight"] = (width, width)
        named[f"{layer}.mlp.gate_proj.weight"] = (inner, width)
        named[f"{layer}.mlp.up_proj.weight"] = (inner, width)
        named[f"{layer}.mlp.down_proj.weight"] = (width, inner)
        named[f"{layer}.input_layernorm.weight"] = (width,)
        named[f"{layer}.post_attention_layernorm.weight"] = (width,)
    return named | {"model.norm.weight": (width,), "lm_head.weight": (rows, width)}


def _normals(name: str, model: int, size: int) -> np.ndarray:
    """Gaussian numbers, the same for the same tensor and model."""
    seed = [model, *name.encode()]
    return np.random.default_rng(seed).standard_normal(size, np.float32)


def _tensors(
    named: Mapping[str, tuple[int, ...]], expert: int | None
) -> Iterator[tuple[str, np.ndarray]]:
    for name, shape in named.items():
        size = int(np.prod(shape))
        values = 0.02 * _normals(name, 0, size)
        if expert is not None:
            values += 0.002 * _normals(name, 1 + expert, size)
        yield name, values.astype(ml_dtypes.bfloat16).reshape(shape)


def _write(
    path: Path, named: Mapping[str, tuple[int, ...]], expert: int | None
) -> None:
    infos = [
        checkpoint.TensorInfo(name, shape, np.dtype(ml_dtypes.bfloat16))
        for name, shape in named.items()
    ]
    with checkpoint.open_sink(path, infos, kind="safetensors") as sink:
        for name, array in _tensors(named, expert):
            sink.write(name, array)
        sink.commit()


def parameters(preset: Preset) -> int:
    """The number of parameters of a checkpoint."""
    return sum(int(np.prod(shape)) for shape in shapes(preset).values())


def generate(folder: Path, preset: Preset) -> tuple[Path, list[Path]]:
    """The base, and as many experts as the preset ever merges.

    Files that are there already are kept. Beyond four, experts are the first four over
    again: what is read and computed is the same, and the disk holds five files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    base = folder / "base.safetensors"
    files = [folder / f"expert_{t}.safetensors" for t in range(_FILES)]
    named = shapes(preset)
    for path, expert in [(base, None), *zip(files, range(_FILES), strict=True)]:
        if not path.exists():
            _write(path, named, expert)
    most = max(*preset.experts, *preset.memory_experts)
    return base, [files[t % _FILES] for t in range(most)]
