"""What lies in a model's folder: which files are the weights and which go with them."""

import fnmatch
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxmerge.checkpoint.errors import CheckpointError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_model.safetensors"
STATISTICS = "statistics.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
CONFIG = "config.json"

SHARD = re.compile(r"^(.+)-(\d{5})-of-(\d{5})\.safetensors$")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.h5", "*.msgpack", "*.gguf")

_STATED = {"float16", "bfloat16", "float32", "float64"}

# What a model needs besides its weights. Listed, not "everything else": a folder may
# also hold optimizer states, logs and other people's notes.
_SIDECARS = (
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "*tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*.json",
    "vocab.txt",
    "merges.txt",
    "*.model",
    "*.spm",
    "*.tiktoken",
    "tekken.json",
    "normalizer.json",
    "bpe.codes",
    "chat_template*",
    "additional_chat_templates",
    "*preprocessor_config.json",
    "*processor_config.json",
    "modules.json",
    "*sentence_*transformers.json",
    "sentence_bert_config.json",
    "?_Pooling",
    "LICENSE*",
    "LICENCE*",
    "NOTICE*",
    "USE_POLICY*",
    "*.py",
)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
      CheckpointError: if it is anything else.
    """
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} has to be a JSON object")
    return content


def state_dtype(config: dict[str, Any], dtypes: set[str]) -> dict[str, Any]:
    """A config that names the dtype of the weights, where it names one at all.

    A loader casts every weight to what the config says, so it has to say what is there.

    >>> state_dtype({"torch_dtype": "bfloat16", "vocab_size": 7}, {"float32"})
    {'torch_dtype': 'float32', 'vocab_size': 7}

    Args:
      config: `config.json`.
      dtypes: the floating dtypes of the weights; where they are several, or one that no
        loader computes in, the config stays as it is.
    """
    if len(dtypes) != 1 or not dtypes <= _STATED:
        return config
    stated = dict(config)
    for key, value in config.items():
        if key in ("torch_dtype", "dtype") and isinstance(value, str):
            (stated[key],) = dtypes
        elif key.endswith("_config") and isinstance(value, dict):
            stated[key] = state_dtype(value, dtypes)
    return stated


def find_sidecars(folder: Path, extra: Sequence[str] = ()) -> list[Path]:
    """The files and folders that a merge carries along, sorted by name."""
    wanted = (*_SIDECARS, *extra)
    return [
        path
        for path in sorted(folder.iterdir())
        if any(fnmatch.fnmatchcase(path.name, pattern) for pattern in wanted)
    ]


def read_index(index: Path) -> dict[str, str]:
    """The map from tensor to shard of an index.

    Raises:
      CheckpointError: if it is not one, or names files outside its folder or missing.
    """
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(
        isinstance(shard, str) for shard in weight_map.values()
    ):
        raise CheckpointError(f"{index} has no weight_map from tensors to files")
    for tensor, shard in weight_map.items():
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise CheckpointError(
                f"{index} puts tensor {tensor!r} into {shard!r}, which is not the name "
                "of a safetensors file in its folder"
            )
        if not (index.parent / shard).is_file():
            raise CheckpointError(
                f"{index} puts tensor {tensor!r} into {shard}, which is missing; fetch "
                "the checkpoint again"
            )
    return weight_map


def _complete_shards(folder: Path, names: list[str]) -> list[Path] | None:
    """Shards without an index, if they are one whole set."""
    matches = [SHARD.match(name) for name in names]
    parts = [match.groups() for match in matches if match]
    if len(parts) < len(names) or len({(stem, of) for stem, _, of in parts}) != 1:
        return None
    if [int(i) for _, i, _ in parts] != list(range(1, int(parts[0][2]) + 1)):
        return None
    return [folder / name for name in names]


def _nothing_found(folder: Path) -> CheckpointError:
    names = sorted(path.name for path in folder.iterdir())
    pickles = [n for n in names if any(fnmatch.fnmatch(n, p) for p in _PICKLES)]
    if pickles:
        return CheckpointError(
            f"{folder} has its weights in {pickles[0]}, which is not read: a pickle "
            "can run code, and other formats name tensors otherwise; convert it to "
            "safetensors first"
        )
    shown = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
    return CheckpointError(
        f"{folder} has no weights: looked for {SINGLE}, {INDEX}, other *.safetensors, "
        f"{ADAPTER} with {ADAPTER_CONFIG}, and an Orbax checkpoint; it has "
        f"{shown or 'nothing in it'}"
    )


def find_weights(folder: Path) -> tuple[list[Path], Path | None]:
    """The files that hold a folder's weights, and their index if they have one.

    `model.safetensors` comes first and the index second, as transformers does; then
    another index, one other file, or a complete set of shards.

    Raises:
      CheckpointError: if there are none, or it is not clear which.
    """
    if (folder / SINGLE).is_file():
        return [folder / SINGLE], None
    indices = sorted(folder.glob("*.safetensors.index.json"))
    if folder / INDEX in indices:
        indices = [folder / INDEX]
    if len(indices) == 1:
        shards = sorted(set(read_index(indices[0]).values()))
        return [folder / shard for shard in shards], indices[0]
    names = sorted(
        path.name
        for path in folder.glob("*.safetensors")
        if path.name not in (ADAPTER, STATISTICS)
    )
    if len(names) == 1 and not SHARD.match(names[0]):
        return [folder / names[0]], None
    if names and (shards := _complete_shards(folder, names)):
        return shards, None
    if names:
        raise CheckpointError(
            f"{folder} has several safetensors files that are not one set of shards "
            f"({', '.join(names[:5])}); name the file that is meant"
        )
    raise _nothing_found(folder)
