"""Losses on disk while a table is being measured: whole lines, and no others.

The file is a table like any other (`read_table` reads it). A run that was stopped may
have cut its last line, or have written only some domains of its last set: both go, and
the rest is what need not be measured again.
"""

import csv
import dataclasses
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxmerge.laws.tables import COLUMNS


@dataclasses.dataclass(frozen=True)
class Saved:
    """A file of losses by one method at one size.

    Attributes:
      path: of the file, which need not exist; None to keep nothing.
      size: N, NaN if not told.
      method: what merges.
      domains: what is evaluated, in the order of the losses.
      tokens: of each domain.
    """

    path: Path | None
    size: float
    method: str
    domains: Sequence[str]
    tokens: Sequence[float]

    def read(self) -> dict[str, np.ndarray]:
        """The losses by set, `(domain,)` each, of the sets that are complete.

        What is not is taken out of the file.

        Raises:
          ValueError: if the file is no such table, or one of other settings.
        """
        if self.path is None:
            return {}
        data = self.path.read_bytes() if self.path.exists() else b""
        whole = data[: data.rfind(b"\n") + 1].decode()
        reader = csv.DictReader(io.StringIO(whole))
        if whole and tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError(
                f"{self.path} has the columns {', '.join(reader.fieldnames or ())}; "
                f"expected {', '.join(COLUMNS)}, as a measurement writes them: choose "
                "another path"
            )
        found: dict[str, dict[str, float]] = {}
        for number, row in enumerate(reader, start=2):
            self._check(number, row)
            found.setdefault(row["subset"], {})[row["domain"]] = float(row["loss"])
        complete = {
            name: np.asarray([losses[domain] for domain in self.domains])
            for name, losses in found.items()
            if len(losses) == len(self.domains)
        }
        cut = not data.endswith(b"\n")
        if cut or len(complete) != len(found):
            self._rewrite(self.path, complete)
        return complete

    def append(self, names: Sequence[str], losses: np.ndarray) -> None:
        """Adds sets and their losses `(subset, domain)`; on disk when it returns."""
        if self.path is None:
            return
        with self.path.open("a", newline="") as file:
            file.write(self._lines(names, losses))
            file.flush()
            os.fsync(file.fileno())

    def _settings(self) -> dict[str, dict[str, str]]:
        size = "" if np.isnan(self.size) else repr(float(self.size))
        return {
            domain: {"size": size, "method": self.method, "tokens": repr(float(tokens))}
            for domain, tokens in zip(self.domains, self.tokens, strict=True)
        }

    def _check(self, number: int, row: dict[str, Any]) -> None:
        expected = self._settings().get(row["domain"])
        if expected is None:
            raise ValueError(
                f"{self.path}, line {number}: the domain {row['domain']!r} is not "
                f"among those to measure ({', '.join(self.domains)}); choose another "
                "path"
            )
        for name, value in expected.items():
            if row[name] != value:
                raise ValueError(
                    f"{self.path}, line {number}: {name} is {row[name]!r}, and what is "
                    f"to measure has {value!r}; choose another path for other settings"
                )

    def _lines(self, names: Sequence[str], losses: np.ndarray) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(COLUMNS), lineterminator="\n")
        settings = self._settings()
        for name, values in zip(names, losses.tolist(), strict=True):
            k = name.count("-") + 1
            for domain, loss in zip(self.domains, values, strict=True):
                row: Any = {
                    "domain": domain,
                    "k": k,
                    "subset": name,
                    "loss": repr(loss),
                }
                writer.writerow(row | settings[domain])
        return text.getvalue()

    def _rewrite(self, path: Path, complete: dict[str, np.ndarray]) -> None:
        losses = np.asarray(list(complete.values())).reshape(-1, len(self.domains))
        lines = ",".join(COLUMNS) + "\n" + self._lines(list(complete), losses)
        part = path.with_name(path.name + ".part")
        part.write_text(lines, newline="")
        part.replace(path)
