"""Advice, each piece with the number behind it, and none where the number is unsure.

The rules are from the literature on merging and were fixed before they were scored;
`record` says what they have been worth. They choose among the library's own methods.
"""

import dataclasses
from collections.abc import Mapping

import jax
import numpy as np

import jaxmerge
from jaxmerge._types import PRNGKey
from jaxmerge.diagnose.intervals import Interval, interval
from jaxmerge.diagnose.measure import Measurements
from jaxmerge.diagnose.mechanisms import UNEQUAL, Mechanism
from jaxmerge.diagnose.prospects import Prospects
from jaxmerge.diagnose.statistics import columns_of, statistics_of
from jaxmerge.merger import Merger

# Above this cosine experts are runs of one task rather than tasks: averaging, which
# fails on different tasks, is what is known to work. A convention of ours.
SAME_TASK = 0.5
DUPLICATES = 0.95
PUBLISHED_SCALE = 0.3  # of task arithmetic


@dataclasses.dataclass(frozen=True)
class Advice:
    """One piece of advice.

    Attributes:
      topic: what it is about, in a word or two.
      text: the advice, a sentence; what is left alone if it abstains.
      number: the name of the number behind it.
      found: that number and its interval.
      neutral: the value at which the advice would change.
      abstains: whether the interval holds that value, so that nothing is advised.
    """

    topic: str
    text: str
    number: str
    found: Interval
    neutral: float
    abstains: bool


@dataclasses.dataclass(frozen=True)
class Choice:
    """The method that is advised.

    Attributes:
      method: `"task_arithmetic"`, `"average"`, `"ties"` or `"isotropic"`.
      scale: of task arithmetic; None for the method's published one.
    """

    method: str
    scale: float | None = None

    @property
    def merger(self) -> Merger:
        """The method, ready to merge.

        >>> Choice("task_arithmetic", 0.8).merger.scale
        0.8
        """
        if self.method == "task_arithmetic":
            scale = PUBLISHED_SCALE if self.scale is None else self.scale
            return jaxmerge.task_arithmetic(scale=scale)
        methods = {
            "average": jaxmerge.average,
            "ties": jaxmerge.ties,
            "isotropic": jaxmerge.isotropic,
        }
        return methods[self.method]()

    def __str__(self) -> str:
        if self.scale is None:
            return f"{self.method} at its published scale"
        return f"{self.method} with scale {self.scale:.2f}"


def _numbers(found: Measurements, key: PRNGKey, resamples: int) -> dict[str, Interval]:
    statistics = statistics_of(columns_of(found))
    names = ("mean cosine", "sign conflict", "least interference")
    return {
        name: interval(
            statistics[name],
            len(found.layers),
            len(found.experts),
            key=jax.random.fold_in(key, i),
            resamples=resamples,
        )
        for i, name in enumerate(names)
    }


def _method(
    numbers: Mapping[str, Interval], known: Mapping[str, Mechanism]
) -> tuple[str, Advice]:
    """The first rule whose number is sure; task arithmetic if none is."""
    cosine, conflict = numbers["mean cosine"], numbers["sign conflict"]
    piled, full = known["over-accumulation"], known["capacity"]
    if cosine.defined and cosine.lower > SAME_TASK:
        text = "average: the experts point the same way, as runs of one task do"
        told = Advice("method", text, "mean cosine", cosine, SAME_TASK, False)
        return "average", told
    equal = known["heterogeneity"].verdict != "at work"
    if piled.verdict == full.verdict == "at work" and equal:
        text = (
            "isotropic: shared directions of the sum are amplified, and the experts "
            "fill all directions, so that a flat spectrum raises no empty ones"
        )
        told = Advice("method", text, piled.name, piled.found, 1.0, False)
        return "isotropic", told
    if conflict.defined and conflict.lower > 0.01:
        text = (
            "ties: signs of the experts' changes cancel; it elects one for each entry"
        )
        return "ties", Advice("method", text, "sign conflict", conflict, 0.0, False)
    text = "no method stands out; task arithmetic is the plain choice"
    told = Advice("method", text, "sign conflict", conflict, 0.0, True)
    return "task_arithmetic", told


def _scale(numbers: Mapping[str, Interval]) -> tuple[float | None, Advice]:
    found = numbers["least interference"]
    unsure = found.crosses(PUBLISHED_SCALE)
    text = (
        f"for task arithmetic the scale {found.value:.2f}: of all multiples of the sum "
        "it disturbs the experts' own responses least"
    )
    if unsure:
        text = f"keep task arithmetic's published scale of {PUBLISHED_SCALE}"
    told = Advice("scale", text, "least interference", found, PUBLISHED_SCALE, unsure)
    return None if unsure else found.value, told


