"""One reading of a base and its experts, and what it measures, layer by layer.

Memory is that of one piece of every model (8 MiB together, and a few copies), the
products of one matrix (at most 2 MiB for each of 2 T + 4), a sample of about 60,000
entries of each expert (240 kB), and numbers of the order T^2 a tensor: what grows with
T is small and fixed, whatever the size of the model.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmerge import _checks, geometry
from jaxmerge._matrices import Matrices
from jaxmerge._types import PRNGKey
from jaxmerge.checkpoint import Grams, Progress
from jaxmerge.diagnose._sums import TensorSums, expert_signs, sums_of
from jaxmerge.diagnose.spectra import MatrixMeasures, matrix_measures
from jaxmerge.diagnose.tensors import open_tensors
from jaxmerge.geometry import HillPlot

_SAMPLES = 60_000


@dataclasses.dataclass(frozen=True)
class Measures:
    """What is measured of T deltas, in one layer or in the whole model.

    Attributes:
      parameters: how many entries there are.
      gram: `(T, T)`, float64.
      powers: `(T, 3)`: sums of |x|, x^2 and x^4 of each delta.
      absolute_sum: the sum over entries of |sum_t x_t|.
      opposed: how many entries have deltas of both signs,
      shared_entries: of how many that have at least two that are not zero.
      overlap: `(T, T)`: of the `density` largest entries of one expert, the share that
        is among those of another, from a sample of entries.
      sampled: how many entries that sample has.
      matrices: of each matrix.
    """

    parameters: int
    gram: np.ndarray
    powers: np.ndarray
    absolute_sum: float
    opposed: int
    shared_entries: int
    overlap: np.ndarray
    sampled: int
    matrices: tuple[MatrixMeasures, ...]

    @property
    def norms(self) -> np.ndarray:
        """Of the deltas, `(T,)`."""
        return np.sqrt(np.maximum(np.diagonal(self.gram), 0.0))

    @property
    def cosines(self) -> np.ndarray:
        """Between the deltas, `(T, T)`; 0 with a delta of zeros."""
        return np.asarray(geometry.cosines(jnp.asarray(self.gram, jnp.float32)))

    @property
    def mean_cosine(self) -> float:
        """Over all pairs; 0 for one expert."""
        num = len(self.gram)
        total = self.cosines.sum() - num
        return float(total / max(num * (num - 1), 1))

    @property
    def sign_conflict(self) -> float:
        """`1 - sum |sum_t x_t| / sum sum_t |x_t|`: what signs cancel, of what there is.

        0 where all agree, 1 where all cancels; `1 - T^-1/2` for independent normal
        deltas of equal norms.
        """
        total = self.powers[:, 0].sum()
        return float(max(1 - self.absolute_sum / total, 0.0)) if total > 0 else 0.0

    @property
    def opposed_share(self) -> float:
        """The share of entries changed by two experts or more whose signs differ."""
        return self.opposed / max(self.shared_entries, 1)

    @property
    def kurtosis(self) -> np.ndarray:
        """`d sum x^4 / (sum x^2)^2` of each delta: 3 for normal ones; 0 for zeros."""
        square = self.powers[:, 1] ** 2
        some = square > 0
        ratio = self.parameters * self.powers[:, 2] / np.where(some, square, 1.0)
        return np.where(some, ratio, 0.0)

    @property
    def participation(self) -> np.ndarray:
        """The share of entries that carry each delta, `1 / kurtosis`; 0 for zeros."""
        kurtosis = self.kurtosis
        return np.where(kurtosis > 0, 1 / np.where(kurtosis > 0, kurtosis, 1.0), 0.0)


@dataclasses.dataclass(frozen=True)
class Measurements:
    """What one reading finds.

    Attributes:
      experts: their names, in the order given.
      whole: of the whole model.
      layers: of each layer, by name.
      hill: of each expert's sampled entries; None with fewer than 20.
      grams: the Gram matrix of every tensor.
      density: of the entries that `overlap` counts as largest.
      bytes_read: from all checkpoints; 0 for trees.
    """

    experts: tuple[str, ...]
    whole: Measures
    layers: Mapping[str, Measures]
    hill: tuple[HillPlot, ...] | None
    grams: Grams
    density: float
    bytes_read: int


def _overlap(samples: np.ndarray, density: float) -> np.ndarray:
    """How much of the largest entries of one is among those of another."""
    num, size = samples.shape
    kept = int(density * size)
    if kept == 0:
        return np.zeros((num, num))
    magnitudes = np.abs(samples)
    order = np.argsort(-magnitudes, axis=1, kind="stable")[:, :kept]
    masks = np.zeros((num, size), np.float32)
    np.put_along_axis(masks, order, 1.0, axis=1)
    masks *= magnitudes > 0  # zeros are no largest entries, even if few others are left
    counts = np.maximum(masks.sum(axis=1), 1)
    return masks @ masks.T / counts[:, None]


def _joined(sums: Sequence[TensorSums], flips: np.ndarray, density: float) -> Measures:
    samples = np.concatenate([one.samples for one in sums], axis=1)
    return Measures(
        parameters=sum(one.size for one in sums),
        gram=np.sum([one.gram for one in sums], axis=0),
        powers=np.sum([one.powers for one in sums], axis=0),
        absolute_sum=sum(one.absolute_sum for one in sums),
        opposed=sum(one.opposed for one in sums),
        shared_entries=sum(one.shared_entries for one in sums),
        overlap=_overlap(samples, density),
        sampled=samples.shape[1],
        matrices=tuple(matrix for one in sums if (matrix := one.measures) is not None),
    )


def _layers(names: Sequence[str]) -> dict[str, list[int]]:
    """Which tensors each layer has, by the rule of `Grams.by_layer`."""
    marks = Grams(tuple(names), (1,) * len(names), np.eye(len(names)), 0).by_layer()
    return {layer: np.flatnonzero(mark).tolist() for layer, mark in marks.items()}


def _hill(samples: np.ndarray) -> tuple[HillPlot, ...] | None:
    if samples.shape[1] < 20:
        return None
    plot = jax.jit(geometry.hill)
    return tuple(plot(jnp.asarray(row)) for row in samples)


def measure(
    base: Any,
    experts: Sequence[Any],
    *,
    key: PRNGKey,
    density: float = 0.2,
    matrices: Matrices | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Measurements:
    """Measures the deltas of experts from their base, reading each model once.

    Args:
      base: a checkpoint, or a tree of parameters.
      experts: as many checkpoints, or trees, fine-tuned from it; at least one.
      key: a typed key, for the sampled entries and the sketches of wide matrices. Equal
        keys give equal numbers for checkpoints and for trees.
      density: of the largest entries that `overlap` compares, in (0, 1].
      matrices: the rule which leaves are matrices; that of the library if None.
      progress: called while checkpoints are read.

    Returns:
      `Measurements`.

    Raises:
      CheckpointError: if a checkpoint does not fit, is a LoRA adapter, or a tensor is
        not finite; the sentence names tensor and model.
      ValueError: if trees do not fit, or `density` is out of range.

    Example:
      >>> base = {"w": jnp.zeros((4, 4))}
      >>> experts = [{"w": jnp.diag(row)} for row in jnp.eye(4)[:3]]
      >>> found = measure(base, experts, key=jax.random.key(0))
      >>> found.whole.mean_cosine, found.whole.sign_conflict
      (0.0, 0.0)
      >>> [one.energy90 for one in found.whole.matrices[0].experts]
      [1, 1, 1]
    """
    _checks.check_key(key)
    _checks.check_values(
        "density", density, lambda x: (x > 0) & (x <= 1), "a share in (0, 1]"
    )
    rule = Matrices() if matrices is None else matrices
    with open_tensors(base, experts, progress) as tensors:
        num = len(tensors.experts)
        flips = expert_signs(key, num)
        share = _SAMPLES / max(sum(tensors.sizes.values()), 1)
        sums = []
        for tensor in tensors:
            spec = rule.spec(tensor.name, tensor.shape)
            spectra = spec is not None and len(tensor.shape) == 2
            one = sums_of(tensor, num, key=key, share=share, spectra=spectra)
            if one.matrix is not None:  # the products are as large as all else together
                found = matrix_measures(one.name, one.matrix, one.gram, flips)
                one = dataclasses.replace(one, matrix=None, measures=found)
            sums.append(one)
    if not sums:
        raise ValueError("the base has no floating tensor, so experts cannot differ")
    layers = {
        layer: _joined([sums[i] for i in members], flips, density)
        for layer, members in _layers([one.name for one in sums]).items()
    }
    whole = _joined(sums, flips, density)
    samples = np.concatenate([one.samples for one in sums], axis=1)
    return Measurements(
        experts=tensors.experts,
        whole=whole,
        layers=layers,
        hill=_hill(samples),
        grams=Grams(
            tuple(one.name for one in sums),
            tuple(one.size for one in sums),
            np.stack([one.gram for one in sums]),
            tensors.bytes_read,
        ),
        density=density,
        bytes_read=tensors.bytes_read,
    )
