"""Records WUDI and singular value calibration by FusionBench.

    python record_spectral.py

The inputs are those of `record_research.py`, and so is the environment; only what comes
out is written. None of FusionBench's code is copied.
"""

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
from record_research import EXPERTS, Record, inputs
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


def main():
    base, experts, *_ = inputs()
    deltas = [{k: e[k] - base[k] for k in base} for e in experts]
    record, fb = Record(), f"fusion-bench {version('fusion-bench')}"
    record_wudi(record, fb, deltas)
    record_calibration(record, fb, base, experts, deltas)
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
