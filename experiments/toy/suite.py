"""Sixteen digit tasks: the ten of `more_experts`, and six that compose two transforms.

Splits, jitter and pictures are those of `experiments.more_experts.tasks`: a task is a
transform that a person sees at a glance and a label map, one network can solve them
all, and a base that has seen weak transforms with plain labels cannot.
"""

import functools
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from experiments.more_experts.tasks import (
    PIXELS,
    SIDE,
    SPLITS,
    TASKS as SINGLE,
    Samples,
    Task,
    load_images,
)

_BY_NAME = {task.name: task for task in SINGLE}
# Splits are whole numbers of chunks, so that drawing is compiled once.
_CHUNK = 256


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


def _rotated(grid: Array, angle: Array) -> Array:
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    rows, columns = grid
    return jnp.stack([cos * rows - sin * columns, sin * rows + cos * columns])


def _draw_one(key: Array, task: Array, image: Array, strength: Array) -> Array:
    """One sample: a jittered 12 by 12 picture, transformed; from -0.5 to 0.5."""
    angle, size, place = jax.random.split(key, 3)
    shift = jax.random.uniform(place, (2, 1), minval=-0.8, maxval=0.8)
    centred = jnp.indices((SIDE, SIDE), dtype=jnp.float32) - (SIDE - 1) / 2
    grid = centred.reshape(2, PIXELS) - shift
    grid = jax.lax.switch(task, [t.warp for t in SUITE], grid, strength)
    tilt = jax.random.uniform(angle, minval=-1.0, maxval=1.0) * jnp.deg2rad(8.0)
    zoom = jax.random.uniform(size, minval=1.15, maxval=1.4)
    rows, columns = _rotated(grid, tilt) / zoom + 3.5
    # Bilinear interpolation as two matrices of tents: nothing to gather.
    tent = lambda at: jnp.maximum(0, 1 - jnp.abs(at[:, None] - jnp.arange(8.0)))
    ink = jnp.sum((tent(rows) @ image) * tent(columns), axis=-1)
    paints = [t.paint for t in SUITE]
    picture = jax.lax.switch(task, paints, ink.reshape(SIDE, SIDE), strength)
    return picture.reshape(PIXELS) - 0.5


@jax.jit
def _draw(key: Array, task: Array, images: Array, strengths: Array) -> Array:
    # The task is not mapped over, so that the switch runs one branch, not sixteen.
    keys = jax.random.split(key, len(images))
    return jax.vmap(_draw_one, (0, None, 0, 0))(keys, task, images, strengths)


def draw(
    seed: int,
    split: str,
    copies: int,
    *,
    num_tasks: int,
    strength: tuple[float, float] = (1.0, 1.0),
    plain: bool = False,
) -> Samples:
    """Samples of every task from the images of one split.

    Args:
      seed: of the split and of the draws.
      split: `"train"`, `"validation"` or `"test"`; no image is in two.
      copies: samples drawn from each image.
      num_tasks: how many of `SUITE`, from the first.
      strength: the range from which each sample's strength is drawn.
      plain: whether labels are the digits, whatever the task's map says.
    """
    images, digits = load_images(seed)
    used = slice(*SPLITS[split])
    images, digits = images[used], digits[used]
    # One stream a use: the base's mixture shares no draw with the experts' samples.
    stream = [*SPLITS].index(split) * 2 + int(plain)
    stream_key = jax.random.fold_in(jax.random.key(seed + 2), stream)
    inputs, labels = [], []
    for task in range(num_tasks):
        parts = []
        for copy, start in itertools.product(
            range(copies), range(0, len(images), _CHUNK)
        ):
            where = (task, copy, start)
            how_much, draws = jax.random.split(
                functools.reduce(jax.random.fold_in, where, stream_key)
            )
            strengths = jax.random.uniform(
                how_much, (_CHUNK,), minval=strength[0], maxval=strength[1]
            )
            chunk = images[start : start + _CHUNK]
            parts.append(_draw(draws, jnp.int32(task), chunk, strengths))
        names = jnp.arange(10) if plain else jnp.asarray(SUITE[task].labels)
        inputs.append(jnp.concatenate(parts))
        labels.append(jnp.tile(names[digits], copies))
    return Samples(jnp.stack(inputs), jnp.stack(labels))
