"""Every threshold T* that the measured inputs determine, and why the others are not.

The definitions ask different questions of different inputs: the weights give gains and
cosines, a loss gives the dimension of each expert's acceptable cone, and what is a
convention (a tolerance, an angle, a probability) only the user can give.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxmerge import kinematics
from jaxmerge.geometry import Estimate
from jaxmerge.kinematics import Threshold


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What the thresholds are made from; None where it is not known.

    Attributes:
      gains: W(k + 1) - W(k), averaged over all subsets.
      cosines: between task vectors, in merging order.
      tolerance: the share of the first gain below which a gain is negligible.
      half_angle: in radians, of the cone of directions that an expert accepts.
      dimension: of the space that the experts' rays have to fill.
      eta: the probability with which an interval's claims may fail.
      parameters: how many the model has.
      statistical_dimensions: of the experts' acceptable cones, from their curvature.
    """

    gains: Estimate
    cosines: np.ndarray
    tolerance: Any
    half_angle: Any
    dimension: Any
    eta: Any
    parameters: int
    statistical_dimensions: np.ndarray | None = None


def _questions(inputs: Inputs) -> dict[str, tuple[Callable[..., Threshold], dict]]:
    delta = inputs.statistical_dimensions
    gains = inputs.gains if inputs.cosines.shape[0] > 1 else None
    space = inputs.parameters  # in which cones measured by curvature live
    return {
        "marginal_gain": (
            kinematics.marginal_gain,
            {"gains": gains, "tolerance": inputs.tolerance},
        ),
        "gram_capacity": (
            kinematics.gram_capacity,
            {"gram": inputs.cosines, "half_angle": inputs.half_angle},
        ),
        "span_saturation": (
            kinematics.span_saturation,
            {
                "dimension": inputs.dimension,
                "statistical_dimensions": 0.5,  # a task vector spans a ray
                "eta": inputs.eta,
            },
        ),
        "intersection_capacity": (
            kinematics.intersection_capacity,
            {
                "dimension": space,
                "statistical_dimensions": delta,
                "eta": inputs.eta,
            },
        ),
        "transition": (
            kinematics.transition,
            {
                "dimension": space,
                "statistical_dimensions": delta,
                "variances": None,  # of intrinsic volumes: no measure of them is known
                "eta": inputs.eta,
            },
        ),
        "random_direction": (
            kinematics.random_direction,
            {
                "dimension": space,
                "statistical_dimension": None if delta is None else float(delta.mean()),
                "eta": inputs.eta,
            },
        ),
    }


def thresholds_of(inputs: Inputs) -> tuple[dict[str, Threshold], dict[str, str]]:
    """The thresholds that can be told, and for the others a sentence why they cannot.

    Args:
      inputs: what is known.

    Returns:
      `(thresholds, missing)`, both by the name of the definition in `kinematics`.
    """
    thresholds, missing = {}, {}
    for name, (function, arguments) in _questions(inputs).items():
        if any(value is None for value in arguments.values()):
            try:
                function(**arguments)
            except ValueError as refusal:  # the definition's own sentence
                missing[name] = str(refusal)
        else:
            thresholds[name] = function(**arguments)
    return thresholds, missing
