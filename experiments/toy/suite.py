"""Sixteen digit tasks: the ten of `more_experts`, and six that compose two transforms.

Splits, jitter and pictures are those of `experiments.more_experts.tasks`: a task is a
transform that a person sees at a glance and a label map, one network can solve them
all, and a base that has seen weak transforms with plain labels cannot.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array

from experiments.more_experts.tasks import (
    SIDE,
    TASKS as SINGLE,
    Samples,
    Task,
    draw_samples,
)

_BY_NAME = {task.name: task for task in SINGLE}


def _mirror(image: Array, strength: Array) -> Array:
    """Left and right change places, as far as the strength goes."""
    return (1 - strength) * image + strength * image[:, ::-1]


def _half(image: Array, strength: Array) -> Array:
    """The lower half in negative."""
    lower = (jnp.arange(SIDE) >= SIDE // 2).astype(jnp.float32)[:, None]
    return jnp.abs(image - strength * lower)


def _after(
    first: Callable[[Array, Array], Array], second: Callable[[Array, Array], Array]
) -> Callable[[Array, Array], Array]:
    return lambda x, strength: second(first(x, strength), strength)


def _composed() -> tuple[Task, ...]:
    warp = lambda name: _BY_NAME[name].warp
    paint = lambda name: _BY_NAME[name].paint
    return (
        Task("turn, stripes", ((5, 9, 1),), warp("turn"), paint("stripes")),
        Task("slant, negative", ((3, 7), (0, 6)), warp("slant"), paint("negative")),
        Task("wave, checks", ((2, 8, 1),), warp("wave"), paint("checks")),
        Task("swirl, mirror", ((4, 7), (3, 9)), warp("swirl"), _mirror),
        Task("roll, rings", ((5, 6, 2),), paint=_after(paint("roll"), paint("rings"))),
        Task(
            "shuffle, half",
            ((0, 1), (7, 9)),
            paint=_after(paint("shuffle"), _half),
        ),
    )


SUITE = (*SINGLE, *_composed())


def draw(
    seed: int,
    split: str,
    copies: int,
    *,
    num_tasks: int,
    strength: tuple[float, float] = (1.0, 1.0),
    plain: bool = False,
) -> Samples:
    """Samples of every task from the images of one split: `draw_samples` of `SUITE`."""
    return draw_samples(
        seed,
        split,
        copies,
        num_tasks=num_tasks,
        strength=strength,
        plain=plain,
        tasks=SUITE,
        stream=2,
    )
