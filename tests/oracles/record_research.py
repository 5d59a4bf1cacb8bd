"""Records merges by FusionBench and by methods' authors on a small dict of tensors.

    python record_research.py --sources DIR

DIR holds clones of the authors' repositories (README.md); FusionBench is imported from
its package. None of their code is copied. Unless a case says otherwise, the experts go
in as task vectors and what comes out is the merged task vector, before any scale.
"""

import argparse
import contextlib
import importlib
import io
import json
import platform
import subprocess
import sys
import types
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from fusion_bench import BaseModelPool
from fusion_bench.method.emr_merging.utils import emr_merge
from fusion_bench.method.fisher_merging.fisher_merging import (
    merging_with_fisher_weights,
)
from fusion_bench.method.isotropic_merging.iso_utils import iso_c, iso_cts
from fusion_bench.method.magmax.magmax import _magmax_select
from fusion_bench.method.model_stock.model_stock import ModelStock
from fusion_bench.method.regmean.regmean import merging_with_regmean_weights
from fusion_bench.method.simple_average import simple_average
from fusion_bench.method.task_singular_vector.utils import TSVM_utils
from fusion_bench.method.ties_merging.ties_merging_utils import ties_merging
from safetensors.torch import save_file
from torch import nn

FOLDER = Path(__file__).parents[1] / "fixtures" / "research"
EXPERTS = 3
SHAPES = {
    "bias": (17,),
    "conv": (4, 3, 5),
    "square.weight": (12, 12),
    "tall.weight": (14, 7),
    "thin.weight": (2, 9),
    "wide.weight": (6, 15),
}


def inputs():
    """A base, experts and side statistics; no two entries of a delta have one size."""
    rng = np.random.default_rng(4242)
    draw = lambda shape: rng.standard_normal(shape).astype(np.float32)
    base = {k: draw(s) for k, s in SHAPES.items()}
    experts = [
        {k: base[k] + np.float32(0.1) * draw(s) for k, s in SHAPES.items()}
        for _ in range(EXPERTS)
    ]
    for expert in experts:
        sizes = np.concatenate([np.abs(expert[k] - base[k]).ravel() for k in SHAPES])
        assert np.unique(sizes).size == sizes.size
    fisher = [{k: draw(s) ** 2 for k, s in SHAPES.items()} for _ in experts]
    grams = []
    for _ in experts:
        x = {k: draw((40, s[1])) for k, s in SHAPES.items() if k.endswith(".weight")}
        grams.append({k: v.T @ v for k, v in x.items()})
    as_torch = lambda tree: {k: torch.from_numpy(v) for k, v in tree.items()}
    lists = (list(map(as_torch, trees)) for trees in (experts, fisher, grams))
    return as_torch(base), *lists


class Record:
    """The cases recorded so far: their tensors and what is said of them."""

    def __init__(self):
        self.tensors, self.cases = {}, {}

    def __call__(self, case, oracle, function, tensors, *, frame="delta", **about):
        self.tensors |= {f"{case}/{k}": v.contiguous() for k, v in tensors.items()}
        self.cases[case] = {"oracle": oracle, "function": function, "frame": frame}
        self.cases[case] |= about


def flat(tree):
    """The authors' flattening: tensors in the order of their names."""
    return torch.cat([tree[k].reshape(-1) for k in sorted(tree)])


def unflat(vector):
    sizes = [int(np.prod(SHAPES[k])) for k in sorted(SHAPES)]
    parts = vector.split(sizes)
    return {k: p.reshape(SHAPES[k]) for k, p in zip(sorted(SHAPES), parts, strict=True)}


class Weights(nn.Module):
    """A model that is nothing but its tensors."""

    def __init__(self, tensors):
        super().__init__()
        self.weights = nn.ParameterDict(
            {k.replace(".", "/"): nn.Parameter(v.clone()) for k, v in tensors.items()}
        )

    def tensors(self):
        return {k.replace("/", "."): v.detach() for k, v in self.weights.items()}


@contextlib.contextmanager
def authors(root, *stubs):
    """Imports from a clone, with stubs for what only its training needs."""
    before = set(sys.modules)
    sys.path.insert(0, str(root))
    for name in stubs:
        module = types.ModuleType(name)
        module.log = lambda *_args, **_kwargs: None
        sys.modules.setdefault(name, module)
    try:
        yield
    finally:
        sys.path.remove(str(root))
        for name in set(sys.modules) - before:
            if name.split(".")[0] in ("src", "utils", "model_merging_methods", *stubs):
                del sys.modules[name]


