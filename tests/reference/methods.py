"""Each method in plain NumPy float64, one tensor at a time, written from its paper.

Every function takes `base` and `experts` (arrays of one shape) and returns the merged
array. They look like the equations; speed is no concern.
"""

import numpy as np


def deltas_of(base, experts):
    base = np.asarray(base, np.float64)
    return base, [np.asarray(x, np.float64) - base for x in experts]


def keep_largest(delta, density):
    """The int(density * n) largest magnitudes; ties by lowest index."""
    k = int(density * delta.size)
    if density >= 1:
        return delta
    order = np.argsort(-np.abs(delta).ravel(), kind="stable")
    kept = np.zeros(delta.size)
    kept[order[:k]] = delta.ravel()[order[:k]]
    return kept.reshape(delta.shape)


def average(base, experts, weights=None):
    weights = np.ones(len(experts)) if weights is None else np.asarray(weights)
    total = sum(
        w * np.asarray(x, np.float64) for w, x in zip(weights, experts, strict=True)
    )
    return total / weights.sum()


def task_arithmetic(base, experts, scale=0.3, weights=None):
    base, deltas = deltas_of(base, experts)
    weights = np.ones(len(experts)) if weights is None else np.asarray(weights)
    return base + scale * sum(w * d for w, d in zip(weights, deltas, strict=True))


def elected_mean(deltas, weights, vote, divisor):
    up = vote >= 0
    merged, share = np.zeros(vote.shape), np.zeros(vote.shape)
    for w, d in zip(weights, deltas, strict=True):
        agrees = np.where(up, d > 0, d < 0)
        merged += np.where(agrees, w * d, 0)
        share += agrees * (w if divisor == "weight" else 1.0)
    return merged / np.where(share == 0, 1, share)


def ties(base, experts, density=0.2, scale=1.0):
    base, deltas = deltas_of(base, experts)
    deltas = [keep_largest(d, density) for d in deltas]
    ones = np.ones(len(deltas))
    return base + scale * elected_mean(deltas, ones, sum(deltas), "count")


def ties_tree(base, experts, density=0.2, scale=1.0):
    """TIES with one threshold per expert over the whole model (a dict of tensors)."""
    deltas = [
        {k: np.float64(x[k]) - np.float64(base[k]) for k in base} for x in experts
    ]
    trimmed = []
    for delta in deltas:
        flat = np.sort(np.abs(np.concatenate([d.ravel() for d in delta.values()])))
        threshold = flat[flat.size - int(density * flat.size)]
        trimmed.append(
            {k: np.where(np.abs(d) >= threshold, d, 0) for k, d in delta.items()}
        )
    ones = np.ones(len(experts))
    return {
        k: np.float64(base[k])
        + scale
        * elected_mean(
            [d[k] for d in trimmed], ones, sum(d[k] for d in trimmed), "count"
        )
        for k in base
    }


def magnitude_prune(base, experts, density=0.2, scale=1.0):
    base, deltas = deltas_of(base, experts)
    return base + scale * sum(keep_largest(d, density) for d in deltas)


def dare(base, experts, uniforms, density=0.1, consensus="linear"):
    """`uniforms[t]`: expert t's entries are kept where they are below the density."""
    base, deltas = deltas_of(base, experts)
    deltas = [
        np.where(u < np.float32(density), d, 0) / density
        for u, d in zip(uniforms, deltas, strict=True)
    ]
    if consensus == "linear":
        return base + sum(deltas)
    agreeing = elected_mean(deltas, np.ones(len(deltas)), sum(deltas), "count")
    counts = sum(np.where(sum(deltas) >= 0, d > 0, d < 0) for d in deltas)
    return base + agreeing * np.where(counts == 0, 1, counts)


