"""V5. How good is Larsen's sum, beside the ellipsoidal cone that it approximates?

The weights with a loss of at most epsilon form an ellipsoid around a minimum, and seen
from other weights it fills an ellipsoidal cone C. How many random directions does it
take to hit it? d - delta(C), by kinematics; d - sum r_i^2 / (R^2 + r_i^2), by Larsen's
approximation. Here directions are added one by one until they hit.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.theory import style
from experiments.theory.config import Config
from experiments.theory.measure import claim
from jaxmerge import geometry, kinematics

NAME = "v5_wells"
QUESTION = "How many random directions does it take to hit a well, and who knows?"
DIMENSION = 200

# Name, semi-axes by index from 1, distance.
WELLS: tuple[tuple[str, Callable[[np.ndarray], np.ndarray], float], ...] = (
    ("unit ball, R = 1.5", lambda i: np.ones(i.size), 1.5),
    ("unit ball, R = 3", lambda i: np.ones(i.size), 3.0),
    ("unit ball, R = 10", lambda i: np.ones(i.size), 10.0),
    ("r² = 1/i, R = 3", lambda i: i**-0.5, 3.0),
    (
        "ten axes of 10, others 0.1, R = 3",
        lambda i: np.where(i <= 10, 10.0, 0.1),
        3.0,
    ),
)


_dimension = jax.jit(geometry.statistical_dimension, static_argnames="num_samples")


def _known_dimension(axes: np.ndarray, distance: float) -> float | None:
    """Of a ball: a circular cone, whose volumes have a closed form."""
    if np.ptp(axes) > 0:
        return None
    angle = float(np.arcsin(axes[0] / distance))
    return geometry.exact_dimension(geometry.CircularCone(axes.size, angle))


def _first_hits(rng: np.random.Generator, axes: np.ndarray, trials: int) -> np.ndarray:
    """How many random directions it takes to hit the cone {|y / axes| <= z}.

    With rows b of z and B of y / axes in a basis of the directions, some combination c
    has (b'c)^2 >= |Bc|^2 iff b'(B'B)^-1 b >= 1. Leading blocks share their Cholesky
    factor, so one factorization answers for every number of directions.
    """
    size = axes.size
    found = np.empty(trials, int)
    for i in range(trials):
        directions = rng.standard_normal((size + 1, size))
        scaled = directions[1:] / axes[:, None]
        factor = np.linalg.cholesky(scaled.T @ scaled)
        reach = np.cumsum(np.linalg.solve(factor, directions[0]) ** 2)
        found[i] = 1 + np.searchsorted(reach, 1.0)
    return found


def _well(config: Config, index: int) -> dict[str, Any]:
    name, shape, distance = WELLS[index]
    rng = np.random.default_rng([config.seed, 5, index])
    axes = shape(np.arange(1.0, DIMENSION + 1))
    # From a direction that treats all axes alike; for a ball none matters.
    apex = np.full(DIMENSION, distance / DIMENSION**0.5)
    with jax.enable_x64(True):
        cone = geometry.ellipsoid_cone(
            jnp.asarray(axes), jnp.asarray(apex), rotated=False
        )
        canonical = np.asarray(cone.semi_axes)
        cone = geometry.EllipsoidalCone(jnp.asarray(canonical))
        exact = _dimension(
            cone,
            key=jax.random.key(config.seed + index),
            num_samples=config.dimension_samples,
        )
        approximation = float(
            kinematics.local_angular_dimension_approx(
                1 / jnp.asarray(axes) ** 2, 0.5, distance
            )
        )
    hits = _first_hits(rng, canonical, config.well_trials)
    cumulative = np.mean(hits[:, None] <= np.arange(DIMENSION + 1), axis=0)
    # Where a half of the trials have hit, between whole numbers of directions.
    after = int(np.searchsorted(cumulative, 0.5))
    slope = cumulative[after] - cumulative[after - 1]
    median = after - (cumulative[after] - 0.5) / slope
    spread = np.percentile(hits, 75) - np.percentile(hits, 25)
    # Of a median of normal numbers, 1.2533 s.d. / sqrt(n); rounding to whole numbers.
    stderr = float(1.2533 * max(spread, 1.0) / 1.349 / config.well_trials**0.5)
    return {
        "name": name,
        "distance": distance,
        "dimension": {"mean": float(exact.mean), "stderr": float(exact.stderr)},
        "known": _known_dimension(axes, distance),
        "larsen": approximation,
        "median": {"mean": float(median), "stderr": stderr},
        "hit": cumulative.tolist(),
    }


def compute(config: Config) -> dict[str, Any]:
    """Dimensions, their approximation, when wells are hit, and what was to be shown."""
    wells = [_well(config, index) for index in range(len(WELLS))]

    def from_known(well: dict[str, Any]) -> float:
        gap = abs(well["dimension"]["mean"] - well["known"])
        return gap / well["dimension"]["stderr"]

    off = max(from_known(well) for well in wells if well["known"])
    gaps = [
        abs(well["median"]["mean"] - DIMENSION + well["dimension"]["mean"])
        - 4 * np.hypot(well["median"]["stderr"], well["dimension"]["stderr"])
        for well in wells
    ]
    larsen = max(well["larsen"] - well["dimension"]["mean"] for well in wells)
    return {
        "dimension": DIMENSION,
        "wells": wells,
        "claims": [
            claim("dimensions of balls are off the exact ones by, in s.e.", off, 4.0),
            claim(
                "beyond 4 s.e., half of the trials hit off d - delta by", max(gaps), 1.0
            ),
            claim("Larsen's sum is above the dimension by", larsen, 0.0),
        ],
    }


def draw(results: dict[str, Any]) -> Figure:
    """The figure, from the results alone."""
    figure, (left, right) = style.make(2, width=5.8, height=4.4)
    # Directions that are left out, so that small dimensions are told apart.
    missing = results["dimension"] - np.arange(results["dimension"])
    for well, color in zip(results["wells"], style.CYCLE, strict=False):
        hit = well["hit"][:-1]
        left.plot(missing, hit, color=color, linewidth=1.5, label=well["name"])
        exact, larsen = well["dimension"]["mean"], well["larsen"]
        left.plot([exact], [0.5], marker="o", color=color, markersize=7)
        left.plot(
            [larsen], [0.5], marker="D", color=color, markersize=6, markerfacecolor="w"
        )
    left.plot([], [], "o", color=style.GREY, label="exact δ")
    left.plot([], [], "D", color=style.GREY, markerfacecolor="w", label="Larsen's sum")
    left.set_xscale("log")
    left.set_xlim(0.5, 200)
    ticks = (1, 2, 5, 10, 20, 50, 100, 200)
    left.set_xticks(ticks, [str(tick) for tick in ticks])
    left.set_xticks([], minor=True)
    left.set_ylim(-0.03, 1.03)
    style.label(
        left,
        f"d − k, for k random directions of d = {results['dimension']}",
        "part of trials that hit the well",
        "When random directions hit a well",
    )
    handles, labels = left.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower left", ncols=4, fontsize=8, frameon=False
    )
    places = np.arange(len(results["wells"]))[::-1]
    ratios = [w["larsen"] / w["dimension"]["mean"] for w in results["wells"]]
    colors = style.CYCLE[: len(places)]
    right.barh(places, ratios, color=colors, height=0.55)
    for place, well in zip(places, results["wells"], strict=True):
        right.annotate(
            f"{well['larsen']:.2f} for {well['dimension']['mean']:.2f}",
            (0.02, place),
            va="center",
            fontsize=8.5,
            color="white",
            weight="bold",
        )
    right.axvline(1, color=style.BLACK, linewidth=0.9)
    names = [well["name"].replace(", ", ",\n", 1) for well in results["wells"]]
    right.set_yticks(places, names)
    right.set_xlim(0, 1.05)
    right.grid(False)
    style.label(
        right,
        "Larsen's sum / statistical dimension",
        "",
        "Larsen's sum for the exact δ",
    )
    return figure