def commit(root):
    out = subprocess.run(
        ["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, check=True
    )
    return out.stdout.decode().strip()


def record_fusion_bench(record, base, experts, deltas, fisher, grams):
    fb = f"fusion-bench {version('fusion-bench')}"
    unified, masks, rescalers = emr_merge(deltas)
    out = {f"unified/{k}": v for k, v in unified.items()}
    for k, per_task in masks.items():
        out |= {f"mask/{t}/{k}": m.to(torch.uint8) for t, m in enumerate(per_task)}
    record(
        "emr",
        fb,
        "method.emr_merging.utils.emr_merge",
        out | {"rescalers": rescalers},
        frame="delta; expert t is base + rescalers[t] * mask/t * unified",
        notes=[
            "the rescaler's means are taken per tensor and added, so a small tensor "
            "weighs as much as a big one, as in the authors' script for 8 tasks; "
            "zero sums elect the negative sign"
        ],
    )
    unified, masks, rescalers = emr_merge([{"all": flat(d)} for d in deltas])
    record(
        "emr_tree",
        fb,
        "method.emr_merging.utils.emr_merge",
        {"rescalers": rescalers},
        frame="only the rescalers differ from case emr",
        notes=[
            "the whole model as one vector: the paper's formula, and the authors' "
            "script for 30 tasks"
        ],
    )
    record(
        "iso_c", fb, "method.isotropic_merging.iso_utils.iso_c", iso_c(deltas, "cpu")
    )
    for fraction in (0.8, 0.5):
        record(
            f"iso_cts_{fraction}",
            fb,
            "method.isotropic_merging.iso_utils.iso_cts",
            iso_cts(deltas, fraction, "cpu"),
            common_space_fraction=fraction,
        )
    record(
        "tsv_m",
        fb,
        "method.task_singular_vector.utils.TSVM_utils."
        "compute_and_sum_svd_mem_reduction",
        TSVM_utils.compute_and_sum_svd_mem_reduction(deltas, accelerator="cpu"),
        notes=[
            "each expert keeps int(r / T) singular vectors, 0 where r < T: thin.weight "
            "comes out as zeros; leaves that are not matrices are averaged"
        ],
    )
    magmax = _magmax_select(deltas)
    record("magmax", fb, "method.magmax.magmax._magmax_select", magmax)
    average = simple_average(experts)
    record(
        "average", fb, "method.simple_average.simple_average", average, frame="weights"
    )
    stacked = torch.stack([flat(d) for d in deltas])
    for threshold, function in ((20, "mean"), (50, "mean"), (50, "sum"), (50, "max")):
        record(
            f"fusion_ties_{threshold}_{function}",
            fb,
            "method.ties_merging.ties_merging_utils.ties_merging",
            unflat(ties_merging(stacked, threshold, function)),
            scope="tree",
            density=threshold / 100,
            merge_func=function,
            notes=["keeps int(density * n) + 1 entries of the whole flattened model"],
        )
    for count in (2, 3):
        pool = {"_pretrained_": Weights(base)}
        pool |= {str(t): Weights(e) for t, e in enumerate(experts[:count])}
        model = ModelStock().run(BaseModelPool(pool))
        record(
            f"model_stock_{count}",
            fb,
            "method.model_stock.ModelStock.run",
            model.tensors(),
            frame="weights",
            num_experts=count,
            notes=["1e-8 in each denominator; with 3 experts the angles are averaged"],
        )
    named = {k: [e[k] for e in experts] for k in SHAPES}
    modules = [{k.removesuffix(".weight"): g for k, g in t.items()} for t in grams]
    for normalize in (False, True):
        record(
            f"fisher_normalize_{normalize}".lower(),
            fb,
            "method.fisher_merging.fisher_merging.merging_with_fisher_weights",
            merging_with_fisher_weights(
                named, fisher, torch.tensor([0.5, 0.3, 0.2]), normalize, 1e-6
            ),
            frame="weights",
            weights=[0.5, 0.3, 0.2],
            minimal_fisher_weight=1e-6,
            side="fisher",
        )
    for ratio in (1.0, 0.9):
        record(
            f"regmean_{ratio}",
            fb,
            "method.regmean.regmean.merging_with_regmean_weights",
            merging_with_regmean_weights(named, modules, ratio),
            frame="weights",
            reduce_non_diagonal_ratio=ratio,
            side="gram",
        )


def record_ties_authors(record, deltas, root):
    with authors(root, "matplotlib", "matplotlib.pyplot"):
        module = importlib.import_module("src.utils.merge_utils")
        oracle = f"prateeky2806/ties-merging {commit(root)}"
        for density in (0.2, 0.5):
            out = module.merge_methods(
                "topk",
                torch.stack([flat(d) for d in deltas]),
                reset_thresh=density,
                resolve_method="mass",
                merge_func="dis-mean",
            )
            record(
                f"ties_{density}",
                oracle,
                "src.utils.merge_utils.merge_methods",
                unflat(out),
                scope="tree",
                density=density,
                notes=[
                    "keeps int(density * n) + 1 entries of the whole flattened model",
                    "a zero sum takes the sign of the sum of all elected signs",
                ],
            )


def record_tall_masks(record, base, experts, deltas, root):
    with authors(root, "wandb"):
        sys.modules["src.utils"] = package = types.ModuleType("src.utils")
        package.__path__ = [str(root / "src" / "utils")]
        module = importlib.import_module("src.utils.tallmask_utils")
        oracle = f"nik-dim/tall_masks {commit(root)}"
        stacked = torch.stack([flat(d) for d in deltas])
        checks = torch.stack([flat(e) for e in experts])
        for strength in (0.4, 1.0):
            masks = module.generate_task_masks(
                stacked, checks, flat(base), tall_mask_lambda=strength
            )
            out = {
                f"mask/{t}/{k}": v.to(torch.uint8)
                for t, mask in enumerate(masks)
                for k, v in unflat(mask).items()
            }
            record(
                f"tall_masks_{strength}",
                oracle,
                "src.utils.tallmask_utils.generate_task_masks",
                out,
                tall_mask_lambda=strength,
                notes=[
                    "expert t is base + mask/t * sum of the deltas",
                    "FusionBench's TallMaskTaskArithmeticAlgorithm compares the base's "
                    "weights with the task vectors instead, so it is not recorded",
                ],
            )
            module.load_tall_mask = lambda *_, m=masks: {
                str(t): unflat(mask.float()) for t, mask in enumerate(m)
            }
            for least in (1, 2, 3):
                kept = module.construct_consensus_mask(base, least, None, [])
                record(
                    f"consensus_{strength}_{least}",
                    oracle,
                    "src.utils.tallmask_utils.construct_consensus_mask",
                    unflat(stacked.sum(0) * kept),
                    tall_mask_lambda=strength,
                    prun_thre_k=least,
                    notes=["the sum of the deltas times the consensus mask"],
                )


def record_dare(record, deltas, root):
    bernoulli, drawn = torch.bernoulli, []

    def remember(p, *args, **kwargs):
        drawn.append(bernoulli(p, *args, **kwargs))
        return drawn[-1]

    with authors(root, "utils", "utils.utils"):
        sys.modules["utils.utils"].get_param_names_to_merge = None
        module = importlib.import_module("model_merging_methods.mask_weights_utils")
        mask = module.mask_input_with_mask_rate
        torch.manual_seed(7)
        torch.bernoulli = remember
        for rate, strategy in ((0.6, "random"), (0.9, "random"), (0.5, "magnitude")):
            out = {}
            for t, delta in enumerate(deltas):
                for k, v in delta.items():
                    drawn.clear()
                    out[f"{t}/{k}"] = mask(v, rate, True, strategy)
                    if drawn:
                        out[f"mask/{t}/{k}"] = 1 - drawn[0].to(torch.uint8)
            record(
                f"dare_{strategy}_{rate}",
                f"yule-BUAA/MergeLM {commit(root)}",
                "model_merging_methods.mask_weights_utils.mask_input_with_mask_rate",
                out,
                frame="delta of each expert; mask is 1 where kept",
                mask_rate=rate,
                mask_strategy=strategy,
                notes=["divides by 1 - mask_rate"],
            )
        torch.bernoulli = bernoulli


def write(record, folder):
    """The recordings of a folder whose inputs are those of `research`."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(record.tensors, folder / "tensors.safetensors")
    versions = {p: version(p) for p in ("torch", "numpy")}
    about = {
        "versions": versions | {"python": platform.python_version()},
        "num_experts": EXPERTS,
        "cases": record.cases,
    }
    (folder / "recorded.json").write_text(json.dumps(about, indent=1) + "\n")


def main(sources):
    torch.set_num_threads(1)
    base, experts, fisher, grams = inputs()
    deltas = [{k: e[k] - base[k] for k in SHAPES} for e in experts]
    record = Record()
    with contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        record_fusion_bench(record, base, experts, deltas, fisher, grams)
        record_ties_authors(record, deltas, sources / "ties-merging")
        record_tall_masks(record, base, experts, deltas, sources / "tall_masks")
        record_dare(record, deltas, sources / "MergeLM")
    tensors = {f"base/{k}": v for k, v in base.items()}
    for kind, trees in (("expert", experts), ("fisher", fisher), ("gram", grams)):
        for t, tree in enumerate(trees):
            tensors |= {f"{kind}/{t}/{k}": v for k, v in tree.items()}
    FOLDER.mkdir(parents=True, exist_ok=True)
    save_file(tensors | record.tensors, FOLDER / "tensors.safetensors")
    packages = ("fusion-bench", "torch", "numpy")
    about = {
        "versions": {p: version(p) for p in packages}
        | {"python": platform.python_version()},
        "num_experts": EXPERTS,
        "random_seed": 7,
        "cases": record.cases,
    }
    (FOLDER / "recorded.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sources", required=True, type=Path)
    main(parser.parse_args().sources)
