"""Records merges by merging-eval, the package of the merging scaling law's authors.

    python record_merging_eval.py

Every set of four experts is merged by each rule, in float32. Only the package's results
are kept, none of its code.
"""

import contextlib
import io
import itertools
import json
import platform
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from merge import MergingMethod
from safetensors.torch import save_file
from torch import nn

FOLDER = Path(__file__).parents[1] / "fixtures" / "merging_eval"
EXPERTS = 4
SHAPES = {"bias": (17,), "layer.weight": (12, 7)}

# The scale of task arithmetic may depend on the number of experts: 0.8 / k is the
# law's, 0.3 one that does not.
CASES = {
    "average": {"method": "average_merging"},
    "task_arithmetic_0.8_over_k": {"method": "task_arithmetic", "scale_over_k": 0.8},
    "task_arithmetic_0.3": {"method": "task_arithmetic", "scale": 0.3},
    "ties_0.8": {"method": "ties_merging", "mask_rate": 0.8, "scale": 1.0},
    "ties_0.5": {"method": "ties_merging", "mask_rate": 0.5, "scale": 0.5},
    "ties_0": {"method": "ties_merging", "mask_rate": 0.0, "scale": 1.0},
}
NOTES = {
    "task_arithmetic": ["adds scale * sum of the task vectors, divided by nothing"],
    "ties_merging": [
        "trims each tensor by itself",
        "keeps what is at least the k-th smallest, k = int(n * mask_rate): one entry "
        "more than n - k, and all of them where k is 0",
        "a vote of zero elects +1; the mean is over the agreeing experts, unweighted",
    ],
}


class Weights(nn.Module):
    """A model that is nothing but its tensors."""

    def __init__(self, tensors):
        super().__init__()
        self.weights = nn.ParameterDict(
            {k.replace(".", "/"): nn.Parameter(v.clone()) for k, v in tensors.items()}
        )

    def tensors(self):
        prefix = "weights."
        return {
            k.removeprefix(prefix).replace("/", "."): v.detach().clone()
            for k, v in self.named_parameters()
        }


def inputs():
    """A base and experts; no two entries of a task vector have one magnitude."""
    rng = np.random.default_rng(2509)
    draw = lambda shape: rng.standard_normal(shape).astype(np.float32)
    base = {k: draw(s) for k, s in SHAPES.items()}
    experts = [
        {k: base[k] + np.float32(0.1) * draw(s) for k, s in SHAPES.items()}
        for _ in range(EXPERTS)
    ]
    for expert in experts:
        for k in SHAPES:
            sizes = np.abs(expert[k] - base[k]).ravel()
            assert np.unique(sizes).size == sizes.size
    as_torch = lambda tree: {k: torch.from_numpy(v) for k, v in tree.items()}
    return as_torch(base), [as_torch(expert) for expert in experts]


def merged(case, base, experts):
    scale = case.get("scale", case.get("scale_over_k", 0.0) / len(experts))
    engine = MergingMethod(merging_method_name=case["method"])
    model = engine.get_merged_model(
        merged_model=Weights(base),
        models_to_merge=[Weights(expert) for expert in experts],
        exclude_param_names_regex=[],
        scaling_coefficient=scale,
        param_value_mask_rate=case.get("mask_rate", 0.8),
    )
    return model.tensors()


def main():
    torch.set_num_threads(1)
    base, experts = inputs()
    tensors = {f"base/{k}": v for k, v in base.items()}
    for t, expert in enumerate(experts):
        tensors |= {f"expert/{t}/{k}": v for k, v in expert.items()}
    cases = {}
    for name, case in CASES.items():
        for k in range(1, EXPERTS + 1):
            for subset in itertools.combinations(range(EXPERTS), k):
                with contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
                    out = merged(case, base, [experts[t] for t in subset])
                at = f"{name}/{'-'.join(map(str, subset))}"
                tensors |= {f"{at}/{leaf}": v for leaf, v in out.items()}
        cases[name] = {"function": "merge.MergingMethod.get_merged_model"} | case
        cases[name]["notes"] = NOTES.get(case["method"], [])
    FOLDER.mkdir(parents=True, exist_ok=True)
    save_file(tensors, FOLDER / "tensors.safetensors")
    packages = ("merging-eval", "torch", "numpy")
    about = {
        "versions": {p: version(p) for p in packages}
        | {"python": platform.python_version()},
        "num_experts": EXPERTS,
        "cases": cases,
    }
    (FOLDER / "recorded.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
