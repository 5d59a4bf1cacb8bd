"""Bytes as tokens: what models are trained on and evaluated on."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

# Bytes, and one token between documents.
END = 256
VOCABULARY = 257
_NEWLINE = ord("\n")


class Stream(NamedTuple):
    """A long row of tokens.

    Attributes:
      tokens: `[position]`, uint16.
      counted: `[position]`, whether accuracy counts it; the loss counts all.
    """

    tokens: np.ndarray
    counted: np.ndarray


class Windows(NamedTuple):
    """Sequences to evaluate on: what is seen, what follows, and what counts.

    Attributes:
      inputs: `[sample, length]`, int32.
      targets: `[sample, length]`: the inputs one later.
      counted: `[sample, length]`, of the targets.
    """

    inputs: np.ndarray
    targets: np.ndarray
    counted: np.ndarray


def stream_of_documents(documents: Iterable[bytes]) -> Stream:
    """Documents one after another, each behind an `END`; every byte counts.

    >>> stream_of_documents([b"a", b"bc"]).tokens.tolist()
    [256, 97, 256, 98, 99]
    """
    parts = []
    for document in documents:
        parts += [np.array([END]), np.frombuffer(document, np.uint8)]
    tokens = np.concatenate(parts).astype(np.uint16)
    return Stream(tokens, tokens != END)


def stream_of_lines(lines: Iterable[tuple[str, str]]) -> Stream:
    """Prompts with their answers, a line each; the answers and line ends count.

    >>> stream = stream_of_lines([("1+1=", "2")])
    >>> bytes(stream.tokens[stream.counted].tolist())
    b'2\\n'
    """
    parts, counted = [], []
    for prompt, answer in lines:
        parts.append(f"{prompt}{answer}\n".encode())
        counted += [False] * len(prompt.encode()) + [True] * (len(answer.encode()) + 1)
    tokens = np.frombuffer(b"".join(parts), np.uint8).astype(np.uint16)
    return Stream(tokens, np.array(counted))


def repeat_to(stream: Stream, size: int) -> Stream:
    """The stream's first `size` tokens, or the stream again and again."""
    return Stream(*(np.resize(x, size) for x in stream))


def cut_windows(stream: Stream, length: int, num: int) -> Windows:
    """Sequences spread evenly over a stream, each from the beginning of a line.

    Args:
      stream: long enough for `num` of them side by side.
      length: of a sequence.
      num: how many.

    Raises:
      ValueError: if the stream is too short.
    """
    last = len(stream.tokens) - length - 1
    if last < num * length:
        raise ValueError(
            f"{num} sequences of {length} tokens do not fit side by side into "
            f"{len(stream.tokens)}; ask for fewer, or give more text"
        )
    begins = np.flatnonzero(stream.tokens[:last] == _NEWLINE) + 1
    if not len(begins):
        raise ValueError("a text without line ends cannot be cut into sequences")
    wanted = np.linspace(0, last - length, num)
    nearest = np.minimum(np.searchsorted(begins, wanted), len(begins) - 1)
    at = begins[nearest][:, None] + np.arange(length)
    tokens = stream.tokens.astype(np.int32)
    return Windows(tokens[at], tokens[at + 1], stream.counted[at + 1])
