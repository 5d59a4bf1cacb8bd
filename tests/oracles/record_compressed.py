"""Records TSV-Compress by its authors' code, and ACTMat by an independent port.

    python record_compressed.py --sources DIR

The environment, DIR and the inputs are those of `record_research.py`. None of the
oracles' code is copied.
"""

import argparse
import sys
import types
from pathlib import Path

import torch
from record_research import EXPERTS, Record, authors, commit, inputs, write

FOLDER = Path(__file__).parents[1] / "fixtures" / "compressed"


def record_compression(record, deltas, root):
    with authors(root, "wandb"):
        from src.utils.TSVC_utils import compress_tv

    vectors = {str(t): types.SimpleNamespace(vector=d) for t, d in enumerate(deltas)}
    kept = compress_tv(vectors, 1 / EXPERTS)

    def task(t, name):
        part = kept[t][name]
        if "dim1" in part:
            return part["dim1"]
        return part["u"] @ torch.diag(part["s"]) @ part["v"]

    record(
        "tsvc",
        f"AntoAndGar/task_singular_vectors {commit(root)}",
        "src.utils.TSVC_utils.compress_tv",
        {f"{t}/{name}": task(t, name) for t in vectors for name in deltas[0]},
        notes=["each task by itself; a third of the directions, rounded down"],
    )


def record_covariances(record, deltas, root):
    sys.path.insert(0, str(root / "src"))
    from merge_and_rebase.merge.methods.functional.actmerge import actmerge_impl

    for case, weights in (("actmat", [1.0, 1.0, 1.0]), ("actmat_w", [1.0, 2.0, 0.5])):
        merged = {
            name: actmerge_impl([d[name] for d in deltas], torch.tensor(weights), {})
            for name in deltas[0]
        }
        record(
            case,
            f"apanariello4/merge-and-rebase {commit(root)}",
            "merge_and_rebase.merge.methods.functional.actmerge.actmerge_impl",
            merged,
            weights=weights,
            notes=["in float64, by a pseudo-inverse"],
        )


def main(sources):
    torch.set_num_threads(1)
    base, experts, _, _ = inputs()
    deltas = [{k: e[k] - base[k] for k in base} for e in experts]
    record = Record()
    with torch.no_grad():
        record_compression(record, deltas, sources / "task_singular_vectors")
        record_covariances(record, deltas, sources / "merge-and-rebase")
    write(record, FOLDER)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sources", required=True, type=Path)
    main(parser.parse_args().sources)
