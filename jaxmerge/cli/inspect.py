"""`jaxmerge inspect`: what checkpoints are, and whether they can be merged."""

import argparse
import contextlib
import json
from typing import Any

from jaxmerge.checkpoint import Source, lora_pairs, open_source, resolve_model
from jaxmerge.cli.dry_run import dtypes_of
from jaxmerge.cli.merge import is_tokenizer
from jaxmerge.cli.text import human_bytes, plural, table

_SHOWN = 5


def describe_source(source: Source) -> dict[str, Any]:
    """A checkpoint as plain JSON data."""
    config = source.config or {}
    files = [f for f in source.identity()["files"] if not f["name"].endswith(".json")]
    record = json.loads(source.metadata.get("jaxmerge", "null"))
    return {
        "path": str(source.path),
        "kind": source.kind,
        "architecture": config.get("architectures") or config.get("model_type"),
        "tensors": len(source.infos),
        "parameters": sum(info.size for info in source.infos.values()),
        "dtypes": dtypes_of(source),
        "files": {file["name"]: file["bytes"] for file in files},
        "tied": dict(source.aliases),
        "tokenizer": any(is_tokenizer(path) for path in source.sidecars),
        "metadata": {k: v for k, v in source.metadata.items() if k != "jaxmerge"},
        "merged_from": record,
        "notes": list(source.notes),
    }


def differences(first: Source, other: Source) -> list[str]:
    """Why a checkpoint cannot be merged with another; empty if it can.

    Args:
      first: the base, or the first model.
      other: a full model, or a LoRA adapter.
    """
    if other.kind == "peft" and first.kind != "peft":
        pairs = lora_pairs(other)
        targets = [name for name in pairs if name not in first]
        wrong = [
            f"{name} is {pairs[name].shape(other)} there and {first.info(name).shape}"
            for name in pairs
            if name in first and pairs[name].shape(other) != first.info(name).shape
        ]
        return _named("it targets {}, not there", targets) + wrong
    missing = [name for name in first.infos if name not in other]
    extra = [name for name in other.infos if name not in first]
    shapes = [
        f"{name} is {other.info(name).shape}, and {first.info(name).shape} there"
        for name in first.infos
        if name in other and other.info(name).shape != first.info(name).shape
    ]
    more = len(shapes) - _SHOWN
    return (
        _named("it has no {}", missing)
        + _named("it has {}, not there", extra)
        + shapes[:_SHOWN]
        + ([f"and {more} more shapes differ"] if more > 0 else [])
    )


def _named(sentence: str, names: list[str]) -> list[str]:
    if not names:
        return []
    shown = ", ".join(names[:_SHOWN])
    more = len(names) - _SHOWN
    return [sentence.format(shown + (f" and {more} more" if more > 0 else ""))]


def _text(description: dict[str, Any], source: Source, verbose: bool) -> list[str]:
    architecture = description["architecture"]
    if isinstance(architecture, list):
        architecture = ", ".join(architecture)
    dtypes = [f"{human_bytes(n)} {d}" for d, n in description["dtypes"].items()]
    rows = [
        ["kind", description["kind"]],
        ["architecture", architecture or "not said"],
        ["tensors", f"{description['tensors']:,}"],
        ["parameters", f"{description['parameters']:,}"],
        ["dtypes", ", ".join(dtypes)],
        ["files", plural(len(description["files"]), "file")],
        ["tokenizer", "yes" if description["tokenizer"] else "no"],
    ]
    rows += [["tied", f"{a} = {b}"] for a, b in description["tied"].items()]
    rows += [["metadata", f"{k}: {v}"] for k, v in description["metadata"].items()]
    if (record := description["merged_from"]) is not None:
        parts = [record.get("base"), *record.get("experts", [])]
        rows.append(
            ["merged by", f"jaxmerge {record.get('jaxmerge')} of {len(parts)} sources"]
        )
        rows.append(["merger", json.dumps(record.get("merger"))])
    rows += [["note", note] for note in description["notes"]]
    lines = [f"{description['path']}:", *table(rows)]
    if verbose:
        infos = source.infos.values()
        lines += table(
            [[i.name, "×".join(map(str, i.shape)), str(i.dtype)] for i in infos]
        )
    return lines


def run_inspect(arguments: argparse.Namespace) -> None:
    """Prints what checkpoints are.

    Raises:
      CheckpointError: if one cannot be read.
    """
    with contextlib.ExitStack() as stack:
        sources = [
            stack.enter_context(open_source(resolve_model(name, arguments.cache)))
            for name in arguments.checkpoint
        ]
        described = [describe_source(source) for source in sources]
        found = {
            str(other.path): differences(sources[0], other) for other in sources[1:]
        }
        if arguments.json:
            result = {"checkpoints": described, "differences": found}
            print(json.dumps(result, indent=2))
            return
        for description, source in zip(described, sources, strict=True):
            print("\n".join(_text(description, source, arguments.verbose)))
        for path, sentences in found.items():
            first = sources[0].path
            verdict = "cannot" if sentences else "can"
            print(f"{path} {verdict} be merged with {first}")
            print("".join(f"  {sentence}\n" for sentence in sentences), end="")
