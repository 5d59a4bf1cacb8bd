"""Records small Llama folders as transformers saves them, and their merge by hand.

A bfloat16 model with tied embeddings, saved in shards with its tokenizer, and three
perturbed copies; the TIES merge of the recipe below is worked out in NumPy (float64,
from the definition, no library), and its logits by transformers. `check_transformers`
repeats the same on a model made afresh.
"""

import json
import platform
import shutil
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import yaml
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

FOLDER = Path(__file__).parents[1] / "fixtures" / "transformers"
# Weight and density. The weights are exact in binary: with 0.7 a vote of 0.5 x against
# 0.7 y, equal in decimals, is +0 in float32 and -2e-18 in float64.
EXPERTS = {"a": (1.0, 0.5), "b": (0.5, 0.3), "c": (0.75, 0.7)}
SCALE = 1.2


@dataclass(frozen=True)
class Sizes:
    """The model's shape, the size of its shards and the seed."""

    hidden: int = 16
    mlp: int = 24
    vocab: int = 64
    layers: int = 2
    shard: str = "4KB"
    seed: int = 11


def recipe(root: Path | None = None) -> str:
    """The mergekit recipe, with the models' names or their paths under `root`."""
    path = lambda name: str(root / name) if root else name
    lines = ["merge_method: ties", f"base_model: {path('base')}", "models:"]
    for name, (weight, density) in EXPERTS.items():
        lines += [f"  - model: {path(name)}", "    parameters:"]
        lines += [f"      weight: {weight}", f"      density: {density}"]
    lines += ["parameters:", "  normalize: true", f"  lambda: {SCALE}"]
    return "\n".join([*lines, "dtype: float32", "out_dtype: bfloat16", ""])


def tokenizer(vocab: int) -> PreTrainedTokenizerFast:
    """One word a token, with a chat template so that there is one to carry along."""
    words = ["<unk>", "<s>", "</s>"] + [f"w{i}" for i in range(vocab - 3)]
    model = WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>")
    fast = Tokenizer(model)
    fast.pre_tokenizer = Whitespace()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=fast, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    wrapped.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    return wrapped


