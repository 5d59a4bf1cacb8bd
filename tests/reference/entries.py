"""Methods that choose entries, in plain NumPy float64, one tensor at a time."""

import numpy as np

from tests.reference.methods import deltas_of, elected_mean


def breadcrumbs(base, experts, density=0.1, gamma=0.01, scale=0.3):
    base, deltas = deltas_of(base, experts)
    left = int(density * base.size)
    top = min(int(gamma * base.size), base.size - left)
    merged = np.zeros(base.size)
    for d in deltas:
        order = np.argsort(-np.abs(d).ravel(), kind="stable")
        chosen = order[top : top + left]
        merged[chosen] += d.ravel()[chosen]
    return base + scale * merged.reshape(base.shape)


def probabilities_by_rank(delta, density, epsilon):
    rows = np.abs(delta).reshape(-1, delta.shape[-1] if delta.ndim else 1)
    ranks = np.argsort(np.argsort(rows, axis=1, kind="stable"), axis=1)
    share = ranks / (rows.shape[1] - 1) if rows.shape[1] > 1 else ranks + 0.5
    return (density - epsilon + 2 * epsilon * share).reshape(delta.shape)


def della(base, experts, uniforms, density=0.7, epsilon=0.07, scale=1.1):
    """`uniforms[t]`: expert t's entries are kept where they are below p."""
    base, deltas = deltas_of(base, experts)
    kept = []
    for d, u in zip(deltas, uniforms, strict=True):
        p = probabilities_by_rank(d, density, epsilon)
        kept.append(np.where(u < p, d / p, 0))
    return base + scale * elected_mean(kept, np.ones(len(kept)), sum(kept), "count")


def nearswap(base, experts, t=1e-4):
    base, (delta,) = deltas_of(base, experts)
    share = np.clip(t / np.maximum(np.abs(delta), 1e-6), 0, 1)
    return base + share * delta


def arcee_fusion(base, experts):
    base, (delta,) = deltas_of(base, experts)
    rows = np.atleast_1d(base)
    softmax = lambda x: np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True) + 1e-8
    p, q = softmax(rows + delta), softmax(rows)
    divergence = np.sum(p * np.log(p / q), axis=-1, keepdims=True)
    importance = (np.abs(delta) * divergence).reshape(base.shape)
    ordered = np.sort(importance.ravel())
    first, median, third = (
        ordered[int(share * (base.size - 1))] for share in (0.25, 0.5, 0.75)
    )
    return base + np.where(importance >= median + 1.5 * (third - first), delta, 0)


def ram(base, experts, threshold=1e-5, plus=False, r=0.1, alpha=0.2):
    """Unique and shared entries each for themselves, as the paper has them."""
    base, deltas = deltas_of(base, experts)
    active = [np.abs(d) > threshold for d in deltas]
    count = sum(a.astype(int) for a in active)
    merged = np.zeros(base.shape)
    for d, a in zip(deltas, active, strict=True):
        unique, shared = a & (count == 1), a & (count > 1)
        ratio = shared.sum() / max(unique.sum(), 1e-5)
        factor = 1 + r * np.clip(ratio, 0, alpha) if plus else 1.0
        merged += factor * np.where(unique, d, 0)
        merged += np.where(shared, d, 0) / np.maximum(count, 1)
    return base + merged


def sce(base, experts, select_topk=1.0):
    base, deltas = deltas_of(base, experts)
    stacked = np.stack(deltas)
    if select_topk < 1:
        variance = np.var(stacked, axis=0)
        k = int(np.count_nonzero(variance) * select_topk)
        kept = np.zeros(base.size, bool)
        kept[np.argsort(-variance.ravel(), kind="stable")[:k]] = True
        stacked = stacked * kept.reshape(base.shape)
    energy = np.array([np.mean(x**2) for x in stacked])
    up = stacked.sum(axis=0) >= 0
    agree = np.where(up, stacked > 0, stacked < 0)
    weight = energy.reshape(-1, *[1] * base.ndim) * agree
    total = weight.sum(axis=0)
    merged = (weight * stacked).sum(axis=0)
    return base + np.where(total > 0, merged / np.where(total > 0, total, 1), 0)
