"""How text becomes tokens: the model's own tokenizer, or bytes."""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.llm.streams import VOCABULARY, stream_of_documents

FILE = "tokenizer.json"


class Tokenizer(NamedTuple):
    """What makes a row of tokens of a domain's documents.

    Attributes:
      name: `"tokenizer.json"` or `"bytes"`, as results show it.
      encode: `documents -> [position]`.
    """

    name: str
    encode: Callable[[Sequence[bytes]], np.ndarray]


def load_tokenizer(base: Path, vocab_size: int) -> Tokenizer:
    """The tokenizer of a model's folder; bytes where there is none.

    Args:
      base: the folder.
      vocab_size: of the model.

    Raises:
      ValueError: if the folder has a tokenizer and the package `tokenizers` is not
        there to read it, or it has none and the model knows too few tokens for bytes.
    """
    file = base / FILE
    if not file.exists():
        if vocab_size < VOCABULARY:
            raise ValueError(
                f"{base} has no {FILE}, and its {vocab_size} tokens are too few for "
                f"the {VOCABULARY} that bytes take; put its {FILE} there"
            )
        return Tokenizer("bytes", lambda texts: stream_of_documents(texts).tokens)
    try:
        package = importlib.import_module("tokenizers")
    except ImportError as error:
        raise ValueError(
            f"{file} is to be read with the package 'tokenizers', which is not "
            "installed; install it (pip install tokenizers)"
        ) from error
    tokenizer = package.Tokenizer.from_file(str(file))

    def encode(documents: Sequence[bytes]) -> np.ndarray:
        texts = [document.decode(errors="replace") for document in documents]
        encoded = [np.array(x.ids, np.int32) for x in tokenizer.encode_batch(texts)]
        found = np.concatenate(encoded)
        if len(found) and found.max() >= vocab_size:
            raise ValueError(
                f"{file} has a token {found.max()}, and the model knows {vocab_size}"
            )
        return found

    return Tokenizer(FILE, encode)
