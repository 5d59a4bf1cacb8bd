"""What one reading of a tensor leaves behind: sums of a size that no tensor has.

For T experts and one tensor at a time: the Gram matrix, sums of powers of entries,
counts of signs, and for a matrix with n columns the products

    P_t = Omega^T tau_t^T tau_t Omega,    Q_t = Omega^T tau_t^T S Omega,    S = sum tau

of s x s numbers each. Omega is the identity for n up to 512: everything read off P and
Q is then exact. Above, it is n x 256 random signs, the same for all experts: rows are
still met once, and the mean over i != j of X_ij Y_ij estimates <X', Y'> without bias,
for X = Omega^T X' Omega. Random signs of the *experts* give the same products of sums
in which nothing adds up but by chance: `R_j`, what S is compared with.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from jaxmerge._leaf import arithmetic_dtype
from jaxmerge._trees import name_hash
from jaxmerge._types import PRNGKey
from jaxmerge.checkpoint import CheckpointError
from jaxmerge.diagnose.tensors import Tensor

EXACT = 512
SKETCH = 256
FLIPS = 4
_PRECISION = lax.Precision.HIGHEST


@dataclasses.dataclass
class MatrixSums:
    """The products above, float64.

    Attributes:
      shape: of the matrix.
      exact: whether Omega is the identity.
      own: P, `(T, s, s)`.
      shared: Q, `(T, s, s)`.
      flipped: R, `(FLIPS, s, s)`.
    """

    shape: tuple[int, ...]
    exact: bool
    own: np.ndarray
    shared: np.ndarray
    flipped: np.ndarray

    @property
    def summed(self) -> np.ndarray:
        """Of the sum S with itself."""
        return self.shared.sum(axis=0)


@dataclasses.dataclass
class TensorSums:
    """What is kept of a tensor.

    Attributes:
      name: the tensor's.
      size: how many entries it has.
      gram: `(T, T)`, of the deltas.
      powers: `(T, 3)`: sums of |x|, x^2 and x^4 of each delta.
      absolute_sum: the sum over entries of |sum_t x_t|.
      opposed: how many entries have deltas of both signs.
      shared_entries: how many have at least two deltas that are not zero.
      samples: `(T, n)`: the deltas at entries drawn at random, the same for all.
      matrix: products, if it is a matrix.
      measures: what was read off them.
    """

    name: str
    size: int
    gram: np.ndarray
    powers: np.ndarray
    absolute_sum: float
    opposed: int
    shared_entries: int
    samples: np.ndarray
    matrix: MatrixSums | None = None
    measures: Any = None


def _deltas(base: Array, experts: tuple[Array, ...]) -> Array:
    wide = arithmetic_dtype(base.dtype)
    start = base.astype(wide)
    return jnp.stack([expert.astype(wide) - start for expert in experts])


@jax.jit
def _entries(base: Array, experts: tuple[Array, ...]) -> dict[str, Array]:
    """The sums over entries. Powers are in a unit, so that none over- or underflows."""
    rows = _deltas(base, experts)
    magnitudes = jnp.abs(rows)
    largest = jnp.max(magnitudes)
    tiny = jnp.finfo(rows.dtype).tiny
    unit = jnp.maximum(largest, tiny)
    scaled = magnitudes / unit
    square = scaled * scaled
    signs = jnp.sign(rows)
    positive, negative = jnp.any(signs > 0, axis=0), jnp.any(signs < 0, axis=0)
    return {
        "gram": jnp.matmul(rows, rows.T, precision=_PRECISION),
        "unit": unit,
        "powers": jnp.stack(
            [jnp.sum(scaled, 1), jnp.sum(square, 1), jnp.sum(square * square, 1)], 1
        ),
        "absolute_sum": jnp.sum(jnp.abs(jnp.sum(rows / unit, axis=0))),
        "opposed": jnp.sum(positive & negative),
        "shared": jnp.sum(jnp.sum(jnp.abs(signs), axis=0) >= 2),
    }


@functools.partial(jax.jit, static_argnames="columns")
def _products(
    base: Array,
    experts: tuple[Array, ...],
    omega: Array | None,
    flips: Array,
    *,
    columns: int,
) -> tuple[Array, Array, Array]:
    """P, Q and R of some rows."""
    rows = _deltas(base, experts)
    rows = rows.reshape(len(experts), -1, columns)
    seen = rows
    if omega is not None:
        seen = jnp.matmul(rows, omega.astype(rows.dtype), precision=_PRECISION)
    total = jnp.sum(seen, axis=0)
    product = functools.partial(jnp.einsum, precision=_PRECISION)
    mixed = product("ft,trs->frs", flips.astype(rows.dtype), seen)
    return (
        product("tri,trj->tij", seen, seen),
        product("tri,rj->tij", seen, total),
        product("fri,frj->fij", mixed, mixed),
    )


def _named(key: PRNGKey, name: str) -> PRNGKey:
    for word in name_hash(name):
        key = jax.random.fold_in(key, word)
    return key


def expert_signs(key: PRNGKey, num: int) -> np.ndarray:
    """Random signs of experts, `(FLIPS, T)`, none of them all equal if T allows it."""
    drawn = jax.random.rademacher(key, (FLIPS, num), jnp.int32)
    signs = np.array(drawn)
    alike = np.abs(signs.sum(axis=1)) == num
    signs[alike, num // 2 :] *= -1 if num > 1 else 1
    return signs.astype(np.float32)


def _positions(tensor: Tensor, key: PRNGKey, share: float) -> np.ndarray:
    """Entries that are looked at closely: sorted, drawn with replacement."""
    seed = int(jax.random.bits(_named(key, tensor.name), dtype=jnp.uint32))
    count = int(np.ceil(tensor.size * min(share, 1.0)))
    if share >= 1:
        return np.arange(tensor.size)
    return np.sort(np.random.default_rng(seed).integers(0, tensor.size, count))


def _check_finite(tensor: Tensor, gram: np.ndarray) -> None:
    wrong = np.flatnonzero(~np.isfinite(np.diagonal(gram)))
    if wrong.size:
        # If all are wrong, it is what they share.
        which = 0 if wrong.size == len(gram) else 1 + int(wrong[0])
        raise CheckpointError(
            f"{tensor.name!r} has a NaN or an infinity, or entries too large to be "
            f"squared, in {tensor.models[which]}"
        )


class _Sums:
    """The sums of one tensor, growing piece by piece."""

    def __init__(
        self, tensor: Tensor, num: int, key: PRNGKey, share: float, spectra: bool
    ):
        self.tensor, self.num = tensor, num
        self.positions = _positions(tensor, key, share)
        self.entries: dict[str, np.ndarray | float] = {
            "gram": np.zeros((num, num)),
            "powers": np.zeros((num, 3)),
            "absolute_sum": 0.0,
            "opposed": 0,
            "shared": 0,
        }
        self.samples: list[np.ndarray] = [np.zeros((num, 0), np.float32)]
        self.matrix: MatrixSums | None = None
        if spectra and len(tensor.shape) == 2 and tensor.size:
            columns = tensor.shape[1]
            exact = columns <= EXACT
            side = columns if exact else SKETCH
            zeros = lambda count: np.zeros((count, side, side))
            self.matrix = MatrixSums(
                tensor.shape, exact, zeros(num), zeros(num), zeros(FLIPS)
            )
            omega_key = jax.random.fold_in(_named(key, tensor.name), 1)
            self.omega = (
                None
                if exact
                else jax.random.rademacher(omega_key, (columns, side), jnp.float32)
            )
            self.flips = jnp.asarray(expert_signs(key, num))

    def add(self, start: int, stop: int, base: Array, experts: tuple) -> None:
        found = {
            k: np.asarray(v, np.float64) for k, v in _entries(base, experts).items()
        }
        _check_finite(self.tensor, found["gram"])
        unit = found.pop("unit")
        found["powers"] = found["powers"] * unit ** np.array([1, 2, 4])
        found["absolute_sum"] = found["absolute_sum"] * unit
        for name, value in found.items():
            self.entries[name] = self.entries[name] + value
        self._add_samples(start, stop, base, experts)
        if self.matrix is not None:
            columns = self.tensor.shape[1]
            products = _products(base, experts, self.omega, self.flips, columns=columns)
            sums = (self.matrix.own, self.matrix.shared, self.matrix.flipped)
            for total, part in zip(sums, products, strict=True):
                total += np.asarray(part)

    def _add_samples(self, start: int, stop: int, base: Array, experts: tuple) -> None:
        first, last = np.searchsorted(self.positions, [start, stop])
        here = self.positions[first:last] - start
        pick = lambda x: np.asarray(x)[here].astype(np.float32)
        at_base = pick(base)
        self.samples.append(np.stack([pick(x) - at_base for x in experts]))

    def finish(self) -> TensorSums:
        entries = self.entries
        return TensorSums(
            name=self.tensor.name,
            size=self.tensor.size,
            gram=np.asarray(entries["gram"]),
            powers=np.asarray(entries["powers"]),
            absolute_sum=float(entries["absolute_sum"]),
            opposed=int(entries["opposed"]),
            shared_entries=int(entries["shared"]),
            samples=np.concatenate(self.samples, axis=1),
            matrix=self.matrix,
        )


def sums_of(
    tensor: Tensor, num: int, *, key: PRNGKey, share: float, spectra: bool
) -> TensorSums:
    """Reads a tensor to its end.

    Args:
      tensor: whose pieces are taken.
      num: how many experts there are.
      key: of the random directions, signs and entries; each tensor draws its own by its
        name, the experts' signs are the same for all.
      share: of its entries that are sampled.
      spectra: whether products are formed, if it is a matrix.

    Raises:
      CheckpointError: naming the tensor and the model, if it is not finite.
    """
    sums = _Sums(tensor, num, key, share, spectra)
    for piece, base, experts in tensor.parts:
        sums.add(piece.start, piece.stop, base, experts)
    return sums.finish()