def _more(prospects: Prospects, tolerance: float | None) -> Advice:
    name = "gain of the next expert, as a share of the first gain"
    if prospects.gains.size == 0 or prospects.gains[0] <= 0:
        nothing = Interval(np.nan, -np.inf, np.inf)
        text = "whether more experts pay cannot be told from experts that do not differ"
        return Advice("more experts", text, name, nothing, 0.0, True)
    value, error = prospects.next_gains[0], prospects.next_errors[0]
    ends = value - 1.96 * error, value + 1.96 * error
    found = Interval(float(value), float(ends[0]), float(ends[1]))
    neutral = 0.0 if tolerance is None else float(tolerance)
    k = len(prospects.gains) + 2
    loses = 1 - prospects.kept[k - 1] / prospects.kept[k - 2]
    text = (
        f"expert {k}, if it is like these, adds {100 * value:.0f} % of the width that "
        f"the second added, and takes {100 * loses:.0f} % of what averaging keeps of "
        "each of the others"
    )
    if found.crosses(neutral):
        text = f"whether expert {k} pays is not certain"
    elif tolerance is not None:
        pays = found.lower > neutral
        text += f"; by your tolerance that {'pays' if pays else 'does not pay'}"
    return Advice("more experts", text, name, found, neutral, found.crosses(neutral))


def _norms(known: Mapping[str, Mechanism], found: Measurements) -> Advice:
    mechanism = known["heterogeneity"]
    number = "longest delta over the median one"
    told = lambda text, abstains: Advice(
        "norms", text, number, mechanism.found, UNEQUAL, abstains
    )
    if mechanism.verdict == "at work":
        longest = found.experts[int(np.argmax(found.whole.norms))]
        return told(
            f"weights of 1 / norm: {longest!r} is so much longer than the others that "
            "it decides the sum",
            False,
        )
    if mechanism.verdict == "not at work":
        return told(
            "no weights: norms are of one size, and equalising such norms has hurt",
            False,
        )
    return told("weights by norms are not advised for or against", True)


def _duplicates(found: Measurements) -> list[Advice]:
    cosines = np.asarray(found.whole.cosines, np.float64)
    pairs = np.argwhere(np.triu(cosines > DUPLICATES, 1))
    result = []
    for s, t in pairs[:5]:
        one = Interval(float(cosines[s, t]), float(cosines[s, t]), float(cosines[s, t]))
        text = (
            f"leave out {found.experts[t]!r} or {found.experts[s]!r}: they are nearly "
            "the same expert, which would count twice"
        )
        result.append(Advice("duplicates", text, "cosine", one, DUPLICATES, False))
    return result


def _task_known(known: Mapping[str, Mechanism]) -> Advice:
    mechanism = known["directional conflict"]
    sure = mechanism.verdict == "at work"
    text = (
        "emr, if the task of each input is known: of the experts' own responses "
        f"{100 * mechanism.found.value:.0f} % are lost at any scale of the sum"
        if sure
        else "one model may do; a model per task is not advised for or against"
    )
    return Advice("task known", text, mechanism.name, mechanism.found, 0.0, not sure)


def advise(
    found: Measurements,
    known: Mapping[str, Mechanism],
    prospects: Prospects,
    *,
    key: PRNGKey,
    tolerance: float | None = None,
    resamples: int = 1000,
) -> tuple[Choice, tuple[Advice, ...]]:
    """What to do with the experts.

    Args:
      found: from `measure`.
      known: from `mechanisms`.
      prospects: of further experts.
      key: a typed key, for the bootstrap over layers.
      tolerance: the share of the first gain below which one more expert does not pay.
      resamples: of the bootstrap.

    Returns:
      The method, and all advice; what abstains says so.
    """
    numbers = _numbers(found, key, resamples)
    if len(found.experts) == 1:
        text = "the expert itself: there is nothing to merge"
        one = Interval(1.0, 1.0, 1.0)
        told = Advice("method", text, "number of experts", one, 2.0, False)
        return Choice("task_arithmetic", 1.0), (told,)
    method, why = _method(numbers, known)
    scale, about_scale = _scale(numbers)
    choice = Choice(method, scale if method == "task_arithmetic" else None)
    advice = [
        why,
        about_scale,
        _more(prospects, tolerance),
        _norms(known, found),
        *_duplicates(found),
        _task_known(known),
    ]
    return choice, tuple(advice)