def slerp(base, experts, t=0.5):
    first, second = (np.asarray(x, np.float64).ravel() for x in experts)
    norms = np.linalg.norm(first) * np.linalg.norm(second)
    cosine = first @ second / norms
    if abs(cosine) > 0.9995:
        return ((1 - t) * first + t * second).reshape(np.shape(experts[0]))
    angle = np.arccos(cosine)
    merged = np.sin((1 - t) * angle) * first + np.sin(t * angle) * second
    return (merged / np.sin(angle)).reshape(np.shape(experts[0]))


def model_stock(base, experts):
    base, deltas = deltas_of(base, experts)
    num = len(deltas)
    cosines = [
        np.sum(deltas[i] * deltas[j])
        / (np.linalg.norm(deltas[i]) * np.linalg.norm(deltas[j]))
        for i in range(num)
        for j in range(i)
    ]
    cosine = np.mean(cosines)
    ratio = num * cosine / (1 + (num - 1) * cosine)
    return base + ratio * sum(deltas) / num


def consensus(base, experts, threshold=0.4, min_tasks=2, scale=0.3):
    base, deltas = deltas_of(base, experts)
    total = sum(deltas)
    needed = sum(np.abs(d) >= threshold * np.abs(total - d) for d in deltas)
    return base + scale * np.where(needed >= min_tasks, total, 0)


def emr(base, experts):
    """The models of all tasks, from dicts of tensors."""
    deltas = [
        {k: np.float64(x[k]) - np.float64(base[k]) for k in base} for x in experts
    ]
    unified = {}
    for k in base:
        total = sum(d[k] for d in deltas)
        stack = np.stack([d[k] for d in deltas])
        agree = np.where(total > 0, stack > 0, stack < 0)
        sign = np.where(total > 0, 1, -1)
        unified[k] = sign * np.max(np.where(agree, np.abs(stack), 0), axis=0)
    models = []
    for delta in deltas:
        masked = {k: np.where(delta[k] * unified[k] > 0, unified[k], 0) for k in base}
        above = sum(np.sum(np.abs(delta[k])) for k in base)
        below = sum(np.sum(np.abs(masked[k])) for k in base)
        models.append(
            {k: np.float64(base[k]) + above / below * masked[k] for k in base}
        )
    return models


def isotropic(base, experts, scale=1.0):
    base, deltas = deltas_of(base, experts)
    total = sum(deltas)
    if total.ndim != 2:
        return base + scale * total / len(deltas)
    u, s, vt = np.linalg.svd(total, full_matrices=False)
    return base + scale * np.mean(s) * (u @ vt)


def rht(base, experts, density=0.7, weights=None, divisor=None):
    base, deltas = deltas_of(base, experts)
    divisor = density if divisor is None else divisor
    weights = np.ones(len(experts)) if weights is None else np.asarray(weights, float)
    weights = weights / weights.sum()
    kept = [keep_largest(d, density) / (divisor if density < 1 else 1) for d in deltas]
    return base + elected_mean(kept, weights, sum(kept), "count")


def polar(matrix):
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    keep = s > 1e-6 * max(s.max(initial=0), 1e-300)
    return u[:, keep] @ vt[keep]


