"""Tables of losses: one row a merge and domain, and their means over subsets.

The tidy form has the columns `size, method, domain, k, subset, loss` and, if domains
hold different amounts of text, `tokens`. A subset is written as its experts' positions
with hyphens between, `0-3-5`; it is empty where a row is already a mean over subsets.
"""

import csv
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

COLUMNS = ("size", "method", "domain", "k", "subset", "loss", "tokens")
# What other people call the same columns.
_ALIASES = {
    "n": "size",
    "n_b": "size",
    "params": "size",
    "parameters": "size",
    "rule": "method",
    "task": "domain",
    "num_experts": "k",
    "experts": "k",
    "ce": "loss",
    "mean": "loss",
    "mean_ce": "loss",
    "cross_entropy": "loss",
}


def subset_name(members: Iterable[int]) -> str:
    """A set of experts in one word.

    >>> subset_name((0, 3, 5))
    '0-3-5'
    """
    return "-".join(str(int(t)) for t in members)


@dataclasses.dataclass(frozen=True)
class Points:
    """Mean losses over subsets: what a law is fitted to.

    Attributes:
      size: N, of the model, `(point,)`; NaN where it was not told.
      k: how many experts, `(point,)`.
      mean: of the loss over subsets, `(point,)`.
      variance: over subsets, with divisor count - 1; NaN where it is unknown.
      count: how many subsets, `(point,)`.
    """

    size: np.ndarray
    k: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    count: np.ndarray

    def __len__(self) -> int:
        return len(self.k)

    @property
    def sizes(self) -> np.ndarray:
        """The distinct sizes, ascending."""
        return np.unique(self.size)

    def where(self, keep: np.ndarray) -> "Points":
        """The points at which a mask is true."""
        return Points(*(x[keep] for x in dataclasses.astuple(self)))

    def at_size(self, size: float) -> "Points":
        """The points of one size."""
        same = np.isnan(self.size) if np.isnan(size) else self.size == size
        return self.where(same)


def curve_points(
    k: Any, mean: Any, *, size: Any = np.nan, variance: Any = np.nan, count: Any = 1
) -> Points:
    """Points from arrays that broadcast against `k`, in order of size and k.

    >>> curve_points([2, 1], [0.5, 1.0]).mean.tolist()
    [1.0, 0.5]

    Raises:
      ValueError: if a loss is negative or not finite, or k is no positive number.
    """
    arrays = [np.asarray(x, np.float64) for x in (size, k, mean, variance, count)]
    shape = np.broadcast_shapes(*(x.shape for x in arrays))
    size, k, mean, variance, count = (
        np.broadcast_to(x, shape).reshape(-1) for x in arrays
    )
    check_losses(mean, [f"k = {value:g}" for value in k])
    if not np.all((k > 0) & np.isfinite(k)):
        raise ValueError(f"k is {k.tolist()}; expected positive numbers of experts")
    order = np.lexsort((k, size))
    return Points(*(x[order].copy() for x in (size, k, mean, variance, count)))


def check_losses(losses: np.ndarray, places: Sequence[str]) -> None:
    """Refuses losses that are negative or not finite, and says where the first is."""
    bad = np.flatnonzero(~(np.isfinite(losses) & (losses >= 0)))
    if bad.size:
        where = places[bad[0]]
        raise ValueError(
            f"the loss at {where} is {losses[bad[0]]:g}; expected finite numbers of at "
            "least 0, such as cross-entropies (a score to be raised is no loss)"
        )


