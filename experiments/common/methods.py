"""The methods that questions are asked of, in four families, at published defaults."""

import dataclasses
from collections.abc import Callable, Iterable

import jaxmerge

FAMILIES = ("means", "pruned", "spectral", "interference")


@dataclasses.dataclass(frozen=True)
class Method:
    """A method with one model out.

    Attributes:
      name: its key in results.
      label: its name in tables and figures.
      family: one of `FAMILIES`.
      make: builds the merger with its published defaults.
      fewest: the least number of experts that it is defined for.
      random: whether it draws random numbers.
      informed: whether it takes Gram matrices of inputs; the others need no data.
    """

    name: str
    label: str
    family: str
    make: Callable[[], jaxmerge.Merger]
    fewest: int = 1
    random: bool = False
    informed: bool = False


def _boosted() -> jaxmerge.Merger:
    return jaxmerge.subspace_boosting(jaxmerge.task_arithmetic(scale=0.3))


def _calibrated() -> jaxmerge.Merger:
    return jaxmerge.svc(jaxmerge.task_arithmetic(scale=0.3))


def _control() -> jaxmerge.Merger:
    return jaxmerge.scalar_control(jaxmerge.rht())


METHODS = (
    Method("average", "Average", "means", jaxmerge.average),
    Method("task_arithmetic", "Task arithmetic", "means", jaxmerge.task_arithmetic),
    Method("model_stock", "Model Stock", "means", jaxmerge.model_stock, fewest=2),
    Method("ties", "TIES", "pruned", jaxmerge.ties),
    Method("dare", "DARE", "pruned", jaxmerge.dare, random=True),
    Method("magnitude_prune", "Magnitude", "pruned", jaxmerge.magnitude_prune),
    Method("breadcrumbs", "Breadcrumbs", "pruned", jaxmerge.breadcrumbs),
    Method("consensus", "Consensus", "pruned", jaxmerge.consensus, fewest=2),
    Method("magmax", "MagMax", "pruned", jaxmerge.magmax),
    Method("rht", "RHT", "pruned", jaxmerge.rht),
    Method("rht_control", "RHT's control", "pruned", _control),
    Method("isotropic", "Iso-C", "spectral", jaxmerge.isotropic),
    Method("iso_cts", "Iso-CTS", "spectral", jaxmerge.iso_cts),
    Method("tsv_m", "TSV-M", "spectral", jaxmerge.tsv_m),
    Method("dc_merge", "DC-Merge", "spectral", jaxmerge.dc_merge),
    Method("boosting", "Boosted", "spectral", _boosted),
    Method("svc", "SVC", "spectral", _calibrated),
    Method("wudi", "WUDI", "interference", jaxmerge.wudi),
    Method("swudi", "SWUDI", "interference", jaxmerge.swudi),
    Method("ace", "ACE", "interference", jaxmerge.ace),
    Method("actmat", "ACTMat", "interference", jaxmerge.actmat),
    Method("regmean", "RegMean", "interference", jaxmerge.regmean, informed=True),
    Method("default", "Our default", "interference", jaxmerge.default),
)


def select(names: Iterable[str]) -> tuple[Method, ...]:
    """Methods by name, in the order of `METHODS`.

    Raises:
      ValueError: if there is no such method.

    >>> [m.label for m in select(["ties", "average"])]
    ['Average', 'TIES']
    """
    names = list(names)
    known = [method.name for method in METHODS]
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"no method {unknown[0]!r}; there are {', '.join(known)}")
    return tuple(method for method in METHODS if method.name in names)
