"""The bound of `jaxmerge.stability` in NumPy and float64, with loops."""

import numpy as np


def recursions(rate, batch, steps, samples, noise, gradient_norm, smoothness, convex):
    """The mean of d_k, d_K and delta_K of one expert."""
    growth = (1 + 1 / steps) * (1.0 if convex else (1 + rate * smoothness) ** 2)
    drift = total = stability = 0.0
    for _ in range(int(steps)):
        square = noise + 2 * gradient_norm + 2 * smoothness**2 * drift
        total += drift
        stability = growth * stability + (
            4 * rate**2 / (batch * samples) * (1 + batch * steps / samples) * square
        )
        drift = growth * drift + (
            (1 + steps) * rate**2 * gradient_norm + rate**2 * noise / batch
        )
    return total / steps, drift, stability


def bound(spec, stats, alphas, weights, convex=False):
    """All terms, by name; every argument an array or number in float64."""
    num = len(weights)
    rows = [np.broadcast_to(x, num) for x in (*spec, stats["noise"], stats["norms"])]
    smoothness = stats["smoothness"]
    found = [recursions(*row, smoothness, convex) for row in zip(*rows, strict=True)]
    drifts, _, stabilities = np.array(found).T
    rate, batch, steps, _, noise, norms = rows
    length = np.sum(alphas * rate * steps)
    shares = alphas * rate * steps / length if length else weights
    chi_squared = np.sum((weights - shares) ** 2 / weights)
    terms = {
        "start_gap": stats["gap"],
        "descent": -length / 2 * stats["gradient"],
        "training_heterogeneity": length * chi_squared * stats["heterogeneity"],
        "drift": length * smoothness**2 * np.sum(shares * drifts),
        "noise": smoothness * np.sum(alphas**2 * rate**2 * steps * noise / batch),
        "long_step": max(smoothness * length**2 - length / 2, 0)
        * np.sum(shares * (2 * norms + 2 * smoothness**2 * drifts)),
    }
    optimisation = sum(terms.values())
    gradient_square = 2 * smoothness * max(optimisation, 0)
    gradient_square += stats["merged"] + np.sum(weights * noise)
    stability_square = np.sum(weights * alphas**2 * stabilities)
    terms["stability"] = np.sqrt(gradient_square * stability_square)
    terms["stability_squared"] = smoothness * stability_square / 2
    terms["optimisation"] = optimisation
    terms["total"] = optimisation + terms["stability"] + terms["stability_squared"]
    return terms
