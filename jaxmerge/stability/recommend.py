"""How to train and merge so that the bound is smaller: advice with its numbers.

Each piece of advice says which term of the bound drives it, by how much, on what its
confidence rests, and whether the bound says anything at all where it points to. The
bound is a worst case: where it advises fewer steps, the risk itself may still fall.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmerge.kinematics._inputs import Numbers
from jaxmerge.stability import _programs
from jaxmerge.stability.bound import TERMS, BoundTerms, Measured, check_measured
from jaxmerge.stability.coefficients import normalised_coefficients
from jaxmerge.stability.gradients import training_lengths
from jaxmerge.stability.recursions import check_convex
from jaxmerge.stability.scaling import best_steps
from jaxmerge.stability.spec import (
    ExpertSpec,
    Problem,
    ProblemStats,
    check_spec,
    resolve,
    weights_of,
)

KNOBS = ("steps", "learning_rate", "batch_size", "scale")
_FACTORS = 2.0 ** np.arange(-4, 4.5, 1.0)


@dataclasses.dataclass(frozen=True)
class Advice:
    """One change of one setting, all others as they are.

    Attributes:
      setting: `"steps"`, `"learning_rate"`, `"batch_size"`, `"scale"` (what multiplies
        the coefficients) or `"coefficients"`.
      current: its value for each expert, a tuple; of a scale, one number.
      advised: likewise.
      term: the term of the bound that changes the most, the advice's reason.
      term_change: by how much that term changes.
      total_change: by how much the bound changes; -inf from an infinite one to a finite
        one, NaN where it stays infinite or there is none.
      vacuous: whether, with the advice followed, the bound is still not below what it
        says of the base; None without a bound.
      confidence: `"a priori"`, `"measured"` or `"data-free"`.
      sentence: the same in words.
    """

    setting: str
    current: tuple[float, ...]
    advised: tuple[float, ...]
    term: str
    term_change: float
    total_change: float
    vacuous: bool | None
    confidence: str
    sentence: str


@dataclasses.dataclass(frozen=True)
class Recommendations:
    """What `recommend` finds.

    Attributes:
      advice: for each setting alone, those first that lower the bound the most.
      spec: the best settings together, on the grid.
      coefficients: to merge them with, `(task,)`.
      current: the bound as it is, or None without statistics.
      best: the bound of the best settings together, or None.
      vacuous: whether even the best bound is not below that of the base; None without
        one.
      confidence: `"a priori"`, `"measured"` or `"data-free"`.
    """

    advice: tuple[Advice, ...]
    spec: ExpertSpec
    coefficients: np.ndarray
    current: BoundTerms | None
    best: BoundTerms | None
    vacuous: bool | None
    confidence: str


def confidence_of(stats: ProblemStats | None, measured: Measured | None) -> str:
    """On what a statement rests: nothing but weights, settings, or measurements."""
    if stats is None:
        return "data-free"
    if measured is None or not jax.tree.leaves(measured):
        return "a priori"
    return "measured"


def _candidates(
    grid: Mapping[str, Any], problem: Problem, best: np.ndarray
) -> dict[str, np.ndarray]:
    """For each setting, `(candidate, task)`; the first is the one there is."""
    unknown = sorted(set(grid) - set(KNOBS))
    if unknown:
        raise ValueError(
            f"grid has {unknown[0]!r}; expected some of {', '.join(KNOBS)}"
        )
    num = problem.coefficients.shape[0]
    found = {}
    for name in KNOBS:
        current = np.ones(num) if name == "scale" else getattr(problem, name)
        current = np.asarray(current, np.float64)
        if name not in grid:
            values = current * _FACTORS[:, None]
            if name == "steps":  # Of experts trained far too long, all others are, too.
                values = np.append(values, best[None], axis=0)
        else:
            values = np.asarray(grid[name], np.float64)
            if values.ndim not in (1, 2) or values.shape[1:] not in ((), (num,)):
                raise ValueError(
                    f"grid's {name} has shape {values.shape}; expected `(candidate,)` "
                    f"or (candidate, {num})"
                )
            values = np.broadcast_to(
                values.reshape(len(values), -1 if values.size else num),
                (len(values), num),
            )
            if not np.all(np.isfinite(values) & (values > 0)):
                raise ValueError(f"grid's {name} has numbers that are not positive")
            if name in ("steps", "batch_size") and np.any(values < 1):
                raise ValueError(f"grid's {name} has numbers below 1")
        if name in ("steps", "batch_size") and name not in grid:
            values = np.maximum(np.round(values), 1.0)
        if name == "batch_size":
            values = np.minimum(values, np.asarray(problem.samples, np.float64))
        found[name] = np.concatenate([current[None], values])
    return found


def _driver(before: BoundTerms, after: BoundTerms) -> tuple[str, float]:
    """The term that falls the most, in size; of infinite ones the first."""
    changes = {}
    for name in TERMS:
        old, new = float(getattr(before, name)), float(getattr(after, name))
        changes[name] = 0.0 if old == new else new - old
    term = min(changes, key=lambda name: changes[name])
    return term, changes[term]


def _advice(
    setting: str,
    current: np.ndarray,
    advised: np.ndarray,
    before: BoundTerms,
    after: BoundTerms,
    confidence: str,
) -> Advice:
    term, change = _driver(before, after)
    total = float(after.total) - float(before.total)
    vacuous = _says_nothing(after)
    short = lambda x: ", ".join(f"{v:.4g}" for v in dict.fromkeys(x.tolist()))
    sentence = (
        f"{setting} {short(current)} -> {short(advised)}: the bound changes by "
        f"{total:+.3g}, its {term.replace('_', ' ')} term by {change:+.3g} "
        f"({confidence})"
    )
    if vacuous:
        sentence += "; vacuous: the bound still says nothing"
    return Advice(
        setting,
        tuple(current.tolist()),
        tuple(advised.tolist()),
        term,
        change,
        total,
        vacuous,
        confidence,
        sentence,
    )


def _says_nothing(terms: BoundTerms) -> bool:
    """Whether a bound is no better than the base's; on a grid all may be rising."""
    return not float(terms.total) < float(terms.start_gap)


