"""What the machine can do at all: copies on reused buffers, with the same threads.

Bytes are counted as everywhere here: what is read and what is written, once each.
"""

import ctypes
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.common import Preset, measure, threads

_BLOCK = 1 << 26


def _split(pool: ThreadPoolExecutor, copy: Callable[[int, int], Any], size: int) -> Any:
    """One copy of `size` bytes by all threads of a pool."""
    edges = np.linspace(0, size // 64, threads() + 1).astype(int) * 64
    return list(pool.map(copy, edges[:-1], edges[1:]))


def _host_copies(size: int) -> Iterator[tuple[str, Callable[[], Any]]]:
    source = np.ones(size, np.uint8)
    target = np.zeros(size, np.uint8)
    pool = ThreadPoolExecutor(threads())

    def numpy_copy(start: int, stop: int) -> None:
        np.copyto(target[start:stop], source[start:stop])

    def memmove(start: int, stop: int) -> None:
        ctypes.memmove(
            target.ctypes.data + int(start),
            source.ctypes.data + int(start),
            int(stop - start),
        )

    yield "numpy", lambda: _split(pool, numpy_copy, size)
    yield "memmove", lambda: _split(pool, memmove, size)


def _device_copies(size: int) -> Iterator[tuple[str, Callable[[], Any]]]:
    """XLA, with its output in a donated buffer, so that no fresh page is touched."""
    source = jnp.ones(size // 4, jnp.float32)
    holder = [jnp.zeros(size // 4, jnp.float32)]
    scale = jax.jit(lambda x, out: x * 1.5, donate_argnums=1, keep_unused=True)

    def call() -> Any:
        holder[0] = scale(source, holder[0])
        return holder[0]

    yield "xla", call


def memory(preset: Preset) -> Iterator[dict[str, Any]]:
    """The best copy; the ceiling that in-memory merges are compared with."""
    size = preset.leaves * preset.leaf**2 * 4
    copies = list(_device_copies(size))
    if jax.devices()[0].platform == "cpu":
        copies += list(_host_copies(size))
    for name, call in copies:
        timing = measure(call, seconds=preset.seconds)
        yield {
            "kind": "copy",
            "name": name,
            "bytes": 2 * size,
            "seconds": timing.median,
            "fastest": timing.fastest,
            "slowest": timing.slowest,
            "gb_per_s": 2 * size / timing.median / 1e9,
        }


def read_files(paths: Sequence[Path], buffer: np.ndarray) -> int:
    """Reads files into one reused buffer; their bytes."""
    total = 0
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer.data):
                total += count
    return total


def write_file(path: Path, size: int, buffer: np.ndarray) -> None:
    """Writes a file of so many bytes, and flushes it as a merge does."""
    with path.open("wb", buffering=0) as file:
        while size > 0:
            size -= file.write(buffer[:size].data) or 0
        os.fsync(file.fileno())
    path.unlink()


def read_and_write(
    inputs: Sequence[Path], scratch: Path, size: int, seconds: float
) -> float:
    """Seconds to read the inputs' bytes and to write `size`, at the same time.

    The reads come from the page cache after the first round; a merge's do too.
    """
    read_buffer = np.empty(_BLOCK, np.uint8)
    write_buffer = np.ones(_BLOCK, np.uint8)
    with ThreadPoolExecutor(2) as pool:

        def both() -> None:
            written = pool.submit(write_file, scratch, size, write_buffer)
            read_files(inputs, read_buffer)
            written.result()

        return measure(both, seconds=seconds).median
