"""Exact selection by counting, against sorting and partial sorting."""

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.common import Preset, measure
from jaxmerge import ranks

_DENSITY = 0.2


def _compiled(size: int, k: int) -> Iterator[tuple[str, Callable[[Any], Any]]]:
    yield "kth_largest", lambda x: ranks.from_bits(ranks.kth_largest(x, k))
    yield "largest_mask", lambda x: ranks.largest_mask(x, k)
    yield "jnp.sort", lambda x: jnp.sort(jnp.abs(x))[size - k]
    yield "lax.top_k", lambda x: jax.lax.top_k(jnp.abs(x), k)[0][-1]


def _one_size(size: int, seconds: float) -> Iterator[dict[str, Any]]:
    k = int(_DENSITY * size)
    x = jax.random.normal(jax.random.key(0), (size,))
    host = np.asarray(x)
    partition = lambda: np.partition(np.abs(host), size - k)[size - k]
    threshold = partition()
    for name, function in _compiled(size, k):
        start = time.perf_counter()
        compiled = jax.jit(function).lower(x).compile()
        compile_seconds = time.perf_counter() - start
        found = compiled(x)
        if name == "largest_mask":
            found = np.abs(host[np.asarray(found)]).min()
        if float(found) != threshold:
            raise AssertionError(f"{name} found {found}, numpy {threshold}")
        timing = measure(functools.partial(compiled, x), seconds=seconds)
        record = _record(name, size, timing)
        yield record | {"compile_seconds": compile_seconds}
    yield _record("numpy.partition", size, measure(partition, seconds=seconds))


def run(preset: Preset) -> Iterator[dict[str, Any]]:
    """The threshold of the largest fifth, which all have to agree on."""
    for size in preset.selection:
        yield from _one_size(size, preset.seconds)


def _record(name: str, size: int, timing: Any) -> dict[str, Any]:
    return {
        "kind": "selection",
        "name": name,
        "elements": size,
        "seconds": timing.median,
        "fastest": timing.fastest,
        "slowest": timing.slowest,
        "ns_per_element": timing.median / size * 1e9,
    }
