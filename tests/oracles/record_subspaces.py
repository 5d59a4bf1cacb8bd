"""Records DC-Merge, KnOTS and Core Space by their authors' code and FusionBench.

    python record_subspaces.py --sources DIR

The environment and DIR are those of `record_research.py`, and so are the inputs; merges
of LoRA adapters have two of rank 16, drawn here. None of the oracles' code is copied.
"""

import argparse
import contextlib
import importlib
import io
import json
import platform
import sys
import types
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from fusion_bench.method.knots.knots_utils import subspace_alignment
from fusion_bench.method.ties_merging.ties_merging_utils import ties_merging
from record_research import EXPERTS, Record, commit, inputs
from safetensors.torch import save_file

FOLDER = Path(__file__).parents[1] / "fixtures" / "subspaces"
RANK, OUT, IN = 16, 36, 40


def adapters():
    """Two LoRA adapters `(b, a)`, of one rank and sizes that differ."""
    rng = np.random.default_rng(777)
    draw = lambda *shape: torch.from_numpy(rng.standard_normal(shape, np.float32))
    return [(size * draw(OUT, RANK), draw(RANK, IN)) for size in (0.1, 0.15)]


def load(root, name, stubs=()):
    """A module of a clone, forgotten afterwards, with stubs for its training."""
    before = dict(sys.modules)
    sys.path.insert(0, str(root))
    for stub in stubs:
        sys.modules[stub] = types.ModuleType(stub)
        sys.modules[stub].get_mask_fn = None
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(root))
        for other in set(sys.modules) - set(before):
            if other.split(".")[0] in (*stubs, name, "merging_functions", "utils"):
                del sys.modules[other]


def record_directional(record, deltas, root):
    oracle = f"Tobeginwith/DC-Merge {commit(root)}"
    path = root / "vision_fft_merge" / "src"
    sys.modules["utils"] = package = types.ModuleType("utils")
    package.__path__ = [str(path / "utils")]
    module = importlib.import_module("utils.DC_utils")
    keep = module.keep_topk_percent
    vectors = [types.SimpleNamespace(vector=delta) for delta in deltas]
    config = types.SimpleNamespace(DATASETS=range(len(deltas)), device="cpu")
    for density in (1e-3, 0.2):
        module.keep_topk_percent = lambda matrices, _, d=density: keep(matrices, d)
        record(
            f"dc_{density:g}",
            oracle,
            "vision_fft_merge.src.utils.DC_utils.dc_merge",
            module.dc_merge(vectors, config),
            density=density,
            notes=[
                "the density, 1e-3 in the code, is given to its keep_topk_percent",
                "the share is of r^2 entries, r = min(out, in), padding included",
                "each expert keeps int(r / T) directions: thin.weight comes out as 0",
            ],
        )
    for name in ("utils", "utils.DC_utils"):
        del sys.modules[name]


def record_directional_adapters(record, products, root):
    module = load(root / "vision_lora_merge", "merging_functions")
    keep = module.keep_topk_percent
    for smoothing, rho in (("avg", 5.0), ("linear", 5.0)):
        module.keep_topk_percent = lambda matrices, _: keep(matrices, 0.05)
        record(
            f"dc_{smoothing}_{rho:g}",
            f"Tobeginwith/DC-Merge {commit(root)}",
            "vision_lora_merge.merging_functions.dc_merge",
            {"w": module.dc_merge({"w": products}, smoothing, rho)["w"]},
            density=0.05,
            smoothing=smoothing,
            ratio=rho,
            rank=RANK,
            notes=["the density, 1e-3 in the code, is given to its keep_topk_percent"],
        )


def aligned_ties(tensors, density):
    """TIES in the basis of `subspace_alignment`; directly for what is no matrix."""
    if tensors[0].dim() != 2:
        parts, back = tensors, lambda merged: merged
    else:
        u, s, rows = subspace_alignment(tensors)
        parts, back = [s[:, None] * x for x in rows], lambda merged: u @ merged
    stacked = torch.stack([x.reshape(-1) for x in parts])
    merged = ties_merging(stacked, density, "mean")
    return back(merged.reshape(parts[0].shape))


def record_knots(record, name, deltas):
    for density in (0.2, 0.5):
        record(
            f"{name}_{density:g}",
            f"fusion-bench {version('fusion-bench')}",
            "method.knots.knots_utils.subspace_alignment; "
            "method.ties_merging.ties_merging_utils.ties_merging",
            {k: aligned_ties([d[k] for d in deltas], density) for k in deltas[0]},
            density=density,
            notes=[
                "TIES of s V_t^T, tensor by tensor; keeps int(density * n) + 1 entries",
                "directions with a singular value of at most 1e-4 are dropped",
            ],
        )


def record_core(record, pairs, root):
    module = load(root, "task_merger", ("einops", "utils"))
    merger = types.SimpleNamespace(cache={})
    core = module.MatrixPerLayerMerger
    matrices, left, right = core.get_core_matrices(
        merger, [{"w": (a, b)} for b, a in pairs], "w", {}
    )
    merger.get_tsv_delta_w = core.get_tsv_delta_w.__get__(merger)
    merger._process_ties = core._process_ties.__get__(merger)
    for name, config in (
        ("core_sum", {"merge_method": "sum"}),
        ("core_ties", {"merge_method": "ties", "topK": 20}),
        ("core_tsv", {"merge_method": "tsv"}),
    ):
        merged = core._merge_tensors(merger, [m.clone() for m in matrices], config)
        record(
            name,
            f"apanariello4/core-space-merging {commit(root)}",
            "task_merger.MatrixPerLayerMerger: get_core_matrices, _merge_tensors",
            {"w": (left @ merged.to(left.dtype) @ right).to(torch.float32)},
            notes=["TIES keeps int(0.2 * n) + 1 entries"],
        )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sources", type=Path, required=True)
    sources = parser.parse_args().sources
    torch.set_num_threads(1)
    base, experts, *_ = inputs()
    deltas = [{k: e[k] - base[k] for k in base} for e in experts]
    record, of_adapters, pairs = Record(), Record(), adapters()
    products = [b @ a for b, a in pairs]
    with contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        record_directional(record, deltas, sources / "DC-Merge")
        record_knots(record, "knots", deltas)
        record_directional_adapters(of_adapters, products, sources / "DC-Merge")
        record_knots(of_adapters, "knots", [{"w": x} for x in products])
        record_core(of_adapters, pairs, sources / "core-space-merging")
    FOLDER.mkdir(parents=True, exist_ok=True)
    factors = {
        f"{t}/{k}": v for t, p in enumerate(pairs) for k, v in zip("ba", p, strict=True)
    }
    lora = {f"lora/{k}": v for k, v in (factors | of_adapters.tensors).items()}
    save_file(record.tensors | lora, FOLDER / "tensors.safetensors")
    about = {
        "versions": {
            "fusion-bench": version("fusion-bench"),
            "torch": version("torch"),
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "num_experts": EXPERTS,
        "inputs": "those of folder research; of adapters, lora/{t}/b and lora/{t}/a",
        "cases": record.cases,
        "adapters": of_adapters.cases,
    }
    (FOLDER / "recorded.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
