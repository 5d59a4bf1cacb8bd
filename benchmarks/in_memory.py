"""Merges of arrays in memory, one compiled function called for one leaf after another.

Bytes are those of every input read once and of the output written once, whatever the
method really reads: the ratio to the best copy is what a fused single pass would have.
"""

import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.common import Preset, measure
from benchmarks.methods import RECIPES, Recipe


def _leaves(side: int, count: int, num: int, dtype: str) -> list[Any]:
    """So many leaves: for each a base and `num` experts."""

    @jax.jit
    def draw(key: Any) -> Any:
        keys = jax.random.split(key, num + 1)
        base = 0.02 * jax.random.normal(keys[0], (side, side))
        experts = [base + 0.002 * jax.random.normal(k, (side, side)) for k in keys[1:]]
        return jax.tree.map(lambda x: x.astype(dtype), (base, experts))

    return [draw(key) for key in jax.random.split(jax.random.key(0), count)]


def _merge(merger: Any, base: Any, experts: Any, key: Any) -> Any:
    return merger(base, experts, key=key)


def _one(recipe: Recipe, num: int, dtype: str, preset: Preset) -> dict[str, Any]:
    side = preset.spectral_leaf if recipe.spectral else preset.leaf
    leaves = _leaves(side, preset.leaves, num, dtype)
    merger = recipe.make()
    key = jax.random.key(1) if recipe.random else None
    start = time.perf_counter()
    compiled = jax.jit(_merge).lower(merger, *leaves[0], key).compile()
    compile_seconds = time.perf_counter() - start

    def call() -> None:
        # One leaf's result is dropped before the next, as when a model is streamed.
        for base, experts in leaves:
            jax.block_until_ready(compiled(merger, base, experts, key))

    timing = measure(call, seconds=preset.seconds)
    elements = preset.leaves * side * side
    total = elements * (num + 2) * jnp.dtype(dtype).itemsize
    record = {
        "kind": "in_memory",
        "name": recipe.name,
        "experts": num,
        "dtype": dtype,
        "elements": elements,
        "bytes": total,
        "compile_seconds": compile_seconds,
        "seconds": timing.median,
        "fastest": timing.fastest,
        "slowest": timing.slowest,
        "runs": timing.runs,
        "gb_per_s": total / timing.median / 1e9,
    }
    memory = compiled.memory_analysis()
    if memory is not None:
        temporaries = memory.temp_size_in_bytes / (side * side)
        record["temporary_bytes_per_element"] = temporaries
    return record


def run(
    preset: Preset, copy_gb_per_s: float, only: str | None = None
) -> Iterator[dict[str, Any]]:
    """Every recipe (or only one) for every number of experts and dtype."""
    for recipe in RECIPES:
        if only is not None and recipe.name != only:
            continue
        for num in recipe.counts(preset.experts):
            for dtype in preset.dtypes:
                record = _one(recipe, num, dtype, preset)
                yield record | {"of_copy": record["gb_per_s"] / copy_gb_per_s}
