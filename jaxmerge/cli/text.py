"""How the command line writes sizes, times and tables."""

from collections.abc import Sequence

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
_SIZES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def human_bytes(count: int | float) -> str:
    """A number of bytes in decimal units.

    >>> human_bytes(13_476_838_400), human_bytes(96)
    ('13.5 GB', '96 B')
    """
    unit = 0
    while count >= 999.5 and unit < len(_UNITS) - 1:
        count, unit = count / 1000, unit + 1
    digits = 0 if unit == 0 or count >= 99.95 else 1
    return f"{count:.{digits}f} {_UNITS[unit]}"


def parse_bytes(text: str) -> int:
    """A number of bytes as people write it: `5GB`, `500M`, `1.5GiB`, `5000000`.

    A bare `B` after a number is a billion, as in mergekit: `5B` is 5 GB.

    >>> parse_bytes("5GB"), parse_bytes("5B"), parse_bytes("1KiB")
    (5000000000, 5000000000, 1024)

    Raises:
      ValueError: if it is none, or not positive.
    """
    upper = text.strip().upper()
    number = upper.rstrip("KMGTIB")
    unit = upper[len(number) :]
    binary = unit.endswith("IB")
    prefix = unit.removesuffix("IB" if binary else "B")
    if unit == "B":
        prefix = "G"
    if prefix not in _SIZES or (binary and not prefix):
        raise ValueError(f"{text!r} is no size; write one such as 5GB or 500MB")
    factor = 1024 ** list(_SIZES).index(prefix) if binary else _SIZES[prefix]
    try:
        size = int(float(number) * factor)
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text!r} is no size; write one such as 5GB or 500MB"
        ) from None
    if size <= 0:
        raise ValueError(f"a size of {text} leaves no room for anything")
    return size


def human_time(seconds: int | float) -> str:
    """A duration.

    >>> human_time(3.21), human_time(75), human_time(7384)
    ('3.2 s', '1:15', '2:03:04')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def plural(count: int, word: str) -> str:
    """A count and what is counted.

    >>> plural(1, "tensor"), plural(2, "tensor")
    ('1 tensor', '2 tensors')
    """
    return f"{count:,} {word}" + ("" if count == 1 else "s")


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with aligned columns, indented by two spaces.

    >>> table([["a", "bb"], ["ccc", "d"]])
    ['  a    bb', '  ccc  d']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