@dataclasses.dataclass(frozen=True)
class LossTable:
    """Losses of merged models: a row for each merge and domain.

    Attributes:
      size: N, in billions of parameters or any one unit, `(row,)`; NaN if not told.
      method: what merged, `(row,)` strings.
      domain: what was evaluated, `(row,)` strings.
      k: how many experts, `(row,)` integers.
      subset: which, as `subset_name` writes them; empty for a mean over subsets.
      loss: `(row,)`, float64.
      tokens: of the domain, `(row,)`; 1 if not told.
    """

    size: np.ndarray
    method: np.ndarray
    domain: np.ndarray
    k: np.ndarray
    subset: np.ndarray
    loss: np.ndarray
    tokens: np.ndarray

    def __len__(self) -> int:
        return len(self.loss)

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]]) -> "LossTable":
        """A table of mappings with the columns' names; all but `loss` may be absent.

        `k` is counted from `subset` where it is absent.

        Raises:
          ValueError: if a row has no loss, neither k nor subset, or a wrong number.
        """
        table = [_parsed(number, row) for number, row in enumerate(rows, start=1)]
        columns: list[Any] = (
            list(zip(*table, strict=True)) if table else [() for _ in COLUMNS]
        )
        types = (np.float64, str, str, np.int64, str, np.float64, np.float64)
        made = [np.asarray(c, t) for c, t in zip(columns, types, strict=True)]
        check_losses(made[5], [f"row {number + 1}" for number in range(len(table))])
        return cls(*made)

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows as mappings."""
        arrays = [getattr(self, name).tolist() for name in COLUMNS]
        for values in zip(*arrays, strict=True):
            yield dict(zip(COLUMNS, values, strict=True))

    def where(self, keep: np.ndarray) -> "LossTable":
        """The rows at which a mask is true."""
        return LossTable(*(getattr(self, name)[keep] for name in COLUMNS))

    @property
    def methods(self) -> list[str]:
        """The distinct methods, in order of appearance."""
        return list(dict.fromkeys(self.method.tolist()))

    @property
    def domains(self) -> list[str]:
        """The distinct domains, in order of appearance."""
        return list(dict.fromkeys(self.domain.tolist()))

    @property
    def pool(self) -> int:
        """How many experts there are: the most in a set, or that the sets name."""
        members = {t for name in set(self.subset.tolist()) for t in name.split("-")}
        return max([len(members - {""}), *self.k.tolist()], default=0)

    def pooled(self, by: str = "macro") -> "LossTable":
        """One row a merge: the mean over domains, plain or weighted by tokens.

        Args:
          by: `"macro"`: every domain counts alike; `"tokens"`: every token does.

        Raises:
          ValueError: if a merge lacks a domain that another one has.
        """
        if by not in ("macro", "tokens"):
            raise ValueError(f"by is {by!r}; expected 'macro' or 'tokens'")
        groups: dict[tuple, list[int]] = {}
        for i, row in enumerate(self.rows()):
            at = (str(row["size"]), row["method"], row["k"], row["subset"])
            groups.setdefault(at, []).append(i)
        everything = set(self.domains)
        result = []
        for (size, method, k, subset), where in groups.items():
            lacking = everything - set(self.domain[where].tolist())
            if lacking or len(where) != len(everything):
                what = f"lacks {sorted(lacking)[0]!r}" if lacking else "has a row twice"
                raise ValueError(
                    f"the merge {subset or k} by {method!r} at size {size} {what}; a "
                    "mean over domains needs each domain once in every merge"
                )
            weights = self.tokens[where] if by == "tokens" else None
            result.append(
                {
                    "size": float(size),
                    "method": method,
                    "domain": by,
                    "k": k,
                    "subset": subset,
                    "loss": np.average(self.loss[where], weights=weights),
                    "tokens": self.tokens[where].sum(),
                }
            )
        return LossTable.from_rows(result)

    def points(self, *, method: str | None = None, domain: str | None = None) -> Points:
        """Means and variances over subsets, of one method and domain.

        Args:
          method: which; may be left out where there is one.
          domain: which; may be left out where there is one.

        Raises:
          ValueError: if there are several and none was named, or the named is absent.
        """
        keep = np.ones(len(self), bool)
        for what, chosen, column in (
            ("method", method, self.method),
            ("domain", domain, self.domain),
        ):
            known = list(dict.fromkeys(column.tolist()))
            if chosen is None and len(known) > 1:
                raise ValueError(
                    f"the table has several {what}s ({', '.join(known)}); name one, on "
                    f"the command line with --{what}"
                )
            if chosen is not None:
                if chosen not in known:
                    raise ValueError(
                        f"the table has no {what} {chosen!r}; it has {', '.join(known)}"
                    )
                keep &= column == chosen
        return _means(self.where(keep))


def _means(table: LossTable) -> Points:
    groups: dict[tuple[str, int], list[int]] = {}
    for i, (size, k) in enumerate(
        zip(table.size.tolist(), table.k.tolist(), strict=True)
    ):
        groups.setdefault((str(size), k), []).append(i)
    columns = [
        (
            float(size),
            float(k),
            table.loss[where].mean(),
            table.loss[where].var(ddof=1) if len(where) > 1 else np.nan,
            float(len(where)),
        )
        for (size, k), where in groups.items()
    ]
    size, k, mean, variance, count = (
        np.asarray(column) for column in zip(*columns, strict=True)
    )
    return curve_points(k, mean, size=size, variance=variance, count=count)


def _number(number: int, row: Mapping[str, Any], name: str, default: Any) -> float:
    value = row.get(name, default)
    value = default if value in ("", None) else value
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(
            f"row {number}: {name} is {value!r}; expected a number"
        ) from None


def _parsed(number: int, row: Mapping[str, Any]) -> tuple[Any, ...]:
    subset = str(row.get("subset") or "")
    counted = subset.count("-") + 1 if subset else None
    k = _number(number, row, "k", counted if counted is not None else np.nan)
    if not (k >= 1 and k == int(k)):
        raise ValueError(
            f"row {number}: k is {row.get('k')!r}; expected a whole number of experts "
            "of at least 1, or a subset such as 0-3-5"
        )
    if counted is not None and counted != k:
        raise ValueError(f"row {number}: k is {int(k)}, but its subset is {subset!r}")
    if row.get("loss") in ("", None):
        raise ValueError(f"row {number} has no loss")
    return (
        _number(number, row, "size", np.nan),
        str(row.get("method") or ""),
        str(row.get("domain") or ""),
        int(k),
        subset,
        _number(number, row, "loss", None),
        _number(number, row, "tokens", 1.0),
    )


# --- files ---------------------------------------------------------------------------


def read_table(path: str | PathLike[str]) -> LossTable:
    """Reads a table from CSV.

    Columns may be called as other people call them (`N`, `ce`, `task`, ...). A folder,
    or a file with the columns `problem` and `CE Loss`, is read as what the authors'
    evaluation writes: a file for each merge, with its experts in the file's name.

    Raises:
      ValueError: if columns are missing or a row is wrong; by file and row.
      OSError: if it cannot be read.
    """
    path = Path(path)
    files = sorted(path.glob("*.csv")) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"{path} holds no .csv file")
    rows: list[dict[str, Any]] = []
    for file in files:
        with file.open(newline="", encoding="utf-8-sig") as text:
            reader = csv.DictReader(text)
            header = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = header
            try:
                rows += _read(file, header, list(reader))
            except ValueError as error:
                raise ValueError(f"{file}: {error}") from None
    try:
        return LossTable.from_rows(rows)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _read(file: Path, header: Sequence[str], rows: list[dict]) -> list[dict]:
    if {"problem", "CE Loss"} <= set(header):
        return _evaluation(file, rows)
    names = {name: _ALIASES.get(name.lower(), name.lower()) for name in header}
    known = [name for name in names.values() if name in COLUMNS]
    for name in COLUMNS:
        if known.count(name) > 1:
            raise ValueError(f"two columns mean {name!r}: {', '.join(header)}")
    if "loss" not in known or not {"k", "subset"} & set(known):
        raise ValueError(
            f"the columns are {', '.join(header) or 'none'}; expected loss, and k or "
            "subset, and perhaps size (N), method, domain and tokens"
        )
    return [
        {names[name]: (value or "").strip() for name, value in row.items() if name}
        for row in rows
    ]


def _evaluation(file: Path, rows: list[dict]) -> list[dict]:
    """One merge of the authors' evaluation; `Avg.` and `Overall` are its means."""
    subset = file.stem.rpartition("_")[2]
    if not all(part.isdigit() for part in subset.split("-")):
        raise ValueError(
            "its name has no subset of experts at the end, as in merged_1-3-5.csv"
        )
    return [
        {"domain": row["problem"], "subset": subset, "loss": row["CE Loss"]}
        for row in rows
        if row["problem"] not in ("Avg.", "Overall")
    ]


def write_table(table: LossTable, path: str | PathLike[str]) -> None:
    """Writes a table as CSV, in the tidy form; losses to the last bit."""
    with Path(path).open("w", newline="") as text:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in table.rows():
            size = "" if np.isnan(row["size"]) else repr(row["size"])
            changed = {**row, "size": size, "loss": repr(row["loss"])}
            writer.writerow([changed[name] for name in COLUMNS])
