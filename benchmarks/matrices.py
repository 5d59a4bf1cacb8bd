"""Matrix methods on every matrix of a 250M-parameter checkpoint, streamed.

    python -m benchmarks.matrices --checkpoints DIR [--methods regmean isotropic]

Each method merges eight experts in a process of its own, once: these are minutes of
linear algebra. Progress goes to the standard error, and a line of JSON with the time,
the processor time and the peak of resident memory to `results/matrices.jsonl`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import jaxmerge
from benchmarks.checkpoints import generate, parameters, shapes
from benchmarks.common import PRESETS, hardware, processor
from jaxmerge import checkpoint

RESULTS = Path(__file__).parent / "results" / "matrices.jsonl"
EXPERTS = 8
METHODS: dict[str, Callable[[], jaxmerge.Merger]] = {
    "regmean": jaxmerge.regmean,
    "isotropic_qdwh": lambda: jaxmerge.isotropic(polar="qdwh"),
    "isotropic": jaxmerge.isotropic,
    "ace": jaxmerge.ace,
    "swudi": jaxmerge.swudi,
    "wudi": jaxmerge.wudi,
    "tsv_m_gram_qdwh": lambda: jaxmerge.tsv_m(svd="gram", polar="qdwh"),
    "tsv_m": jaxmerge.tsv_m,
}


def make_statistics(experts: list[Path], preset_name: str) -> None:
    """Gram matrices of random inputs beside each expert; those that exist are kept."""
    named = shapes(PRESETS[preset_name])
    rule = jaxmerge.Matrices()
    matrices = {k: s for k, s in named.items() if rule.spec(k, s) is not None}
    for t, path in enumerate(sorted(set(experts))):
        if checkpoint.statistics_path(path).exists():
            continue
        rng = np.random.default_rng(t)
        grams = {}
        for name, (_, size) in matrices.items():
            inputs = rng.standard_normal((256, size), np.float32)
            grams[name] = inputs.T @ inputs / 256
        checkpoint.save_statistics({"gram": grams}, model=path)


def _work(name: str, folder: Path, preset_name: str) -> None:
    from benchmarks.streamed import peak_mib

    base, files = generate(folder, PRESETS[preset_name])
    experts = [files[t % len(files)] for t in range(EXPERTS)]
    begin, cpu, said = time.perf_counter(), time.process_time(), 0.0

    def show(progress: checkpoint.Progress) -> None:
        nonlocal said
        now = time.perf_counter() - begin
        if now - said > 10:
            said = now
            done = f"{progress.tensors}/{progress.num_tensors}"
            print(f"{name}: {done} tensors, {now:.0f} s", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        report = checkpoint.merge(
            METHODS[name](),
            base=base,
            experts=experts,
            out=Path(scratch) / "out.safetensors",
            progress=show,
        )
    record = {
        "method": name,
        "experts": EXPERTS,
        "parameters": parameters(PRESETS[preset_name]),
        "seconds": round(time.perf_counter() - begin, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "peak_mib": round(peak_mib()),
        "bytes_read": report.bytes_read,
        "processor": processor(),
        "hardware": hardware(),
    }
    print(json.dumps(record))


def main() -> None:
    """Reads the arguments and measures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--checkpoints", required=True, type=Path)
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--preset", default="cpu", choices=PRESETS)
    parser.add_argument("--out", default=RESULTS, type=Path)
    parser.add_argument("--worker", choices=METHODS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker is not None:
        _work(arguments.worker, arguments.checkpoints, arguments.preset)
        return
    _, files = generate(arguments.checkpoints, PRESETS[arguments.preset])
    if "regmean" in arguments.methods:
        make_statistics(files, arguments.preset)
    for name in arguments.methods:
        command = [sys.executable, "-m", "benchmarks.matrices", "--worker", name]
        command += ["--checkpoints", str(arguments.checkpoints)]
        command += ["--preset", arguments.preset]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        with arguments.out.open("a") as file:
            file.write(done.stdout)
        print(done.stdout, end="")


if __name__ == "__main__":
    main()
