"""Records merges of LoRA-like tensors by RHT's authors' functions and by PEFT's.

    python record_lora.py --authors PATH/src/base/merge_utils.py

The authors' module is imported from the path given, PEFT's from its package; neither
is copied. Inputs are small LoRA factors from a fixed NumPy seed: in float32 without two
equal sizes in a tensor, and rounded to bfloat16, where sizes do tie.
"""

import argparse
import contextlib
import hashlib
import importlib.util
import io
import itertools
import json
import platform
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from peft.utils import merge_utils as peft_merge
from safetensors.torch import save_file

FIXTURES = Path(__file__).parents[1] / "fixtures"
DENSITIES = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
SHAPES = {"q_proj.lora_A.weight": (4, 13), "q_proj.lora_B.weight": (11, 4)}
WEIGHTS = {
    2: {"equal": [0.5, 0.5], "unequal": [3.0, 1.0], "negative": [1.0, -0.4]},
    3: {"equal": [1.0] * 3, "unequal": [0.2, 0.5, 0.3], "negative": [0.9, -0.5, 0.4]},
    5: {
        "equal": [0.2] * 5,
        "unequal": [0.1, 0.4, 0.2, 0.25, 0.05],
        "negative": [0.6, -0.3, 0.5, 0.4, -0.1],
    },
}
AUTHORS = {
    "rht": "process_dare_ties_magnitude_with_rescaler",
    "ties": "process_ties",
    "magnitude_ties": "process_dare_ties_magnitude",
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def experts():
    """Five adapters; the first N of them are the experts of a merge of N."""
    rng = np.random.default_rng(2505)
    out = {}
    for t, (name, shape) in itertools.product(range(5), SHAPES.items()):
        while True:
            x = rng.standard_normal(shape).astype(np.float32)
            if np.unique(np.abs(x)).size == x.size:
                break
        out[f"{t}/{name}"] = torch.from_numpy(x)
    return out


def quietly(function, *args, **kwargs):
    """The authors' pruning prints, and both warn at density 1."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **kwargs)


def versions():
    names = ("torch", "peft", "numpy")
    return {p: version(p) for p in names} | {"python": platform.python_version()}


def ambiguous(tensors, density):
    """Whether a tie in size straddles some tensor's threshold: any choice is right."""
    for x in tensors:
        k, sizes = int(density * x.numel()), x.abs().flatten().sort(descending=True)[0]
        if density < 1 and 0 < k < x.numel() and sizes[k - 1] == sizes[k]:
            return True
    return False


def write(folder, tensors, about):
    out = FIXTURES / folder
    out.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.contiguous() for k, v in tensors.items()}
    save_file(tensors, out / "tensors.safetensors")
    (out / "recorded.json").write_text(json.dumps(about, indent=None) + "\n")
    print(folder, len(about["cases"]), "cases")


def record_authors(path, inputs):
    spec = importlib.util.spec_from_file_location("authors_merge_utils", path)
    authors = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(authors)
    tensors = {f"input/{k}": v for k, v in inputs.items()}
    cases = {}

    def case(method, n, weights, density, sign, dtype):
        w = np.asarray(WEIGHTS[n][weights], np.float64)
        w = torch.tensor((w / w.sum()).astype(np.float32))  # as the authors normalise
        for name in SHAPES:
            x = [inputs[f"{t}/{name}"].to(DTYPES[dtype]) for t in range(n)]
            y = quietly(getattr(authors, AUTHORS[method]), x, w, density, sign)
            key = f"{len(cases):03d}"
            tensors[key] = y
            cases[key] = {
                "method": method,
                "tensor": name,
                "num_experts": n,
                "weights": WEIGHTS[n][weights],
                "density": density,
                "sign": sign,
                "dtype": dtype,
                "tied": ambiguous(x, density),
                "output_dtype": str(y.dtype).split(".")[1],
            }

    for n, weights, density in itertools.product(WEIGHTS, WEIGHTS[2], DENSITIES):
        case("rht", n, weights, density, "total", "float32")
        if weights == "unequal":
            case("rht", n, weights, density, "total", "bfloat16")
        if n == 3:
            case("rht", n, weights, density, "frequency", "float32")
            case("ties", n, weights, density, "total", "float32")
    for density in DENSITIES:
        case("magnitude_ties", 3, "unequal", density, "total", "float32")
    about = {
        "oracle": "authors' code of Why Do More Experts Fail? (arXiv 2505.21226)",
        "repository": "wzj1718/ModelMergingAnalysis",
        "commit": "8e0e2fdfeeb30f055b9265ff5c7a01bb514a68bf",
        "file": "src/base/merge_utils.py",
        "sha256": hashlib.sha256(Path(path).read_bytes()).hexdigest(),
        "versions": versions(),
        "functions": AUTHORS,
        "notes": [
            "weights are divided by their sum before the call, as the authors' caller "
            "does; the merge then also divides by the number of agreeing experts",
            "bfloat16 tensors are pruned, divided and voted on in bfloat16; times the "
            "float32 weights they give a float32 result",
            "tied: bfloat16 sizes tie at the threshold, the choice there is open",
        ],
        "cases": cases,
    }
    write("rht", tensors, about)


