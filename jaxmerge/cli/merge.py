"""`jaxmerge merge`: a recipe, its models, and one checkpoint out of them."""

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from jaxmerge import _checks
from jaxmerge.checkpoint import (
    Source,
    default_kind,
    make_plan,
    merge,
    open_source,
    resolve_model,
)
from jaxmerge.checkpoint.errors import CheckpointError, RecipeError
from jaxmerge.checkpoint.recipe import Recipe, Reference, Resolved
from jaxmerge.checkpoint.recipe_yaml import load_recipe
from jaxmerge.cli.dry_run import describe_plan, plan_text
from jaxmerge.cli.progress import show_progress
from jaxmerge.cli.text import human_bytes, human_time, plural

RECIPE_NAME = "mergekit_config.yml"
_TOKENIZER = (
    "tokenizer",
    "special_tokens_map",
    "added_tokens",
    "vocab",
    "merges",
    "chat_template",
    "spiece",
    "sentencepiece",
    "tekken",
)


def is_tokenizer(path: Path) -> bool:
    """Whether a file beside the weights is part of a tokenizer."""
    return path.name.startswith(_TOKENIZER) or "tokenizer" in path.name


def open_models(
    recipe: Recipe, cache: Path | None, stack: contextlib.ExitStack
) -> tuple[Source | None, list[Source]]:
    """Opens a recipe's base and experts, each once.

    Args:
      recipe: the recipe.
      cache: the Hugging Face cache; the usual one if None.
      stack: what closes them.
    """
    opened: dict[str, Source] = {}

    def at(reference: Reference) -> Source:
        name = reference.source
        if name not in opened:
            path = resolve_model(name, cache)
            opened[name] = stack.enter_context(open_source(path))
        return opened[name]

    base = None if recipe.base is None else at(recipe.base)
    return base, [at(model.reference) for model in recipe.experts]


def use_compilation_cache() -> None:
    """Keeps compiled programs between runs, where the user has not said otherwise."""
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    jax.config.update("jax_compilation_cache_dir", str(home / "jaxmerge" / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _config(template: Source, resolved: Resolved) -> dict[str, bytes]:
    """The template's config.json, if its dtype is not the result's."""
    if resolved.dtype is None or not template.config:
        return {}
    changed = {
        key: resolved.dtype.name
        for key in ("dtype", "torch_dtype")
        if key in template.config and template.config[key] != resolved.dtype.name
    }
    if not changed:
        return {}
    content = json.dumps({**template.config, **changed}, indent=2) + "\n"
    return {"config.json": content.encode()}


def _note(notes: Sequence[str]) -> None:
    for note in notes:
        print(f"jaxmerge: note: {note}", file=sys.stderr)


def _print_plan(
    arguments: argparse.Namespace,
    recipe: Recipe,
    resolved: Resolved,
    base: Source | None,
    experts: list[Source],
    notes: list[str],
) -> None:
    plan = make_plan(resolved.merger, base, experts, dtype=resolved.dtype)
    description = describe_plan(recipe, resolved, plan, notes)
    if arguments.json:
        print(json.dumps(description, indent=2))
    else:
        print("\n".join(plan_text(description, verbose=arguments.verbose)))


def run_merge(arguments: argparse.Namespace, notes: list[str]) -> None:
    """Merges, or prints the plan.

    Args:
      arguments: of the command line.
      notes: what there is to say about them.

    Raises:
      RecipeError: if the recipe cannot be followed.
      CheckpointError: if a model cannot be read, or the result not written.
      OSError: if reading or writing fails.
    """
    recipe = load_recipe(arguments.recipe)
    with contextlib.ExitStack() as stack:
        base, experts = open_models(recipe, arguments.cache, stack)
        _check_dtypes([*([base] if base else []), *experts])
        try:
            resolved = recipe.resolve(base, experts)
        except RecipeError as error:
            raise RecipeError(f"{arguments.recipe}: {error}") from error
        sources = set(experts) if base is None else {base, *experts}
        notes = [*notes, *resolved.notes]
        told = [f"{source.path}: {note}" for source in sources for note in source.notes]
        notes += sorted(told)
        if arguments.dry_run:
            _print_plan(arguments, recipe, resolved, base, experts, notes)
            return
        if not arguments.quiet:
            _note(notes)
        _merge(arguments, recipe, resolved, base, experts)


def _check_dtypes(sources: list[Source]) -> None:
    for source in sources:
        for info in source.infos.values():
            try:
                _checks.check_mergeable(info.name, info.dtype)
            except TypeError as error:
                raise CheckpointError(f"{source.path}: {error}") from error


def _merge(
    arguments: argparse.Namespace,
    recipe: Recipe,
    resolved: Resolved,
    base: Source | None,
    experts: list[Source],
) -> None:
    template = experts[0] if base is None else base
    kind = arguments.format or default_kind(arguments.out, template)
    if not arguments.copy_tokenizer:
        template.sidecars = [p for p in template.sidecars if not is_tokenizer(p)]
    extra_files: dict[str, bytes] = {}
    if kind in ("huggingface", "peft"):
        extra_files[RECIPE_NAME] = recipe.text.encode()
    if kind == "huggingface":
        extra_files |= _config(template, resolved)
    metadata = {"jaxmerge_method": recipe.merge_method}
    key: Any = None
    if recipe.method.random:
        key = jax.random.key(arguments.seed)
        metadata["jaxmerge_seed"] = str(arguments.seed)
    use_compilation_cache()
    start = time.monotonic()
    try:
        with show_progress(sys.stderr, quiet=arguments.quiet) as progress:
            report = merge(
                resolved.merger,
                base=base,
                experts=experts,
                out=arguments.out,
                key=key,
                dtype=resolved.dtype,
                kind=kind,
                shard_bytes=arguments.shard_size,
                overwrite=arguments.overwrite,
                checksums=arguments.checksums,
                metadata=metadata,
                extra_files=extra_files,
                progress=progress,
            )
    except jax.errors.JaxRuntimeError as error:
        raise CheckpointError(f"jax could not go on: {error}") from error
    seconds = time.monotonic() - start
    if not arguments.quiet:
        print(
            f"{report.out}: {plural(report.tensors, 'tensor')}, "
            f"{human_bytes(report.bytes_written)}, in {human_time(seconds)} "
            f"({human_bytes(report.bytes_read)} read, "
            f"{human_bytes(report.bytes_read / max(seconds, 1e-9))}/s)"
        )
