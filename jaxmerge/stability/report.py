"""How friendly experts are to merging: one report, from as little as a Gram matrix."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxmerge import geometry
from jaxmerge.kinematics._inputs import Numbers
from jaxmerge.stability import _programs
from jaxmerge.stability._markdown import markdown, plain
from jaxmerge.stability.bound import TERMS, Measured, check_measured
from jaxmerge.stability.coefficients import normalised_coefficients
from jaxmerge.stability.gradients import pseudo_gradient_statistics, training_lengths
from jaxmerge.stability.post_hoc import gram_dispersion
from jaxmerge.stability.recommend import confidence_of
from jaxmerge.stability.scaling import best_steps
from jaxmerge.stability.spec import (
    ExpertSpec,
    ProblemStats,
    num_experts,
    resolve,
    weights_of,
)

_LONG = 0.5  # eta L K beyond which the small-step bounds do not hold
_KEEP = 0.5  # the share that the masks of the report keep


@dataclasses.dataclass(frozen=True)
class MergeFriendliness:
    """What `merge_friendliness` finds; None where inputs do not determine it.

    Attributes:
      names: of the experts.
      confidence: `"data-free"`, `"a priori"` (settings and constants of the losses) or
        `"measured"`.
      norms: of the task vectors, `(task,)`.
      cosines: between them, `(task, task)`.
      coefficients: alpha_i that the report is about, `(task,)`.
      dispersion: V = sum p_i |x_m - x_i|^2.
      missing: what was not given, and where it comes from.
      notes: sentences, each with its number.
      curvature_steps: eta_i L K_i, `(task,)`.
      training_lengths: a_i, eta_i K_i without momentum, `(task,)`.
      chi_squared: how far training and coefficients are from the target weights.
      heterogeneity: zeta^2 at the base; from pseudo-gradients where data-free.
      terms: each term of the bound, by name, and `optimisation`, `generalisation` and
        `total`.
      shares: of each term in the sum of their sizes.
      best_steps: K_i*, `(task,)`.
      vacuous: whether the bound says nothing.
      masks: what masks that keep half of the entries would change the bound by: with
        rescaling (`"dare"`) and without (`"drop"`).
      suggested_coefficients: proportional to p_i / a_i, with the sum of the present
        ones, `(task,)`.
    """

    names: tuple[str, ...]
    confidence: str
    norms: np.ndarray
    cosines: np.ndarray
    coefficients: np.ndarray
    dispersion: float
    missing: dict[str, str]
    notes: tuple[str, ...] = ()
    curvature_steps: np.ndarray | None = None
    training_lengths: np.ndarray | None = None
    chi_squared: float | None = None
    heterogeneity: float | None = None
    terms: dict[str, float] | None = None
    shares: dict[str, float] | None = None
    best_steps: np.ndarray | None = None
    vacuous: bool | None = None
    masks: dict[str, float] | None = None
    suggested_coefficients: np.ndarray | None = None

    def as_data(self) -> dict[str, Any]:
        """All of it, ready for `json.dumps`; what is not finite is a string."""
        fields = dataclasses.fields(self)
        return {field.name: plain(getattr(self, field.name)) for field in fields}

    def as_markdown(self) -> str:
        """A section of a page, with the heading `## Merge-friendliness`."""
        return markdown(self)


def _checked_gram(gram: Any) -> np.ndarray:
    array = np.asarray(gram, np.float64)
    if array.ndim != 2 or array.shape[0] != array.shape[1] or not array.size:
        raise ValueError(f"gram has shape {array.shape}; expected `(task, task)`")
    if not np.all(np.isfinite(array)):
        t = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
        raise ValueError(
            f"row {t} of the Gram matrix is not finite; look at expert {t}'s weights"
        )
    scale = np.abs(array).max()
    if np.abs(array - array.T).max() > 1e-5 * scale or array.diagonal().min() < 0:
        raise ValueError(
            "the Gram matrix is not symmetric with a nonnegative diagonal; expected "
            "inner products of task vectors, as geometry.gram gives them"
        )
    return array


def _shares(terms: dict[str, float]) -> dict[str, float]:
    sizes = {name: abs(value) for name, value in terms.items()}
    many = sum(np.isinf(size) for size in sizes.values())
    if many:  # Infinite terms are all there is, and share alike.
        return {name: float(np.isinf(size)) / many for name, size in sizes.items()}
    whole = sum(sizes.values())
    return {name: size / whole if whole else 0.0 for name, size in sizes.items()}


def _of_bound(
    spec: ExpertSpec,
    stats: ProblemStats,
    kernel: np.ndarray,
    alphas: np.ndarray,
    weights: np.ndarray,
    measured: Measured | None,
) -> dict[str, Any]:
    """What only the constants of the losses say."""
    options: dict[str, Any] = {
        "coefficients": jnp.asarray(alphas, jnp.float32),
        "target_weights": jnp.asarray(weights, jnp.float32),
        "measured": measured,
    }
    # For their checks: compiled functions do not see values.
    resolve(spec, stats, alphas, weights)
    check_measured(measured)
    # What was measured without masks says nothing about the merge with them.
    with_masks = measured is None or (
        measured.optimisation is None and measured.gradient_square is None
    )
    bound, masks = _programs.bound_and_masks(
        spec,
        stats,
        jnp.asarray(kernel.diagonal(), jnp.float32),
        jnp.float32(_KEEP),
        options,
        with_masks=with_masks,
    )
    terms = {name: float(getattr(bound, name)) for name in TERMS}
    sums = ("optimisation", "generalisation", "total")
    shape = (len(kernel),)
    rates = np.asarray(spec.learning_rate, np.float64)
    lengths = rates * np.asarray(spec.steps, np.float64)
    best = np.asarray(best_steps(spec, stats), np.float64)
    return {
        "terms": terms | {name: float(getattr(bound, name)) for name in sums},
        "shares": _shares(terms),
        "vacuous": bool(bound.vacuous),
        "heterogeneity": float(np.asarray(stats.heterogeneity)),
        "curvature_steps": np.broadcast_to(
            float(np.asarray(stats.smoothness)) * lengths, shape
        ),
        "best_steps": np.broadcast_to(best, shape),
        "masks": masks and {name: float(change) for name, change in masks.items()},
    }


def merge_friendliness(
    gram: Numbers,
    *,
    spec: ExpertSpec | None = None,
    stats: ProblemStats | None = None,
    coefficients: Numbers = None,
    target_weights: Numbers = None,
    measured: Measured | None = None,
    names: Sequence[str] | None = None,
    momentum: float = 0.0,
) -> MergeFriendliness:
    """What the task vectors, and the settings if known, say about a linear merge.

    A diagnostic and no oracle: the bound is a worst case, and it is known that
    statistics of parameters alone predict collapse poorly (docs/stability.md).

    Args:
      gram: inner products of task vectors, `(task, task)`: all that is needed.
      spec: how experts were trained; for training lengths, chi^2 and pseudo-gradients.
      stats: constants of their losses; with a spec they give the bound.
      coefficients: alpha_i, `(task,)` or one number; by default the target weights.
      target_weights: p_i, of sum 1; by default 1 / N.
      measured: what was measured in place of its bound.
      names: of the experts.
      momentum: mu of their training, in [0, 1), for pseudo-gradients.

    Returns:
      The report; plain values, to be shown or embedded.

    Raises:
      ValueError: if the Gram matrix is none, numbers of experts differ, or a number is
        out of range.

    Example:
      >>> gram = np.array([[1.0, -0.5], [-0.5, 1.0]])
      >>> found = merge_friendliness(gram, names=("maths", "law"))
      >>> found.confidence, found.dispersion, found.vacuous
      ('data-free', 0.75, None)
      >>> found.notes[0]
      'the task vectors of maths and law have cosine -0.50: they pull apart'
    """
    kernel = _checked_gram(gram)
    num = len(kernel)
    if names is None:
        names = [f"expert {t}" for t in range(num)]
    per_expert = {"coefficients": coefficients, "target_weights": target_weights}
    if spec is not None:
        per_expert |= dict(vars(spec))
    num_experts(gram=np.zeros(num), names=np.zeros(len(names)), **per_expert)
    weights = np.broadcast_to(weights_of(target_weights, num), (num,))
    alphas = weights if coefficients is None else coefficients
    alphas = np.broadcast_to(np.asarray(alphas, np.float64), (num,))
    known: dict[str, Any] = {}
    if spec is not None:
        known |= _of_settings(spec, kernel, alphas, weights, momentum)
    if spec is not None and stats is not None:
        known |= _of_bound(spec, stats, kernel, alphas, weights, measured)
    found = MergeFriendliness(
        names=tuple(names),
        confidence=confidence_of(stats if spec is not None else None, measured),
        norms=np.sqrt(kernel.diagonal()),
        cosines=np.asarray(geometry.cosines(jnp.asarray(kernel, jnp.float32))),
        coefficients=alphas,
        dispersion=float(
            gram_dispersion(kernel, coefficients=alphas, target_weights=weights)
        ),
        missing=_missing(spec, stats),
        **known,
    )
    return dataclasses.replace(found, notes=_notes(found))


def _missing(spec: ExpertSpec | None, stats: ProblemStats | None) -> dict[str, str]:
    missing = {}
    if spec is None:
        missing["spec"] = (
            "the settings of fine-tuning (learning rate, batch size, steps, samples), "
            "for training lengths, chi^2 and pseudo-gradients"
        )
    if stats is None:
        missing["stats"] = (
            "constants of the losses at the base (smoothness, noise, gradients), for "
            "the bound and its terms"
        )
    return missing


def _of_settings(
    spec: ExpertSpec,
    kernel: np.ndarray,
    alphas: np.ndarray,
    weights: np.ndarray,
    momentum: float,
) -> dict[str, Any]:
    """What the settings say without any statistics of losses."""
    num = len(kernel)
    lengths = np.asarray(training_lengths(spec, momentum=momentum), np.float64)
    lengths = np.broadcast_to(lengths, (num,))
    whole = float(np.sum(alphas * lengths))
    shares = alphas * lengths / whole if whole else weights
    # Of an expert that is subtracted, the share has no meaning.
    known = bool(np.all(alphas >= 0))
    guessed = pseudo_gradient_statistics(
        kernel, spec, momentum=momentum, target_weights=weights
    )
    suggested = normalised_coefficients(
        spec, target_weights=weights, momentum=momentum, total=alphas.sum()
    )
    return {
        "training_lengths": lengths,
        "chi_squared": float(np.sum((weights - shares) ** 2 / weights))
        if known
        else None,
        "heterogeneity": float(guessed.heterogeneity),
        "suggested_coefficients": np.asarray(suggested, np.float64),
    }


def _notes(found: MergeFriendliness) -> tuple[str, ...]:
    """Sentences about what stands out, each with its number."""
    notes = []
    apart = found.cosines.copy()
    np.fill_diagonal(apart, 1.0)
    s, t = np.unravel_index(int(np.argmin(apart)), apart.shape)
    if apart[s, t] < 0:
        notes.append(
            f"the task vectors of {found.names[s]} and {found.names[t]} have cosine "
            f"{apart[s, t]:.2f}: they pull apart"
        )
    for t in np.flatnonzero(found.norms == 0):
        notes.append(f"{found.names[t]} is the base itself: its task vector is 0")
    if found.chi_squared is not None and found.training_lengths is not None:
        lengths = found.training_lengths
        most, least = int(np.argmax(lengths)), int(np.argmin(lengths))
        if found.chi_squared > 1e-3:
            notes.append(
                f"unequal experts: {found.names[most]} was trained "
                f"{lengths[most] / lengths[least]:.3g} times as far as "
                f"{found.names[least]}, chi^2 is {found.chi_squared:.3g}; coefficients "
                "proportional to p / (eta K) make it 0"
            )
    if found.curvature_steps is not None and found.best_steps is not None:
        for t in np.flatnonzero(found.curvature_steps > _LONG):
            notes.append(
                f"over-trained for this bound: eta L K of {found.names[t]} is "
                f"{found.curvature_steps[t]:.3g}, above {_LONG}; the bound is smallest "
                f"near {found.best_steps[t]:.3g} steps"
            )
    if found.vacuous and found.terms is not None:
        total, start = found.terms["total"], found.terms["start_gap"]
        reason = (
            "it rises with more training, where the risk may still fall"
            if total < start
            else f"it is not below that of the base, {start:.3g}"
        )
        notes.append(
            f"vacuous: the bound of {total:.3g} says nothing about this merge; {reason}"
        )
    if found.masks is not None:
        notes.append(
            f"masks that keep {_KEEP:g} of the entries change the bound by "
            f"{found.masks['drop']:+.3g} without rescaling and by "
            f"{found.masks['dare']:+.3g} with it"
        )
    if found.confidence == "data-free" and found.heterogeneity is not None:
        notes.append(
            f"zeta^2 of {found.heterogeneity:.3g} is from task vectors alone: too low "
            "where experts have converged"
        )
    return tuple(notes)
