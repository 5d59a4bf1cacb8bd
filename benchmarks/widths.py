"""Gaussian widths of hulls of task vectors: from their Gram matrix, and directly.

Both modes estimate one number. The direct one draws directions as long as the vectors,
the other draws them in as many dimensions as there are vectors.
"""

import functools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.common import Preset, measure
from jaxmerge import geometry

_GRAM_SAMPLES, _DIRECT_SAMPLES = 32_768, 8
_PRECISION = 1e-3  # relative standard error of every point of the curve


def _vectors(num: int, dimension: int) -> Any:
    """Vectors of cosine 0.3, as experts of one base may have."""

    def draw(key: Any) -> Any:
        shared = jax.random.normal(key, (dimension,))
        rows = jax.lax.map(
            lambda k: jax.random.normal(k, (dimension,)), jax.random.split(key, num)
        )
        return (math.sqrt(0.7) * rows + math.sqrt(0.3) * shared) / math.sqrt(dimension)

    return jax.jit(draw)(jax.random.key(0))


def _timed(function: Callable[..., Any], *args: Any, seconds: float) -> dict[str, Any]:
    start = time.perf_counter()
    compiled = jax.jit(function).lower(*args).compile()
    compile_seconds = time.perf_counter() - start
    timing = measure(functools.partial(compiled, *args), seconds=seconds)
    return {
        "compile_seconds": compile_seconds,
        "seconds": timing.median,
        "fastest": timing.fastest,
        "slowest": timing.slowest,
        "result": compiled(*args),
    }


def _hull(vectors: Any, key: Any, num: int) -> geometry.Estimate:
    return geometry.gaussian_width(geometry.Hull(vectors), key=key, num_samples=num)


def _curve(gram: Any, key: Any, num: int) -> geometry.Estimate:
    samples = geometry.gram_samples(gram, key=key, num_samples=num)
    return geometry.subset_width(samples)


def _record(name: str, num: int, dimension: int, timed: dict[str, Any]) -> dict:
    result = timed.pop("result")
    samples = {"samples": result.num_samples}
    per_sample = {"seconds_per_sample": timed["seconds"] / result.num_samples}
    shape = {"kind": "widths", "name": name, "vectors": num, "dimension": dimension}
    return shape | samples | timed | per_sample


def run(preset: Preset) -> Iterator[dict[str, Any]]:
    """Seconds a sample in both modes, and the whole curve W(1), ..., W(T)."""
    num, dimension = preset.width_vectors, preset.width_dimension
    key = jax.random.key(1)
    vectors = _vectors(num, dimension)
    direct = functools.partial(_hull, num=_DIRECT_SAMPLES)
    timed = _timed(direct, vectors, key, seconds=preset.seconds)
    slow = timed["result"]
    record = _record("direct", num, dimension, timed)
    yield record

    gram = geometry.gram([vectors[i] for i in range(num)])
    rows = geometry.gram_factor(gram)
    in_gram = functools.partial(_hull, num=_GRAM_SAMPLES)
    timed = _timed(in_gram, rows, key, seconds=preset.seconds)
    fast = timed["result"]
    error = math.hypot(float(slow.stderr), float(fast.stderr))
    if abs(float(slow.mean - fast.mean)) > 6 * error:
        raise AssertionError(
            f"the direct width is {slow.mean}, by the Gram {fast.mean}"
        )
    faster = _record("gram", num, dimension, timed)
    ratio = record["seconds_per_sample"] / faster["seconds_per_sample"]
    yield faster | {"times_faster_than_direct": ratio}

    # W(1), the width of a point, is 0; the last point is the least exact.
    pilot = _curve(gram, key, 4096)
    relative = float(jnp.max(pilot.stderr[1:] / pilot.mean[1:]))
    needed = math.ceil(4096 * (1.05 * relative / _PRECISION) ** 2)
    curve = functools.partial(_curve, num=needed)
    timed = _timed(curve, gram, key, seconds=preset.seconds)
    result = timed["result"]
    reached = float(jnp.max(result.stderr[1:] / result.mean[1:]))
    yield _record("curve", num, dimension, timed) | {"relative_stderr": reached}
