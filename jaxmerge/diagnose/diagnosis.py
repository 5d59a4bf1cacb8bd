"""From a base and its experts to what ails their merge, and what to do about it."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from jaxmerge import stability
from jaxmerge._types import PRNGKey
from jaxmerge.checkpoint import Progress
from jaxmerge.diagnose.advice import Advice, Choice, advise
from jaxmerge.diagnose.measure import Measurements, measure
from jaxmerge.diagnose.mechanisms import Mechanism, mechanisms
from jaxmerge.diagnose.prospects import Prospects, prospects
from jaxmerge.diagnose.saturation import Saturation, saturation_of_grams
from jaxmerge.stability import MergeFriendliness


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` finds.

    Attributes:
      measurements: of one reading.
      mechanisms: the six, by name.
      saturation: the width of k experts, and every T* whose inputs were given.
      prospects: what further experts are expected to add and to cost.
      choice: the method that is advised.
      advice: all of it, with the numbers.
      friendliness: what is known about the merge's stability from the Gram alone.
    """

    measurements: Measurements
    mechanisms: Mapping[str, Mechanism]
    saturation: Saturation
    prospects: Prospects
    choice: Choice
    advice: tuple[Advice, ...]
    friendliness: MergeFriendliness


def diagnose(
    base: Any,
    experts: Sequence[Any],
    *,
    key: PRNGKey,
    tolerance: float | None = None,
    half_angle: float | None = None,
    dimension: float | None = None,
    eta: float | None = None,
    drift: Any = None,
    density: float = 0.2,
    num_samples: int = 4096,
    resamples: int = 1000,
    progress: Callable[[Progress], None] | None = None,
) -> Diagnosis:
    """Diagnoses the merge of some experts, reading each model once.

    Args:
      base: a checkpoint, or a tree of parameters.
      experts: as many checkpoints, or trees, fine-tuned from it; at least one.
      key: a typed key, for sketches, samples, random directions and the bootstrap.
      tolerance: the share of the first gain below which a gain is negligible.
      half_angle: in radians; how far from its task vector an expert still works.
      dimension: of the space that task vectors have to fill.
      eta: the probability with which the claims of a threshold may fail.
      drift: relative errors of features by depth, `(samples, layers)`.
      density: of the largest entries whose overlap is measured.
      num_samples: random directions for the widths.
      resamples: of the bootstrap over layers.
      progress: called while checkpoints are read.

    Returns:
      A `Diagnosis`.

    Raises:
      CheckpointError: if a checkpoint does not fit, is a LoRA adapter, or is not
        finite.
      ValueError: if trees do not fit, or an input is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> base = {"w": jnp.zeros((4, 4))}
      >>> experts = [{"w": jnp.diag(row)} for row in jnp.eye(4)]
      >>> found = diagnose(base, experts, key=jax.random.key(0), num_samples=64)
      >>> str(found.choice), found.advice[0].abstains
      ('task_arithmetic with scale 1.00', True)
    """
    keys = jax.random.split(key, 4)
    measured = measure(base, experts, key=keys[0], density=density, progress=progress)
    known = mechanisms(measured, key=keys[1], drift=drift, resamples=resamples)
    saturated = saturation_of_grams(
        measured.grams,
        measured.experts,
        key=keys[2],
        num_samples=num_samples,
        tolerance=tolerance,
        half_angle=half_angle,
        dimension=dimension,
        eta=eta,
    )
    whole = saturated.whole
    ahead = prospects(whole.gram, whole.width, whole.gains)
    choice, advice = advise(
        measured, known, ahead, key=keys[3], tolerance=tolerance, resamples=resamples
    )
    return Diagnosis(
        measurements=measured,
        mechanisms=known,
        saturation=saturated,
        prospects=ahead,
        choice=choice,
        advice=advice,
        friendliness=stability.merge_friendliness(whole.gram, names=measured.experts),
    )
