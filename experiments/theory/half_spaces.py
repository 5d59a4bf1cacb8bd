"""V3. Do random half-spaces share a ray as Wendel says, and is Cover's capacity 2d?

A vector that is on the positive side of T random ones exists with Wendel's probability,
1/2 at T = 2d exactly. By polarity the question is when the cone of T random rays is the
whole space; on the way there its statistical dimension is E min(Bin(T, 1/2), d).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.theory import style
from experiments.theory.config import Config
from experiments.theory.measure import claim, deviation, frequency, share_a_ray
from jaxmerge import geometry, kinematics

NAME = "v3_half_spaces"
QUESTION = "Do random half-spaces share a ray as Wendel and Cover say?"
RATIOS = (0.5, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.2, 2.4, 2.6, 3.0)
# E min(Bin(T, 1/2), 20) by T, to three digits.
KNOWN_DIMENSIONS = {10: 5.0, 30: 14.967, 40: 18.746, 60: 19.995}


_wendel = jax.jit(kinematics.wendel_probability, static_argnames="dimension")


@jax.jit
def _squares(generators: jax.Array, normals: jax.Array) -> jax.Array:
    def one(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
        rays, g = pair
        return geometry.PolyhedralCone(rays).squared_norm(g)

    return jax.lax.map(one, (generators, normals), batch_size=100)


def _dimensions(config: Config, dimension: int, counts: list[int]) -> list[dict]:
    """The mean statistical dimension of the cone of T rays, one point for each cone."""
    rows = []
    trials, most = config.half_space_trials, max(counts)
    for number in counts:
        rng = np.random.default_rng([config.seed, 3, dimension, number, 1])
        # Rays of length 0 change no cone, and all numbers of rays share one program.
        rays = rng.standard_normal((trials, most, dimension))
        rays[:, number:] = 0
        normals = rng.standard_normal((trials, dimension))
        squares = np.asarray(
            _squares(jnp.asarray(rays, jnp.float32), jnp.asarray(normals, jnp.float32)),
            np.float64,
        )
        exact = geometry.volumes_mean(
            geometry.rays_intrinsic_volumes(number, dimension)
        )
        stderr = float(squares.std(ddof=1) / trials**0.5)
        rows.append({"mean": float(squares.mean()), "stderr": stderr, "exact": exact})
    return rows


def _case(config: Config, dimension: int) -> dict[str, Any]:
    counts = sorted({round(ratio * dimension) for ratio in RATIOS})
    measured = []
    for number in counts:
        rng = np.random.default_rng([config.seed, 3, dimension, number])
        hits = sum(
            share_a_ray(rng.standard_normal((number, dimension)))
            for _ in range(config.half_space_trials)
        )
        measured.append(frequency(hits, config.half_space_trials))
    with jax.enable_x64(True):
        exact = np.asarray(_wendel(jnp.asarray(counts, float), dimension))
        smooth = np.linspace(min(counts), max(counts), 121)
        curve = _wendel(jnp.asarray(smooth), dimension)
        capacity = float(kinematics.cover_capacity(dimension))
        half = float(_wendel(jnp.asarray([capacity]), dimension)[0])
    return {
        "dimension": dimension,
        "counts": counts,
        "measured": measured,
        "exact": exact.tolist(),
        "deviations": [deviation(m, e) for m, e in zip(measured, exact, strict=True)],
        "curve": {"counts": smooth.tolist(), "exact": np.asarray(curve).tolist()},
        "capacity": capacity,
        "at_capacity": half,
        "dimensions": _dimensions(config, dimension, counts),
    }


def compute(config: Config) -> dict[str, Any]:
    """The frequencies, Wendel's probabilities, and what was to be shown."""
    cases = [_case(config, dimension) for dimension in config.half_space_dimensions]
    far = max(abs(z) for case in cases for z in case["deviations"])
    wrong = max(
        abs(geometry.volumes_mean(geometry.rays_intrinsic_volumes(t, 20)) - delta)
        for t, delta in KNOWN_DIMENSIONS.items()
    )
    large = max(
        abs(row["mean"] - row["exact"]) / max(row["stderr"], 1e-3)
        for case in cases
        for row in case["dimensions"]
    )
    half = max(abs(case["at_capacity"] - 0.5) for case in cases)
    return {
        "cases": cases,
        "claims": [
            claim("frequencies are off Wendel's by, in s.e.", far, 4.0),
            claim("Wendel's probability at 2d is off 1/2 by", half, 1e-9),
            claim("exact dimensions are off the known ones by", wrong, 1e-3),
            claim("mean dimensions are off the exact ones by, in s.e.", large, 4.0),
        ],
    }


def draw(results: dict[str, Any]) -> Figure:
    """The figure, from the results alone."""
    figure, (left, right) = style.make(2)
    for case, color in zip(results["cases"], style.CYCLE, strict=False):
        d = case["dimension"]
        ratios = np.asarray(case["counts"]) / d
        left.plot(
            np.asarray(case["curve"]["counts"]) / d,
            case["curve"]["exact"],
            color=color,
            linewidth=1.5,
            label=f"Wendel, d = {d}",
        )
        style.points(left, ratios.tolist(), case["measured"], color=color)
        rows = case["dimensions"]
        right.plot(
            ratios,
            [row["exact"] / d for row in rows],
            color=color,
            linewidth=1.5,
            label=f"E min(Bin(T, ½), d), d = {d}",
        )
        scaled = [{k: row[k] / d for k in ("mean", "stderr")} for row in rows]
        style.points(right, ratios.tolist(), scaled, color=color)
    for axes in (left, right):
        axes.errorbar(
            [],
            [],
            [],
            fmt="o",
            color=style.GREY,
            markersize=3.6,
            label="Monte Carlo, ± 2 s.e.",
        )
    style.mark(left, 2.0, "Cover's capacity T = 2d", y=0.82)
    style.label(
        left,
        "half-spaces per dimension, T / d",
        "probability of a shared ray",
        "Half-spaces: Wendel's probability",
    )
    style.label(
        right,
        "rays per dimension, T / d",
        "mean statistical dimension, in units of d",
        "The cone that T random rays span",
    )
    style.legend(left, loc="lower left")
    style.legend(right, loc="lower right")
    return figure
