"""Sixteen domains, each in four streams: for the base, to train, validate and test.

The base sees little of each domain: a quarter of the training documents, or exercises
of which nine in ten are easy. The experts see all of it.
"""

import dataclasses
import hashlib
import os
from collections.abc import Sequence

import numpy as np

from experiments.llm.generated import GENERATORS, Line, draw_lines
from experiments.llm.streams import (
    Stream,
    Windows,
    cut_windows,
    repeat_to,
    stream_of_documents,
    stream_of_lines,
)
from experiments.llm.texts import (
    TEXTS,
    load_folder,
    read_broad,
    read_subject,
    split_documents,
)

# Text and exercises take turns, so that the first few are of both kinds.
DOMAINS = (
    *("prose", "arithmetic", "encodings", "sorting", "network", "roman", "brackets"),
    *("dates", "concurrency", "units", "json", "numbers", "strings", "bases"),
    *("markup", "sets"),
)
_SHARES = {"validation": 0.1, "test": 0.15}
# With none at all the base is sure that numbers have one digit, and much worse than
# ignorant where they have two.
_HARD_FOR_THE_BASE = 0.1
_STREAMS = ("test", "validation", "train", "base")


@dataclasses.dataclass(frozen=True)
class Domain:
    """What one expert learns; streams are made as they are asked for.

    Attributes:
      name: of the domain.
      documents: of each split, for texts; None for exercises.
      seed: of the splits, or of the exercises.
      length: of an evaluated sequence.
      num_validation: evaluated sequences.
      num_test: evaluated sequences.
    """

    name: str
    documents: dict[str, list[bytes]] | None
    seed: int
    length: int
    num_validation: int
    num_test: int

    def digest(self) -> str:
        """A hash of the texts; exercises are told by code and seed."""
        texts = [] if self.documents is None else self.documents.values()
        parts = [hashlib.sha256(x).digest() for split in texts for x in split]
        return hashlib.sha256(b"".join(parts)).hexdigest()[:16]

    def _lines(
        self,
        use: str,
        num_bytes: int,
        held_out: frozenset[str] = frozenset(),
    ) -> list[Line]:
        # Streams of chance that no two domains or uses share.
        stream = [list(GENERATORS).index(self.name), _STREAMS.index(use)]
        return draw_lines(
            self.name,
            np.random.default_rng([self.seed, *stream]),
            num_bytes,
            hard=_HARD_FOR_THE_BASE if use == "base" else 1.0,
            held_out=held_out,
            distinct=use in ("validation", "test"),
        )

    def _held_out(self) -> dict[str, list[Line]]:
        """The exercises of validation and test: no prompt is in both, or twice."""
        # Sequences begin at a line, so each may take a line more than its length.
        size = lambda num: (num + 2) * (self.length + 64)
        test = self._lines("test", size(self.num_test))
        taken = frozenset(line.prompt for line in test)
        return {
            "test": test,
            "validation": self._lines("validation", size(self.num_validation), taken),
        }

    def windows(self, split: str) -> Windows:
        """The sequences that `"validation"` or `"test"` is evaluated on."""
        if self.documents is None:
            stream = stream_of_lines(self._held_out()[split])
        else:
            stream = stream_of_documents(self.documents[split])
        num = self.num_test if split == "test" else self.num_validation
        try:
            return cut_windows(stream, self.length, num)
        except ValueError as error:
            raise ValueError(f"the {split} of domain {self.name!r}: {error}") from error

    def training(self, num_tokens: int) -> Stream:
        """What the expert is trained on; short texts are repeated."""
        if self.documents is not None:
            found = stream_of_documents(self.documents["train"])
        else:
            found = stream_of_lines(self._train_lines("train", num_tokens))
        return repeat_to(found, num_tokens)

    def diluted(self, num_tokens: int) -> Stream:
        """What the base sees of the domain."""
        if self.documents is not None:
            train = self.documents["train"]
            found = stream_of_documents(train[: max(1, len(train) // 4)])
        else:
            found = stream_of_lines(self._train_lines("base", num_tokens))
        return repeat_to(found, num_tokens)

    def _train_lines(self, use: str, num_bytes: int) -> list[Line]:
        held = [line for lines in self._held_out().values() for line in lines]
        return self._lines(use, num_bytes, frozenset(line.prompt for line in held))


def make_domains(
    names: Sequence[str],
    *,
    seed: int,
    length: int,
    num_validation: int,
    num_test: int,
    texts: str | os.PathLike | None = None,
) -> list[Domain]:
    """Domains by name.

    Args:
      names: of `DOMAINS`, or sub-folders of `texts`.
      seed: of splits and exercises.
      length: tokens of an evaluated sequence.
      num_validation: evaluated sequences a domain.
      num_test: evaluated sequences a domain.
      texts: a folder of texts, of which sub-folders are domains.

    Raises:
      ValueError: if a name is unknown.
    """
    own = {} if texts is None else load_folder(texts)
    known = (*own, *DOMAINS)
    domains = []
    for name in names:
        if name not in known:
            raise ValueError(
                f"{name!r} is no domain; expected one of {', '.join(known)}"
            )
        documents = None
        if name in own or name in TEXTS:
            read = own[name] if name in own else read_subject(name)
            documents = split_documents(read, seed, **_SHARES)
        domains.append(Domain(name, documents, seed, length, num_validation, num_test))
    return domains


def base_mixture(domains: Sequence[Domain], num_tokens: int) -> np.ndarray:
    """What the base is trained on, `[stream, position]`: half of it is broad.

    As many streams of the standard library at large as there are domains, and each
    domain diluted; batches draw from all alike.
    """
    broad = stream_of_documents(read_broad())
    # Each broad stream begins elsewhere.
    turns = [i * len(broad.tokens) // len(domains) for i in range(len(domains))]
    streams = [np.resize(np.roll(broad.tokens, -t), num_tokens) for t in turns]
    return np.stack([*streams, *(d.diluted(num_tokens).tokens for d in domains)])
