"""Products of a parameter with something else, as primitives write them."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxmerge._origins import Origin


@dataclasses.dataclass(frozen=True)
class Product:
    """A product of a parameter with something else.

    Attributes:
      origin: the parameter.
      other: what it is multiplied by.
      over: pairs of axes that are summed over: of the leaf, and of `other`.
      along: pairs of axes that both have.
    """

    origin: Origin
    other: Any
    over: tuple[tuple[int, int], ...]
    along: tuple[tuple[int, int], ...]


def contracted(origin: Origin, side: int, other: Any, params: Any) -> Product | None:
    """That of a `dot_general`."""
    summed, shared = (
        {b: origin.axes[a] for a, b in zip(axes[side], axes[1 - side], strict=True)}
        for axes in params["dimension_numbers"]
    )
    return _parted(origin, other, summed, shared)


def convolved(origin: Origin, side: int, other: Any, params: Any) -> Product | None:
    """That of a convolution, whose kernel is multiplied by patches of the images.

    Not of one in groups, as a depthwise one is: each has inputs of its own.
    """
    groups = params["feature_group_count"], params["batch_group_count"]
    if side == 0 or groups != (1, 1):
        return None
    numbers = params["dimension_numbers"]
    _, *kernel = (origin.axes[i] for i in numbers.rhs_spec)  # features, then space
    images = jnp.transpose(other, numbers.lhs_spec)
    window = [math.prod(map(origin.extent, axes)) for axes in kernel[1:]]
    patches = jax.lax.conv_general_dilated_patches(
        images,
        window,
        params["window_strides"],
        params["padding"],
        params["lhs_dilation"],
        params["rhs_dilation"],
        precision=jax.lax.Precision.HIGHEST,
    )
    num, _, *space = patches.shape
    patches = patches.reshape(num, images.shape[1], *window, *space)
    return _parted(origin, patches, dict(enumerate(kernel, start=1)), {})


def _parted(
    origin: Origin,
    other: Any,
    summed: dict[int, tuple[int, ...]],
    shared: dict[int, tuple[int, ...]],
) -> Product | None:
    """A product by axes of `other`, which are parted where the parameter's are merged.

    None if one of them is no axis of the leaf.
    """
    own = summed | shared
    if not all(own.values()):
        return None
    shape: list[int] = []
    at: dict[int, int] = {}  # where each of the leaf's axes is
    for i, size in enumerate(jnp.shape(other)):
        axes = own.get(i, ())
        at |= {axis: len(shape) + n for n, axis in enumerate(axes)}
        shape += [origin.extent(axis) for axis in axes] if axes else [size]
    over, along = (
        tuple((axis, at[axis]) for axes in some.values() for axis in axes)
        for some in (summed, shared)
    )
    return Product(origin, jnp.reshape(other, shape), over, along)


PRODUCTS: dict[str, Callable[[Origin, int, Any, Any], Product | None]] = {
    "dot_general": contracted,
    "conv_general_dilated": convolved,
}
