"""Merges of checkpoints on disk, each in a process of its own.

A process says how long it took to start (the interpreter and the imports), how long its
first merge took and how much of that was tracing and compiling, how long a second one
took (everything compiled, files in the page cache: the steady part), and the most
memory that was resident up to the end of the first.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.common import Preset

# --- inside the process --------------------------------------------------------------


class _CompileTime:
    """Adds up what JAX reports of tracing, lowering and compiling."""

    def __init__(self):
        self.seconds, self.programs = 0.0, 0

    def __call__(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        del kwargs
        if event.startswith("/jax/core/compile/"):
            self.seconds += duration_secs
            self.programs += event.endswith("backend_compile_duration")


def peak_mib() -> float:
    """The most memory that this program had resident.

    Linux's `ru_maxrss` begins with what the process that started this one had.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text().splitlines()
        peak = next(line for line in lines if line.startswith("VmHWM"))
        return int(peak.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _worker(job: dict[str, Any]) -> dict[str, Any]:
    import jax

    from benchmarks.methods import RECIPES
    from jaxmerge import checkpoint

    jax.devices()
    started = time.time() - job["launched"]
    peak_at_start = peak_mib()
    compiling = _CompileTime()
    jax.monitoring.register_event_duration_secs_listener(compiling)
    recipe = next(r for r in RECIPES if r.name == job["recipe"])
    merge = lambda: checkpoint.merge(
        recipe.make(),
        base=job["base"],
        experts=job["experts"],
        out=job["out"],
        key=jax.random.key(1) if recipe.random else None,
        overwrite=True,
    )
    begin, cpu = time.perf_counter(), time.process_time()
    report = merge()
    first, cpu = time.perf_counter() - begin, time.process_time() - cpu
    peak, compile_seconds, programs = peak_mib(), compiling.seconds, compiling.programs
    again = []
    for _ in range(job["repeats"]):
        begin = time.perf_counter()
        merge()
        again.append(time.perf_counter() - begin)
    return {
        "start_seconds": started,
        "first_seconds": first,
        "first_cpu_seconds": cpu,
        "compile_seconds": compile_seconds,
        "programs": programs,
        "steady_seconds": sorted(again)[len(again) // 2],
        "fastest": min(again),
        "slowest": max(again),
        "peak_mib": peak,
        "peak_mib_at_start": peak_at_start,
        "bytes_read": report.bytes_read,
        "bytes_written": report.bytes_written,
    }


# --- outside -------------------------------------------------------------------------


def _spawn(
    recipe: str, base: Path, experts: list[Path], out: Path, repeats: int
) -> dict[str, Any]:
    job = {
        "recipe": recipe,
        "base": str(base),
        "experts": [str(path) for path in experts],
        "out": str(out),
        "repeats": repeats,
        "launched": time.time(),
    }
    command = [sys.executable, "-m", "benchmarks.streamed", json.dumps(job)]
    begin = time.perf_counter()
    # Without a persistent compilation cache, every process compiles.
    environment = {k: v for k, v in os.environ.items() if "COMPILATION_CACHE" not in k}
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=environment
    )
    wall = time.perf_counter() - begin
    return json.loads(done.stdout) | {"process_seconds": wall}


def run(preset: Preset, folder: Path, only: str | None) -> Iterator[dict[str, Any]]:
    """Every recipe, and TIES for the numbers of experts whose memory is compared."""
    from benchmarks.checkpoints import generate, parameters
    from benchmarks.floor import read_and_write
    from benchmarks.methods import RECIPES

    base, experts = generate(folder, preset)
    size = base.stat().st_size
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        out = Path(scratch) / "out.safetensors"
        floors: dict[int, float] = {}
        for recipe in RECIPES:
            if recipe.spectral and preset.name != "smoke":
                continue  # an hour of singular values measures LAPACK, not this library
            if only is not None and recipe.name != only:
                continue
            counts = recipe.counts(preset.experts)
            if recipe.name == "ties":
                counts = sorted({*counts, *preset.memory_experts})
            for num in counts:
                if num not in floors:
                    inputs = [base, *experts[:num]]
                    floors[num] = read_and_write(inputs, out, size, preset.seconds)
                    yield {
                        "kind": "disk",
                        "experts": num,
                        "bytes": size * (num + 2),
                        "seconds": floors[num],
                        "gb_per_s": size * (num + 2) / floors[num] / 1e9,
                    }
                record = _spawn(recipe.name, base, experts[:num], out, repeats=1)
                yield {
                    "kind": "streamed",
                    "name": recipe.name,
                    "experts": num,
                    "parameters": parameters(preset),
                    **record,
                    "of_floor": floors[num] / record["steady_seconds"],
                }
                shutil.rmtree(out, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="One merge; started by benchmarks.run")
    parser.add_argument("job", type=json.loads)
    print(json.dumps(_worker(parser.parse_args().job)))


if __name__ == "__main__":
    main()
