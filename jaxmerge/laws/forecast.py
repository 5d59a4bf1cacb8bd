"""Three measured points give the whole curve, in closed form."""

import dataclasses
from typing import Any

import numpy as np

from jaxmerge.laws.curves import Curve
from jaxmerge.laws.guards import Caution


@dataclasses.dataclass(frozen=True)
class Forecast:
    """A curve through three points.

    Attributes:
      curve: the law.
      ratio: rho, of the first drop to the second.
      cautions: `"offset_clamped"` where the drop is too steep for any b >= 0.
    """

    curve: Curve
    ratio: float
    cautions: tuple[Caution, ...]


def three_point(k: Any, loss: Any) -> Forecast:
    r"""The law through three points, such as k = 1, 2, 4.

        rho = (L1 - L2) / (L2 - L3)
        b = ((k2 - k1) k3 - rho (k3 - k2) k1) / (rho (k3 - k2) - (k2 - k1))
        A = (L1 - L2) (k1 + b) (k2 + b) / (k2 - k1),    floor = L1 - A / (k1 + b)

    For k = 1, 2, 4: b >= 0 where 1/2 < rho <= 2. A steeper start than that is fitted
    with b = 0 by least squares with weights k; a flatter one does not saturate, and is
    refused.

    Args:
      k: three different numbers of experts, ascending.
      loss: the mean loss at each.

    Returns:
      The curve, and what to beware of.

    Raises:
      ValueError: if there are not three points, the loss does not fall, or its drops
        do not shrink, so that there is no floor to extrapolate to.

    Example:
      >>> found = three_point([1, 2, 4], Curve(0.5, 0.3, 1.0)(np.array([1, 2, 4])))
      >>> round(float(found.curve(9)), 6)
      0.53

    References:
      Model Merging Scaling Laws in Large Language Models, 2025, section 4.2 (the
      recipe); the closed form is ours.
    """
    k, loss = np.asarray(k, np.float64), np.asarray(loss, np.float64)
    if k.shape != (3,) or loss.shape != (3,):
        raise ValueError(
            f"k has shape {k.shape} and loss {loss.shape}; expected three of each"
        )
    if not (k[0] > 0 and np.all(np.diff(k) > 0)):
        raise ValueError(f"k is {k.tolist()}; expected positive numbers, ascending")
    if not np.all(np.isfinite(loss) & (loss >= 0)):
        raise ValueError(
            f"the losses are {loss.tolist()}; expected finite numbers of at least 0"
        )
    first, second = -np.diff(loss)
    if first <= 0 or second <= 0:
        raise ValueError(
            f"the losses are {loss.tolist()}: they do not fall from k to k, "
            "so no curve of the law goes through them"
        )
    ratio = first / second
    ahead, behind = k[1] - k[0], k[2] - k[1]
    if ratio <= ahead / behind:
        raise ValueError(
            f"the drops of the loss have the ratio {ratio:.3g}, at most "
            f"{ahead / behind:.3g}: a straight line or steeper. The curve does not "
            "saturate yet and cannot be extrapolated; measure larger k"
        )
    offset = (ahead * k[2] - ratio * behind * k[0]) / (ratio * behind - ahead)
    if offset >= 0:
        amplitude = first * (k[0] + offset) * (k[1] + offset) / ahead
        floor = loss[0] - amplitude / (k[0] + offset)
        curve = Curve(float(floor), float(amplitude), float(offset))
        return Forecast(curve, float(ratio), ())
    amplitude, floor = np.polyfit(1 / k, loss, 1, w=np.sqrt(k))
    text = (
        f"the first drop is {ratio:.3g} times the second, more than any offset of at "
        "least 0 can give; the offset is held at 0 and the curve misses the points"
    )
    return Forecast(
        Curve(float(floor), float(amplitude), 0.0),
        float(ratio),
        (Caution("offset_clamped", text),),
    )
