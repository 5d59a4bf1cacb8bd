"""Records what mergekit writes for every recipe in `fixtures/mergekit/cases`.

Runs in mergekit's own environment (see README.md); nothing of mergekit is copied. The
four small Llama checkpoints come from a fixed NumPy seed and are written here too, so
one run makes the whole folder. Recipes whose tensors all follow one rule keep layer 0
and the tensors outside the layers; those with gradients or slices keep everything.
"""

import hashlib
import json
import platform
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.merge_methods.generalized_task_arithmetic import (
    GeneralizedTaskArithmeticMerge,
)
from mergekit.options import MergeOptions
from safetensors import safe_open
from safetensors.torch import save_file

FIXTURES = Path(__file__).parents[1] / "fixtures" / "mergekit"
MODELS = ("base", "a", "b", "c")
LAYERS, HIDDEN, MLP, VOCAB, HEADS, KV_HEADS = 4, 16, 16, 24, 2, 1
BY_LAYER = {
    "ties_gradient",
    "ties_filters",
    "slerp_model_card",
    "passthrough_stack",
    "slices_ties",
}

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": MLP,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HIDDEN // HEADS,
    "vocab_size": VOCAB,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "float32",
}


def shapes():
    kv = HIDDEN * KV_HEADS // HEADS
    out = {"model.embed_tokens.weight": (VOCAB, HIDDEN)}
    for i in range(LAYERS):
        layer = f"model.layers.{i}."
        out |= {
            layer + "input_layernorm.weight": (HIDDEN,),
            layer + "mlp.down_proj.weight": (HIDDEN, MLP),
            layer + "mlp.gate_proj.weight": (MLP, HIDDEN),
            layer + "mlp.up_proj.weight": (MLP, HIDDEN),
            layer + "post_attention_layernorm.weight": (HIDDEN,),
            layer + "self_attn.k_proj.weight": (kv, HIDDEN),
            layer + "self_attn.o_proj.weight": (HIDDEN, HIDDEN),
            layer + "self_attn.q_proj.weight": (HIDDEN, HIDDEN),
            layer + "self_attn.v_proj.weight": (kv, HIDDEN),
        }
    return out | {"model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCAB, HIDDEN)}


def write_models():
    """Gaussian weights and deltas, no two deltas of a tensor of the same size."""
    rng = np.random.default_rng(20260822)
    base, experts = {}, {m: {} for m in MODELS[1:]}
    for name, shape in shapes().items():
        centre = 1.0 if "norm" in name else 0.0
        base[name] = (centre + 0.05 * rng.standard_normal(shape)).astype(np.float32)
        for expert in experts.values():
            while True:
                delta = 0.01 * rng.standard_normal(shape)
                expert[name] = (base[name] + delta).astype(np.float32)
                sizes = np.abs(expert[name] - base[name])
                if np.unique(sizes).size == sizes.size:
                    break
    for m in MODELS:
        folder = FIXTURES / m
        folder.mkdir(parents=True, exist_ok=True)
        tensors = base if m == "base" else experts[m]
        save_file(
            {k: torch.from_numpy(v) for k, v in tensors.items()},
            folder / "model.safetensors",
            metadata={"format": "pt"},
        )
        (folder / "config.json").write_text(json.dumps(CONFIG, indent=1) + "\n")


def absolute(node):
    """The recipe with its models' names turned into absolute paths."""
    if isinstance(node, dict):
        return {
            k: str(FIXTURES / v) if k in ("model", "base_model") else absolute(v)
            for k, v in node.items()
        }
    return [absolute(v) for v in node] if isinstance(node, list) else node


class Masks:
    """Remembers each Bernoulli draw under the expert and tensor that it was for."""

    def __init__(self):
        self.bits, self._expected = {}, []
        self._bernoulli = torch.bernoulli
        self._merge = GeneralizedTaskArithmeticMerge.merge_group

    def __enter__(self):
        def merge_group(method, group, /, **parameters):
            density = parameters["density"]
            self._expected = [
                f"{Path(str(e.id.model.path)).name}/{group.metadata.name}"
                for e in group.non_base
                if density[e.id] < 1
            ]
            result = self._merge(method, group, **parameters)
            assert not (self._expected and self.bits), self._expected
            return result

        def bernoulli(p, *args, **kwargs):
            mask = self._bernoulli(p, *args, **kwargs)
            bits = np.packbits(mask.numpy().astype(bool))
            self.bits[self._expected.pop(0)] = torch.from_numpy(bits)
            return mask

        GeneralizedTaskArithmeticMerge.merge_group = merge_group
        torch.bernoulli = bernoulli
        return self

    def __exit__(self, *_):
        GeneralizedTaskArithmeticMerge.merge_group = self._merge
        torch.bernoulli = self._bernoulli


def record(case, out):
    recipe = yaml.safe_load((FIXTURES / "cases" / f"{case}.yml").read_text())
    options = MergeOptions(
        copy_tokenizer=False, write_model_card=False, quiet=True, random_seed=7
    )
    with Masks() as masks, tempfile.TemporaryDirectory() as folder:
        run_merge(MergeConfiguration.model_validate(absolute(recipe)), folder, options)
        with safe_open(Path(folder) / "model.safetensors", "pt") as f:
            tensors = {k: f.get_tensor(k) for k in sorted(f.keys())}
        config = json.loads((Path(folder) / "config.json").read_text())
    every = {k: [str(v.dtype).split(".")[1], list(v.shape)] for k, v in tensors.items()}
    if case not in BY_LAYER:
        tensors = {
            k: v for k, v in tensors.items() if ".layers." not in k or ".layers.0." in k
        }
    save_file(tensors, out / f"{case}.safetensors")
    if masks.bits:
        kept = {k: v for k, v in masks.bits.items() if k.split("/")[1] in tensors}
        save_file(kept, out / f"{case}.masks.safetensors")
    dtypes = sorted({dtype for dtype, _ in every.values()})
    return {
        "dtypes": dtypes,
        "num_tensors": len(every),
        "num_tensors_kept": len(tensors),
        "masks": bool(masks.bits),
        "config": {k: config.get(k) for k in ("num_hidden_layers", "dtype")},
    }


def main():
    torch.set_num_threads(1)
    write_models()
    out = FIXTURES / "expected"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    names = sorted(p.stem for p in (FIXTURES / "cases").glob("*.yml"))
    cases = {}
    for case in names:
        cases[case] = record(case, out)
        print(case, cases[case])
    about = {
        "oracle": "mergekit",
        "function": "mergekit.merge.run_merge",
        "versions": {
            p: version(p) for p in ("mergekit", "torch", "transformers", "numpy")
        }
        | {"python": platform.python_version()},
        "random_seed": 7,
        "threads": 1,
        "inputs": {
            m: hashlib.sha256(
                (FIXTURES / m / "model.safetensors").read_bytes()
            ).hexdigest()
            for m in MODELS
        },
        "cases": cases,
    }
    (FIXTURES / "recorded.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
