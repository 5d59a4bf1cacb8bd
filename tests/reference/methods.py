"""Each method in plain NumPy float64, one tensor at a time, written from its paper.

Every function takes `base` and `experts` (arrays of one shape) and returns the merged
array. They look like the equations; speed is no concern.
"""

import numpy as np


def _deltas(base, experts):
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
    base, deltas = _deltas(base, experts)
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
    base, deltas = _deltas(base, experts)
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
    base, deltas = _deltas(base, experts)
    return base + scale * sum(keep_largest(d, density) for d in deltas)


def dare(base, experts, uniforms, density=0.1, consensus="linear"):
    """`uniforms[t]`: expert t's entries are kept where they are below the density."""
    base, deltas = _deltas(base, experts)
    deltas = [
        np.where(u < np.float32(density), d, 0) / density
        for u, d in zip(uniforms, deltas, strict=True)
    ]
    if consensus == "linear":
        return base + sum(deltas)
    agreeing = elected_mean(deltas, np.ones(len(deltas)), sum(deltas), "count")
    counts = sum(np.where(sum(deltas) >= 0, d > 0, d < 0) for d in deltas)
    return base + agreeing * np.where(counts == 0, 1, counts)


def breadcrumbs(base, experts, density=0.1, gamma=0.01, scale=0.3):
    base, deltas = _deltas(base, experts)
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
    base, deltas = _deltas(base, experts)
    kept = []
    for d, u in zip(deltas, uniforms, strict=True):
        p = probabilities_by_rank(d, density, epsilon)
        kept.append(np.where(u < p, d / p, 0))
    return base + scale * elected_mean(kept, np.ones(len(kept)), sum(kept), "count")


def slerp(base, experts, t=0.5):
    first, second = (np.asarray(x, np.float64).ravel() for x in experts)
    norms = np.linalg.norm(first) * np.linalg.norm(second)
    cosine = first @ second / norms
    if abs(cosine) > 0.9995:
        return ((1 - t) * first + t * second).reshape(np.shape(experts[0]))
    angle = np.arccos(cosine)
    merged = np.sin((1 - t) * angle) * first + np.sin(t * angle) * second
    return (merged / np.sin(angle)).reshape(np.shape(experts[0]))


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
    base, (first, second) = _deltas(base, experts)
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
    base, deltas = _deltas(base, experts)
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


def nearswap(base, experts, t=1e-4):
    base, (delta,) = _deltas(base, experts)
    share = np.clip(t / np.maximum(np.abs(delta), 1e-6), 0, 1)
    return base + share * delta


def arcee_fusion(base, experts):
    base, (delta,) = _deltas(base, experts)
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
    base, deltas = _deltas(base, experts)
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
    base, deltas = _deltas(base, experts)
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


def model_stock(base, experts):
    base, deltas = _deltas(base, experts)
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
    base, deltas = _deltas(base, experts)
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
    base, deltas = _deltas(base, experts)
    total = sum(deltas)
    if total.ndim != 2:
        return base + scale * total / len(deltas)
    u, s, vt = np.linalg.svd(total, full_matrices=False)
    return base + scale * np.mean(s) * (u @ vt)


def rht(base, experts, density=0.7, weights=None, divisor=None):
    base, deltas = _deltas(base, experts)
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
    base, deltas = _deltas(base, experts)
    if base.ndim != 2:
        return base + scale * sum(deltas) / len(deltas)
    k = max(1, min(base.shape) // len(deltas))
    parts = [np.linalg.svd(d, full_matrices=False) for d in deltas]
    left = polar(np.hstack([u[:, :k] for u, _, _ in parts]))
    right = polar(np.hstack([vt[:k].T for _, _, vt in parts]))
    values = np.concatenate([s[:k] for _, s, _ in parts])
    return base + scale * left @ np.diag(values) @ right.T


def dc_merge(base, experts, density=1e-3, scale=1.0):
    base, deltas = _deltas(base, experts)
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
    base, deltas = _deltas(base, experts)
    if base.ndim != 2:
        return ties(base, [base + d for d in deltas], density, scale)
    u, s, vt = np.linalg.svd(np.hstack(deltas), full_matrices=False)
    keep = s > 1e-4 * s[0]
    parts = np.split(np.diag(s[keep]) @ vt[keep], len(deltas), axis=1)
    parts = [keep_largest(p, density) for p in parts]
    merged = elected_mean(parts, np.ones(len(parts)), sum(parts), "count")
    return base + scale * u[:, keep] @ merged


def iso_cts(base, experts, common=0.8, scale=1.0):
    base, deltas = _deltas(base, experts)
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
    base, deltas = _deltas(base, experts)
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
    base, deltas = _deltas(base, experts)
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
    base, deltas = _deltas(base, experts)
    stacked = np.stack(deltas)
    first = np.argmax(np.abs(stacked), axis=0)
    return base + scale * np.take_along_axis(stacked, first[None], axis=0)[0]


def svc(base, experts, scale=0.3, floor=None):
    base, deltas = _deltas(base, experts)
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
    base, deltas = _deltas(base, experts)
    total = sum(deltas)
    if base.ndim != 2:
        return base + scale * total
    u, s, vt = np.linalg.svd(total, full_matrices=False)
    j = np.argmax(np.cumsum(s) >= share * s.sum())
    return base + scale * u @ np.diag(np.maximum(s, s[j])) @ vt


def ace(base, experts, **options):
    base, deltas = _deltas(base, experts)
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
