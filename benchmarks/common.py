"""What all benchmarks share: timing, presets, the manifest, and JSON lines."""

import dataclasses
import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Preset:
    """The sizes of a run.

    Attributes:
      name: `smoke`, `cpu` or `gpu`.
      leaf: the side of the square leaves that are merged in memory.
      leaves: how many of them; together they have to be larger than any cache.
      spectral_leaf: the side for methods that take singular values.
      experts: numbers of experts.
      dtypes: storage dtypes.
      selection: numbers of elements from which the largest are selected.
      width_vectors: task vectors whose hull's width is estimated.
      width_dimension: their number of entries.
      subset_pools: experts and hidden width of the networks of which all sets of
        experts are merged.
      subset_recipes: by which recipes, beside the linear path.
      layers: of the checkpoint that is merged on disk.
      hidden: its width.
      vocabulary: its rows of embeddings.
      memory_experts: numbers of experts for which peak memory is compared.
      seconds: how long one measurement may go on repeating.
    """

    name: str
    leaf: int = 2048
    leaves: int = 4
    spectral_leaf: int = 512
    experts: tuple[int, ...] = (3, 8)
    dtypes: tuple[str, ...] = ("bfloat16", "float32")
    selection: tuple[int, ...] = (1 << 22,)
    width_vectors: int = 64
    width_dimension: int = 10**6
    subset_pools: tuple[tuple[int, int], ...] = ((12, 64), (16, 8))
    subset_recipes: tuple[str, ...] = ("average", "ties")
    layers: int = 14
    hidden: int = 1024
    vocabulary: int = 32000
    memory_experts: tuple[int, ...] = (3, 8, 16)
    seconds: float = 0.5


PRESETS = {
    "smoke": Preset(
        "smoke",
        leaf=16,
        leaves=2,
        spectral_leaf=8,
        experts=(3,),
        dtypes=("bfloat16",),
        selection=(1 << 10,),
        width_vectors=4,
        width_dimension=1000,
        subset_pools=((3, 3),),
        subset_recipes=("average",),
        layers=1,
        hidden=16,
        vocabulary=64,
        memory_experts=(3,),
        seconds=0.0,
    ),
    "cpu": Preset("cpu"),
    "gpu": Preset("gpu", leaf=8192, leaves=4, spectral_leaf=2048, selection=(1 << 26,)),
}


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of one repeated call."""

    median: float
    fastest: float
    slowest: float
    runs: int


def measure(call: Callable[[], Any], *, seconds: float, least: int = 3) -> Timing:
    """Times a call that has been warmed up, until `seconds` have passed.

    Args:
      call: what is timed; the arrays it returns are waited for.
      seconds: for how long to repeat.
      least: how often at least.
    """
    jax.block_until_ready(call())
    times: list[float] = []
    while len(times) < least or sum(times) < seconds:
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return Timing(statistics.median(times), min(times), max(times), len(times))


def processor() -> str:
    """The kind of processor, without what would tell machines of a kind apart."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [x.split(":", 1)[1] for x in lines if x.startswith("model name")]
    return " ".join(models[0].split()[:2]) if models else platform.machine()


def hardware() -> str:
    """What the benchmarks run on, in words."""
    cores = len(os.sched_getaffinity(0))
    device = jax.devices()[0]
    accelerator = "no GPU" if device.platform == "cpu" else device.device_kind
    article = "an" if processor()[:1] in "AEIOU" else "a"
    return f"{cores} cores of {article} {processor()}, {accelerator}"


def threads() -> int:
    """How many threads XLA's CPU backend uses, and so the copies."""
    return len(os.sched_getaffinity(0))


def manifest(preset: Preset) -> dict[str, Any]:
    """What has to be known to read the results."""
    packages = ("jaxmerge", "jax", "jaxlib", "numpy", "ml_dtypes")
    return {
        "kind": "manifest",
        "hardware": hardware(),
        "platform": jax.devices()[0].platform,
        "threads": threads(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "preset": dataclasses.asdict(preset),
    }


class Results:
    """JSON lines, written as they come."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        self.path = path

    def add(self, record: dict[str, Any]) -> None:
        rounded = {k: _rounded(v) for k, v in record.items()}
        with self.path.open("a") as file:
            file.write(json.dumps(rounded) + "\n")
        print(json.dumps(rounded), flush=True)


def _rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a results file."""
    for line in path.read_text().splitlines():
        yield json.loads(line)
