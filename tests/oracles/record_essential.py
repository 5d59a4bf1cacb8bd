"""Records ESM by its authors' code, on the Gram matrices of `research`.

    python record_essential.py --sources DIR

The environment, DIR and the inputs are those of `record_research.py`. Their function is
given inputs that have those Gram matrices. None of the oracle's code is copied.
"""

import argparse
import contextlib
import io
import types
from pathlib import Path

import torch
from record_agreement import functions
from record_research import Record, commit, inputs, write

FOLDER = Path(__file__).parents[1] / "fixtures" / "essential"
EXAMPLES = 32  # More than outputs, so that their eigenvectors are a whole basis.


def inputs_of(gram):
    """Examples `[n, in]` with this Gram matrix; most are zero."""
    values, vectors = torch.linalg.eigh(gram.double())
    rows = (vectors * values.clamp(min=0).sqrt()).T.float()
    return torch.cat([rows, torch.zeros(EXAMPLES - len(rows), rows.shape[1])])


def record_esm(record, deltas, grams, root):
    oracle = f"kiddo127/ESM {commit(root)}"
    decompose = functions(root / "ESM-ViT" / "essential_subspace_decomposition.py")
    merge = functions(root / "ESM-ViT" / "src" / "utils" / "esm_utils.py").esm_merge
    for name, kept in (("esm", None), ("esm_balanced", "mlp.c_fc.weight")):
        # Layers are of one type by their names; elsewhere none is of any.
        called = lambda k, kept=kept: f"{k}.{kept}" if kept and k in grams[0] else k
        found = {
            str(t): {
                called(k): dict(
                    zip(
                        ("eigenvalues", "eigenvectors"),
                        decompose._compute_esd(inputs_of(g) @ deltas[t][k].T),
                        strict=True,
                    )
                )
                for k, g in tree.items()
            }
            for t, tree in enumerate(grams)
        }
        vectors = {
            str(t): types.SimpleNamespace(vector={called(k): x for k, x in d.items()})
            for t, d in enumerate(deltas)
        }
        config = types.SimpleNamespace(DATASETS=list(found), device="cpu")
        merged = merge(vectors, config, None, found)
        record(
            name,
            oracle,
            "ESM-ViT.src.utils.esm_utils.esm_merge",
            {k: merged[called(k)] for k in deltas[0]},
            side="gram",
            balanced=kept is not None,
            notes=["before the scale; balanced: all matrices are layers of one type"],
        )


def main(sources):
    torch.set_num_threads(1)
    torch.Tensor.cuda = lambda self: self  # They move results to a GPU.
    base, experts, _, grams = inputs()
    deltas = [{k: e[k] - base[k] for k in base} for e in experts]
    record = Record()
    with contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        record_esm(record, deltas, grams, sources / "ESM")
    write(record, FOLDER)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sources", required=True, type=Path)
    main(parser.parse_args().sources)
