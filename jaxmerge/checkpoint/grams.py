"""The Gram matrix of experts' deltas, streamed from their checkpoints.

    K_st = <expert_s - base, expert_t - base>

All of the geometry of T task vectors is in it. Each tensor is read once, in pieces of
all experts at a time; a piece's products are in float32, the sums over pieces and
tensors in float64. LoRA adapters stay factored.
"""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from jaxmerge._leaf import arithmetic_dtype
from jaxmerge._trees import LowRank
from jaxmerge.checkpoint._reading import Progress, describe
from jaxmerge.checkpoint.errors import CheckpointError
from jaxmerge.checkpoint.merge import PathLike
from jaxmerge.checkpoint.plan import Output, Plan, make_plan
from jaxmerge.checkpoint.safetensors import aligned_empty
from jaxmerge.checkpoint.source import Source, open_source
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


class _Piece(NamedTuple):
    """Elements `start` to `stop` of an output, in arrays of `length`."""

    output: Output
    start: int
    stop: int
    length: int


def _pieces(plan: Plan) -> Iterator[_Piece]:
    longest = _PIECE_BYTES // (4 * len(plan.experts))
    longest = min(_MOST, max(_LEAST, 1 << (longest.bit_length() - 1)))
    for output in plan.outputs:
        if output.program is None or _is_factored(output):
            continue
        size = output.info.size
        length = min(longest, max(_LEAST, 1 << max(size - 1, 0).bit_length()))
        for start in range(0, size, length):
            yield _Piece(output, start, min(start + length, size), length)


def _is_factored(output: Output) -> bool:
    return any(p.name is None or p.pair is not None for p in output.experts)


def _read_piece(plan: Plan, piece: _Piece, buffers: list[np.ndarray]) -> list[Any]:
    """The base's and the experts' parts of a piece, padded with zeros."""
    assert piece.output.base is not None
    arrays = []
    for part, buffer in zip(
        (piece.output.base, *piece.output.experts), buffers, strict=True
    ):
        source, name = plan.source(part), part.name
        assert name is not None
        itemsize = source.info(name).dtype.itemsize
        own = buffer[: piece.length * itemsize]
        try:
            source.read_range(name, piece.start, piece.stop, out=own)
        except OSError as error:
            raise CheckpointError(
                f"{piece.output.info.name!r} could not be read from "
                f"{describe(plan, part)}: {error}"
            ) from error
        own[(piece.stop - piece.start) * itemsize :] = 0
        arrays.append(own.view(source.info(name).dtype))
    return arrays


def _read_ahead(plan: Plan) -> Generator[tuple[_Piece, list[Any]], None, None]:
    """The pieces with their arrays, of which the next are read meanwhile."""
    longest = max((piece.length for piece in _pieces(plan)), default=0)
    buffers = [
        [aligned_empty(8 * longest) for _ in range(len(plan.experts) + 1)]
        for _ in range(2)
    ]
    with ThreadPoolExecutor(1, thread_name_prefix="jaxmerge-read") as thread:
        pending = None
        for i, piece in enumerate(_pieces(plan)):
            future = thread.submit(_read_piece, plan, piece, buffers[i % 2])
            if pending is not None:
                yield pending[0], pending[1].result()
            pending = piece, future
        if pending is not None:
            yield pending[0], pending[1].result()


def _factors(plan: Plan, output: Output, t: int) -> LowRank | None:
    """An adapter's delta of a tensor; None for zero."""
    part = output.experts[t]
    if part.pair is not None:
        return part.pair.read(plan.source(part))
    if part.name is None:
        return None
    raise CheckpointError(
        f"{output.info.name!r} comes whole from {describe(plan, part)} and as LoRA "
        "factors from another expert; measure full models and adapters apart"
    )


def _gram_of_factors(plan: Plan, output: Output) -> tuple[np.ndarray, int]:
    """`<B_s A_s, B_t A_t> = <B_s^T B_t, A_s A_t^T>`, in float64."""
    num = len(output.experts)
    pairs = [_factors(plan, output, t) for t in range(num)]
    result, nbytes = np.zeros((num, num)), 0
    scaled = []
    for pair in pairs:
        if pair is None:
            scaled.append(None)
            continue
        nbytes += pair.a.nbytes + pair.b.nbytes
        a, b = (np.asarray(x).astype(np.float64) for x in (pair.a, pair.b))
        scaled.append((a, b * float(pair.scale)))
    for s, first in enumerate(scaled):
        for t, second in enumerate(scaled[: s + 1]):
            if first is not None and second is not None:
                inner = (first[1].T @ second[1]) * (first[0] @ second[0].T)
                result[s, t] = result[t, s] = inner.sum()
    return result, nbytes


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

        def opened(source: PathLike | Source) -> Source:
            if isinstance(source, Source):
                return source
            return stack.enter_context(open_source(source))

        sources = opened(base), [opened(expert) for expert in experts]
        plan = make_plan(task_arithmetic(), *sources)
        if any(o.info.dtype == np.float64 for o in plan.outputs):
            stack.enter_context(jax.enable_x64(True))
        return _measure(plan, progress)


def _measure(plan: Plan, progress: Callable[[Progress], None] | None) -> Grams:
    outputs = [output for output in plan.outputs if output.program is not None]
    num, read = len(plan.experts), 0
    matrices = {output.info.name: np.zeros((num, num)) for output in outputs}

    def told(output: Output) -> None:
        if progress is not None:
            at = outputs.index(output) + 1
            name = output.info.name
            progress(Progress(name, at, len(outputs), read, plan.bytes_read))

    for output in filter(_is_factored, outputs):
        matrices[output.info.name], nbytes = _gram_of_factors(plan, output)
        read += nbytes
        told(output)
    with contextlib.closing(_read_ahead(plan)) as pieces:
        for piece, (start, *parts) in pieces:
            matrix = np.asarray(_gram_of_piece(start, tuple(parts)), np.float64)
            _check_finite(plan, piece.output, matrix)
            matrices[piece.output.info.name] += matrix
            share = (piece.stop - piece.start) / piece.length
            read += round(share * sum(x.nbytes for x in (start, *parts)))
            told(piece.output)
    return Grams(
        tuple(matrices),
        tuple(output.info.size for output in outputs),
        np.stack(list(matrices.values())) if matrices else np.zeros((0, num, num)),
        read,
    )