def record_peft(inputs):
    tensors = {f"input/{k}": v for k, v in inputs.items()}
    cases = {}
    bernoulli, drawn = torch.bernoulli, []

    def remember(p, *args, **kwargs):
        drawn.append(bernoulli(p, *args, **kwargs))
        return drawn[-1]

    def case(function, n, weights, *, dtype="float32", **options):
        w = torch.tensor(WEIGHTS[n][weights])
        for name in SHAPES:
            x = [inputs[f"{t}/{name}"].to(DTYPES[dtype]) for t in range(n)]
            drawn.clear()
            y = quietly(getattr(peft_merge, function), x, w, **options)
            key = f"{len(cases):03d}"
            tensors[key] = y
            for t, mask in enumerate(drawn):
                bits = np.packbits(mask.bool().numpy())
                tensors[f"{key}/mask/{t}"] = torch.from_numpy(bits)
            cases[key] = {
                "method": function,
                "tensor": name,
                "num_experts": n,
                "weights": WEIGHTS[n][weights],
                "dtype": dtype,
                "tied": ambiguous(x, options["density"])
                if function in ("ties", "magnitude_prune")
                else False,
                "output_dtype": str(y.dtype).split(".")[1],
            } | options

    torch.manual_seed(7)
    torch.bernoulli = remember
    for n, weights in itertools.product(WEIGHTS, WEIGHTS[2]):
        case("task_arithmetic", n, weights)
        for density in (0.1, 0.29, 0.7, 1.0):
            case("ties", n, weights, density=density, majority_sign_method="total")
        case("magnitude_prune", n, weights, density=0.5)
    for weights in WEIGHTS[3]:
        case("ties", 3, weights, density=0.7, majority_sign_method="frequency")
        case("dare_linear", 3, weights, density=0.6)
        for sign in ("total", "frequency"):
            case("dare_ties", 3, weights, density=0.6, majority_sign_method=sign)
    case(
        "ties",
        3,
        "unequal",
        density=0.7,
        majority_sign_method="total",
        dtype="bfloat16",
    )
    case("dare_linear", 3, "unequal", density=0.6, dtype="bfloat16")
    torch.bernoulli = bernoulli
    about = {
        "oracle": "peft",
        "module": "peft.utils.merge_utils",
        "versions": versions(),
        "random_seed": 7,
        "notes": [
            "weights are used as given; ties and dare_ties divide by the number of "
            "agreeing experts, not by their weights",
            "dare_* divide by the density",
            "weights are float32 as in PEFT's own callers, so bfloat16 tensors are "
            "pruned and voted on in bfloat16 and give a float32 result",
            "KEY/mask/T holds the packed Bernoulli draw of expert T",
        ],
        "cases": cases,
    }
    write("peft", tensors, about)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--authors", required=True, help="the authors' merge_utils.py")
    torch.set_num_threads(1)
    adapters = experts()
    record_authors(parser.parse_args().authors, adapters)
    record_peft(adapters)
