"""The Gram matrix of experts' deltas, streamed from their checkpoints.

    K_st = <expert_s - base, expert_t - base>

All of the geometry of T task vectors is in it. Each tensor is read once, in pieces of
all experts at a time; a piece's products are in float32, the sums over pieces and
tensors in float64. LoRA adapters stay factored.
"""

import contextlib
import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from jaxmerge._leaf import arithmetic_dtype
from jaxmerge._trees import LowRank
from jaxmerge.checkpoint._pieces import Piece
from jaxmerge.checkpoint._reading import Progress, Read, Reader, describe
from jaxmerge.checkpoint.errors import CheckpointError
from jaxmerge.checkpoint.plan import Output, Plan
from jaxmerge.checkpoint.planning import make_plan
from jaxmerge.checkpoint.source import PathLike, Source, enter_source
from jaxmerge.recipes import task_arithmetic

_PIECE_BYTES = 32 << 20  # of all experts' pieces in float32
_LEAST = 1 << 12
_MOST = 1 << 19


@dataclasses.dataclass(frozen=True)
class Grams:
    """Gram matrices of T experts' deltas, tensor by tensor.

    Attributes:
      names: of the tensors.
      sizes: how many entries each has.
      matrices: `(tensor, T, T)`, float64.
      bytes_read: from all checkpoints.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    matrices: np.ndarray
    bytes_read: int

    @property
    def total(self) -> np.ndarray:
        """Of the whole model, `(T, T)`."""
        return self.matrices.sum(axis=0)

    def by_layer(self) -> dict[str, np.ndarray]:
        """Sums over the tensors of each layer, `(T, T)`, by name and number.

        A tensor's layer is its name up to the first number in it; a tensor without one
        is a layer of its own.

        Example:
          >>> grams = Grams(("h.0.a", "h.0.b", "out"), (1, 1, 1), np.ones((3, 1, 1)), 0)
          >>> {name: float(gram[0, 0]) for name, gram in grams.by_layer().items()}
          {'h.0': 2.0, 'out': 1.0}
        """
        layers: dict[str, np.ndarray] = {}
        for name, matrix in zip(self.names, self.matrices, strict=True):
            numbered = re.match(r"(?:.*?\.)?\d+(?=\.|$)", name)
            layer = numbered.group(0) if numbered else name
            layers[layer] = layers.get(layer, 0.0) + matrix
        parts = lambda name: [
            (part.isdigit(), int(part) if part.isdigit() else part)
            for part in name.split(".")
        ]
        return {name: layers[name] for name in sorted(layers, key=parts)}


@jax.jit
def _gram_of_piece(base: Array, experts: tuple[Array, ...]) -> Array:
    wide = arithmetic_dtype(base.dtype)
    start = base.astype(wide)
    rows = jnp.stack([expert.astype(wide) - start for expert in experts])
    return jnp.matmul(rows, rows.T, precision=lax.Precision.HIGHEST)


def _is_factored(output: Output) -> bool:
    return any(p.name is None or p.pair is not None for p in output.experts)


def _pieces(plan: Plan, size: int) -> Iterator[Piece]:
    """Pieces of a tensor, so short that those of all experts are `_PIECE_BYTES`."""
    longest = _PIECE_BYTES // (4 * len(plan.experts))
    longest = min(_MOST, max(_LEAST, 1 << (longest.bit_length() - 1)))
    length = min(longest, max(_LEAST, 1 << max(size - 1, 0).bit_length()))
    for start in range(0, size, length):
        yield Piece(start, min(start + length, size), length)


def _reads(plan: Plan) -> Iterator[Read]:
    """The reads, in the order in which `_measure` takes them."""
    for output in plan.outputs:
        if output.program is None:
            continue
        assert output.base is not None
        if _is_factored(output):
            yield from (Read(output, part) for part in output.experts)
            continue
        for piece in _pieces(plan, output.info.size):
            parts = (output.base, *output.experts)
            yield from (Read(output, part, (piece,)) for part in parts)


def _check_factored(plan: Plan, output: Output) -> None:
    for part in output.experts:
        if part.pair is None and part.name is not None:
            raise CheckpointError(
                f"{output.info.name!r} comes whole from {describe(plan, part)} and as "
                "LoRA factors from another expert; measure full models and adapters "
                "apart"
            )


def _gram_of_factors(pairs: Sequence[LowRank]) -> np.ndarray:
    """`<B_s A_s, B_t A_t> = <B_s^T B_t, A_s A_t^T>`, in float64."""
    wide = lambda x: np.asarray(x).astype(np.float64)
    factors = [(wide(pair.a), wide(pair.b) * float(pair.scale)) for pair in pairs]
    result = np.zeros((len(pairs), len(pairs)))
    for s, (a, b) in enumerate(factors):
        for t, (other_a, other_b) in enumerate(factors[: s + 1]):
            inner = (b.T @ other_b) * (a @ other_a.T)
            result[s, t] = result[t, s] = inner.sum()
    return result


def _check_finite(plan: Plan, output: Output, matrix: np.ndarray) -> None:
    """Refuses a Gram matrix that is not finite, naming the expert."""
    wrong = np.flatnonzero(~np.isfinite(np.diagonal(matrix)))
    if wrong.size == 0:
        return
    part = output.experts[wrong[0]] if wrong.size < len(matrix) else output.template
    raise CheckpointError(
        f"{output.info.name!r} has a NaN or an infinity, or entries too large to be "
        f"squared, in {describe(plan, part)}"
    )


def gram(
    base: PathLike | Source,
    experts: Sequence[PathLike | Source],
    *,
    progress: Callable[[Progress], None] | None = None,
) -> Grams:
    """Measures the Gram matrices of experts' deltas from a base, reading each once.

    Args:
      base: the checkpoint that the experts were fine-tuned from.
      experts: full models, or LoRA adapters, at least one.
      progress: called after every piece.

    Returns:
      The Gram matrix of every floating tensor.

    Raises:
      CheckpointError: if a checkpoint does not fit or is not finite.

    Example:
      >>> import tempfile
      >>> from jaxmerge import checkpoint
      >>> folder = tempfile.mkdtemp()
      >>> paths = [f"{folder}/{name}.npz" for name in ("base", "a", "b")]
      >>> for path, value in zip(paths, (0.0, 1.0, 3.0)):
      ...     checkpoint.save(path, {"w": np.full(2, value, np.float32)})
      >>> checkpoint.gram(paths[0], paths[1:]).total.tolist()
      [[2.0, 6.0], [6.0, 18.0]]
    """
    with contextlib.ExitStack() as stack:
        opened = functools.partial(enter_source, stack)
        sources = opened(base), [opened(expert) for expert in experts]
        plan = make_plan(task_arithmetic(), *sources)
        if any(o.info.dtype == np.float64 for o in plan.outputs):
            stack.enter_context(jax.enable_x64(True))
        return _measure(plan, progress)


def _measure(plan: Plan, progress: Callable[[Progress], None] | None) -> Grams:
    outputs = [output for output in plan.outputs if output.program is not None]
    for output in filter(_is_factored, outputs):
        _check_factored(plan, output)
    matrices = []
    with contextlib.closing(Reader(plan, _reads, progress)) as reader:
        for output in outputs:
            if _is_factored(output):
                matrix = _gram_of_factors(
                    [reader.next(output)[0] for _ in output.experts]
                )
            else:
                matrix = _gram_of_tensor(plan, output, reader)
            matrices.append(matrix)
            reader.tensors += 1
        read = reader.bytes_read
    num = len(plan.experts)
    return Grams(
        tuple(output.info.name for output in outputs),
        tuple(output.info.size for output in outputs),
        np.stack(matrices) if matrices else np.zeros((0, num, num)),
        read,
    )


def _gram_of_tensor(plan: Plan, output: Output, reader: Reader) -> np.ndarray:
    num = len(output.experts)
    total = np.zeros((num, num))
    for _ in _pieces(plan, output.info.size):
        parts = [reader.next(output) for _ in range(num + 1)]
        (start, *experts) = (value[0] for value, _ in parts)
        # What is computed from the buffers is there before they are given back.
        matrix = np.asarray(_gram_of_piece(start, tuple(experts)), np.float64)
        _check_finite(plan, output, matrix)
        total += matrix
        for _, free in parts:
            free()
    return total
