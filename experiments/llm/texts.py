"""Text that any machine has: the Python standard library, by subject; and users' own.

A domain of texts is a list of documents. Documents are split, not sentences: nothing
that is tested on stands in a file that was trained on. Files may resemble each other
all the same (the tables of `encodings` do).
"""

import hashlib
import importlib
import os
import sysconfig
from collections.abc import Sequence
from pathlib import Path

# By subject, as patterns below the standard library's folder.
SUBJECTS = {
    "network": (
        "email/**/*.py",
        "http/*.py",
        "urllib/*.py",
        "*lib.py",
        "socket*.py",
        "ssl.py",
        "ipaddress.py",
        "mailbox.py",
        "wsgiref/*.py",
    ),
    "markup": ("json/*.py", "xml/**/*.py", "html/*.py", "xmlrpc/*.py", "_markup*.py"),
    "concurrency": (
        "asyncio/*.py",
        "concurrent/**/*.py",
        "multiprocessing/**/*.py",
        "threading.py",
        "queue.py",
        "selectors.py",
        "subprocess.py",
    ),
    "numbers": (
        "_pydecimal.py",
        "*datetime.py",
        "statistics.py",
        "fractions.py",
        "random.py",
        "calendar.py",
        "_strptime.py",
        "zoneinfo/*.py",
        "heapq.py",
        "numbers.py",
        "colorsys.py",
        "bisect.py",
    ),
    "encodings": ("encodings/*.py",),
}
# Documentation of the language, which is prose.
PROSE = "prose"
TEXTS = (*SUBJECTS, PROSE)
# What no domain has: the rest of the top level, and packages that all Pythons have.
_BROAD = ("*.py", "collections/*.py", "importlib/**/*.py", "logging/*.py", "re/*.py")
_TOO_LARGE = 0.1
_LEAST_DOCUMENTS = 20


def _matching(patterns: Sequence[str]) -> dict[str, bytes]:
    """Files of the standard library by their paths below it, sorted."""
    root = Path(sysconfig.get_path("stdlib"))
    paths = {path for pattern in patterns for path in root.glob(pattern)}
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(paths)
        if path.stat().st_size > 200
    }


def read_subject(name: str) -> list[bytes]:
    """The documents of one of `TEXTS`.

    Raises:
      ValueError: if this Python comes without most of them.
    """
    if name == PROSE:
        topics = importlib.import_module("pydoc_data.topics").topics
        documents = [topics[topic].encode() for topic in sorted(topics)]
    else:
        documents = list(_matching(SUBJECTS[name]).values())
    size = sum(map(len, documents))
    if size < 100_000:
        raise ValueError(
            f"this Python's standard library has {size:,} bytes for the domain "
            f"{name!r}, expected 100,000; leave the domain out, or use a Python that "
            "comes with its whole library"
        )
    return documents


def read_broad() -> list[bytes]:
    """Files of the standard library that belong to no domain."""
    taken = {name for patterns in SUBJECTS.values() for name in _matching(patterns)}
    found = _matching(_BROAD)
    # A build's own settings: long, and full of a machine's paths.
    return [
        content
        for name, content in found.items()
        if name not in taken and not name.startswith("_sysconfigdata")
    ]


def load_folder(folder: str | os.PathLike) -> dict[str, list[bytes]]:
    """A folder's texts: each sub-folder is a domain, each `*.txt` in it a document.

    Raises:
      ValueError: if there is no such text.
    """
    folder = Path(folder)
    found = {}
    for domain in sorted(path for path in folder.glob("*") if path.is_dir()):
        texts = [path.read_bytes() for path in sorted(domain.rglob("*.txt"))]
        if texts := [text for text in texts if text]:
            found[domain.name] = texts
    if not found:
        raise ValueError(
            f"{folder} has no texts: expected a sub-folder for each domain, with *.txt "
            "in them"
        )
    return found


def cut(documents: Sequence[bytes]) -> list[bytes]:
    """The documents, cut into contiguous pieces if there are too few to be split."""
    if len(documents) >= _LEAST_DOCUMENTS:
        return list(documents)
    size = max(1, sum(map(len, documents)) // _LEAST_DOCUMENTS)
    return [
        document[at : at + size]
        for document in documents
        for at in range(0, len(document), size)
    ]


def split_documents(
    documents: Sequence[bytes], seed: int, *, validation: float, test: float
) -> dict[str, list[bytes]]:
    """Each document to one of three splits, in an order that the seed draws.

    A document with more than a tenth of all bytes is only trained on, for it would be
    a whole split alone. Equal documents are one.

    Args:
      documents: of a domain.
      seed: of the order.
      validation: the share of bytes to validate on.
      test: the share to test on.
    """
    salt = str(seed).encode()
    order = lambda document: hashlib.sha256(salt + document).digest()
    pieces = sorted(dict.fromkeys(cut(documents)), key=order)
    total = sum(map(len, pieces))
    wanted = {"test": test * total, "validation": validation * total}
    splits: dict[str, list[bytes]] = {"test": [], "validation": [], "train": []}
    for piece in pieces:
        name = next((n for n, room in wanted.items() if room > 0), "train")
        if len(piece) > _TOO_LARGE * total:
            name = "train"
        else:
            wanted[name] = wanted.get(name, 0) - len(piece)
        splits[name].append(piece)
    return splits
