"""Records WUDI and SVC by FusionBench, and SWUDI by its authors.

    python record_spectral.py --sources DIR

The inputs are those of `record_research.py`, and so are the environment and DIR; only
what comes out is written. None of the oracles' code is copied.
"""

import argparse
import importlib
import json
import platform
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from fusion_bench.method.singular_value_calibration.utils import (
    subspace_consistency_spectral_calibration_accelerated,
)
from fusion_bench.method.wudi.wudi import wudi_merging
from record_research import EXPERTS, Record, Weights, authors, commit, inputs
from safetensors.torch import save_file

FOLDER = Path(__file__).parents[1] / "fixtures" / "spectral"


def record_wudi(record, fb, deltas):
    for steps in (1, 300):
        record(
            f"wudi_{steps}",
            fb,
            "method.wudi.wudi.wudi_merging",
            {k: v.detach() for k, v in wudi_merging(deltas, "cpu", steps).items()},
            steps=steps,
            learning_rate=1e-5,
        )


def record_calibration(record, fb, base, experts, deltas):
    for scale in (0.3, 1.0):
        total = {k: scale * sum(d[k] for d in deltas) for k in base}
        for alpha in (0.1, 1.0 / EXPERTS, 1.0):
            out = {
                k: subspace_consistency_spectral_calibration_accelerated(
                    torch.zeros_like(v), [d[k] for d in deltas], v, alpha
                )
                if v.dim() == 2
                else v.clone()
                for k, v in total.items()
            }
            record(
                f"svc_{scale}_{alpha:.2f}",
                fb,
                "method.singular_value_calibration.utils."
                "subspace_consistency_spectral_calibration_accelerated",
                out,
                scale=scale,
                alpha=alpha,
            )


def record_swudi(record, base, experts, root):
    """Its merge takes models and gives weights; the base is subtracted again."""
    with authors(root / "LLaMA-Factory"):
        module = importlib.import_module("swudi_aswudi")
    models = Weights(base), [Weights(expert) for expert in experts]
    options = {"merge_device": "cpu", "progress": False}
    oracle = f"WalkerWorldPeace/MLLMerging {commit(root)}"

    def deltas(merged):
        named = {
            k.removeprefix("weights.").replace("/", "."): merged[k] for k in merged
        }
        return {k: named[k] - v for k, v in base.items()}

    for time, share in ((300.0, 0.65), (3.0, 0.85), (1.0, 1.0)):
        merged = module.swudi_merge(
            *models, [], exp_time=time, truncate_rank_ratio=share, **options
        )
        record(
            f"swudi_{time:g}_{share:g}",
            oracle,
            "LLaMA-Factory.swudi_aswudi.swudi_merge",
            deltas(merged),
            time=time,
            share=share,
        )
    record(
        "aswudi",
        oracle,
        "LLaMA-Factory.swudi_aswudi.aswudi_merge",
        deltas(module.aswudi_merge(*models, [], **options)),
    )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sources", type=Path, required=True)
    sources = parser.parse_args().sources
    base, experts, *_ = inputs()
    deltas = [{k: e[k] - base[k] for k in base} for e in experts]
    record, fb = Record(), f"fusion-bench {version('fusion-bench')}"
    record_wudi(record, fb, deltas)
    record_calibration(record, fb, base, experts, deltas)
    record_swudi(record, base, experts, sources / "MLLMerging")
    FOLDER.mkdir(parents=True, exist_ok=True)
    save_file(record.tensors, FOLDER / "tensors.safetensors")
    about = {
        "versions": {
            "fusion-bench": version("fusion-bench"),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "num_experts": EXPERTS,
        "inputs": "those of the folder research",
        "cases": record.cases,
    }
    (FOLDER / "recorded.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
