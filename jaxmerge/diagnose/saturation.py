"""How fast a base's experts fill the space that they span: from checkpoints to T*.

One reading of the checkpoints gives the Gram matrix of the task vectors, and it gives
everything else: norms, cosines, effective ranks, and the Gaussian width of the hull of
k experts averaged over all subsets of k. No answer is invented: a threshold that needs
a tolerance, an angle or a loss is told only if that was given.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import PyTree

from jaxmerge import checkpoint, curvature, geometry, kinematics
from jaxmerge._types import PRNGKey
from jaxmerge.checkpoint import Grams, Progress, Source
from jaxmerge.diagnose.tensors import all_paths, named_trees
from jaxmerge.diagnose.thresholds import Inputs, thresholds_of
from jaxmerge.geometry import EffectiveRanks, Estimate
from jaxmerge.kinematics import Threshold


@dataclasses.dataclass(frozen=True)
class Layer:
    """The geometry of T task vectors, in one layer or the whole model.

    Attributes:
      gram: `(T, T)`, float64.
      ranks: how many directions they fill.
      width: W(1) to W(T): the Gaussian width of the hull of k experts, averaged over
        all subsets of k.
      gains: W(k + 1) - W(k).
    """

    gram: np.ndarray
    ranks: EffectiveRanks
    width: Estimate
    gains: Estimate

    @property
    def norms(self) -> np.ndarray:
        """Of the task vectors, `(T,)`."""
        return np.sqrt(np.maximum(np.diagonal(self.gram), 0.0))

    @property
    def cosines(self) -> np.ndarray:
        """Between the task vectors, `(T, T)`."""
        return np.asarray(geometry.cosines(jnp.asarray(self.gram, jnp.float32)))


@dataclasses.dataclass(frozen=True)
class Saturation:
    """What `saturation` finds.

    Attributes:
      experts: their names, in the order given.
      parameters: how many the model has, of those that are merged.
      whole: of the whole model.
      layers: of each layer, by name.
      order: in which each next expert adds the most width to the hull of the task
        vectors and their negatives: at least 1 - 1/e of the best choice, for every k.
      order_width: W of its first k experts.
      ceiling: an upper bound of W(k) for any number of such experts.
      thresholds: every T* that the inputs determine, by definition.
      missing: for every other definition, what it needs.
      statistical_dimensions: of each expert's acceptable cone, or None without a loss.
    """

    experts: tuple[str, ...]
    parameters: int
    whole: Layer
    layers: Mapping[str, Layer]
    order: np.ndarray
    order_width: np.ndarray
    ceiling: float
    thresholds: Mapping[str, Threshold]
    missing: Mapping[str, str]
    statistical_dimensions: Estimate | None


@functools.partial(jax.jit, static_argnames=("num_samples", "symmetric"))
def _measure(
    gram: jax.Array, key: PRNGKey, *, num_samples: int, symmetric: bool
) -> tuple[Any, ...]:
    draw = functools.partial(
        geometry.gram_samples, gram, key=key, num_samples=num_samples
    )
    samples, both = draw(symmetric=symmetric), draw(symmetric=True)
    # One point has no width, so that only hulls with negatives have a first expert.
    order, _ = geometry.greedy_order(both)
    return (
        geometry.effective_ranks(gram),
        geometry.subset_width(samples),
        geometry.marginal_gains(samples),
        order,
        geometry.order_width(samples[:, order]).mean,
    )


def _without_rounding(layer: Layer) -> Estimate:
    """The gains, with zeros for those of experts that are equal but for rounding."""
    least = 64 * float(np.finfo(np.float32).eps) * float(layer.norms.max())
    mean = jnp.where(jnp.abs(layer.gains.mean) > least, layer.gains.mean, 0.0)
    return dataclasses.replace(layer.gains, mean=mean)


def _grams(
    base: Any, experts: Sequence[Any], progress: Callable[[Progress], None] | None
) -> tuple[Grams, tuple[str, ...]]:
    if all_paths(base, experts):
        names = [e.path.name if isinstance(e, Source) else e for e in experts]
        names = tuple(os.path.basename(os.path.normpath(name)) for name in names)
        return checkpoint.gram(base, experts, progress=progress), names
    start, *trees = named_trees(base, experts)
    matrices = [
        geometry.gram([tree[name] for tree in trees], leaf)
        for name, leaf in start.items()
    ]
    sizes = tuple(int(np.size(leaf)) for leaf in start.values())
    stacked = np.stack([np.asarray(matrix, np.float64) for matrix in matrices])
    grams = Grams(tuple(start), sizes, stacked, 0)
    return grams, tuple(f"expert {t}" for t in range(len(experts)))


def _acceptable_dimensions(
    experts: Sequence[Any],
    losses: Sequence[Callable[[PyTree], Any]],
    gram: np.ndarray,
    key: PRNGKey,
    epsilon: Any,
    negative: Any,
    num_probes: int,
    num_steps: int,
) -> Estimate:
    """Of each expert's acceptable set, seen from the experts' average."""
    if epsilon is None or negative is None:
        name = "epsilon" if epsilon is None else "negative"
        raise ValueError(
            f"a loss was given without {name}, which says what rise of it is "
            "acceptable and what its negative curvature counts as; see "
            "jaxmerge.curvature.acceptable_dimension_approx"
        )
    # |tau_t - mean|^2, from inner products alone.
    squares = np.diagonal(gram) - 2 * gram.mean(axis=1) + gram.mean()
    paths, found = all_paths(experts[0], experts), []

    # Compiled once for each function, and not once for each expert.
    @jax.jit
    def spectrum_of(loss: Any, expert: Any, key: PRNGKey) -> curvature.Spectrum:
        hessian = curvature.hessian_vector_product(loss, expert)
        return curvature.spectral_density(hessian, key, num_probes, num_steps)

    for t, (expert, loss) in enumerate(zip(experts, losses, strict=True)):
        if paths:
            expert = jax.tree.map(jnp.asarray, checkpoint.load(expert))
        if not isinstance(loss, Partial):
            loss = Partial(loss)
        spectrum = spectrum_of(loss, expert, jax.random.fold_in(key, t))
        cone = curvature.acceptable_dimension_approx(
            spectrum,
            epsilon=epsilon,
            distance=float(np.sqrt(max(squares[t], np.finfo(np.float64).tiny))),
            negative=negative,
        )
        found.append(cone.dimension)
    return Estimate(
        jnp.stack([one.mean for one in found]),
        jnp.stack([one.stderr for one in found]),
        found[0].num_samples,
        found[0].method,
    )


def _finite_total(grams: Grams) -> np.ndarray:
    total = grams.total
    if not np.isfinite(total).all():
        raise ValueError(
            "the experts' differences from the base are not finite; look for a NaN, or "
            "entries too large to be squared in float32"
        )
    return total


def saturation_of_grams(
    grams: Grams,
    names: Sequence[str],
    *,
    key: PRNGKey,
    num_samples: int = 4096,
    symmetric: bool = False,
    tolerance: Any = None,
    half_angle: Any = None,
    dimension: Any = None,
    eta: Any = None,
    dimensions: Estimate | None = None,
) -> Saturation:
    """What `saturation` finds, from Gram matrices that were measured before.

    Args:
      grams: of every tensor, from `checkpoint.gram` or `measure`.
      names: of the experts.
      key: as for `saturation`.
      num_samples: as for `saturation`.
      symmetric: as for `saturation`.
      tolerance: as for `saturation`.
      half_angle: as for `saturation`.
      dimension: as for `saturation`.
      eta: as for `saturation`.
      dimensions: of the experts' acceptable sets, if they are known.

    Raises:
      ValueError: if a matrix is not finite, or an input is out of range.

    Example:
      >>> import jax
      >>> grams = Grams(("w",), (9,), np.eye(3)[None], 0)
      >>> found = saturation_of_grams(grams, ["a", "b", "c"], key=jax.random.key(0))
      >>> found.parameters, float(found.whole.ranks.rank)
      (9, 3.0)
    """
    total = _finite_total(grams)
    measure = functools.partial(_measure, num_samples=num_samples, symmetric=symmetric)

    def layer(gram: np.ndarray) -> tuple[Layer, Any, Any]:
        ranks, width, gains, order, reached = measure(
            jnp.asarray(gram, jnp.float32), key
        )
        return Layer(gram, ranks, width, gains), np.asarray(order), np.asarray(reached)

    whole, order, reached = layer(total)
    layers = {name: layer(gram)[0] for name, gram in grams.by_layer().items()}
    inputs = Inputs(
        gains=_without_rounding(whole),
        cosines=whole.cosines,
        tolerance=tolerance,
        half_angle=half_angle,
        dimension=dimension,
        eta=eta,
        parameters=sum(grams.sizes),
        statistical_dimensions=None
        if dimensions is None
        else np.asarray(dimensions.mean),
    )
    thresholds, missing = thresholds_of(inputs)
    ceiling = kinematics.width_ceiling(
        float(whole.norms.max()),
        float(len(names) * (1 + symmetric)),  # points of the hull
        float(whole.ranks.rank),
    )
    return Saturation(
        experts=tuple(names),
        parameters=sum(grams.sizes),
        whole=whole,
        layers=layers,
        order=order,
        order_width=reached,
        ceiling=float(ceiling),
        thresholds=thresholds,
        missing=missing,
        statistical_dimensions=dimensions,
    )


def saturation(
    base: Any,
    experts: Sequence[Any],
    *,
    key: PRNGKey,
    num_samples: int = 4096,
    symmetric: bool = False,
    tolerance: Any = None,
    half_angle: Any = None,
    dimension: Any = None,
    eta: Any = None,
    loss: Callable[[PyTree], Any] | Sequence[Callable[[PyTree], Any]] | None = None,
    epsilon: Any = None,
    negative: str | None = None,
    num_probes: int = 8,
    num_steps: int = 30,
    progress: Callable[[Progress], None] | None = None,
) -> Saturation:
    """Measures how the experts of a base fill space, and after how many it is full.

        W(k) = mean over k-subsets S of w(conv{expert_t - base : t in S})

    W is a theorem to be concave; that its saturation limits merging is the claim of
    the paper below, and a T* is only as good as the definition and inputs behind it.

    Args:
      base: a checkpoint, or a tree of parameters.
      experts: as many checkpoints, or trees, fine-tuned from it; at least one.
        Checkpoints are streamed, once; memory holds a piece of each.
      key: a typed key, for the random directions.
      num_samples: how many directions.
      symmetric: for the hull of the task vectors and their negatives.
      tolerance: the share of the first gain below which a gain is negligible.
      half_angle: in radians; how far from its task vector an expert still works.
      dimension: of the space that task vectors have to fill; its effective dimension is
        the user's to say, the number of parameters an upper bound.
      eta: the probability with which the claims of an interval may fail.
      loss: of parameters, or one for each expert, from whose Hessian the dimension of
        each expert's acceptable set is estimated. Each function is compiled;
        `jax.tree_util.Partial(loss, batch)` of one function and each expert's data are
        compiled once for all. Checkpoints are loaded for it.
      epsilon: the rise of the loss that is acceptable.
      negative: what negative curvature counts as, `"flat"` or `"absolute"`.
      num_probes: random vectors for the Hessian's spectrum.
      num_steps: products with the Hessian for each.
      progress: called while checkpoints are read.

    Returns:
      A `Saturation`. Thresholds whose inputs were not given are named in `missing`.

    Raises:
      CheckpointError: if a checkpoint does not fit or is not finite.
      ValueError: if trees do not fit, or an input is out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> base = {"w": jnp.zeros(4)}
      >>> experts = [{"w": row} for row in jnp.eye(4)]
      >>> found = saturation(base, experts, key=jax.random.key(0), tolerance=0.5)
      >>> [f"{w:.1f}" for w in found.whole.width.mean[1:]], sorted(found.thresholds)
      (['0.6', '0.8', '1.0'], ['marginal_gain'])

    References:
      Why Do More Experts Fail? A Theoretical Analysis of Model Merging, 2025. The
      curve and all thresholds are reconstructions; docs/kinematics.md says which
      theorem each rests on.
    """
    grams, names = _grams(base, experts, progress)
    dimensions = None
    if loss is not None:
        losses = [loss] * len(names) if callable(loss) else list(loss)
        if len(losses) != len(names):
            raise ValueError(
                f"{len(losses)} losses were given for {len(names)} experts"
            )
        dimensions = _acceptable_dimensions(
            experts,
            losses,
            _finite_total(grams),
            key,
            epsilon,
            negative,
            num_probes,
            num_steps,
        )
    return saturation_of_grams(
        grams,
        names,
        key=key,
        num_samples=num_samples,
        symmetric=symmetric,
        tolerance=tolerance,
        half_angle=half_angle,
        dimension=dimension,
        eta=eta,
        dimensions=dimensions,
    )