def _at(terms: BoundTerms, row: int) -> BoundTerms:
    return jax.tree.map(lambda x: x[row], terms)


def recommend(
    spec: ExpertSpec,
    stats: ProblemStats | None = None,
    *,
    grid: Mapping[str, Any] | None = None,
    coefficients: Numbers = None,
    target_weights: Numbers = None,
    convex: bool = False,
    measured: Measured | None = None,
    momentum: Numbers = 0.0,
) -> Recommendations:
    """Which settings make the bound smaller: each alone, and all together.

    The smallest bound on a grid, of steps, learning rate, batch size and the scale of
    the merge, and the coefficients that make up for unequal training. Where several are
    equal, the first one wins, and what there is comes first.

    Args:
      spec: how experts are trained.
      stats: constants of their losses; without them only coefficients are advised.
      grid: for `steps`, `learning_rate`, `batch_size` or `scale`, `(candidate,)` for
        all experts or `(candidate, task)`, beside what there is; `()` for a setting
        that stays. By default what there is times 1/16 to 16, in powers of 2, and
        `best_steps`.
      coefficients: alpha_i; by default the target weights.
      target_weights: p_i, of sum 1; by default 1 / N.
      convex: whether losses are convex.
      measured: drifts and stabilities of experts as they were trained; then only the
        scale and the coefficients are left to choose.
      momentum: mu, for coefficients without statistics.

    Returns:
      Advice with the term that drives each piece, and the best settings together.

    Raises:
      ValueError: if a number is out of range, or the grid does not fit.

    Example:
      >>> spec = ExpertSpec(0.02, 8, jnp.full(4, 100.0), 64)
      >>> stats = ProblemStats(1.0, 5.8, 6.2, 5.7, 0.5, 0.5, 3.4)
      >>> grid = {"steps": [8, 16, 32], "learning_rate": (), "scale": ()}
      >>> found = recommend(spec, stats, grid=grid)
      >>> print(found.advice[0].setting, found.advice[0].advised[0], found.vacuous)
      steps 16.0 False
    """
    if stats is None:
        return _data_free(spec, target_weights, momentum, coefficients)
    grid = _chosen_grid(grid, measured)
    check_measured(measured)
    if convex:
        check_convex(spec, stats)
    problem = resolve(spec, stats, coefficients, target_weights)
    confidence = confidence_of(stats, measured)
    alphas = np.asarray(problem.coefficients, np.float64)
    best = np.broadcast_to(np.asarray(best_steps(spec, stats)), alphas.shape)
    candidates = _candidates(grid, problem, best)
    if convex:
        limit = 2 / float(problem.smoothness)
        keep = np.all(candidates["learning_rate"] <= limit, axis=1)
        candidates["learning_rate"] = candidates["learning_rate"][keep]
    rows, index = _product(candidates)
    # One row more, with what there is but for coefficients that fit the training.
    lengths = candidates["learning_rate"][0] * candidates["steps"][0]
    advised = np.sum(alphas * lengths) * np.asarray(problem.target_weights) / lengths
    settings = {name: np.append(x, x[:1], axis=0) for name, x in rows.items()}
    chosen = np.append(rows["scale"] * alphas, advised[None], axis=0)
    terms = _bounds(
        settings | {"coefficients": chosen}, problem, stats, measured, convex
    )
    totals, current = terms.total[:-1], _at(terms, 0)
    after = _at(terms, -1)
    advice = _coefficient_advice(alphas, advised, current, after, confidence)
    for at, name in enumerate(KNOBS):
        alone = np.flatnonzero(np.all(np.delete(index, at, axis=1) == 0, axis=1))
        best = int(alone[np.argmin(totals[alone])])
        old, new = rows[name][0], rows[name][best]
        if not np.array_equal(old, new):
            after = _at(terms, best)
            advice.append(_advice(name, old, new, current, after, confidence))
    advice.sort(key=lambda one: one.total_change if one.total_change < 0 else 0.0)
    best = int(np.argmin(totals))
    chosen = {name: rows[name][best] for name in KNOBS}
    return Recommendations(
        advice=tuple(advice),
        spec=ExpertSpec(
            chosen["learning_rate"],
            chosen["batch_size"],
            chosen["steps"],
            np.asarray(problem.samples),
        ),
        coefficients=chosen["scale"] * np.asarray(problem.coefficients),
        current=current,
        best=_at(terms, best),
        vacuous=_says_nothing(_at(terms, best)),
        confidence=confidence,
    )


