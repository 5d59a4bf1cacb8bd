"""V4. Do random subspaces meet in a step, where curved cones have a transition?

The intrinsic volumes of a subspace are one number, so nothing is left to chance: T
subspaces share a line exactly while their codimensions sum to less than d. A circular
cone of the same statistical dimension has the same threshold and a window around it.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from scipy import optimize

from experiments.theory import style
from experiments.theory.config import Config
from experiments.theory.measure import claim, exact_probabilities, frequency
from jaxmerge import geometry, kinematics

NAME = "v4_subspaces"
QUESTION = "Do random subspaces meet in a step, and circular cones in a transition?"
DIMENSION, CODIMENSION, MOST = 60, 7, 12


def _common(rng: np.random.Generator, counts: list[int]) -> list[int]:
    """The dimension that the first T of some random subspaces have in common."""
    normals = rng.standard_normal((max(counts) * CODIMENSION, DIMENSION))
    return [
        DIMENSION - int(np.linalg.matrix_rank(normals[: t * CODIMENSION]))
        for t in counts
    ]


def _circular(dimension: int, delta: float) -> np.ndarray:
    """Intrinsic volumes of the circular cone with this statistical dimension."""

    def gap(angle: float) -> float:
        volumes = geometry.circular_intrinsic_volumes(dimension, angle)
        return geometry.volumes_mean(volumes) - delta

    angle = optimize.root_scalar(gap, bracket=(0.0, np.pi / 2), xtol=1e-13).root
    return geometry.circular_intrinsic_volumes(dimension, angle)


def compute(config: Config) -> dict[str, Any]:
    """Measured and predicted common dimensions, and what was to be shown."""
    counts = list(range(1, MOST + 1))
    rng = np.random.default_rng([config.seed, 4])
    common = np.array([_common(rng, counts) for _ in range(config.subspace_trials)])
    volumes = np.eye(DIMENSION + 1)[DIMENSION - CODIMENSION]
    circular = _circular(DIMENSION, DIMENSION - CODIMENSION)
    with jax.enable_x64(True):
        expected = kinematics.expected_intersection_dimensions(
            jnp.asarray(np.tile(volumes, (MOST, 1)))
        )
        expected_circular = kinematics.expected_intersection_dimensions(
            jnp.asarray(np.tile(circular, (MOST, 1)))
        )
        step = kinematics.subspace_intersection(
            DIMENSION, jnp.full(MOST, float(DIMENSION - CODIMENSION))
        )
    exact = exact_probabilities(volumes, MOST)
    measured = [
        frequency(int(np.sum(common[:, i] > 0)), config.subspace_trials)
        for i in range(MOST)
    ]
    frequencies = np.array([m["mean"] for m in measured])
    wrong = np.max(np.abs(common - np.asarray(expected)))
    return {
        "dimension": DIMENSION,
        "codimension": CODIMENSION,
        "threshold": DIMENSION / CODIMENSION,
        "counts": counts,
        "measured": measured,
        "exact": exact,
        "common": common.mean(0).tolist(),
        "expected": np.asarray(expected).tolist(),
        "circular": exact_probabilities(circular, MOST),
        "expected_circular": np.asarray(expected_circular).tolist(),
        "claims": [
            claim(
                "frequencies are off the step by",
                np.max(np.abs(frequencies - np.asarray(step))),
                0.0,
            ),
            claim(
                "the kinematic formula is off the step by",
                np.max(np.abs(exact - np.asarray(step))),
                1e-9,
            ),
            claim("common dimensions are off the expected ones by", wrong, 1e-9),
        ],
    }


def draw(results: dict[str, Any]) -> Figure:
    """The figure, from the results alone."""
    figure, (left, right) = style.make(2)
    counts, threshold = results["counts"], results["threshold"]
    left.step(
        [min(counts), threshold, max(counts)],
        [1, 1, 0],
        where="pre",
        color=style.BLUE,
        linewidth=1.6,
        label="subspaces, exact",
    )
    style.points(left, counts, results["measured"], label="subspaces, Monte Carlo")
    left.plot(
        counts,
        results["circular"],
        color=style.RED,
        linewidth=1.4,
        marker=".",
        label="circular cones of the same δ, exact",
    )
    style.mark(left, threshold, f"d / (d − δ) = {threshold:.2f}", y=0.72)
    right.plot(
        counts,
        results["expected"],
        color=style.BLUE,
        linewidth=1.6,
        label="subspaces, exact: max(d − 7T, 0)",
    )
    right.plot(
        counts,
        results["common"],
        "o",
        color=style.BLACK,
        markersize=3.6,
        label="subspaces, Monte Carlo (no spread)",
    )
    right.plot(
        counts,
        results["expected_circular"],
        color=style.RED,
        linewidth=1.4,
        marker=".",
        label="circular cones of the same δ, exact",
    )
    style.mark(right, threshold, f"d / (d − δ) = {threshold:.2f}", y=0.5)
    title = f"d = {results['dimension']}, d − δ = {results['codimension']}"
    style.label(left, "number T", "probability of a shared ray", title)
    style.label(right, "number T", "mean dimension in common", title)
    style.legend(left, loc="lower left")
    style.legend(right, loc="lower left")
    return figure