def make_models(root: Path, sizes: Sizes) -> None:
    """Writes `base` and the perturbed copies of it under `root`."""
    torch.manual_seed(sizes.seed)
    config = LlamaConfig(
        hidden_size=sizes.hidden,
        intermediate_size=sizes.mlp,
        num_hidden_layers=sizes.layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=sizes.vocab,
        max_position_embeddings=64,
        initializer_range=0.1,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    original = {k: p.detach().clone() for k, p in model.named_parameters()}
    for name in ("base", *EXPERTS):
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                noise = 0.02 * torch.randn(parameter.shape) * (name != "base")
                parameter.copy_(original[key].float() + noise)
        model.save_pretrained(root / name, max_shard_size=sizes.shard)
    tokenizer(sizes.vocab).save_pretrained(root / "base")


def read(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a saved folder, over all of its shards."""
    tensors = {}
    for shard in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(shard)
    return tensors


def ties(root: Path) -> dict[str, np.ndarray]:
    """TIES by its definition in float64; equal sizes are kept from the lowest index."""
    models = {m: read(root / m) for m in ("base", *EXPERTS)}
    merged = {}
    for key, tensor in models["base"].items():
        base = tensor.double().numpy()
        signed = []
        for name, (weight, density) in EXPERTS.items():
            delta = models[name][key].double().numpy() - base
            order = np.argsort(-np.abs(delta), axis=None, kind="stable")
            dropped = np.unravel_index(order[int(density * delta.size) :], delta.shape)
            delta[dropped] = 0
            signed.append(weight * delta)
        signed = np.stack(signed)
        agree = np.sign(signed) == np.where(signed.sum(0) >= 0, 1, -1)
        weights = np.array([w for w, _ in EXPERTS.values()])
        total = np.tensordot(weights, agree, 1)
        total[total == 0] = 1
        merged[key] = base + SCALE * (signed * agree).sum(0) / total
    return merged


def tied(root: Path) -> dict[str, torch.Tensor]:
    """Where a delta has exactly the size at which its tensor is cut, and not alone."""
    base, at = read(root / "base"), {}
    for key, tensor in base.items():
        at[key] = torch.zeros(tensor.shape, dtype=torch.uint8)
        for name, (_, density) in EXPERTS.items():
            sizes = (read(root / name)[key].double() - tensor.double()).abs()
            order = sizes.flatten().sort(descending=True)[0]
            last, first = order[int(density * order.numel()) + torch.tensor([-1, 0])]
            if last == first:
                at[key] |= (sizes == last).to(torch.uint8)
    return at


def by_mergekit(root: Path) -> dict[str, torch.Tensor]:
    """What mergekit writes for the recipe; imported here as only recording needs it."""
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    config = MergeConfiguration.model_validate(yaml.safe_load(recipe(root)))
    options = MergeOptions(copy_tokenizer=False, write_model_card=False, quiet=True)
    with tempfile.TemporaryDirectory() as out:
        run_merge(config, out, options)
        return read(Path(out))


def input_ids(vocab: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(3).integers(0, vocab, (2, 9)))


def logits(config: LlamaConfig, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """What the model with these weights says, computed in float32."""
    model = LlamaForCausalLM(config).float().eval()
    loaded = model.load_state_dict(
        {k: v.float() for k, v in tensors.items()}, strict=False
    )
    assert set(loaded.missing_keys) <= {"lm_head.weight"}, loaded.missing_keys
    assert not loaded.unexpected_keys, loaded.unexpected_keys
    with torch.no_grad():
        return model(input_ids(config.vocab_size)).logits


def main() -> None:
    torch.set_num_threads(1)
    sizes = Sizes()
    shutil.rmtree(FOLDER, ignore_errors=True)
    make_models(FOLDER, sizes)
    (FOLDER / "ties.yml").write_text(recipe())
    merged = ties(FOLDER)
    rounded = {k: torch.from_numpy(v).to(torch.bfloat16) for k, v in merged.items()}
    config = LlamaConfig.from_pretrained(FOLDER / "base")
    expected = {f"merged/{k}": torch.from_numpy(v).float() for k, v in merged.items()}
    at, kit = tied(FOLDER), by_mergekit(FOLDER)
    every = {k: torch.ones_like(v) for k, v in at.items()}
    differ = {k: kit[k] != rounded[k] for k in rounded}
    open_choice = {k: v & (at[k] == 1) for k, v in differ.items()}
    count = lambda tree: sum(int(v.sum()) for v in tree.values())
    expected |= {f"mergekit/{k}": v for k, v in kit.items()}
    expected |= {f"tied/{k}": v for k, v in at.items()}
    expected["logits"] = logits(config, rounded)
    expected["input_ids"] = input_ids(sizes.vocab)
    save_file(expected, FOLDER / "expected.safetensors")
    packages = (
        "transformers",
        "mergekit",
        "torch",
        "safetensors",
        "tokenizers",
        "numpy",
    )
    about = {
        "oracle": "transformers, and the merge by hand in float64 NumPy",
        "versions": {p: version(p) for p in packages}
        | {"python": platform.python_version()},
        "function": "LlamaForCausalLM.save_pretrained, .forward",
        "parameters": {
            "experts (weight, density)": EXPERTS,
            "lambda": SCALE,
            "normalize": True,
            "sizes": vars(sizes),
        },
        "notes": [
            "merged/* are before the rounding to bfloat16; the logits are float32 "
            "arithmetic on the weights after it",
            "bfloat16 deltas tie in size; by hand the lowest index is kept, mergekit "
            "keeps whichever its unstable sort leaves first",
            "mergekit/* is mergekit's own output for ties.yml",
            f"`tied` is 1 at such a tie: {count(at)} elements of {count(every)}; "
            f"mergekit/* differs from merged/* rounded in {count(open_choice)} of them "
            f"and, by the last bit, in {count(differ) - count(open_choice)} others",
            "embeddings are tied: no file holds lm_head.weight",
        ],
    }
    (FOLDER / "recorded.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
