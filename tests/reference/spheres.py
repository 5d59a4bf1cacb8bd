"""Means of directions in plain NumPy float64, as they are published."""

import numpy as np

from tests.reference.methods import deltas_of


def _arc(t, first, second):
    first, second = np.ravel(first), np.ravel(second)
    norms = np.linalg.norm(first) * np.linalg.norm(second)
    cosine = first @ second / norms if norms > 0 else 1.0
    if abs(cosine) > 1 - 1e-6:
        return (1 - t) * first + t * second
    angle = np.arccos(cosine)
    merged = np.sin((1 - t) * angle) * first + np.sin(t * angle) * second
    return merged / np.sin(angle)


def nuslerp(base, experts, weights=(1, 1), axis=None):
    """`axis` is what is interpolated along; None for the whole tensor."""
    base, (first, second) = deltas_of(base, experts)
    t = weights[1] / (weights[0] + weights[1])
    if axis is None or base.ndim == 0:
        return base + _arc(t, first, second).reshape(base.shape)
    rows = zip(
        np.moveaxis(first, axis, -1).reshape(-1, base.shape[axis]),
        np.moveaxis(second, axis, -1).reshape(-1, base.shape[axis]),
        strict=True,
    )
    shape = np.moveaxis(base, axis, -1).shape
    merged = np.stack([_arc(t, a, b) for a, b in rows]).reshape(shape)
    return base + np.moveaxis(merged, -1, axis)


def multislerp(base, experts, weights=None):
    """As it is published: a mean in the tangent space at the mean direction."""
    base, deltas = deltas_of(base, experts)
    w = np.ones(len(deltas)) if weights is None else np.asarray(weights, float)
    w = w / w.sum()
    norms = [np.linalg.norm(d) for d in deltas]
    units = [d / n for d, n in zip(deltas, norms, strict=True)]
    mean = sum(a * u for a, u in zip(w, units, strict=True))
    mean = mean / np.linalg.norm(mean)
    tangent = sum(
        a * (u - np.sum(u * mean) * mean) for a, u in zip(w, units, strict=True)
    )
    length = np.linalg.norm(tangent) + 1e-8
    result = np.cos(length) * mean + np.sin(length) / length * tangent
    return base + np.sum(w * norms) * result


def karcher(base, experts, weights=None, max_iter=10, tol=1e-5):
    """Steps on whole tensors, as it is published."""
    models = [np.asarray(x, np.float64) for x in experts]
    w = np.ones(len(models)) if weights is None else np.asarray(weights, float)
    w = w / w.sum()
    norms = [np.linalg.norm(x) for x in models]
    units = [x / n for x, n in zip(models, norms, strict=True)]
    mean = sum(a * u for a, u in zip(w, units, strict=True))
    mean = mean / np.linalg.norm(mean)
    for _ in range(max_iter):
        tangent = np.zeros_like(mean)
        for a, u in zip(w, units, strict=True):
            cosine = np.clip(np.sum(mean * u), -1, 1)
            angle = np.arccos(cosine)
            if angle >= tol:
                tangent += a * angle / np.sin(angle) * (u - cosine * mean)
        length = np.linalg.norm(tangent)
        if length < tol:
            break
        mean = np.cos(length) * mean + np.sin(length) * tangent / length
        mean /= np.linalg.norm(mean)
    return np.sum(w * norms) * mean
