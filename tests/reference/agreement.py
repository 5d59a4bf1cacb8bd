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


def _unit_range(x):
    span = x.max() - x.min()
    return (x - x.min()) / span if span > 0 else np.zeros_like(x)


def pcb(base, experts, ratio=0.1, scale=1.2, weights=None):
    """Of one tensor; the paper's are whole models flattened."""
    base, deltas = deltas_of(base, experts)
    weights = np.ones(len(deltas)) if weights is None else weights
    n, above, below = base.size, np.zeros(base.shape), np.zeros(base.shape)
    for w, d in zip(weights, deltas, strict=True):
        ordered = np.sort(np.abs(d).ravel())
        low, high = ordered[int(n * 1e-4)], ordered[int(n * (1 - 1e-4) - 1)]
        a = np.clip(np.abs(d), low, high)
        score = np.exp(len(deltas) * _unit_range(a) ** 2) * np.tanh(d * sum(deltas))
        floor = np.sort(score.ravel())[min(int(n * (1 - ratio)), n - 1)]
        score = _unit_range(np.maximum(score, floor))
        above += w * score * np.sign(d) * a
        below += score
    return base + scale * above / np.maximum(below, 1e-12)


def tall_masks(base, experts, threshold=0.4, scale=1.0):
    """One model for each task; `base` and `experts` are dicts of tensors."""
    models = []
    for own in experts:
        model = {}
        for k in base:
            start, deltas = deltas_of(base[k], [x[k] for x in experts])
            d = np.float64(own[k]) - start
            mask = np.abs(d) >= threshold * np.abs(sum(deltas) - d)
            model[k] = start + scale * mask * sum(deltas)
        models.append(model)
    return models
