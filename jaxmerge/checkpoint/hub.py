"""Finding a model by name in the local Hugging Face cache; nothing is downloaded.

The cache keeps a model in `models--org--name/snapshots/<commit>/`, and which commit a
branch or tag is at in `models--org--name/refs/<revision>`.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from jaxmerge.checkpoint.buffers import near
from jaxmerge.checkpoint.errors import CheckpointError

_REFERENCE = re.compile(r"^([\w.-]+/)?([\w.-]+)(?:@([\w./+-]+))?$")
_COMMIT = re.compile(r"^[0-9a-f]{4,40}$")


def cache_folder(environment: Mapping[str, str] | None = None) -> Path:
    """Where Hugging Face's own tools keep their cache, by their variables.

    >>> cache_folder({"HF_HOME": "/data/hf"}).as_posix()
    '/data/hf/hub'

    Args:
      environment: the variables; this process's if None.
    """
    known = os.environ if environment is None else environment
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if known.get(variable):
            return Path(known[variable]).expanduser()
    if known.get("HF_HOME"):
        return Path(known["HF_HOME"]).expanduser() / "hub"
    cache = Path(known.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return cache / "huggingface" / "hub"


def _models(cache: Path) -> list[str]:
    folders = sorted(cache.glob("models--*")) if cache.is_dir() else []
    return [path.name.removeprefix("models--").replace("--", "/") for path in folders]


def _names_in(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [path.relative_to(folder).as_posix() for path in paths]


def _snapshot(folder: Path, reference: str, revision: str) -> Path:
    snapshots = folder / "snapshots"
    commits = sorted(p.name for p in snapshots.iterdir()) if snapshots.is_dir() else []
    ref = folder / "refs" / revision
    if ref.is_file() and (commit := ref.read_text().strip()) in commits:
        return snapshots / commit
    if revision in commits:
        return snapshots / revision
    matching = [
        c for c in commits if _COMMIT.match(revision) and c.startswith(revision)
    ]
    if len(matching) == 1:
        return snapshots / matching[0]
    if matching:
        raise CheckpointError(
            f"{revision!r} is the beginning of {len(matching)} commits of {reference} "
            f"in the cache: {', '.join(matching)}; give more of it"
        )
    there = [*_names_in(folder / "refs"), *commits]
    raise CheckpointError(
        f"revision {revision!r} of {reference} is not in the cache ({folder}); it has "
        f"{', '.join(there) or 'none'}. Download it with Hugging Face's own tools first"
    )


def resolve_model(reference: str, cache: Path | None = None) -> Path:
    """The folder or file that a model reference stands for; never downloads.

    >>> resolve_model(".").as_posix()
    '.'

    Args:
      reference: a path that exists, or `org/name` or `org/name@revision` in the local
        Hugging Face cache, where the revision is a branch, a tag, a commit or the
        beginning of one (at least 4 digits), and `main` if not given.
      cache: the cache's folder; the one that Hugging Face's own tools use if None.

    Raises:
      CheckpointError: if it is neither; says where it was looked for and what is there.
    """
    path = Path(reference).expanduser()
    if reference and path.exists():
        return path
    match = _REFERENCE.match(reference)
    climbs = ".." in re.split("[/@]", reference)
    if match is None or climbs or reference.startswith("."):
        raise CheckpointError(
            f"{reference} does not exist, and is no name of a model (org/name or "
            "org/name@revision)"
        )
    organisation, name, revision = match.groups()
    model = f"{organisation or ''}{name}"
    cache = cache_folder() if cache is None else cache
    folder = cache / ("models--" + model.replace("/", "--"))
    if not folder.is_dir():
        raise CheckpointError(
            f"{reference} is neither a path nor a model in the Hugging Face cache "
            f"({cache}){near(model, _models(cache))}. Download it with Hugging Face's "
            "own tools first"
        )
    return _snapshot(folder, model, revision or "main")