def _product(
    candidates: dict[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """All combinations, and which candidate of each setting each of them has."""
    counts = [len(candidates[name]) for name in KNOBS]
    index = np.stack([x.ravel() for x in np.indices(counts)], axis=1)
    rows = {name: candidates[name][index[:, at]] for at, name in enumerate(KNOBS)}
    return rows, index


def _bounds(
    rows: dict[str, np.ndarray],
    problem: Problem,
    stats: ProblemStats,
    measured: Measured | None,
    convex: bool,
) -> BoundTerms:
    """The bound of each row of settings, as NumPy arrays."""
    dtype = problem.gap.dtype
    arrays = {name: jnp.asarray(x.astype(dtype)) for name, x in rows.items()}
    terms = _programs.bounds(arrays, problem, stats, measured, convex=convex)
    return jax.tree.map(np.asarray, terms)


def _chosen_grid(
    grid: Mapping[str, Any] | None, measured: Measured | None
) -> dict[str, Any]:
    """The grid, of the scale only where training was measured."""
    grid = {} if grid is None else dict(grid)
    if measured is None:
        return grid
    if measured.optimisation is not None or measured.gradient_square is not None:
        raise ValueError(
            "optimisation and gradient_square were measured at one merge, and advice "
            "compares several; give measured drifts and stabilities only"
        )
    trained = [name for name in KNOBS if name != "scale"]
    for name in trained:
        if name in grid:
            raise ValueError(
                f"grid has {name!r}, but training was measured as it is; leave out "
                f"{name!r}, or `measured`"
            )
    return grid | dict.fromkeys(trained, ())


def _coefficient_advice(
    old: np.ndarray,
    new: np.ndarray,
    current: BoundTerms,
    after: BoundTerms,
    confidence: str,
) -> list[Advice]:
    """Normalised coefficients at the same total length, where they help."""
    worse = float(after.total) >= float(current.total) and np.isfinite(after.total)
    if np.allclose(old, new, rtol=1e-4) or worse:
        return []
    advice = _advice("coefficients", old, new, current, after, confidence)
    reason = f"; chi^2 falls from {float(current.chi_squared):.3g} to 0"
    return [dataclasses.replace(advice, sentence=advice.sentence + reason)]


def _data_free(
    spec: ExpertSpec, target_weights: Any, momentum: Any, coefficients: Any
) -> Recommendations:
    check_spec(spec)
    advised = normalised_coefficients(
        spec, target_weights=target_weights, momentum=momentum
    )
    new = np.asarray(advised)
    weights = weights_of(target_weights, len(new))
    old = weights if coefficients is None else coefficients
    old = np.broadcast_to(np.asarray(old, np.float64), new.shape)
    if np.allclose(old / old.sum(), new, rtol=1e-4):
        return Recommendations((), spec, old, None, None, None, "data-free")
    new = new * old.sum()
    lengths = np.asarray(training_lengths(spec, momentum=momentum))
    shares = old * lengths / np.sum(old * lengths)
    p = np.broadcast_to(np.asarray(weights, np.float64), new.shape)
    chi_squared = float(np.sum((p - shares) ** 2 / p))
    advice = Advice(
        setting="coefficients",
        current=tuple(old.tolist()),
        advised=tuple(new.tolist()),
        term="training_heterogeneity",
        term_change=-chi_squared,
        total_change=float("nan"),
        vacuous=None,
        confidence="data-free",
        sentence=(
            "coefficients proportional to p / (eta K): chi^2, the factor of the "
            f"training heterogeneity term, falls from {chi_squared:.3g} to 0 "
            "(data-free)"
        ),
    )
    return Recommendations((advice,), spec, new, None, None, None, "data-free")
