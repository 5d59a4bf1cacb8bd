"""Trains pools of language models, or merges real ones.

`python -m experiments.llm --preset cpu` trains and keeps the pools of a preset.
`python -m experiments.llm --base DIR --experts DIR... --texts DIR` merges k = 1 … T
local checkpoints and measures the cross-entropy on text folders. Reruns resume.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from experiments.common.manifest import make_manifest
from experiments.common.results import write_json
from experiments.llm.config import PRESETS
from experiments.llm.pool import CACHE, load_pool
from experiments.llm.real import DEFAULT, METHODS, RealConfig, run
from experiments.llm.report import costs, domain_table, merge_table, training_table
from experiments.llm.tokenizers import FILE


def _clock() -> Callable[[str], None]:
    started = time.perf_counter()
    return lambda what: print(
        f"[{time.perf_counter() - started:6.0f} s] {what}", flush=True
    )


def train(preset: str, cache: Path, out: Path | None) -> None:
    """All pools of a preset; a rerun reads what is finished."""
    records = []
    for config in PRESETS[preset]:
        pool, record = load_pool(config, cache, _clock())
        print(f"\n{pool.name}: {costs(record)}\n\n{training_table(record)}\n")
        records.append({"name": pool.name, **record})
        if out is not None:
            write_json(out, records)


def merge(config: RealConfig, out: Path) -> None:
    """All merges of real models, their tables and `results.json`."""
    if not (config.base / FILE).exists():
        print(
            f"{config.base} has no {FILE}: every byte is a token, which is right only "
            "for models that were trained so"
        )
    started = time.perf_counter()
    rows = run(config, out, _clock())
    seconds = {"all": time.perf_counter() - started}
    # Paths stay on this machine; names tell which models they were.
    named = RealConfig(
        **{
            **vars(config),
            "base": config.base.name,
            "experts": tuple(path.name for path in config.experts),
            "texts": config.texts.name,
        }
    )
    manifest = make_manifest(named, durations=seconds)
    write_json(out / "results.json", {"rows": rows, "manifest": manifest})
    print(f"\nCross-entropy, nats a token\n\n{domain_table(rows)}")
    print(f"\nThe mean over domains of merges of k experts\n\n{merge_table(rows)}\n")
    print(f"in {out}: merges.jsonl, results.json")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.llm",
        description="Language models and their merges: trained here, or your own.",
    )
    here = parser.add_argument_group("models that are trained here")
    here.add_argument("--preset", choices=PRESETS, help="default: cpu")
    here.add_argument("--cache", type=Path, default=CACHE)
    here.add_argument("--record", type=Path, help="where to write a JSON record")
    own = parser.add_argument_group("your own models")
    own.add_argument("--base", type=Path, help="a Hugging Face folder (Llama, Qwen2)")
    own.add_argument("--experts", type=Path, nargs="+", help="full or LoRA, folders")
    own.add_argument("--texts", type=Path, help="sub-folders of *.txt are domains")
    own.add_argument("--methods", nargs="+", choices=METHODS, default=DEFAULT)
    own.add_argument("--length", type=int, default=512, help="tokens of a sequence")
    own.add_argument("--sequences", type=int, default=32, help="most, a domain")
    own.add_argument("--batch", type=int, default=4)
    own.add_argument("--orders", type=int, default=1, help="orders of the experts")
    own.add_argument("--seed", type=int, default=0)
    own.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    own.add_argument("--out", type=Path, default=CACHE / "merges")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = _parser()
    options = parser.parse_args(arguments)
    given = [options.base, options.experts, options.texts]
    if any(given) != all(given):
        parser.error("--base, --experts and --texts are given together or not at all")
    if options.base and options.preset:
        parser.error("--preset trains models; with --base there is nothing to train")
    try:
        if options.base is None:
            train(options.preset or "cpu", options.cache, options.record)
            return 0
        config = RealConfig(
            base=options.base,
            experts=tuple(options.experts),
            texts=options.texts,
            methods=tuple(options.methods),
            length=options.length,
            sequences=options.sequences,
            batch=options.batch,
            orders=options.orders,
            seed=options.seed,
            dtype=options.dtype,
        )
        merge(config, options.out)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
