"""V2. Do randomly turned orthants share a ray as often as their volumes say?

The orthant's intrinsic volumes are binomial. A ray that T turned orthants of d
dimensions share solves T d inequalities, so a linear program decides each trial.
"""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.theory import style
from experiments.theory.config import Config
from experiments.theory.measure import (
    claim,
    deviation,
    exact_probabilities,
    frequency,
    predictions,
    share_a_ray,
)
from jaxmerge import geometry

NAME = "v2_orthants"
QUESTION = "Do randomly turned orthants share a ray as often as their volumes say?"
DIMENSIONS = (4, 8, 12)
MOST = 4
KNOWN = {2: 0.5, 3: 0.0205}  # in 12 dimensions, by number of orthants


def _rotation(rng: np.random.Generator, dimension: int) -> np.ndarray:
    q, r = np.linalg.qr(rng.standard_normal((dimension, dimension)))
    return q * np.sign(np.diag(r))


def _case(config: Config, dimension: int) -> dict[str, Any]:
    volumes = geometry.intrinsic_volumes(geometry.Orthant(dimension))
    exact = exact_probabilities(volumes, MOST)
    measured = []
    for number in range(1, MOST + 1):
        rng = np.random.default_rng([config.seed, 2, dimension, number])
        hits = 0
        for _ in range(config.orthant_trials):
            turned = [_rotation(rng, dimension) for _ in range(number)]
            hits += share_a_ray(np.concatenate(turned))
        measured.append(frequency(hits, config.orthant_trials))
    return {
        "dimension": dimension,
        "counts": list(range(1, MOST + 1)),
        "measured": measured,
        "deviations": [deviation(m, e) for m, e in zip(measured, exact, strict=True)],
        "exact": exact,
        "clt": predictions(
            dimension,
            geometry.volumes_mean(volumes),
            geometry.volumes_variance(volumes),
            MOST,
        )["clt"],
    }


def compute(config: Config) -> dict[str, Any]:
    """The frequencies, the exact probabilities, and what was to be shown."""
    cases = [_case(config, dimension) for dimension in DIMENSIONS]
    exact = next(case["exact"] for case in cases if case["dimension"] == 12)
    wrong = max(abs(exact[t - 1] - p) for t, p in KNOWN.items())
    far = max(abs(z) for case in cases for z in case["deviations"])
    return {
        "cases": cases,
        "claims": [
            claim("exact probabilities are off the known ones by", wrong, 1e-3),
            claim("frequencies are off the exact ones by, in s.e.", far, 4.0),
        ],
    }


def draw(results: dict[str, Any]) -> Figure:
    """The figure, from the results alone."""
    figure, (axes,) = style.make(1)
    for case, color in zip(results["cases"], style.CYCLE, strict=False):
        counts = np.asarray(case["counts"])
        seen = [i for i, p in enumerate(case["exact"]) if p > 1e-4]
        axes.plot(
            counts[seen],
            np.asarray(case["exact"])[seen],
            color=color,
            linewidth=1.5,
            label=f"exact, d = {case['dimension']}",
        )
        axes.plot(
            counts[seen],
            np.asarray(case["clt"])[seen],
            color=color,
            linewidth=1,
            linestyle=":",
        )
        measured = [
            (c, m) for c, m in zip(counts, case["measured"], strict=True) if m["mean"]
        ]
        style.points(
            axes, [c for c, _ in measured], [m for _, m in measured], color=color
        )
    axes.plot([], [], color=style.GREY, linestyle=":", label="central limit theorem")
    axes.errorbar(
        [],
        [],
        [],
        fmt="o",
        color=style.GREY,
        markersize=3.6,
        label="Monte Carlo, ± 2 s.e.",
    )
    axes.set_yscale("log")
    axes.set_ylim(2e-4, 1.6)
    axes.set_xticks(range(1, MOST + 1))
    style.label(
        axes, "number of orthants T", "probability of a shared ray", "Turned orthants"
    )
    style.legend(axes, loc="lower left")
    return figure
