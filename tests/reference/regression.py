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


def actmat(base, experts):
    base, deltas = deltas_of(base, experts)
    if base.ndim != 2:
        return base + sum(deltas) / len(deltas)
    left = sum(d @ d.T @ d for d in deltas)
    return base + left @ np.linalg.pinv(sum(d.T @ d for d in deltas))
