"""What the products of a matrix's deltas say: spectra, ranks, room and interference.

Everything is read off the `s x s` products of `_sums`. For a matrix with up to 512
columns they are exact. For more they are sketches: participation ranks and inner
products are unbiased; singular values, entropy ranks and the ranks that hold 90 % of
the energy are those of the sketch, which has 256 directions and can show no more.
"""

import dataclasses

import numpy as np

from jaxmerge.diagnose._sums import SKETCH, MatrixSums

_ENERGY = 0.9
_SHOWN = 32


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """The singular values of a delta, and how many of them count.

    Attributes:
      values: the largest, at most 32, in descending order.
      participation: (sum s^2)^2 / sum s^4.
      entropy: exp of the entropy of s^2 / sum s^2.
      energy90: the fewest whose squares hold 90 % of the energy.
      head: the share of the energy that the largest holds.
      retained: the share that the `kept` largest hold.
    """

    values: np.ndarray
    participation: float
    entropy: float
    energy90: int
    head: float
    retained: float


@dataclasses.dataclass(frozen=True)
class MatrixMeasures:
    """What is measured of one matrix.

    With tau_t the deltas as `[out, in]`, S their sum and c_t = 1 / |tau_t|^2, all norms
    Frobenius':

    Attributes:
      name: the tensor's.
      shape: of the matrix.
      exact: whether nothing is sketched.
      energies: |tau_t|^2, `(T,)`.
      experts: spectra of the tau_t; `retained` is of k = min(out, in) // T.
      mean: the spectrum of S / T.
      accumulation: for random signs e, the participation rank of sum_t e_t tau_t over
        that of S, `(draws,)`; 1 if signs do not matter, NaN if S is zero.
      signal: c_t |tau_t tau_t^T|^2, `(T,)`.
      cross: c_t <S tau_t^T, tau_t tau_t^T>, `(T,)`.
      interference: c_t |S tau_t^T|^2, `(T,)`.
    """

    name: str
    shape: tuple[int, ...]
    exact: bool
    energies: np.ndarray
    experts: tuple[Spectrum, ...]
    mean: Spectrum
    accumulation: np.ndarray
    signal: np.ndarray
    cross: np.ndarray
    interference: np.ndarray

    @property
    def rank(self) -> int:
        """The most that a matrix of this shape can have."""
        return min(self.shape)


def _ratio(a: float, b: float, otherwise: float = 0.0) -> float:
    return float(a / b) if b > 0 else otherwise


def inner(a: np.ndarray, b: np.ndarray, exact: bool) -> np.ndarray:
    """`<X, Y>` of what products stand for; leading axes are kept."""
    product = a * b
    total = product.sum(axis=(-2, -1))
    if exact:
        return np.asarray(total)
    # Off the diagonal two different random vectors meet, so nothing is counted twice.
    side = a.shape[-1]
    diagonal = np.trace(product, axis1=-2, axis2=-1)
    return np.asarray((total - diagonal) / (side * (side - 1)))


def _squares(product: np.ndarray, exact: bool) -> np.ndarray:
    """Squared singular values, in descending order."""
    values = np.maximum(np.linalg.eigvalsh(product)[::-1], 0.0)
    least = values[0] * len(values) * np.finfo(np.float32).eps
    values = np.where(values > least, values, 0.0)
    return values if exact else values / SKETCH


def spectrum(
    product: np.ndarray, energy: float, exact: bool, kept: int = 0
) -> Spectrum:
    """A spectrum from a product of a delta with itself.

    Args:
      product: `(s, s)`.
      energy: the sum of the squared singular values.
      exact: whether the product is no sketch.
      kept: how many singular values `retained` is of.

    Example:
      >>> found = spectrum(np.diag([4.0, 4.0, 0.0]), 8.0, True)
      >>> found.values.tolist(), found.participation, found.energy90, found.head
      ([2.0, 2.0, 0.0], 2.0, 2, 0.5)
    """
    squares = _squares(product, exact)
    total = squares.sum()
    share = squares / total if total > 0 else squares
    some = share[share > 0]
    count = int(np.searchsorted(np.cumsum(share), _ENERGY - 1e-12)) + 1
    return Spectrum(
        values=np.sqrt(squares[:_SHOWN]),
        participation=_ratio(energy**2, float(inner(product, product, exact))),
        entropy=float(np.exp(-(some * np.log(some)).sum())) if some.size else 0.0,
        energy90=count if total > 0 else 0,
        head=float(share[0]),
        retained=float(share[:kept].sum()),
    )


def _accumulation(
    sums: MatrixSums, energy: float, mixed: np.ndarray, ranks: np.ndarray
) -> np.ndarray:
    """Participation ranks with random signs over that of the sum."""
    own = _ratio(energy**2, float(inner(sums.summed, sums.summed, sums.exact)))
    squares = inner(sums.flipped, sums.flipped, sums.exact)
    some = (mixed > 0) & (squares > 0)
    chance = mixed**2 / np.where(some, squares, 1.0)
    # Equal experts cancel by signs; what is left to compare with are they themselves.
    chance = np.where(some, chance, ranks[ranks > 0].mean() if ranks.any() else 0.0)
    defined = (own > 0) & (chance > 0)
    return np.where(defined, chance / (own if own > 0 else 1.0), np.nan)


def matrix_measures(
    name: str, sums: MatrixSums, gram: np.ndarray, flips: np.ndarray
) -> MatrixMeasures:
    """Reads the measures off the products.

    Args:
      name: the tensor's. Of one called `kernel`, as Flax does, the first axis is the
        input; else the last, as in Hugging Face checkpoints.
      sums: the products.
      gram: of the tensor's deltas, `(T, T)`.
      flips: the experts' random signs, `(draws, T)`.
    """
    exact, num = sums.exact, len(gram)
    energies = np.maximum(np.diagonal(gram), 0.0)
    weights = np.where(energies > 0, 1 / np.where(energies > 0, energies, 1.0), 0.0)
    # A sum that cancels leaves rounding, which has a spectrum but no meaning.
    least = 1e-10 * energies.sum()
    clear = lambda x: np.where(x > least, x, 0.0)
    total = float(clear(gram.sum()))
    kept = min(sums.shape) // num
    experts = tuple(
        spectrum(own, float(energy), exact, kept)
        for own, energy in zip(sums.own, energies, strict=True)
    )
    ranks = np.array([one.participation for one in experts])
    input_first = name.split(".")[-1] == "kernel"
    across = (
        inner(sums.shared, sums.shared, exact)
        if input_first
        else inner(sums.own, sums.summed[None], exact)
    )
    mixed = np.einsum("ft,ts,fs->f", flips, gram, flips)
    return MatrixMeasures(
        name=name,
        shape=sums.shape,
        exact=exact,
        energies=energies,
        experts=experts,
        mean=spectrum(sums.summed / num**2, total / num**2, exact, kept),
        accumulation=_accumulation(sums, total, clear(mixed), ranks),
        signal=weights * inner(sums.own, sums.own, exact),
        cross=weights * inner(sums.shared, sums.own, exact),
        interference=weights * np.maximum(across, 0.0),
    )
