"""What a fit or a table of losses should make one careful about, by name."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxmerge.laws._numbers import Reals
from jaxmerge.laws.curves import FORMS, Curve, JointLaw
from jaxmerge.laws.tables import LossTable, Points

# Differences of AICc below this do not tell models apart (Burnham, Anderson, 2002).
AICC_MARGIN = 2.0
# An offset above this share of the largest k bends the whole measured curve.
_LARGE_OFFSET = 1 / 4
_EXTRAPOLATION = 2.0


@dataclasses.dataclass(frozen=True)
class Caution:
    """A reason not to take a result at its word.

    Attributes:
      name: `"non_monotone"`, `"floor_not_identified"`, ...
      text: what was seen, and what it means.
    """

    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.name}: {self.text}"


def points_cautions(points: Points) -> Iterator[Caution]:
    """Of the data alone: how many k there are, and whether means fall.

    Args:
      points: means over subsets.
    """
    distinct = np.unique(points.k)
    if len(distinct) < 4:
        listed = ", ".join(f"{k:g}" for k in distinct)
        yield Caution(
            "few_k",
            f"only k = {listed} were measured; floor, amplitude and offset take three, "
            "and nothing is left that could contradict the law",
        )
    rises = [(_largest_rise(points.at_size(size)), size) for size in points.sizes]
    rises = [(rise, size) for rise, size in rises if rise is not None]
    if rises:
        (height, k, after), size = max(rises)
        where = "" if np.isnan(size) else f" at size {size:g}"
        others = f", and less at {len(rises) - 1} other sizes" if rises[1:] else ""
        yield Caution(
            "non_monotone",
            f"the mean loss rises from k = {k:g} to {after:g}{where}, by "
            f"{height:.3g}{others}; the law only falls (more subsets, or the bounded "
            "term, may help)",
        )
    grows = [
        size for size in points.sizes if _variance_grows(points.at_size(size).variance)
    ]
    if grows:
        yield Caution(
            "variance_grows",
            "the variance over subsets grows with k before it falls; weights that sum "
            "to one make it fall, so this looks like a sum with a fixed scale",
        )


def _largest_rise(points: Points) -> tuple[float, float, float] | None:
    """Its height and where; beyond two standard errors, where these are known."""
    error = np.sqrt(points.variance / points.count)
    error = np.where(np.isfinite(error), error, 0.0)
    rises = np.diff(points.mean)
    rises = np.where(rises > 2 * np.hypot(error[1:], error[:-1]), rises, 0.0)
    if not np.any(rises > 0):
        return None
    worst = int(np.argmax(rises))
    return float(rises[worst]), float(points.k[worst]), float(points.k[worst + 1])


def _variance_grows(variance: np.ndarray) -> bool:
    known = variance[np.isfinite(variance)]
    return len(known) > 1 and bool(known.max() > 1.2 * known[0] > 0)


def law_cautions(
    points: Points, law: Curve | JointLaw, active: dict[str, str]
) -> Iterator[Caution]:
    """Of a fitted law: parameters on bounds, a large offset, a floor far below.

    Args:
      points: what was fitted.
      law: the fit.
      active: parameters on a bound, and on which.
    """
    if law.amplitude == 0:
        yield Caution(
            "no_tail",
            "the loss does not fall with k: the amplitude is 0, and the offset, which "
            "then does nothing, is not told by the data",
        )
    for name, side in active.items():
        if name == "amplitude":
            continue
        yield Caution(
            f"{name}_at_bound",
            f"{name} is on its {side} bound, {getattr(law, name):g}"
            + (
                "; the data want more"
                if side == "upper"
                else ""
                if getattr(law, name) == 0
                else "; the data want less"
            ),
        )
    largest = float(points.k.max())
    if law.form != "offset":
        return
    if law.offset > _LARGE_OFFSET * largest:
        yield Caution(
            "offset_large",
            f"the offset is {law.offset:.3g}, not small against the largest k, "
            f"{largest:g}: the tail has not been seen yet",
        )
    for size in points.sizes:
        curve = law if isinstance(law, Curve) else law.at(size)
        own = points.at_size(size)
        below = float(own.mean.min() - curve.floor)
        if below > float(curve.amplitude) / largest * (1 + 1e-6):
            where = "" if np.isnan(size) else f" of size {size:g}"
            yield Caution(
                "floor_below_data",
                f"the floor{where} lies {below:.3g} below every loss that was measured",
            )


def rival_cautions(
    points: Points, aicc: dict[str, float], floor: float, floor_stderr: float
) -> Iterator[Caution]:
    """Whether the floor is told by the data, or by the form that was chosen.

    Args:
      points: what was fitted.
      aicc: of the law and its rivals, by form.
      floor: of the law.
      floor_stderr: its standard error.
    """
    floored = {form: value for form, value in aicc.items() if FORMS[form].has_floor}
    best = min(floored, key=floored.__getitem__, default="offset")
    own = floored.get(best, np.inf)
    for form, value in aicc.items():
        if not FORMS[form].has_floor and value <= own + AICC_MARGIN:
            yield Caution(
                "floor_not_identified",
                f"a curve without a floor, {FORMS[form].formula}, fits as well as the "
                f"best with one, {FORMS[best].formula} (AICc {value:.1f} against "
                f"{own:.1f}); the floor is what the form says, not what was measured",
            )
            return
    room = float(points.mean.min()) - floor
    if np.isfinite(floor_stderr) and 1.96 * floor_stderr > max(room, 0.0) > 0:
        yield Caution(
            "floor_not_identified",
            f"the floor is known to within {1.96 * floor_stderr:.3g}, more than its "
            f"distance from the data, {room:.3g}",
        )


def table_cautions(table: LossTable) -> Iterator[Caution]:
    """Whether experts are exchangeable: one that always helps or harms stands out.

    Args:
      table: with subsets.
    """
    members = [set(name.split("-")) - {""} for name in table.subset.tolist()]
    experts = sorted(set().union(*members), key=int) if members else []
    if len(experts) < 3:
        return
    within = [table.size.astype(str), table.method, table.domain, table.k.astype(str)]
    cells = np.unique(np.stack(within), axis=1, return_inverse=True)[1].reshape(-1)
    centred = (
        table.loss
        - (np.bincount(cells, table.loss) / np.maximum(np.bincount(cells), 1))[cells]
    )
    # Of pooled domains only: an expert is meant to help on its own domain.
    effects = {}
    for t in experts:
        having = np.array([t in m for m in members])
        if having.any() and not having.all():
            effects[t] = centred[having].mean() - centred[~having].mean()
    if len(set(table.domain.tolist())) > 1 or len(effects) < 3:
        return
    values = np.array(list(effects.values()))
    gain = np.ptp(_means_by_k(table))
    others = np.abs(values - np.median(values))
    worst = int(np.argmax(others))
    typical = np.median(np.delete(others, worst))
    if others[worst] > max(5 * typical, 0.25 * gain):
        name = list(effects)[worst]
        word = "raises" if values[worst] > 0 else "lowers"
        yield Caution(
            "unequal_experts",
            f"expert {name} {word} the loss of the subsets that it is in by "
            f"{abs(values[worst]):.3g}, the others by about {typical:.3g}; the law is "
            "one of exchangeable experts",
        )


def _means_by_k(table: LossTable) -> np.ndarray:
    return np.array([table.loss[table.k == k].mean() for k in np.unique(table.k)])


def query_cautions(
    points: Points, *, sizes: Reals = (), k: Any = (), pool: int | None = None
) -> Iterator[Caution]:
    """Whether a question lies outside of what was measured.

    Args:
      points: what was fitted.
      sizes: N asked for.
      k: counts asked for.
      pool: how many experts there are, if known.
    """
    known = points.sizes[np.isfinite(points.sizes)]
    for size in sizes:
        if len(known) and not (
            known.min() / _EXTRAPOLATION <= size <= known.max() * _EXTRAPOLATION
        ):
            yield Caution(
                "extrapolating_size",
                f"size {size:g} is more than {_EXTRAPOLATION:g} times outside of "
                f"{known.min():g} to {known.max():g}, where the law was fitted",
            )
    counts = np.atleast_1d(np.asarray(k, np.float64))
    counts = counts[np.isfinite(counts)]
    if pool is not None and np.any(counts > pool):
        yield Caution(
            "beyond_pool",
            f"k = {counts.max():g} is more than the pool's {pool} experts; the law "
            "speaks of further experts that are like these",
        )
    if np.any(counts > _EXTRAPOLATION * points.k.max()):
        yield Caution(
            "extrapolating_k",
            f"k = {counts.max():g} is more than {_EXTRAPOLATION:g} times the largest k "
            f"that was measured, {points.k.max():g}",
        )
