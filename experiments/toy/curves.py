"""Exact worlds of 200 tasks: closed forms drawn as curves, merges measured as points.

`python -m experiments.toy.curves`; the largest error, in standard errors of the points,
is printed, and is 1 or so where points are a sample of subsets.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from experiments.common.pools import score
from experiments.theory import style
from experiments.toy.exact import Exact
from experiments.toy.presets import WORLDS, make_world
from experiments.toy.worlds import World

COUNTS = (1, 2, 3, 5, 8, 13, 25, 50, 100, 150, 200)
_PLAIN_SUM = 0.1


TITLES = {
    "alike": "quadratic, cosine 0.3, trained to the optimum",
    "apart": "quadratic, cosine 0, norms spread, partly trained",
    "regression": "regression, rank 4, little overlap",
}


def _scales(exact: Exact, k: int) -> dict[str, float]:
    """The methods, as scales of the average."""
    return {
        "average": 1.0,
        f"sum, λ = {_PLAIN_SUM}": _PLAIN_SUM * k,
        "average, best scale for k": exact.best_scale(k),
    }


def measure(world: World, counts: tuple[int, ...], subsets: int) -> dict[str, Any]:
    """Pooled losses of random subsets: `[count, subset]` by method, and their sizes."""
    pool, exact = world.pool, world.exact
    rng = np.random.default_rng(0)
    order = np.argsort(rng.random((len(counts), subsets, pool.size)), axis=-1)
    masks = order < np.array(counts)[:, None, None]
    vectors = jax.tree.map(lambda e, b: e - b, pool.experts, pool.base)

    @jax.jit
    def losses(rows: Any) -> Any:
        def one(row: Any) -> Any:
            moved = lambda b, v: b + jnp.tensordot(row, v, 1, precision="highest")
            merged = jax.tree.map(moved, pool.base, vectors)
            return jnp.mean(score(pool, merged, "test").loss)

        return jax.lax.map(one, rows, batch_size=64)

    found = {}
    for name in _scales(exact, 1):
        scale = np.array([_scales(exact, k)[name] / k for k in counts])
        rows = (masks * scale[:, None, None]).reshape(-1, pool.size)
        found[name] = np.asarray(losses(jnp.asarray(rows, jnp.float32))).reshape(
            len(counts), subsets
        )
    return found


def largest_error(
    world: World, found: dict[str, Any], counts: tuple[int, ...]
) -> float:
    """Of a mean over subsets against its closed form, in its standard errors."""
    worst = 0.0
    for name, losses in found.items():
        for k, row in zip(counts, losses, strict=True):
            scale = _scales(world.exact, k)[name]
            stderr = np.sqrt(world.exact.variance(k, scale) / len(row))
            expected = world.exact.mean(k, scale)
            # float32 sums of 200 losses are good to some 1e-5.
            off = abs(row.mean() - expected) / (stderr + 1e-5 * expected)
            worst = max(worst, float(off))
    return worst


def draw(
    made: dict[str, World], found: dict[str, dict[str, Any]], counts: tuple[int, ...]
) -> Figure:
    """A panel for each world: curves with a band of one standard deviation, points."""
    figure, panels = style.make(len(made), width=4.4, height=3.8)
    colors = (style.BLUE, style.RED, style.GREEN)
    for axes, (name, world) in zip(panels, made.items(), strict=True):
        exact = world.exact
        every = range(1, exact.size + 1)
        base = exact.levels.mean()
        for color, (method, losses) in zip(colors, found[name].items(), strict=True):
            scales = [_scales(exact, k)[method] for k in every]
            pairs = list(zip(every, scales, strict=True))
            mean = np.array([exact.mean(k, c) for k, c in pairs])
            spread = np.sqrt([exact.variance(k, c) for k, c in pairs])
            low, high = mean - spread, mean + spread
            axes.fill_between(every, low, high, color=color, alpha=0.18, lw=0)
            axes.plot(every, mean, color=color, lw=1.3, label=method)
            axes.plot(counts, losses.mean(axis=1), "o", ms=3.4, color=color)
        axes.axhline(base, color=style.BLACK, lw=0.9, ls="--", label="base")
        own = exact.members_mean(1).mean()
        axes.axhline(
            own, color=style.GREY, lw=0.9, ls=":", label="each expert, its task"
        )
        axes.set_xscale("log")
        axes.set_ylim(0, 1.8 * base)
        style.label(axes, "experts merged, k of 200", "mean loss of 200 tasks", name)
    style.legend(panels[-1], loc="lower left")
    return figure


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m experiments.toy.curves")
    parser.add_argument("--out", type=Path, default=Path("runs/toy/worlds.png"))
    parser.add_argument("--subsets", type=int, default=64)
    options = parser.parse_args(arguments)
    made = {TITLES[name]: make_world(config) for name, config in WORLDS.items()}
    found = {n: measure(world, COUNTS, options.subsets) for n, world in made.items()}
    for name, world in made.items():
        worst = largest_error(world, found[name], COUNTS)
        print(f"{name}: closed forms are {worst:.1f} standard errors off at most")
    matplotlib.use("agg")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    draw(made, found, COUNTS).savefig(options.out, dpi=85, metadata={"Software": None})
    print(f"figure in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
