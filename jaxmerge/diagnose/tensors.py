"""Tensors of a base and its experts, a piece of all of them at a time.

Checkpoints are streamed by the reader that merges use; trees are cut into the same
pieces, so that both give the same numbers. Each byte is read once.
"""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxmerge._trees import named_leaves
from jaxmerge.checkpoint import CheckpointError, Plan, Progress, Source, make_plan
from jaxmerge.checkpoint._pieces import Piece
from jaxmerge.checkpoint._reading import Read, Reader, describe
from jaxmerge.checkpoint.plan import Output
from jaxmerge.checkpoint.source import enter_source
from jaxmerge.recipes import task_arithmetic

_PIECE_BYTES = 8 << 20  # of all models' pieces in float32
_LONGEST, _SHORTEST = 1 << 19, 1 << 12


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A floating tensor of the base and all experts.

    Attributes:
      name: its name.
      shape: its shape.
      pieces: where they are cut; of a matrix, whole rows.
      parts: gives `(piece, base, experts)`, flat arrays padded with zeros, once.
      models: the base's name and the experts', for errors.
    """

    name: str
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]
    parts: Iterator[tuple[Piece, Array, tuple[Array, ...]]]
    models: tuple[str, ...]

    @property
    def size(self) -> int:
        """How many entries it has."""
        return int(np.prod(self.shape))


@dataclasses.dataclass
class Tensors:
    """All tensors, in reading order; iterate once, each to its end.

    Attributes:
      experts: the experts' names.
      sizes: entries of each tensor, by name.
      shapes: their shapes.
      bytes_read: so far, from all checkpoints; 0 for trees.
    """

    experts: tuple[str, ...]
    shapes: dict[str, tuple[int, ...]]
    walk: Callable[["Tensors"], Iterator[Tensor]]
    bytes_read: int = 0

    @property
    def sizes(self) -> dict[str, int]:
        return {name: int(np.prod(shape)) for name, shape in self.shapes.items()}

    def __iter__(self) -> Iterator[Tensor]:
        return self.walk(self)


def pieces_of(shape: tuple[int, ...], num: int) -> tuple[Piece, ...]:
    """Cuts a tensor so that the pieces of `num` models fit in 8 MiB of float32.

    >>> [(p.start, p.stop) for p in pieces_of((3, 50_000), 20)]
    [(0, 100000), (100000, 150000)]

    Args:
      shape: of the tensor; a matrix is cut between rows.
      num: how many models are held at a time.
    """
    size = int(np.prod(shape))
    most = min(_LONGEST, _PIECE_BYTES // (4 * num))
    if len(shape) == 2:
        row = max(shape[-1], 1)
        length = min(max(most // row, 1) * row, size)
    else:  # lengths that vectors of many sizes share, and so their programs
        length = min(most, max(_SHORTEST, 1 << max(size - 1, 0).bit_length()))
    starts = range(0, size, max(length, 1))
    return tuple(Piece(a, min(a + length, size), length) for a in starts)


@contextlib.contextmanager
def open_tensors(
    base: Any,
    experts: Sequence[Any],
    progress: Callable[[Progress], None] | None = None,
) -> Iterator[Tensors]:
    """The tensors of checkpoints or of trees.

    Args:
      base: a checkpoint or a tree.
      experts: as many of the same sort, at least one.
      progress: called while checkpoints are read.

    Raises:
      CheckpointError: if checkpoints do not fit, or an expert is a LoRA adapter.
      TypeError: if some are checkpoints and some trees.
      ValueError: if trees do not fit.
    """
    if not experts:
        raise ValueError("no experts were given; a diagnosis needs at least one")
    paths = all_paths(base, experts)
    with contextlib.ExitStack() as stack:
        if not paths:
            yield _of_trees(base, experts)
            return
        opened = functools.partial(enter_source, stack)
        sources = opened(base), [opened(expert) for expert in experts]
        plan = make_plan(task_arithmetic(), *sources)
        outputs = [output for output in plan.outputs if output.program is not None]
        for output in outputs:
            _refuse_factors(output)
        if any(output.info.dtype == np.float64 for output in outputs):
            stack.enter_context(jax.enable_x64(True))
        yield _of_plan(plan, outputs, progress)


def _refuse_factors(output: Output) -> None:
    if any(part.pair is not None or part.name is None for part in output.experts):
        raise CheckpointError(
            f"{output.info.name!r} comes as LoRA factors; a diagnosis looks at entries "
            "and spectra of whole tensors. Merge each adapter into the base first, or "
            "use `jaxmerge saturation`, which keeps adapters factored"
        )


def _short_names(paths: Sequence[str]) -> tuple[str, ...]:
    """The last parts of paths, as many as tell them apart; numbers if none do.

    >>> _short_names(["runs/a/final", "runs/b/final"]), _short_names(["x/a", "x/a"])
    (('a/final', 'b/final'), ('a', 'a (2)'))
    """
    parts = [path.replace(os.sep, "/").strip("/").split("/") for path in paths]
    for last in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-last:]) for part in parts]
        if len(set(names)) == len(names):
            return tuple(names)
    names = [part[-1] for part in parts]
    before = [names[:t].count(name) for t, name in enumerate(names)]
    return tuple(
        f"{n} ({b + 1})" if b else n for n, b in zip(names, before, strict=True)
    )


def _of_plan(
    plan: Plan,
    outputs: Sequence[Output],
    progress: Callable[[Progress], None] | None,
) -> Tensors:
    num = len(plan.experts) + 1

    def reads(_: Plan) -> Iterator[Read]:
        for output in outputs:
            for piece in pieces_of(output.info.shape, num):
                parts = (output.base, *output.experts)
                yield from (Read(output, part, (piece,)) for part in parts)  # type: ignore

    def parts(
        output: Output, reader: Reader
    ) -> Iterator[tuple[Piece, Array, tuple[Array, ...]]]:
        for piece in pieces_of(output.info.shape, num):
            read = [reader.next(output) for _ in range(num)]
            (start, *others) = (value[0] for value, _ in read)
            yield piece, start, tuple(others)
            # Whoever took the arrays has computed with them when asking for more.
            for _, free in read:
                free()

    def walk(tensors: Tensors) -> Iterator[Tensor]:
        with contextlib.closing(Reader(plan, reads, progress)) as reader:
            for output in outputs:
                every = (output.template, *output.experts)
                yield Tensor(
                    output.info.name,
                    output.info.shape,
                    pieces_of(output.info.shape, num),
                    parts(output, reader),
                    tuple(describe(plan, part) for part in every),
                )
                reader.tensors += 1
                tensors.bytes_read = reader.bytes_read

    return Tensors(
        _short_names([str(source.path) for source in plan.experts]),
        {output.info.name: output.info.shape for output in outputs},
        walk,
    )


def _floating(tree: Any) -> dict[str, Any]:
    arrays = {name: jnp.asarray(leaf) for name, leaf in named_leaves(tree).items()}
    return {n: x for n, x in arrays.items() if jnp.issubdtype(x.dtype, jnp.floating)}


def named_trees(base: Any, experts: Sequence[Any]) -> list[dict[str, Any]]:
    """The floating leaves of a base and its experts, by name.

    Args:
      base: a tree.
      experts: trees.

    Raises:
      ValueError: if an expert has other leaves than the base, or of other shapes.
    """
    start, *trees = found = [_floating(tree) for tree in (base, *experts)]
    for t, tree in enumerate(trees):
        if tree.keys() != start.keys():
            odd = sorted(tree.keys() ^ start.keys())[0]
            raise ValueError(f"expert {t} and the base do not both have {odd!r}")
        for name, leaf in tree.items():
            if leaf.shape != start[name].shape:
                raise ValueError(
                    f"expert {t}: {name!r} has shape {leaf.shape}; expected "
                    f"{start[name].shape}, the base's"
                )
    return found


def all_paths(base: Any, experts: Sequence[Any]) -> bool:
    """Whether models are checkpoints, not trees.

    Raises:
      TypeError: if some are and some are not.
    """
    kinds = (str, os.PathLike, Source)
    paths = [isinstance(model, kinds) for model in (base, *experts)]
    if any(paths) and not all(paths):
        raise TypeError(
            "base and experts are checkpoints in part and trees in part; give all as "
            "paths, or all as trees"
        )
    return all(paths)


def _of_trees(base: Any, experts: Sequence[Any]) -> Tensors:
    start, *trees = named_trees(base, experts)
    models = ("the base", *(f"expert {t}" for t in range(len(experts))))

    def parts(
        name: str, pieces: Sequence[Piece]
    ) -> Iterator[tuple[Piece, Array, tuple[Array, ...]]]:
        flat = [jnp.ravel(tree[name]) for tree in (start, *trees)]
        for piece in pieces:
            pad = (0, piece.length - piece.size)
            cut = [jnp.pad(x[piece.start : piece.stop], pad) for x in flat]
            yield piece, cut[0], tuple(cut[1:])

    def walk(_: Tensors) -> Iterator[Tensor]:
        for name, leaf in start.items():
            pieces = pieces_of(leaf.shape, len(models))
            yield Tensor(name, leaf.shape, pieces, parts(name, pieces), models)

    shapes = {name: leaf.shape for name, leaf in start.items()}
    return Tensors(models[1:], shapes, walk)
