"""What the bound is told: how experts were trained, and constants of their losses."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxmerge._checks import check_values, is_concrete
from jaxmerge._types import pytree
from jaxmerge.kinematics._inputs import as_floats, check_at_most, require

USER = "the fine-tuning's settings"
_LOSSES = "the losses; see gradient_statistics, per_sample_noise and measure_smoothness"


@pytree
class ExpertSpec:
    """How experts were fine-tuned, by plain minibatch SGD from one base.

    One number stands for all experts. Steps may be fractions, for sweeps and slopes.

    Attributes:
      learning_rate: eta_i, `(task,)` or one number, positive; with momentum mu, eta /
        (1 - mu) is the usual reading, and not part of the theorems.
      batch_size: b_i, from 1 to the samples.
      steps: K_i, at least 1.
      samples: n_i, how many training examples expert i has.
    """

    learning_rate: Any
    batch_size: Any
    steps: Any
    samples: Any


@pytree
class ProblemStats:
    """Constants of the experts' empirical losses f_i and of f = sum p_i f_i.

    What belongs to the base is at the base x_0; `p` are the target weights that the
    bound is told. Upper bounds keep the bound valid, except of `gradient`, where it
    takes a lower one.

    Attributes:
      smoothness: L, one number: the Lipschitz constant of the gradient, of each sample.
      noise: sigma_i^2, the variance of a sample's gradient, `(task,)` or one number.
      gradient_norms: G0_i^2 = |grad f_i(x_0)|^2, `(task,)` or one number.
      gradient: g0^2 = |grad f(x_0)|^2.
      heterogeneity: zeta_0^2 = sum p_i |grad f_i(x_0) - grad f(x_0)|^2.
      merged_heterogeneity: the same sum at the merged point.
      gap: f(x_0) - min f.
    """

    smoothness: Any
    noise: Any
    gradient_norms: Any
    gradient: Any
    heterogeneity: Any
    merged_heterogeneity: Any
    gap: Any


@pytree
class Problem:
    """A spec and stats as arrays of one dtype, all per-expert ones `(task,)`."""

    learning_rate: Any
    batch_size: Any
    steps: Any
    samples: Any
    smoothness: Any
    noise: Any
    gradient_norms: Any
    gradient: Any
    heterogeneity: Any
    merged_heterogeneity: Any
    gap: Any
    coefficients: Any
    target_weights: Any


SPEC_FIELDS = ("learning_rate", "batch_size", "steps", "samples")
_PER_EXPERT = (*SPEC_FIELDS, "noise", "gradient_norms")
_SCALARS = (
    "smoothness",
    "gradient",
    "heterogeneity",
    "merged_heterogeneity",
    "gap",
)


def check_spec(spec: ExpertSpec) -> None:
    """Refuses concrete settings that no training has."""
    for name in SPEC_FIELDS:
        require("ExpertSpec", name, getattr(spec, name), USER)
    positive = lambda x: (x > 0) & np.isfinite(x)
    check_values(
        "learning_rate", spec.learning_rate, positive, "positive finite numbers"
    )
    for name in ("batch_size", "steps", "samples"):
        check_values(
            name,
            getattr(spec, name),
            lambda x: (x >= 1) & np.isfinite(x),
            "finite numbers of at least 1",
        )
    check_at_most("batch_size", spec.batch_size, "samples", spec.samples)


def check_stats(stats: ProblemStats) -> None:
    """Refuses concrete constants that no problem has."""
    for name in ("noise", "gradient_norms", *_SCALARS):
        require("ProblemStats", name, getattr(stats, name), _LOSSES)
        check_values(
            name,
            getattr(stats, name),
            lambda x: (x >= 0) & np.isfinite(x),
            "finite numbers of at least 0",
        )
    check_values("smoothness", stats.smoothness, lambda x: x > 0, "a positive number")
    for name in _SCALARS:
        shape = np.shape(getattr(stats, name))
        if shape != ():
            raise ValueError(
                f"{name} has shape {shape}; expected one number for the whole problem"
                + (" (of experts that differ, the largest)" * (name == "smoothness"))
            )


def num_experts(**values: Any) -> int:
    """The common length of everything that is per expert; 1 if all are numbers."""
    sizes = {}
    for name, value in values.items():
        shape = np.shape(value)
        if len(shape) > 1:
            raise ValueError(f"{name} has shape {shape}; expected `(task,)`, or ()")
        if shape and value is not None:
            sizes[name] = shape[0]
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{name} is for {size}" for name, size in sizes.items())
        raise ValueError(f"numbers of experts differ: {told}; expected one number each")
    return next(iter(sizes.values()), 1)


def weights_of(target_weights: Any, num: int) -> Any:
    """Target weights p, 1 / N unless given; refuses those that sum to something else.

    Args:
      target_weights: `(task,)`, positive, of sum 1; or None.
      num: N.
    """
    if target_weights is None:
        return [1.0 / num] * num
    if is_concrete(target_weights):
        array = np.broadcast_to(np.asarray(target_weights, np.float64), (num,))
        if not (np.all(array > 0) and abs(array.sum() - 1) < 1e-4):
            raise ValueError(
                f"target_weights are {array.tolist()}; expected positive numbers whose "
                "sum is 1"
            )
    return target_weights


def check_coefficients(coefficients: Any) -> None:
    """Refuses concrete coefficients that the theorems do not cover."""
    check_values(
        "coefficients",
        coefficients,
        lambda x: (x >= 0) & np.isfinite(x),
        "finite numbers of at least 0: the theorem averages over experts, and an "
        "expert that is subtracted has no weight in an average",
    )


def resolve(
    spec: ExpertSpec, stats: ProblemStats, coefficients: Any, target_weights: Any
) -> Problem:
    """Checks all inputs, and makes them arrays of one dtype."""
    check_spec(spec)
    check_stats(stats)
    per_expert = {name: getattr(spec, name) for name in SPEC_FIELDS}
    per_expert |= {name: getattr(stats, name) for name in _PER_EXPERT[4:]}
    num = num_experts(
        **per_expert, coefficients=coefficients, target_weights=target_weights
    )
    weights = weights_of(target_weights, num)
    if coefficients is None:
        coefficients = weights
    check_coefficients(coefficients)
    scalars = {name: getattr(stats, name) for name in _SCALARS}
    *rows, coefficients, weights = _per_expert(
        num, *per_expert.values(), coefficients, weights, like=tuple(scalars.values())
    )
    dtype = rows[0].dtype
    return Problem(
        **dict(zip(per_expert, rows, strict=True)),
        **{name: jnp.asarray(value).astype(dtype) for name, value in scalars.items()},
        coefficients=coefficients,
        target_weights=weights,
    )


def _per_expert(num: int, *values: Any, like: tuple[Any, ...]) -> list[Array]:
    arrays = as_floats(*values, *like)[: len(values)]
    return [jnp.broadcast_to(array, (num,)) for array in arrays]
