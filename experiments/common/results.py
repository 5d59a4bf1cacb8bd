"""Resumable work: rows of a JSON-lines file, keyed by what they were computed from."""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any


def fingerprint(settings: Any) -> str:
    """A short hash of JSON data, the same whatever the order of its keys.

    >>> fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    True
    """
    text = json.dumps(settings, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file that appears whole or not at all."""
    partial = path.with_suffix(path.suffix + ".partial")
    partial.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n")
    os.replace(partial, path)


@contextlib.contextmanager
def _alone(path: Path, mode: str) -> Iterator[Any]:
    """The open file, while no other process has it so."""
    with path.open(mode) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


class Results:
    """Finished rows, in a file to which each is appended as soon as it is finished.

    A row is found again by the fingerprint of its settings. A last line that a kill cut
    short is dropped; a damaged line anywhere else is an error, for it is not ours.
    Several processes may append to one file.

    Attributes:
      path: the JSON-lines file.
      rows: finished rows by fingerprint.
    """

    def __init__(self, path: Path):
        self.path = path
        self.rows: dict[str, dict[str, Any]] = {}
        if path.exists():
            self._read()

    def _read(self) -> None:
        with _alone(self.path, "rb+") as file:
            content = file.read()
            whole = content[: content.rfind(b"\n") + 1]
            if len(whole) < len(content):
                file.truncate(len(whole))
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                entry = json.loads(line)
                self.rows[entry["id"]] = entry["row"]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"line {number} of {self.path} is not a finished row; "
                    "delete the file to start again"
                ) from error

    def get_or_compute(
        self, settings: Mapping[str, Any], compute: Callable[[], Mapping[str, Any]]
    ) -> dict[str, Any]:
        """The row of these settings: from the file, or computed and appended to it."""
        name = fingerprint(settings)
        if name not in self.rows:
            row = {**settings, **compute()}
            line = json.dumps({"id": name, "row": row}, allow_nan=False) + "\n"
            with _alone(self.path, "a") as file:
                file.write(line)
            self.rows[name] = row
        return self.rows[name]
