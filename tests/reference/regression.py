"""Means weighted by statistics, from the papers, in NumPy float64."""

import numpy as np

from tests.reference.methods import deltas_of


def fisher(base, experts, fishers, floor=1e-6):
    base, deltas = deltas_of(base, experts)
    counted = [np.maximum(f, floor) for f in fishers]
    total = sum(f * d for f, d in zip(counted, deltas, strict=True))
    return base + total / sum(counted)


def regmean(base, experts, grams, off_diagonal=0.9):
    base, deltas = deltas_of(base, experts)
    if base.ndim != 2:
        return base + sum(deltas) / len(deltas)
    scaled = [
        off_diagonal * g + (1 - off_diagonal) * np.diag(np.diag(g)) for g in grams
    ]
    left = sum(d @ g for d, g in zip(deltas, scaled, strict=True))
    return base + left @ np.linalg.inv(sum(scaled))


def lot(base, experts, grams):
    base, deltas = deltas_of(base, experts)
    if base.ndim == 1:
        total = sum(g * d for g, d in zip(grams, deltas, strict=True))
        return base + total / sum(grams)
    if base.ndim != 2:
        return base + sum(deltas) / len(deltas)
    right = sum(g @ d.T for g, d in zip(grams, deltas, strict=True))
    return base + (np.linalg.pinv(sum(grams)) @ right).T


def cat(base, experts, grams, directions=1, trade_off=0.5):
    base, deltas = deltas_of(base, experts)
    if base.ndim not in (1, 2):
        return base + sum(deltas)
    as_matrix = lambda x: np.diag(x) if base.ndim == 1 else x
    ds, gs = [as_matrix(d) for d in deltas], [as_matrix(g) for g in grams]
    bases = []
    for k in range(len(ds)):
        others = [i for i in range(len(ds)) if i != k]
        conflict = sum(ds[i] @ (gs[k] - trade_off * gs[i]) @ ds[i].T for i in others)
        values, vectors = np.linalg.eigh(conflict)
        chosen = np.argsort(-values, kind="stable")[:directions]
        bases.append(vectors[:, chosen[values[chosen] > 0]])
    total = np.zeros_like(ds[0])
    for i, d in enumerate(ds):
        span = np.hstack([b for k, b in enumerate(bases) if k != i])
        total += d - span @ np.linalg.pinv(span) @ d
    return base + (np.diag(total) if base.ndim == 1 else total)


def actmat(base, experts):
    base, deltas = deltas_of(base, experts)
    if base.ndim != 2:
        return base + sum(deltas) / len(deltas)
    left = sum(d @ d.T @ d for d in deltas)
    return base + left @ np.linalg.pinv(sum(d.T @ d for d in deltas))


def esm(base, experts, grams):
    base, deltas = deltas_of(base, experts)
    if base.ndim != 2:
        return base + sum(deltas) / len(deltas)
    k = max(1, base.shape[0] // len(deltas))
    left, right = [], []
    for d, g in zip(deltas, grams, strict=True):
        values, vectors = np.linalg.eigh(d @ g @ d.T)
        values, vectors = values[::-1][:k], vectors[:, ::-1][:, :k]
        soft = (values / values.mean()) ** 0.15
        soft = soft / soft.mean()
        left.append(vectors * soft)
        right.append((vectors * soft).T @ d * np.sum(d**2))
    right = np.concatenate(right) / np.mean([np.linalg.norm(d) for d in deltas]) ** 2
    columns = np.linalg.norm(right, axis=0)
    right = right * (columns / columns.mean()) ** 2
    flat = []
    for x in (np.concatenate(left, axis=1), right):
        u, s, vt = np.linalg.svd(x, full_matrices=False)
        flat.append(s.mean() * u @ vt)
    return base + 2 * flat[0] @ flat[1]


def default(base, experts, ridge=1.0):
    base, deltas = deltas_of(base, experts)
    merged = mean = sum(deltas) / len(deltas)
    if base.ndim == 2:
        size = base.shape[1]
        grams = [
            size * d.T @ d / max(np.sum(d * d), 1e-300) + ridge * np.eye(size)
            for d in deltas
        ]
        left = sum(d @ g for d, g in zip(deltas, grams, strict=True))
        merged = left @ np.linalg.inv(sum(grams))
    typical = np.sqrt(np.mean([np.sum(d * d) for d in deltas]))
    wanted = np.sqrt(np.linalg.norm(mean) * typical)
    return base + merged * wanted / max(np.linalg.norm(merged), 1e-300)
