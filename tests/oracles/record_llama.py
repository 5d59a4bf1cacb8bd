"""Records tiny random Llama and Qwen2 folders and what transformers says of them.

Every parameter is random, norms and biases too, so that no term can be left out
unnoticed. The logits are float32 arithmetic on the weights as they are stored.
"""

import dataclasses
import json
import platform
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

FOLDER = Path(__file__).parents[1] / "fixtures" / "llama"
SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One folder: the family, what differs from `SIZES`, dtype and size of shards."""

    family: str
    changes: dict[str, Any]
    dtype: str = "float32"
    shard: str = "1GB"


CASES = {
    "llama-tied": Case("llama", {"tie_word_embeddings": True}),
    "llama-biases": Case(
        "llama",
        {
            "tie_word_embeddings": False,
            "attention_bias": True,
            "mlp_bias": True,
            "head_dim": 6,
        },
        dtype="bfloat16",
    ),
    "llama-scaled": Case(
        "llama",
        {"tie_word_embeddings": False, "head_dim": 8, "rope_parameters": LLAMA3},
    ),
    "qwen2-tied": Case("qwen2", {"tie_word_embeddings": True}, dtype="bfloat16"),
    "qwen2-sharded": Case("qwen2", {"tie_word_embeddings": False}, shard="6KB"),
}


def make(case: Case) -> Any:
    """A model whose every parameter is random."""
    config, model = {
        "llama": (LlamaConfig, LlamaForCausalLM),
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    }[case.family]
    made = model(config(**{**SIZES, **case.changes}))
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            noise = torch.randn(parameter.shape)
            parameter.copy_(1 + 0.2 * noise if "norm" in name else 0.2 * noise)
    return made.to(getattr(torch, case.dtype))


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(7)
    shutil.rmtree(FOLDER, ignore_errors=True)
    tokens = torch.from_numpy(np.random.default_rng(5).integers(0, 40, (2, 21)))
    expected = {"tokens": tokens}
    for name, case in CASES.items():
        model = make(case)
        model.save_pretrained(FOLDER / name, max_shard_size=case.shard)
        (FOLDER / name / "generation_config.json").unlink(missing_ok=True)
        # Read again: `.to(bfloat16)` also rounded the rotary embedding's buffer.
        model = type(model).from_pretrained(FOLDER / name, dtype=torch.float32)
        with torch.no_grad():
            expected[name] = model.eval()(tokens).logits
    save_file(expected, FOLDER / "expected.safetensors")
    packages = ("transformers", "torch", "safetensors", "numpy")
    about = {
        "oracle": "transformers",
        "versions": {p: version(p) for p in packages}
        | {"python": platform.python_version()},
        "function": "LlamaForCausalLM.forward, Qwen2ForCausalLM.forward",
        "cases": {name: dataclasses.asdict(case) for name, case in CASES.items()},
        "notes": ["tokens: 2 sequences of 21; logits in float32"],
    }
    (FOLDER / "recorded.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
