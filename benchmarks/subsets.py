"""All sets of experts of a small network: merged and evaluated by one program.

The linear path merges by a matrix product a leaf; recipes fold masked experts. Both are
compared with the same recipe called on one set after another, compiled too.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxmerge
from benchmarks.common import Preset
from jaxmerge.laws.designs import Design, all_subsets
from jaxmerge.laws.linear import linear_merge
from jaxmerge.laws.measure import measure

_INPUTS, _CLASSES, _EXAMPLES = 16, 10, 64
_ONE_BY_ONE = 256  # sets, for the comparison

Loss = Callable[[Any], jax.Array]


def _network(num: int, width: int) -> tuple[Any, list[Any], Loss]:
    """A base, its experts and a cross-entropy; two layers, of random weights."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)

    def weights(scale: float) -> dict[str, Any]:
        return {
            "hidden": scale * draw(_INPUTS, width) / _INPUTS**0.5,
            "bias": scale * draw(width),
            "output": scale * draw(width, _CLASSES) / width**0.5,
        }

    base = weights(1.0)
    experts = [jax.tree.map(jnp.add, base, weights(0.3)) for _ in range(num)]
    inputs, labels = draw(_EXAMPLES, _INPUTS), jnp.arange(_EXAMPLES) % _CLASSES

    def loss(params: Any) -> jax.Array:
        hidden = jax.nn.relu(inputs @ params["hidden"] + params["bias"])
        scores = jax.nn.log_softmax(hidden @ params["output"])
        return -jnp.mean(scores[jnp.arange(_EXAMPLES), labels])

    return base, experts, loss


def _whole(merge: Callable, design: Design, loss: Loss) -> tuple[dict, np.ndarray]:
    """Times one measurement: the rate is that of all calls of the program but one."""
    ends: list[tuple[int, float]] = []
    every = min(1024, max(1, len(design) // 3))
    start = time.perf_counter()
    table = measure(
        merge,
        design,
        {"all": loss},
        save_every=every,
        progress=lambda done, total: ends.append((done, time.perf_counter())),
    )
    seconds = time.perf_counter() - start
    (first, first_end), (last, last_end) = ends[0], ends[-1]
    rate = (last - first) / (last_end - first_end)
    return {"seconds": seconds, "subsets_per_second": rate}, table.loss


def _one_by_one(merge: Callable, design: Design, loss: Loss) -> dict[str, Any]:
    """The same program for one set, called for one after another."""
    start = time.perf_counter()
    program = jax.jit(lambda mask: loss(merge(mask)))
    masks = design.masks[-_ONE_BY_ONE:]
    jax.block_until_ready(program(masks[0]))
    warm = time.perf_counter()
    for mask in masks:
        float(program(mask))
    end = time.perf_counter()
    return {
        "seconds": end - start,
        "subsets_per_second": len(masks) / (end - warm),
    }


def _pool(num: int, width: int, recipes: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    base, experts, loss = _network(num, width)
    design = all_subsets(num)
    about = {
        "kind": "subsets",
        "experts": num,
        "parameters": sum(x.size for x in jax.tree.leaves(base)),
        "subsets": len(design),
    }
    timed, expected = _whole(linear_merge(base, experts), design, loss)
    yield about | {"name": "linear"} | timed
    for name in recipes:
        recipe = getattr(jaxmerge, name)()
        merge = lambda mask, recipe=recipe: recipe(base, experts, members=mask)
        timed, losses = _whole(merge, design, loss)
        if name == "average":
            np.testing.assert_allclose(losses, expected, rtol=1e-4)
        yield about | {"name": name} | timed
        timed = _one_by_one(merge, design, loss)
        yield about | {"name": f"{name}, one by one"} | timed


def run(preset: Preset) -> Iterator[dict[str, Any]]:
    """Sets a second, for each pool of experts."""
    for num, width in preset.subset_pools:
        yield from _pool(num, width, preset.subset_recipes)
