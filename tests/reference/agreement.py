"""MetaGPT, LiNeS, PCB and TALL masks in plain NumPy float64, as they are published."""

import numpy as np

from tests.reference.methods import deltas_of


def metagpt(base, experts, scale=1.0):
    """`base` and `experts` are dicts of tensors: the norms are over all of them."""
    deltas = [{k: deltas_of(base[k], [x[k]])[1][0] for k in base} for x in experts]
    squares = [sum(np.sum(d**2) for d in delta.values()) for delta in deltas]
    shares = np.array(squares) / (sum(squares) or 1.0)
    return {
        k: base[k] + scale * sum(s * d[k] for s, d in zip(shares, deltas, strict=True))
        for k in base
    }


def metagpt_leaf(base, experts, scale=1.0):
    return metagpt({"": base}, [{"": x} for x in experts], scale)[""]


def lines(base, experts, scale=0.2):
    """Of task arithmetic, in one block; `scale` is the product of both scales."""
    base, deltas = deltas_of(base, experts)
    return base + scale * sum(deltas)
