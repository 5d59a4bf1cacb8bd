"""Records PCB-Merging and LiNeS by their authors' code.

    python record_agreement.py --sources DIR

The environment, DIR and the inputs are those of `record_research.py`. Of either file
only the functions are run, for what surrounds them trains and evaluates. None of the
oracles' code is copied.
"""

import __future__

import argparse
import ast
import contextlib
import copy
import io
import types
from pathlib import Path

import numpy as np
import torch
from record_research import EXPERTS, Record, commit, flat, inputs, unflat, write

FOLDER = Path(__file__).parents[1] / "fixtures" / "agreement"
# LiNeS finds blocks by ".INDEX." in a name; what is in none of them keeps its name.
BLOCKS = {"square.weight": 0, "tall.weight": 1, "thin.weight": 2, "wide.weight": 3}


def functions(path):
    """The functions of a file, run in a namespace of their own."""
    tree = ast.parse(path.read_text())
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    namespace = types.SimpleNamespace(torch=torch, np=np, copy=copy)
    flags = (
        __future__.annotations.compiler_flag
    )  # some name types that are not imported here
    exec(compile(tree, str(path), "exec", flags), vars(namespace))
    return namespace


def record_competition(record, deltas, root):
    oracle = f"duguodong7/pcb-merging {commit(root)}"
    code = functions(root / "pcb-merging.py")
    for ratio in (0.05, 0.1, 0.5):
        merged, _, _ = code.PCB_merge(torch.stack([flat(d) for d in deltas]), ratio)
        record(
            f"pcb_{ratio:g}",
            oracle,
            "pcb-merging.PCB_merge",
            unflat(merged),
            ratio=ratio,
            notes=["of the whole model as one vector, tensors by name; lambda is 1"],
        )


def record_depth(record, deltas, root):
    oracle = f"wang-kee/LiNeS {commit(root)}"
    code = functions(root / "src" / "eval" / "eval.py")
    name = lambda k: f"blocks.{BLOCKS[k]}.{k}" if k in BLOCKS else k
    total = {k: sum(d[k] for d in deltas) for k in deltas[0]}
    vector = types.SimpleNamespace(vector={name(k): x for k, x in total.items()})
    for alpha, beta in ((1 / EXPERTS, 0.5), (0.25, 0.75)):
        scaled = code.LiNeS_scaling(vector, alpha, beta, len(BLOCKS)).vector
        record(
            f"lines_{beta:g}",
            oracle,
            "src.eval.eval.LiNeS_scaling",
            {k: scaled[name(k)] for k in total},
            alpha=alpha,
            beta=beta,
            blocks=BLOCKS,
            notes=["of the sum of the deltas, in tensors named blocks.INDEX.NAME"],
        )


def main(sources):
    torch.set_num_threads(1)
    base, experts, _, _ = inputs()
    deltas = [{k: e[k] - base[k] for k in base} for e in experts]
    record = Record()
    with contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        record_competition(record, deltas, sources / "pcb-merging")
        record_depth(record, deltas, sources / "LiNeS")
    write(record, FOLDER)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sources", required=True, type=Path)
    main(parser.parse_args().sources)
