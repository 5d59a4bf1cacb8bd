"""V6. "Living on the edge": does basis pursuit change at delta, for every sparsity?

A signal with s of d entries nonzero is the solution of "least l1 norm, given m random
measurements" exactly if the l1 descent cone misses a random subspace of codimension m.
So recovery changes from failure to success at m = delta, over a window of the standard
deviation of the cone's random dimension.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from scipy import optimize, stats

from experiments.theory import style
from experiments.theory.config import Config
from experiments.theory.measure import claim, frequency
from jaxmerge import geometry

NAME = "v6_sparse_recovery"
QUESTION = "Does sparse recovery change from failure to success at delta?"
DIMENSION = 100
THRESHOLD = 0.3  # of the shrinkage; 0.1 needs some 5000 iterations
TOLERANCE = 1e-2  # relative error of a signal that counts as recovered
# delta of the l1 descent cone at s of 100, by 1e5 samples, with its standard error.
KNOWN = {
    5: (19.851, 0.024),
    10: (32.337, 0.029),
    20: (50.516, 0.036),
    30: (63.877, 0.039),
    50: (82.359, 0.043),
    70: (93.303, 0.044),
}


_moments = jax.jit(geometry.projection_moments, static_argnames="num_samples")


@jax.jit
def _basis_pursuit(kernels: jax.Array, offsets: jax.Array, steps: jax.Array) -> Any:
    """min |x|_1 over offset + range(kernel), by Douglas and Rachford's splitting.

    Args:
      kernels: the projector onto the null space of each measurement, `(n, d, d)`.
      offsets: the least-squares solution of each, `(n, d)`.
      steps: how many iterations.
    """

    def project(x: jax.Array) -> jax.Array:
        return offsets + jnp.einsum("nij,nj->ni", kernels, x)

    def step(_: Any, z: jax.Array) -> jax.Array:
        x = project(z)
        ahead = 2 * x - z
        size = jnp.maximum(jnp.abs(ahead) - THRESHOLD, 0.0)
        return z + jnp.sign(ahead) * size - x

    return project(jax.lax.fori_loop(0, steps, step, offsets))


def draw_problems(
    rng: np.random.Generator, trials: int, sparsity: int, measurements: int
) -> tuple[np.ndarray, np.ndarray]:
    """Signals of random signs, and orthonormal bases of what is measured of them."""
    signals = np.zeros((trials, DIMENSION))
    signals[:, :sparsity] = rng.choice([-1.0, 1.0], (trials, sparsity))
    gaussian = rng.standard_normal((trials, DIMENSION, measurements))
    return signals, np.linalg.qr(gaussian)[0]


def recovered(signals: np.ndarray, bases: np.ndarray, steps: int) -> np.ndarray:
    """Which signals the solver finds again."""
    measured = bases @ bases.swapaxes(1, 2)
    offsets = np.einsum("nij,nj->ni", measured, signals)
    found = np.asarray(
        _basis_pursuit(
            jnp.asarray(np.eye(DIMENSION) - measured, jnp.float32),
            jnp.asarray(offsets, jnp.float32),
            jnp.int32(steps),
        )
    )
    error = np.linalg.norm(found - signals, axis=1)
    return error <= TOLERANCE * np.linalg.norm(signals, axis=1)


def recovered_by_program(signal: np.ndarray, basis: np.ndarray) -> bool:
    """The same by a linear program, to machine precision."""
    program = optimize.linprog(
        np.ones(2 * DIMENSION),
        A_eq=np.c_[basis.T, -basis.T],
        b_eq=basis.T @ signal,
        method="highs",
    )
    found = program.x[:DIMENSION] - program.x[DIMENSION:]
    return bool(np.linalg.norm(found - signal) <= 1e-5 * np.linalg.norm(signal))


def fit_probit(
    measurements: np.ndarray, hits: np.ndarray, trials: int
) -> tuple[float, float, float, float]:
    """Midpoint and width of Phi((m - middle) / width), each with its standard error."""

    def loss(parameters: np.ndarray) -> float:
        middle, log_width = parameters
        z = (measurements - middle) / np.exp(log_width)
        miss = trials - hits
        return -float(np.sum(hits * stats.norm.logcdf(z) + miss * stats.norm.logsf(z)))

    start = np.array([np.interp(0.5, hits / trials, measurements), np.log(4.0)])
    best = optimize.minimize(loss, start, method="Nelder-Mead").x
    middle, width = float(best[0]), float(np.exp(best[1]))
    z = (measurements - middle) / width
    weight = trials * stats.norm.pdf(z) ** 2 / (stats.norm.cdf(z) * stats.norm.sf(z))
    slopes = np.stack([np.ones_like(z), z]) / width
    errors = np.sqrt(np.diag(np.linalg.inv((slopes * weight) @ slopes.T)))
    return middle, width, float(errors[0]), float(errors[1])


def _points(upper: float, spread: float, number: int) -> np.ndarray:
    """Whole numbers of measurements over about 2.2 deviations on either side."""
    step = max(1, round(4.4 * spread / (number - 1)))
    points = round(upper - 0.6) + step * (np.arange(number) - number // 2)
    return points[(points >= 1) & (points < DIMENSION)]


def _case(config: Config, sparsity: int) -> dict[str, Any]:
    point = np.r_[np.ones(sparsity), np.zeros(DIMENSION - sparsity)]
    moments = _moments(
        geometry.L1DescentCone(jnp.asarray(point, jnp.float32)),
        key=jax.random.key(config.seed + sparsity),
        num_samples=config.dimension_samples,
    )
    delta, variance = moments.dimension, float(moments.variance.mean)
    spread = max(variance, 0.0) ** 0.5
    upper = DIMENSION * float(geometry.l1_descent_dimension(sparsity / DIMENSION))
    points = _points(upper, spread, config.recovery_points)
    hits = []
    for measurements in points:
        rng = np.random.default_rng([config.seed, 6, sparsity, int(measurements)])
        problems = draw_problems(
            rng, config.recovery_trials, sparsity, int(measurements)
        )
        hits.append(int(recovered(*problems, config.recovery_iterations).sum()))
    middle, width, middle_error, width_error = fit_probit(
        points, np.array(hits), config.recovery_trials
    )
    known = KNOWN[sparsity]
    return {
        "sparsity": sparsity,
        "dimension": {"mean": float(delta.mean), "stderr": float(delta.stderr)},
        "known": {"mean": known[0], "stderr": known[1]},
        "upper": upper,
        "spread": spread,
        "measurements": points.tolist(),
        "measured": [frequency(h, config.recovery_trials) for h in hits],
        "middle": {"mean": middle, "stderr": middle_error},
        "width": {"mean": width, "stderr": width_error},
    }


def _check(config: Config) -> int:
    """Trials in which the solver and a linear program disagree, on the edge."""
    rng = np.random.default_rng([config.seed, 6])
    signals, bases = draw_problems(rng, config.checked_trials, 20, 50)
    ours = recovered(signals, bases, config.recovery_iterations)
    theirs = [recovered_by_program(s, b) for s, b in zip(signals, bases, strict=True)]
    return int(np.sum(ours != np.array(theirs)))


def compute(config: Config) -> dict[str, Any]:
    """Recovery by measurements, fits beside dimensions, and what was to be shown."""
    cases = [_case(config, sparsity) for sparsity in config.sparsities]

    def error(case: dict[str, Any], name: str) -> float:
        return float(np.hypot(case["dimension"]["stderr"], case[name]["stderr"]))

    gaps = [abs(c["middle"]["mean"] - c["dimension"]["mean"]) for c in cases]
    known = [abs(c["known"]["mean"] - c["dimension"]["mean"]) for c in cases]
    widths = [abs(c["width"]["mean"] - c["spread"]) for c in cases]
    fit = max(g / error(c, "middle") for g, c in zip(gaps, cases, strict=True))
    wide = max(g / c["width"]["stderr"] for g, c in zip(widths, cases, strict=True))
    off = max(g / error(c, "known") for g, c in zip(known, cases, strict=True))
    above = [c["upper"] - c["dimension"]["mean"] for c in cases]
    enough = config.recovery_trials >= 40
    return {
        "dimension": DIMENSION,
        "cases": cases,
        "disagreements": _check(config),
        "checked": config.checked_trials,
        "claims": [
            claim("midpoints are off delta by", max(gaps), 1.0 if enough else 3.0),
            claim("midpoints are off delta by, in s.e.", fit, 4.0),
            claim("widths are off the s.d. of V by, in s.e.", wide, 4.0),
            claim("delta is off the known one by, in s.e.", off, 4.0),
            claim("d psi is above delta by", max(above), 0.9 if enough else 2.0),
            claim("d psi is below delta by", -min(above), 0.0 if enough else 2.0),
        ],
    }


def draw(results: dict[str, Any]) -> Figure:
    """The figure, from the results alone."""
    figure, (left, right) = style.make(2, width=5.8, height=4.4)
    for case, color in zip(results["cases"], style.CYCLE, strict=False):
        grid = np.linspace(min(case["measurements"]), max(case["measurements"]), 100)
        z = (grid - case["dimension"]["mean"]) / case["spread"]
        left.plot(grid, stats.norm.cdf(z), color=color, linewidth=1.4)
        style.points(left, case["measurements"], case["measured"], color=color)
        left.annotate(
            f"s = {case['sparsity']}",
            (case["dimension"]["mean"], 1.12),
            color=color,
            fontsize=8,
            ha="center",
        )
    left.plot([], [], color=style.GREY, label="Φ((m − δ) / sd V), nothing fitted")
    left.errorbar(
        [],
        [],
        [],
        fmt="o",
        color=style.GREY,
        markersize=3.6,
        label="measured, ± 2 s.e.",
    )
    left.set_xlim(0, results["dimension"])
    left.set_ylim(-0.08, 1.18)
    style.label(
        left,
        "random measurements m (of a signal of 100 entries)",
        "part of signals recovered",
        "Basis pursuit, s nonzero entries",
    )
    handles, labels = left.get_legend_handles_labels()
    sparsity = [case["sparsity"] for case in results["cases"]]
    right.errorbar(
        sparsity,
        [c["middle"]["mean"] - c["dimension"]["mean"] for c in results["cases"]],
        yerr=[2 * c["middle"]["stderr"] for c in results["cases"]],
        fmt="o",
        color=style.BLACK,
        markersize=4,
        capsize=3,
        label="measured midpoint − δ, ± 2 s.e.",
    )
    right.plot(
        sparsity,
        [c["upper"] - c["dimension"]["mean"] for c in results["cases"]],
        color=style.RED,
        marker="D",
        markersize=4,
        label="d ψ(s/d) − δ, the closed formula",
    )
    right.axhline(0, color=style.GREY, linewidth=0.9)
    right.axhspan(-1, 1, color=style.SKY, alpha=0.2, linewidth=0, label="accepted")
    right.set_ylim(-1.4, 1.4)
    style.label(
        right, "nonzero entries s", "measurements", "Midpoint beside the prediction"
    )
    more, names = right.get_legend_handles_labels()
    figure.legend(
        handles + more,
        labels + names,
        loc="outside lower left",
        ncols=5,
        fontsize=8,
        frameon=False,
    )
    return figure
