"""Rank correlations of what was predicted with what was measured, with intervals.

Within one group and training seed the least possible risk is a constant, so that ranks
of risk and of excess risk are the same: a correlation is taken over the settings of
each group and seed, and averaged. Intervals are over groups, drawn again with
replacement; groups share tasks, so they are not independent, and intervals are narrow.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.common.intervals import spearman
from experiments.more_experts.tasks import SPLITS
from experiments.stability.config import KNOBS, Config, merges, values
from jaxmerge.stability.bound import TERMS

OPTIMISATION, GENERALISATION = TERMS[:6], TERMS[6:]
SUMS = ("optimisation", "generalisation", "total")
SIMPLE = ("length", "chi_squared", "norm", "cosine", "dispersion")
SETTINGS = ("learning_rate", "batch_size", "steps", "samples")
OUTCOMES = ("risk", "gap", "tuned")
KINDS = ("matched", "mixed")
_SAMPLES = SPLITS["train"][1] - SPLITS["train"][0]


def _is_constant(x: np.ndarray) -> bool:
    """Up to rounding, as a heterogeneity is that is zero in theory."""
    finite = x[np.isfinite(x)]
    return len(finite) == len(x) and np.ptp(x) <= 1e-9 * max(np.abs(x).max(), 1e-9)


def _chi_squared(given: Mapping[str, np.ndarray]) -> np.ndarray:
    """How unequal lengths are: sum (p_i - w_i)^2 / p_i of averages, `[merge]`."""
    lengths = given["learning_rate"] * given["steps"]
    shares = lengths / lengths.sum(axis=1, keepdims=True)
    num = lengths.shape[1]
    return num * ((shares - 1 / num) ** 2).sum(axis=1)


def predictors(
    config: Config, terms: Mapping[str, Any], simple: Mapping[str, Any], chosen: Any
) -> dict[str, np.ndarray]:
    """All that is said of the merges of one group and seed, `[merge]` by name."""
    found = {name: np.asarray(terms[name], float) for name in TERMS}
    parts = (OPTIMISATION, GENERALISATION, TERMS)
    for name, summed in zip(SUMS, parts, strict=True):
        found[name] = sum((found[t] for t in summed), np.zeros(()))
    given = values(config, chosen, _SAMPLES)
    found["length"] = np.asarray(terms["length"], float)
    found["chi_squared"] = _chi_squared(given)
    found |= {name: np.asarray(simple[name], float) for name in SIMPLE[2:]}
    return found | {name: given[name].mean(axis=1) for name in SETTINGS}


def outcomes(
    measured: Mapping[str, Any], base_risk: float, base_train: np.ndarray
) -> dict[str, np.ndarray]:
    """What is predicted, `[merge]` by name.

    The gap is the merged model's less the base's on the same samples: the base's is
    chance, the same for all merges that see as many samples.

    Args:
      measured: risks and training losses of merges.
      base_risk: the base's loss on the test set.
      base_train: its loss on what each merge's experts were trained on, `[merge]`.
    """
    risk, train, tuned = (
        np.asarray(measured[name], float) for name in ("risk", "train", "tuned")
    )
    gap = (risk - train) - (base_risk - base_train)
    return {"risk": risk, "gap": gap, "tuned": tuned}


def interval(
    by_group: np.ndarray, rng: np.random.Generator, resamples: int
) -> dict[str, float] | None:
    """The mean over groups and its 95 % bootstrap interval; None if undefined.

    Args:
      by_group: `[group]`; groups of which something is undefined are left out.
      rng: draws groups.
      resamples: how often.
    """
    kept = by_group[np.isfinite(by_group)]
    if not len(kept):
        return None
    drawn = kept[rng.integers(len(kept), size=(resamples, len(kept)))].mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    numbers = {"mean": kept.mean(), "low": low, "high": high}
    return {name: round(float(x), 4) for name, x in numbers.items()}


def _within(x: np.ndarray, y: np.ndarray, strata: np.ndarray) -> float:
    """The mean of the rank correlations inside strata; NaN if none is defined."""
    found = []
    for label in np.unique(strata):
        inside = strata == label
        if not _is_constant(x[inside]):
            found.append(spearman(x[inside], y[inside]))
    found = [value for value in found if np.isfinite(value)]
    return float(np.mean(found)) if found else np.nan


def correlations(
    config: Config, cells: Sequence[Mapping[str, Any]], strata: Any = None
) -> dict[str, dict[str, Any]]:
    """Of every predictor with every outcome, over the settings of each group and seed.

    Args:
      config: the settings.
      cells: one a group and seed: `group`, `predictors` and `outcomes`.
      strata: labels `[merge]`: correlations are taken among merges of one label, and
        averaged over labels; None compares all merges.

    Returns:
      By predictor and outcome, an interval, or None where a predictor is constant.
    """
    rng = np.random.default_rng([config.seed, 3])
    found: dict[str, dict[str, Any]] = {}
    for name in cells[0]["predictors"]:
        found[name] = {}
        for outcome in OUTCOMES:
            by_group: dict[int, list[float]] = {}
            for cell in cells:
                x, y = cell["predictors"][name], cell["outcomes"][outcome]
                labels = np.zeros(len(x)) if strata is None else strata
                by_group.setdefault(cell["group"], []).append(_within(x, y, labels))
            means = np.array([np.mean(v) for v in by_group.values()])
            found[name][outcome] = interval(means, rng, config.resamples)
    return found


def equal_lengths(config: Config) -> np.ndarray:
    """Labels of matched merges that share eta and K, and so their training length."""
    chosen = merges(config, 0, "matched")[:, 0]
    return chosen[:, 0] * len(config.steps) + chosen[:, 2]


def knob_effects(
    config: Config, cells: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Of each setting from its smallest to its largest value, all others equal.

    The share of pairs of matched merges in which risk and gap rise, and in which the
    bound's generalisation term and total do where they are finite.
    """
    rng = np.random.default_rng([config.seed, 4])
    chosen = merges(config, 0, "matched")[:, 0]
    found: dict[str, dict[str, Any]] = {}
    for knob, name in enumerate(KNOBS):
        low, high = (
            np.flatnonzero(chosen[:, knob] == end) for end in (0, chosen[:, knob].max())
        )
        found[name] = {}
        for source, what in (
            ("outcomes", "risk"),
            ("outcomes", "gap"),
            ("outcomes", "tuned"),
            ("predictors", "generalisation"),
            ("predictors", "total"),
        ):
            by_group: dict[int, list[float]] = {}
            for cell in cells:
                x = cell[source][what]
                known = np.isfinite(x[low])
                rises = float(np.mean(x[high][known] > x[low][known]))
                by_group.setdefault(cell["group"], []).append(rises)
            shares = np.array([np.mean(v) for v in by_group.values()])
            found[name][f"{what} rises"] = interval(shares, rng, config.resamples)
    return found


