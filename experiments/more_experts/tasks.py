"""Ten tasks from scikit-learn's handwritten digits, generated on the fly.

A task is a transform that a person sees at a glance and a label map, which renames
some digits. One network of ten outputs can solve all ten at once, because the transform
tells which map holds; a base that has seen weak transforms, with plain labels, cannot.

Images are split once, by source image: nothing drawn from a test image is ever trained
on or tuned on. Every sample is a new draw of rotation, size and place of its image.
"""

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from sklearn.datasets import load_digits

SIDE = 12
PIXELS = SIDE * SIDE
SPLITS = {"train": (0, 1024), "validation": (1024, 1280), "test": (1280, 1792)}
# Splits are whole numbers of chunks, so that drawing is compiled once.
_CHUNK = 256

_rows, _columns = np.indices((SIDE, SIDE))
_GRID = np.stack([_rows, _columns]).reshape(2, PIXELS) - (SIDE - 1) / 2
_STRIPES = _columns // 2 % 2
_CHECKS = (_rows // 3 + _columns // 3) % 2
_RINGS = np.hypot(_rows - 5.5, _columns - 5.5).round().astype(int) // 2 % 2
_BLOCK_ORDER = np.array([4, 8, 0, 2, 6, 1, 7, 3, 5])


# --- transforms: of where the ink is looked up (grid), or of the picture itself -----


def _rotate(grid: Array, angle: Array | float) -> Array:
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    rows, columns = grid
    return jnp.stack([cos * rows - sin * columns, sin * rows + cos * columns])


def _turn(grid: Array, strength: Array) -> Array:
    return _rotate(grid, -0.5 * jnp.pi * strength)


def _slant(grid: Array, strength: Array) -> Array:
    return grid.at[1].add(1.3 * strength * grid[0])


def _wave(grid: Array, strength: Array) -> Array:
    return grid.at[1].add(2.6 * strength * jnp.sin(2 * jnp.pi * grid[0] / 6))


def _swirl(grid: Array, strength: Array) -> Array:
    return _rotate(grid, 2.2 * strength * jnp.exp(-jnp.sum(grid**2, axis=0) / 18))


def _over(pattern: np.ndarray) -> Callable[[Array, Array], Array]:
    """Inverts the picture where a pattern is 1."""
    where = pattern.astype(np.float32)
    return lambda image, strength: jnp.abs(image - strength * where)


def _roll(image: Array, strength: Array) -> Array:
    shift = jnp.round(6 * strength).astype(jnp.int32)
    return image[(jnp.arange(SIDE) - shift) % SIDE]


def _shuffle(image: Array, strength: Array) -> Array:
    blocks = image.reshape(3, 4, 3, 4).swapaxes(1, 2).reshape(9, 4, 4)[_BLOCK_ORDER]
    shuffled = blocks.reshape(3, 3, 4, 4).swapaxes(1, 2).reshape(SIDE, SIDE)
    return (1 - strength) * image + strength * shuffled


def _same(x: Array, strength: Array) -> Array:
    del strength
    return x


# --- the tasks ------------------------------------------------------------------------


class Task(NamedTuple):
    """A transform and a label map.

    Attributes:
      name: what a person would call the transform.
      cycles: the digits that the label map renames, each to the next of its cycle.
      warp: (grid, strength) -> grid, where each pixel looks its ink up.
      paint: (image, strength) -> image.
    """

    name: str
    cycles: tuple[tuple[int, ...], ...] = ()
    warp: Callable[[Array, Array], Array] = _same
    paint: Callable[[Array, Array], Array] = _same

    @property
    def labels(self) -> np.ndarray:
        """The label of each digit."""
        labels = np.arange(10)
        for cycle in self.cycles:
            labels[list(cycle)] = [*cycle[1:], cycle[0]]
        return labels


TASKS = (
    Task("turn", warp=_turn),
    Task("slant", ((2, 5, 3),), warp=_slant),
    Task("wave", ((6, 9, 4),), warp=_wave),
    Task("swirl", warp=_swirl),
    Task("stripes", ((1, 7), (0, 8)), paint=_over(_STRIPES)),
    Task("checks", ((0, 6, 8),), paint=_over(_CHECKS)),
    Task("rings", ((4, 9), (1, 7)), paint=_over(_RINGS)),
    Task("roll", paint=_roll),
    Task("shuffle", ((3, 8), (2, 5)), paint=_shuffle),
    Task("negative", ((0, 9, 4),), paint=_over(np.ones((SIDE, SIDE)))),
)


# --- samples --------------------------------------------------------------------------


def load_images(seed: int) -> tuple[Float[Array, "image 8 8"], Int[Array, " image"]]:
    """The 1,797 digits, ink from 0 to 1, in an order drawn from the seed.

    The first 1,792 are used: 1,024 to train, 256 to validate and 512 to test.
    """
    pixels, digits = load_digits(return_X_y=True)
    order = jax.random.permutation(jax.random.key(seed), len(digits))
    images = jnp.asarray(pixels / 16, jnp.float32).reshape(-1, 8, 8)
    return images[order], jnp.asarray(digits, jnp.int32)[order]


def _draw_one(
    tasks: tuple[Task, ...], key: Array, task: Array, image: Array, strength: Array
) -> Array:
    """One sample: a jittered 12 by 12 picture, transformed; from -0.5 to 0.5."""
    angle, size, place = jax.random.split(key, 3)
    shift = jax.random.uniform(place, (2, 1), minval=-0.8, maxval=0.8)
    warps = [t.warp for t in tasks]
    grid = jax.lax.switch(
        task, warps, jnp.asarray(_GRID, jnp.float32) - shift, strength
    )
    tilt = jax.random.uniform(angle, minval=-1.0, maxval=1.0) * jnp.deg2rad(8.0)
    zoom = jax.random.uniform(size, minval=1.15, maxval=1.4)
    rows, columns = _rotate(grid, tilt) / zoom + 3.5
    # Bilinear interpolation as two matrices of tents: nothing to gather.
    tent = lambda at: jnp.maximum(0, 1 - jnp.abs(at[:, None] - jnp.arange(8.0)))
    ink = jnp.sum((tent(rows) @ image) * tent(columns), axis=-1)
    paints = [t.paint for t in tasks]
    picture = jax.lax.switch(task, paints, ink.reshape(SIDE, SIDE), strength)
    return picture.reshape(PIXELS) - 0.5


@functools.partial(jax.jit, static_argnames="tasks")
def _draw(
    tasks: tuple[Task, ...], key: Array, task: Array, images: Array, strengths: Array
) -> Array:
    # The task is not mapped over, so that the switch runs one branch, not all.
    keys = jax.random.split(key, len(images))
    draw = functools.partial(_draw_one, tasks)
    return jax.vmap(draw, (0, None, 0, 0))(keys, task, images, strengths)


class Samples(NamedTuple):
    """Samples of several tasks: a leading task axis."""

    inputs: Float[Array, "task sample pixel"]
    labels: Int[Array, "task sample"]


def draw_samples(
    seed: int,
    split: str,
    copies: int,
    *,
    num_tasks: int,
    strength: tuple[float, float] = (1.0, 1.0),
    plain: bool = False,
    tasks: tuple[Task, ...] = TASKS,
    stream: int = 1,
) -> Samples:
    """Draws samples of every task from the images of one split.

    Args:
      seed: of the split and of the draws.
      split: `"train"`, `"validation"` or `"test"`.
      copies: samples drawn from each image.
      num_tasks: how many tasks, from the first.
      strength: the range from which each sample's strength is drawn.
      plain: whether labels are the digits, whatever the task's map says.
      tasks: the suite that they are of.
      stream: another number for each suite, so that their draws differ.
    """
    images, digits = load_images(seed)
    used = slice(*SPLITS[split])
    images, digits = images[used], digits[used]
    # One stream per use: the base's mixture shares no draw with the experts' samples.
    use = [*SPLITS].index(split) * 2 + int(plain)
    stream_key = jax.random.fold_in(jax.random.key(seed + stream), use)
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
            parts.append(_draw(tasks, draws, jnp.int32(task), chunk, strengths))
        names = jnp.arange(10) if plain else jnp.asarray(tasks[task].labels)
        inputs.append(jnp.concatenate(parts))
        labels.append(jnp.tile(names[digits], copies))
    return Samples(jnp.stack(inputs), jnp.stack(labels))