def tsv_m(base, experts, scale=1.0):
    base, deltas = deltas_of(base, experts)
    if base.ndim != 2:
        return base + scale * sum(deltas) / len(deltas)
    k = max(1, min(base.shape) // len(deltas))
    parts = [np.linalg.svd(d, full_matrices=False) for d in deltas]
    left = polar(np.hstack([u[:, :k] for u, _, _ in parts]))
    right = polar(np.hstack([vt[:k].T for _, _, vt in parts]))
    values = np.concatenate([s[:k] for _, s, _ in parts])
    return base + scale * left @ np.diag(values) @ right.T


def tsv_c(base, experts, share=None, scale=1.0):
    base, deltas = deltas_of(base, experts)
    if base.ndim != 2:
        return base + scale * sum(deltas)
    rank = min(base.shape)
    k = rank // len(deltas) if share is None else int(np.floor(share * rank + 1e-6))
    total = np.zeros_like(base)
    for d in deltas:
        u, s, vt = np.linalg.svd(d, full_matrices=False)
        s[max(1, k) :] = 0
        total += u @ np.diag(s) @ vt
    return base + scale * total


def dc_merge(base, experts, density=1e-3, scale=1.0):
    base, deltas = deltas_of(base, experts)
    if base.ndim != 2:
        return base + scale * sum(deltas) / len(deltas)
    num = len(deltas)
    k = max(1, min(base.shape) // num)
    parts = [np.linalg.svd(d, full_matrices=False) for d in deltas]
    left = polar(np.hstack([u[:, :k] for u, _, _ in parts]))
    right = polar(np.hstack([vt[:k].T for _, _, vt in parts]))
    kept = max(1, int(density * (num * k) ** 2))
    voters = []
    for u, s, vt in parts:
        matrix = left.T @ u[:, :k] @ np.diag(s[:k]) @ vt[:k] @ right
        voters.append(keep_largest(matrix, (kept + 0.5) / matrix.size))
    elected = elected_mean(voters, np.ones(num), sum(voters), "count")
    blocks = np.kron(np.eye(num), np.ones((k, k)))
    return base + scale * left @ (elected * blocks) @ right.T


def knots(base, experts, density=0.2, scale=1.0):
    base, deltas = deltas_of(base, experts)
    if base.ndim != 2:
        return ties(base, [base + d for d in deltas], density, scale)
    u, s, vt = np.linalg.svd(np.hstack(deltas), full_matrices=False)
    keep = s > 1e-4 * s[0]
    parts = np.split(np.diag(s[keep]) @ vt[keep], len(deltas), axis=1)
    parts = [keep_largest(p, density) for p in parts]
    merged = elected_mean(parts, np.ones(len(parts)), sum(parts), "count")
    return base + scale * u[:, keep] @ merged


def iso_cts(base, experts, common=0.8, scale=1.0):
    base, deltas = deltas_of(base, experts)
    if base.ndim != 2:
        return base + scale * sum(deltas) / len(deltas)
    rank, num = min(base.shape), len(deltas)
    own = round((rank - int(common * rank)) / num)
    u, s, vt = np.linalg.svd(sum(deltas), full_matrices=False)
    kept = rank - num * own
    lefts, values, rights = [u[:, :kept]], [s[:kept]], [vt[:kept].T]
    for d in deltas:
        rest = d - u[:, :kept] @ u[:, :kept].T @ d
        own_u, own_s, own_vt = np.linalg.svd(rest, full_matrices=False)
        lefts.append(own_u[:, :own])
        values.append(own_s[:own])
        rights.append(own_vt[:own].T)
    mean = np.concatenate(values).mean()
    return base + scale * mean * polar(np.hstack(lefts)) @ polar(np.hstack(rights)).T


def _wudi_sums(deltas):
    sizes = [max(np.sum(d**2), 1e-300) for d in deltas]
    kernel = sum(d.T @ d / n for d, n in zip(deltas, sizes, strict=True))
    target = sum(d @ d.T @ d / n for d, n in zip(deltas, sizes, strict=True))
    return kernel, target, sum(deltas)


def wudi(base, experts, learning_rate=1e-5, steps=300, scale=1.0):
    base, deltas = deltas_of(base, experts)
    if base.ndim != 2:
        return base + scale * sum(deltas) / len(deltas)
    m, first, second = sum(deltas), 0.0, 0.0
    for count in range(1, steps + 1):
        # The gradient of sum_t |(m - d_t) d_t^T|^2 / |d_t|^2, task by task.
        gradient = sum(2 * (m - d) @ d.T @ d / np.sum(d**2) for d in deltas)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        size = np.sqrt(second / (1 - 0.999**count)) + 1e-8
        m = m - learning_rate * first / (1 - 0.9**count) / size
    return base + scale * m


def swudi(base, experts, time=300.0, share=0.65, scale=1.0):
    base, deltas = deltas_of(base, experts)
    if base.ndim != 2:
        return base + scale * sum(deltas) / len(deltas)
    kernel, target, total = _wudi_sums(deltas)
    values, vectors = np.linalg.eigh(kernel)
    values, vectors = values[::-1], vectors[:, ::-1]
    kept = np.arange(len(values)) < np.ceil(share * len(values))
    f = np.where(kept, 1 - np.exp(-time * values), 0.0)
    removed = total @ vectors @ np.diag(f) @ vectors.T
    inverse = f / np.maximum(values, 1e-8)
    solved = target @ vectors @ np.diag(inverse) @ vectors.T
    return base + scale * (total - removed + solved)


def magmax(base, experts, scale=0.5):
    base, deltas = deltas_of(base, experts)
    stacked = np.stack(deltas)
    first = np.argmax(np.abs(stacked), axis=0)
    return base + scale * np.take_along_axis(stacked, first[None], axis=0)[0]


def svc(base, experts, scale=0.3, floor=None):
    base, deltas = deltas_of(base, experts)
    total = scale * sum(deltas)
    if base.ndim != 2:
        return base + total
    floor = 1 / len(deltas) if floor is None else floor
    u, s, vt = np.linalg.svd(total, full_matrices=False)
    for r in range(len(s)):
        shares = []
        for d in deltas:
            row = u[:, r] @ d
            square = row @ row
            share = (u[:, r] @ total) @ row / square if square > 0 else 0.0
            shares.append(max(floor, share))
        s[r] *= len(deltas) / sum(shares)
    return base + u @ np.diag(s) @ vt


def subspace_boosting(base, experts, share=0.01, scale=0.3):
    base, deltas = deltas_of(base, experts)
    total = sum(deltas)
    if base.ndim != 2:
        return base + scale * total
    u, s, vt = np.linalg.svd(total, full_matrices=False)
    j = np.argmax(np.cumsum(s) >= share * s.sum())
    return base + scale * u @ np.diag(np.maximum(s, s[j])) @ vt


def ace(base, experts, **options):
    base, deltas = deltas_of(base, experts)
    return base + ace_delta(deltas, **options)


def ace_delta(d, eps=1e-5, tau=0.3, k_frac=0.3, variant="paper"):
    """ACE with its dense, non-symmetric inverse; the released form centres in B."""
    released, num = variant == "released", len(d)
    if d[0].ndim != 2:
        return sum(d) / num
    logs = np.array([np.log(np.sum(x**2) + 1e-12) for x in d])
    variance = np.var(logs, ddof=1 if released and num > 1 else 0)
    on = variance / (logs.mean() ** 2 + 1e-12) > tau
    c = [x - x.mean(axis=0) for x in d]
    sigma = [x.T @ x for x in c]
    norm = [np.trace(s) + 1e-12 if on else 1.0 for s in sigma]
    scaled = [s / n for s, n in zip(sigma, norm, strict=True)]
    identity = np.eye(d[0].shape[1])
    ridged = [s + eps / n * identity for s, n in zip(scaled, norm, strict=True)]
    prior = np.mean(sum(scaled), axis=0)
    if on and released:
        prior /= np.mean([np.sum(x**2) for x in d]) + 1e-12
    left = sum(x @ p for x, p in zip(c if released else d, ridged, strict=True))
    merged = left @ np.linalg.inv(sum(ridged) + np.ones_like(identity) * prior)
    if not on:
        return merged
    mean = sum(ridged if released else scaled) / num
    residual = sum(x @ (s - mean) for x, s in zip(d, scaled, strict=True))
    u, s, vt = np.linalg.svd(residual + merged, full_matrices=False)
    k = int(k_frac * len(s))
    return merged + (np.mean(s[:k]) if k else 0.0) * u[:, :k] @ vt[:k]