def vacuity(
    config: Config, cells: Sequence[Mapping[str, Any]], smoothness: float
) -> dict[str, Any]:
    """How often the bound says nothing, how often it holds, and by eta L K.

    `holds` counts merges whose risk is above the base's by at most what the bound
    says, total less `start_gap`; `by_length` is the share that is vacuous in bins of
    A L.
    """
    rng = np.random.default_rng([config.seed, 5])
    by_group: dict[int, list[float]] = {}
    holds, lengths, flags = [], [], []
    for cell in cells:
        by_group.setdefault(cell["group"], []).append(float(cell["vacuous"].mean()))
        rise = cell["predictors"]["total"] - cell["predictors"]["start_gap"]
        holds.append(cell["outcomes"]["risk"] - cell["base"] <= rise)
        lengths.append(cell["predictors"]["length"] * smoothness)
        flags.append(cell["vacuous"])
    length, vacuous = np.concatenate(lengths), np.concatenate(flags)
    edges = [0, 0.25, 0.5, 1, 2, 8, np.inf]
    bins = []
    for low, high in zip(edges, edges[1:], strict=False):
        inside = (length >= low) & (length < high)
        if inside.any():
            share = float(vacuous[inside].mean())
            bins.append({"from": low, "merges": int(inside.sum()), "vacuous": share})
    means = np.array([np.mean(v) for v in by_group.values()])
    return {
        "merges": len(length),
        "vacuous": interval(means, rng, config.resamples),
        "holds": round(float(np.concatenate(holds).mean()), 4),
        "by_length": bins,
    }


def best_steps(config: Config, cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """At which K risk and bound are least, all else equal: shares of cells."""
    chosen = merges(config, 0, "matched")[:, 0]
    order = np.lexsort(chosen.T[[2, 3, 1, 0]])
    found = {}
    for source, what in (
        ("outcomes", "risk"),
        ("outcomes", "tuned"),
        ("predictors", "total"),
    ):
        rows = [
            cell[source][what][order].reshape(-1, len(config.steps)) for cell in cells
        ]
        least = np.concatenate([row.argmin(axis=1) for row in rows])
        shares = np.bincount(least, minlength=len(config.steps)) / len(least)
        found[what] = dict(
            zip(map(str, config.steps), shares.round(4).tolist(), strict=True)
        )
    return found
