"""Stability as it is: training again with one sample replaced, and all else equal."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import PyTree

from jaxmerge._checks import check_key, check_values
from jaxmerge._types import PRNGKey
from jaxmerge.curvature import _vectors
from jaxmerge.curvature.operators import _num_samples
from jaxmerge.geometry import Estimate
from jaxmerge.kinematics._inputs import Numbers


def measure_stability(
    train: Callable[[PyTree, PRNGKey], PyTree],
    dataset: PyTree,
    replacements: PyTree,
    key: PRNGKey,
    *,
    positions: Numbers = None,
    parallel_runs: int = 1,
) -> Estimate:
    r"""The squared L2 stability of a training run, by coupled retraining.

        delta^2 = mean over j of |train(S, key) - train(S with j replaced, key)|^2

    Both runs have one key, so that they draw the same batches and the same masks.

    Args:
      train: from a data set and a key to parameters; traced once.
      dataset: S, a tree of arrays with a leading axis, of n samples.
      replacements: fresh samples from the same distribution, a tree like it with a
        leading axis of m >= 2.
      key: a typed key.
      positions: which samples are replaced, `(m,)` integers below n; by default the
        first m.
      parallel_runs: how many runs at a time.

    Returns:
      The mean over the replacements and its standard error, given S and the key.

    Raises:
      TypeError: if the key is no typed key, or trees or dtypes differ.
      ValueError: if there are fewer than 2 replacements or more than samples, or
        positions are out of range.

    Example:
      >>> train = lambda samples, key: jnp.mean(samples)
      >>> found = measure_stability(
      ...     train, jnp.zeros(4), jnp.array([4.0, -4.0]), jax.random.key(0)
      ... )
      >>> float(found.mean)
      1.0

    References:
      Bousquet, Elisseeff, Stability and generalization, 2002. Lei, Ying, Fine-grained
      analysis of stability and generalization for stochastic gradient descent, 2020,
      Definition 4 (on-average model stability).
    """
    check_key(key)
    num = _num_samples(dataset, "dataset")
    count = _num_samples(replacements, "replacements")
    _check_like(dataset, replacements)
    places = _positions(positions, num, count)
    original = train(dataset, key)

    def distance(at: Any) -> Any:
        swap = lambda x, y: jnp.asarray(x).at[places[at]].set(jnp.asarray(y)[at])
        changed = train(jax.tree.map(swap, dataset, replacements), key)
        apart = jax.tree.map(jnp.subtract, changed, original)
        return _vectors.inner(apart, apart)

    squares = lax.map(distance, jnp.arange(count), batch_size=parallel_runs)
    return Estimate.from_samples(squares, method="coupled retraining")


def _check_like(dataset: PyTree, replacements: PyTree) -> None:
    structures = jax.tree.structure(dataset), jax.tree.structure(replacements)
    if structures[0] != structures[1]:
        raise ValueError(
            f"replacements have structure {structures[1]}; expected that of the data "
            f"set, {structures[0]}"
        )
    leaves = zip(jax.tree.leaves(dataset), jax.tree.leaves(replacements), strict=True)
    for old, new in leaves:
        if jnp.shape(old)[1:] != jnp.shape(new)[1:] or (
            jnp.result_type(old) != jnp.result_type(new)
        ):
            raise ValueError(
                f"a replacement is {jnp.result_type(new)}{list(jnp.shape(new)[1:])}; "
                f"expected {jnp.result_type(old)}{list(jnp.shape(old)[1:])}, as in the "
                "data set"
            )


def _positions(positions: Any, num: int, count: int) -> Any:
    if count < 2:
        raise ValueError(
            f"{count} replacement has no standard error; give at least two"
        )
    if positions is None:
        if count > num:
            raise ValueError(
                f"there are {count} replacements for {num} samples; give at most one "
                "each, or their positions"
            )
        return jnp.arange(count)
    if jnp.shape(positions) != (count,):
        raise ValueError(
            f"positions have shape {jnp.shape(positions)}; expected ({count},), one "
            "for each replacement"
        )
    check_values(
        "positions",
        positions,
        lambda x: (x >= 0) & (x < num) & (x == x.round()),
        f"whole numbers from 0 to {num - 1}",
    )
    return jnp.asarray(positions)
