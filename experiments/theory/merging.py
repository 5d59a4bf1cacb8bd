"""V7a. Does kinematics predict how many experts a merge can please?

Synthetic experts are unit vectors of R^d; each accepts the directions within an angle
of its own. With independent experts this is V1 and kinematics is exact. Real experts
share directions: here all have the cosine rho with a common one. Two more questions are
asked of the same experts: what their Gram matrix says, and whether their plain average,
which is what a merge makes, is a direction that pleases all.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.theory import style
from experiments.theory.config import Config
from experiments.theory.measure import (
    claim,
    deviation,
    exact_probabilities,
    frequency,
    gram_capacities,
    half_angle,
    predictions,
    unit_rows,
)
from jaxmerge import geometry, kinematics

NAME = "v7_merging"
QUESTION = "Does kinematics predict how many experts a merge can please?"
DIMENSION, SEC_SQUARED, SHARED = 200, 8.0, 0.1
DRAWN = 16  # of the predictions, beyond which there is nothing to see
# T / (1 + (T - 1) rho) at rho = 0.1.
KNOWN_LOADS = {2: 1.82, 4: 3.08, 8: 4.71, 16: 6.40, 64: 8.77}


def make_experts(
    rng: np.random.Generator, trials: int, number: int, cosine: float
) -> np.ndarray:
    """Unit vectors with expected cosines, `(trials, number, DIMENSION)`.

    Each is sqrt(cosine) of a common unit vector and random beside it.
    """
    own = unit_rows(rng, trials, number, DIMENSION - 1) * (1 - cosine) ** 0.5
    common = np.full((trials, number, 1), cosine**0.5)
    return np.concatenate([common, own], axis=-1)


def averages_please(experts: np.ndarray, limit: float) -> np.ndarray:
    """Whether the mean of the first T experts is within every one's angle."""
    means = np.cumsum(experts, axis=1)
    means /= np.linalg.norm(means, axis=-1, keepdims=True)
    products = means @ experts.swapaxes(1, 2)  # (trials, T, expert)
    included = np.tri(experts.shape[1], dtype=bool)
    return np.where(included, products, np.inf).min(-1) >= limit


def _case(config: Config, cosine: float) -> dict[str, Any]:
    number, trials = config.merge_experts, config.merge_trials
    angle = half_angle(SEC_SQUARED)
    rng = np.random.default_rng([config.seed, 7, round(1000 * cosine)])
    experts = make_experts(rng, trials, number, cosine)
    grams = jnp.asarray(experts @ experts.swapaxes(1, 2), jnp.float32)
    pleased = np.asarray(gram_capacities(grams, jnp.float32(angle)))
    averages = averages_please(experts, float(np.cos(angle)))
    counts = range(1, number + 1)
    capacity = kinematics.gram_capacity(
        gram=jnp.float32(cosine), half_angle=jnp.float32(angle)
    )
    return {
        "cosine": cosine,
        "counts": list(counts),
        "measured": [frequency(int(np.sum(pleased >= t)), trials) for t in counts],
        "averages": [frequency(int(n), trials) for n in averages.sum(0)],
        # Of experts with exactly this cosine, and with the noise of d dimensions: the
        # inverse of a random Gram matrix is 1 / (1 - T / d) too large.
        "capacity": float(capacity.value),
        "noisy_capacity": 1
        / ((1 / SEC_SQUARED - cosine) / (1 - cosine) + 1 / DIMENSION),
        "median": float(np.median(np.minimum(pleased, number))),
    }


def compute(config: Config) -> dict[str, Any]:
    """Success by number of experts, every prediction, and what was to be shown."""
    volumes = geometry.circular_intrinsic_volumes(DIMENSION, half_angle(SEC_SQUARED))
    delta = geometry.volumes_mean(volumes)
    exact = exact_probabilities(volumes, DRAWN)
    apart, shared = (_case(config, cosine) for cosine in (0.0, SHARED))
    loads = [t / (1 + (t - 1) * SHARED) for t in KNOWN_LOADS]
    wrong = np.max(np.abs(np.array(loads) - list(KNOWN_LOADS.values())))
    far = max(
        abs(deviation(m, e)) for m, e in zip(apart["measured"], exact, strict=False)
    )
    # At 11 experts kinematics is all but certain of failure.
    missed = 1 - shared["measured"][10]["mean"]
    needed = [abs(apart["noisy_capacity"] - DIMENSION / (DIMENSION - delta))]
    return {
        "dimension": DIMENSION,
        "sec_squared": SEC_SQUARED,
        "threshold": DIMENSION / (DIMENSION - delta),
        "counts": list(range(1, DRAWN + 1)),
        "exact": exact,
        **predictions(DIMENSION, delta, geometry.volumes_variance(volumes), DRAWN),
        "cases": [apart, shared],
        "claims": [
            claim("loads at rho = 0.1 are off the known ones by", wrong, 6e-3),
            claim("independent experts are off kinematics by, in s.e.", far, 4.0),
            claim("kinematic and Gram thresholds at rho = 0 differ by", needed[0], 0.1),
            claim("11 experts sharing a direction fail, in parts", missed, 0.05),
        ],
    }


def _draw_case(axes: Any, results: dict[str, Any], case: dict[str, Any]) -> None:
    counts = results["counts"]
    style.bounds(axes, counts, results, "McCoy–Tropp bounds")
    axes.plot(
        counts, results["exact"], color=style.BLUE, linewidth=1.6,
        label="kinematics, exact for random cones",
    )  # fmt: skip
    axes.plot(
        counts, results["clt"], color=style.RED, linewidth=1.1, linestyle="--",
        label="central limit theorem",
    )  # fmt: skip
    style.points(
        axes, case["counts"], case["measured"],
        label="some direction pleases all, ± 2 s.e.",
    )  # fmt: skip
    style.points(
        axes, case["counts"], case["averages"], color=style.PINK, marker="s",
        label="the plain average pleases all, ± 2 s.e.",
    )  # fmt: skip


def draw(results: dict[str, Any]) -> Figure:
    """The figure, from the results alone."""
    figure, (left, right) = style.make(2, width=5.8, height=4.4)
    apart, shared = results["cases"]
    for axes, case in ((left, apart), (right, shared)):
        _draw_case(axes, results, case)
        axes.set_ylim(-0.03, 1.03)
        style.label(
            axes,
            "number of experts T",
            "part of trials that succeed",
            f"d = {results['dimension']}, 1/cos²α = {results['sec_squared']:g}, "
            f"cosine between experts ρ = {case['cosine']:g}",
        )
    left.set_xlim(0.6, DRAWN + 0.4)
    style.mark(left, apart["capacity"], "Gram capacity 8", y=0.8)
    threshold = f"kinematics: T* = {results['threshold']:.2f}"
    style.mark(right, results["threshold"], threshold, y=0.25, before=True)
    if shared["capacity"] <= max(shared["counts"]):
        capacities = (
            (shared["noisy_capacity"], "with their random noise", 0.33, True),
            (shared["capacity"], "Gram capacity, all cosines ρ", 0.62, False),
        )
        for value, text, y, before in capacities:
            style.mark(right, value, f"{text}: {value:.1f}", y=y, before=before)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower left", ncols=3, fontsize=8, frameon=False
    )
    return figure
