"""Small checkpoints for the tests of the file formats."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jaxmerge.checkpoint.safetensors import SafetensorsWriter
from jaxmerge.checkpoint.tensor_info import TensorInfo


@pytest.fixture
def save_safetensors() -> Callable[..., Path]:
    def save(path: Path, tensors: dict[str, np.ndarray], metadata=None) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        infos = [TensorInfo(name, x.shape, x.dtype) for name, x in tensors.items()]
        writer = SafetensorsWriter(path, infos, metadata)
        for name, x in tensors.items():
            writer.write(name, x)
        writer.close()
        return path

    return save


@pytest.fixture
def save_folder(save_safetensors) -> Callable[..., Path]:
    """A Hugging Face folder: one file, or one shard for each dict of tensors."""

    def save(folder: Path, *shards: dict[str, np.ndarray], config=None) -> Path:
        if len(shards) == 1:
            save_safetensors(folder / "model.safetensors", shards[0])
        else:
            weight_map = {}
            for i, shard in enumerate(shards, 1):
                name = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
                save_safetensors(folder / name, shard)
                weight_map |= dict.fromkeys(shard, name)
            index = {"metadata": {}, "weight_map": weight_map}
            path = folder / "model.safetensors.index.json"
            path.write_text(json.dumps(index))
        if config is not None:
            (folder / "config.json").write_text(json.dumps(config))
        return folder

    return save
