"""Records ACE merges by the method's authors on the tensors of the research folder.

    python record_ace.py --strategy src/merge/strategy.py --commit HASH

The file is the authors' (README.md); of it only `MergeStrategy.ace_merging` runs, as
it stands, in float64. What comes out is the merged task vector. None of the code is
copied.
"""

import argparse
import importlib.util
import json
import platform
import types
import warnings
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

FIXTURES = Path(__file__).parents[1] / "fixtures"
FOLDER = FIXTURES / "ace"
EXPERTS = 3

# What each expert's delta is multiplied by, and the ridge. Energies far from 1 and
# alike leave the gate off; where they differ by orders of magnitude it is on.
CASES = {
    "off": ([10.0, 11.0, 9.0], 1e-2),
    "off_small_ridge": ([10.0, 11.0, 9.0], 1e-5),
    "on": ([0.5, 5.0, 0.1], 1e-2),
    "on_small_ridge": ([0.5, 5.0, 0.1], 1e-5),
    "on_near_unit_energy": ([1.0, 1.0, 1.0], 1e-2),
}


def deltas():
    """The task vectors of the research folder, in float64."""
    tensors = load_file(FIXTURES / "research" / "tensors.safetensors")
    names = [k.removeprefix("base/") for k in tensors if k.startswith("base/")]
    return [
        {k: (tensors[f"expert/{t}/{k}"] - tensors[f"base/{k}"]).double() for k in names}
        for t in range(EXPERTS)
    ]


def main(strategy, commit, note):
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    warnings.simplefilter("ignore")  # the mean of no singular values
    spec = importlib.util.spec_from_file_location("strategy", strategy)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    experts, expected, cases = deltas(), {}, {}
    for case, (scales, eps) in CASES.items():
        scaled = [
            {k: s * v for k, v in tree.items()}
            for s, tree in zip(scales, experts, strict=True)
        ]
        vectors = [types.SimpleNamespace(task_vector_param_dict=x) for x in scaled]
        merge = module.MergeStrategy(sorted(scaled[0]), vectors, "cpu").ace_merging
        out = merge(eps=eps)
        expected |= {f"{case}/{k}": v.contiguous() for k, v in out.items()}
        cases[case] = {
            "oracle": f"unravel-xu/ACE-Merging {commit}",
            "function": "src.merge.strategy.MergeStrategy.ace_merging",
            "frame": "delta",
            "scales": scales,
            "eps": eps,
            "not_finite": sorted(k for k, v in out.items() if not v.isfinite().all()),
        }
    FOLDER.mkdir(parents=True, exist_ok=True)
    save_file(expected, FOLDER / "tensors.safetensors")
    about = {
        "versions": {p: version(p) for p in ("torch", "numpy")}
        | {"python": platform.python_version()},
        "num_experts": EXPERTS,
        "notes": [
            "expert t's delta is scales[t] times that of folder research, in float64",
            "where the gate is on and floor(0.3 * min(out, in)) is 0 the code takes "
            "the mean of no singular values, and the tensor is NaN (not_finite)",
            *([note] if note else []),
        ],
        "cases": cases,
    }
    (FOLDER / "recorded.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--strategy", required=True, type=Path)
    parser.add_argument("--commit", required=True)
    parser.add_argument("--note", default="", help="how the file was come by")
    arguments = parser.parse_args()
    main(arguments.strategy, arguments.commit, arguments.note)
