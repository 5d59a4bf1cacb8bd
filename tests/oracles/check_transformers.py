"""Merges a model that transformers saved, and asks transformers about the result.

    python check_transformers.py COMMAND...

COMMAND is a command line that merges; in it `{root}` becomes the folder with the
models `base`, `a`, `b`, `c`, `{recipe}` the path of their mergekit recipe and `{out}`
where the result shall be. The result has to load in transformers without a key too many
or too few, keep its embeddings tied, its config, generation config and tokenizer, and
give the logits of the same merge by hand (equal sizes kept from the lowest index), to
the rounding of bfloat16.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from record_transformers import (
    Sizes,
    input_ids,
    logits,
    make_models,
    read,
    recipe,
    ties,
)
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
)

SIZES = Sizes(hidden=32, mlp=48, vocab=128, layers=2, shard="10KB", seed=23)


def check_files(root: Path, out: Path) -> None:
    base, merged = (
        AutoConfig.from_pretrained(f).to_dict() for f in (root / "base", out)
    )
    for config in (base, merged):
        config.pop("_name_or_path", None)
    assert merged == base, f"config.json differs: {merged} is not {base}"
    for owner in (GenerationConfig, AutoTokenizer):
        owner.from_pretrained(out)
    words = "w3 w17 nothing w5"
    was, now = (AutoTokenizer.from_pretrained(f) for f in (root / "base", out))
    assert now(words)["input_ids"] == was(words)["input_ids"]
    assert now.chat_template == was.chat_template
    index = out / "model.safetensors.index.json"
    if index.exists():
        listed = json.loads(index.read_text())["weight_map"]
        assert sorted(listed) == sorted(read(out)), "the index and the shards differ"


def check_weights(root: Path, out: Path) -> dict[str, torch.Tensor]:
    """By hand and merged agree to the last bit of bfloat16; returns those by hand."""
    by_hand = {k: torch.from_numpy(v).to(torch.bfloat16) for k, v in ties(root).items()}
    merged = read(out)
    assert sorted(merged) == sorted(by_hand), sorted(merged.keys() ^ by_hand.keys())
    changed = total = 0
    for key, want in by_hand.items():
        got = merged[key]
        assert got.dtype == want.dtype, f"{key} is {got.dtype}"
        off = (got.float() - want.float()).abs()
        last_bit = 2.0**-7 * torch.maximum(got.float().abs(), want.float().abs())
        assert bool((off <= last_bit).all()), f"{key} is off by {off.max()}"
        changed += int((off > 0).sum())
        total += want.numel()
    print(f"{changed} of {total} weights differ by the last bit")
    assert changed <= total / 200, "more than rounding can explain"
    return by_hand


def check_model(out: Path, by_hand: dict[str, torch.Tensor]) -> None:
    model, info = AutoModelForCausalLM.from_pretrained(
        out, dtype="auto", output_loading_info=True
    )
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[problem], f"{problem}: {info[problem]}"
    assert model.dtype == torch.bfloat16
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    assert head.weight.data_ptr() == embedding.weight.data_ptr(), "no longer tied"
    want = logits(model.config, by_hand)
    with torch.no_grad():
        got = model.float().eval()(input_ids(model.config.vocab_size)).logits
    off = (got - want).abs().max() / want.abs().max()
    print(f"logits differ by {off:.1e} of the largest")
    assert off < 2.0**-8, "more than the rounding of weights to bfloat16"


def main(command: list[str]) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root, out = Path(folder), Path(folder) / "merged"
        make_models(root, SIZES)
        file = root / "ties.yml"
        file.write_text(recipe(root))
        filled = {"{root}": root, "{recipe}": file, "{out}": out}
        for name, value in filled.items():
            command = [word.replace(name, str(value)) for word in command]
        subprocess.run(command, check=True)
        check_files(root, out)
        check_model(out, check_weights(root, out))
    print("the merge agrees")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1:])
