"""V1. Do random circular cones share a ray as often as their intrinsic volumes say?

An expert accepts the directions within an angle of its own. Some direction pleases all
of T experts exactly if the load 1'l of their Gram matrix is at most 1 / cos^2 of that
angle, which is a small quadratic program and has nothing to do with kinematics. Its
frequency over random experts is compared with the exact kinematic formula, the central
limit theorem, and two families of bounds.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.theory import style
from experiments.theory.config import Config
from experiments.theory.measure import (
    claim,
    crossing,
    deviation,
    exact_probabilities,
    frequency,
    gram_capacities,
    half_angle,
    predictions,
    unit_rows,
)
from jaxmerge import geometry

NAME = "v1_circular_cones"
QUESTION = "Do random circular cones share a ray as often as their volumes say?"
CASES = ((200, 8.0), (50, 4.0))
MOST = 12
# 2 h, computed apart from this library, by number of cones.
KNOWN = {
    (200, 8.0): {6: 0.9968, 7: 0.8709, 8: 0.3782, 9: 0.0516, 10: 0.0022},
    (50, 4.0): {3: 0.9297, 4: 0.4142, 5: 0.0534, 6: 0.0024},
}
# Number of cones at which the exact probability is 1/2, to two digits.
KNOWN_CROSSINGS = {
    8.0: {8: 4.90, 50: 7.20, 200: 7.75, 1000: 7.90},
    20.0: {8: 7.27, 50: 14.87, 200: 18.38, 1000: 19.64},
}


def _case(config: Config, dimension: int, sec_squared: float) -> dict[str, Any]:
    angle = half_angle(sec_squared)
    volumes = geometry.circular_intrinsic_volumes(dimension, angle)
    delta = geometry.volumes_mean(volumes)
    variance = geometry.volumes_variance(volumes)
    rng = np.random.default_rng([config.seed, 1, dimension])
    experts = unit_rows(rng, config.cone_trials, MOST, dimension)
    grams = jnp.asarray(experts @ experts.swapaxes(1, 2), jnp.float32)
    pleased = np.asarray(gram_capacities(grams, jnp.float32(angle)))
    counts = list(range(1, MOST + 1))
    exact = exact_probabilities(volumes, MOST)
    measured = [
        frequency(int(np.sum(pleased >= t)), config.cone_trials) for t in counts
    ]
    return {
        "dimension": dimension,
        "sec_squared": sec_squared,
        "statistical_dimension": delta,
        "variance": variance,
        "threshold": dimension / (dimension - delta),
        "exact_crossing": crossing(exact),
        "counts": counts,
        "measured": measured,
        "deviations": [deviation(m, e) for m, e in zip(measured, exact, strict=True)],
        "exact": exact,
        **predictions(dimension, delta, variance, MOST),
    }


def _crossings(sec_squared: float, largest: int) -> list[dict[str, float]]:
    """The exact crossing beside d / (d - delta), as the dimension grows."""
    rows = []
    for dimension in KNOWN_CROSSINGS[sec_squared]:
        if dimension > largest:
            continue
        volumes = geometry.circular_intrinsic_volumes(
            dimension, half_angle(sec_squared)
        )
        delta = geometry.volumes_mean(volumes)
        most = int(sec_squared) + 5
        exact = exact_probabilities(volumes, most)
        clt = predictions(dimension, delta, geometry.volumes_variance(volumes), most)[
            "clt"
        ]
        rows.append(
            {
                "dimension": dimension,
                "exact": crossing(exact),
                "threshold": dimension / (dimension - delta),
                "clt_error": float(np.max(np.abs(np.subtract(exact, clt)))),
            }
        )
    return rows


def compute(config: Config) -> dict[str, Any]:
    """The frequencies, every prediction of them, and what was to be shown."""
    largest = config.largest_dimension
    cases = [_case(config, *case) for case in CASES if case[0] <= largest]
    crossings = {f"{s:g}": _crossings(s, largest) for s in KNOWN_CROSSINGS}
    wrong = max(
        abs(case["exact"][t - 1] - p)
        for case in cases
        for t, p in KNOWN[case["dimension"], case["sec_squared"]].items()
    )
    outside = max(
        max(case[f"{name}_lower"][i] - p, p - case[f"{name}_upper"][i])
        for case in cases
        for i, p in enumerate(case["exact"])
        for name in ("bennett", "published")
    )
    shifted = max(
        abs(row["exact"] - KNOWN_CROSSINGS[s][int(row["dimension"])])
        for s in KNOWN_CROSSINGS
        for row in crossings[f"{s:g}"]
    )
    far = max(abs(z) for case in cases for z in case["deviations"])
    return {
        "cases": cases,
        "crossings": crossings,
        "claims": [
            claim("exact probabilities are off the known ones by", wrong, 1e-3),
            claim("frequencies are off the exact ones by, in s.e.", far, 4.0),
            claim("exact probabilities leave the bounds by", outside, 1e-9),
            claim("exact crossings are off the known ones by", shifted, 6e-3),
        ],
    }


def _draw_case(axes: Any, case: dict[str, Any]) -> None:
    counts = case["counts"]
    style.bounds(axes, counts, case, "McCoy–Tropp bounds (AMLT's for T cones)")
    axes.plot(counts, case["exact"], color=style.BLUE, linewidth=1.6, label="exact")
    axes.plot(
        counts,
        case["clt"],
        color=style.RED,
        linewidth=1.1,
        linestyle="--",
        label="central limit theorem",
    )
    style.points(axes, counts, case["measured"], label="Monte Carlo, ± 2 s.e.")
    threshold = case["threshold"]
    style.mark(axes, threshold, f"d / (d − δ) = {threshold:.2f}", y=0.72)
    style.label(
        axes,
        "number of experts T",
        "probability that one direction pleases all",
        f"d = {case['dimension']}, 1/cos²α = {case['sec_squared']:g}",
    )
    axes.set_xlim(0.8, max(counts) + 0.2)
    axes.set_ylim(-0.03, 1.03)


def draw(results: dict[str, Any]) -> Figure:
    """The figure, from the results alone."""
    figure, panels = style.make(3)
    for axes, case in zip(panels, results["cases"], strict=False):
        _draw_case(axes, case)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower left", ncols=5, fontsize=8, frameon=False
    )
    axes = panels[2]
    for color, (sec, rows) in zip(
        style.CYCLE, results["crossings"].items(), strict=False
    ):
        axes.plot(
            [row["dimension"] for row in rows],
            [row["exact"] / float(sec) for row in rows],
            marker="o",
            markersize=3.5,
            color=color,
            label=f"exact crossing, 1/cos²α = {sec}",
        )
        axes.plot(
            [row["dimension"] for row in rows],
            [row["threshold"] / float(sec) for row in rows],
            marker="x",
            markersize=5,
            linestyle=":",
            color=color,
            label=f"d / (d − δ), 1/cos²α = {sec}",
        )
    axes.set_xscale("log")
    axes.set_ylim(0, 1.05)
    axes.axhline(1, color=style.GREY, linewidth=0.8)
    style.label(
        axes,
        "dimension d",
        "T at probability ½, in units of 1/cos²α",
        "T* by dimension",
    )
    style.legend(axes, loc="lower right")
    return figure
