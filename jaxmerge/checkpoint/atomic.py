"""Outputs that appear under their name whole, or not at all.

Everything is written into `OUT.partial/`, flushed, and renamed to `OUT` in one step. A
file in `OUT.partial` marks it as ours, and a lock on that file as in use: what a killed
run left is replaced by the next one, what somebody else put there is not touched.
"""

import ctypes
import errno
import fcntl
import os
import shutil
import sys
from pathlib import Path

from jaxmerge.checkpoint.errors import CheckpointError
from jaxmerge.checkpoint.safetensors_writer import sync

_MARKER = ".jaxmerge-partial"
_MARKER_TEXT = b"jaxmerge writes a checkpoint here; a rerun replaces this folder.\n"
_PREVIOUS = "previous"
_RENAME_EXCHANGE = 2  # linux/fs.h
_RENAME_SWAP = 2  # macOS, sys/stdio.h
_AT_FDCWD = -100


def _exchange(a: Path, b: Path) -> bool:
    """Swaps two names in one step, where the system can; whether it did."""
    library = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(a), os.fsencode(b)
    if sys.platform == "darwin" and hasattr(library, "renamex_np"):
        return library.renamex_np(*names, _RENAME_SWAP) == 0
    if sys.platform == "linux" and hasattr(library, "renameat2"):
        first, second = names
        swap = _RENAME_EXCHANGE
        return library.renameat2(_AT_FDCWD, first, _AT_FDCWD, second, swap) == 0
    return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_checkpoint(folder: Path) -> bool:
    names = [path.name for path in folder.iterdir()]
    marks = (".safetensors", "_METADATA", "manifest.ocdbt")
    return not names or any(name.endswith(marks) for name in names)


def _check_target(out: Path, *, folder: bool, overwrite: bool) -> None:
    """Refuses an OUT that is there and may not, or should not, be replaced."""
    if not os.path.lexists(out):
        return
    if not overwrite:
        raise CheckpointError(
            f"{out} exists; choose another name, or ask for it to be overwritten"
        )
    if out.is_dir() != folder:
        there, wanted = ("folder", "file") if out.is_dir() else ("file", "folder")
        raise CheckpointError(f"{out} is a {there} and the output is a {wanted}")
    if folder and not _is_checkpoint(out):
        raise CheckpointError(
            f"{out} is a folder without a checkpoint in it; overwriting it would "
            "delete what it has, so remove it by hand if that is meant"
        )


def _claim(partial: Path) -> int:
    """Makes `OUT.partial` ours; gives the lock on the marker in it."""
    marker = partial / _MARKER
    try:
        partial.mkdir(parents=True)
    except FileExistsError:
        if not partial.is_dir() or (any(partial.iterdir()) and not marker.is_file()):
            raise CheckpointError(
                f"{partial} is in the way, and jaxmerge did not write it; move it"
            ) from None
    lock = os.open(marker, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The holder before us may have removed the marker since it was opened.
        if not marker.exists() or not os.path.samestat(os.fstat(lock), marker.stat()):
            raise BlockingIOError(errno.EAGAIN, "the marker was replaced")
        os.pwrite(lock, _MARKER_TEXT, 0)
    except BlockingIOError as error:
        os.close(lock)
        raise CheckpointError(
            f"{partial} is being written by another process; wait for it, or choose "
            "another output"
        ) from error
    return lock


class Staging:
    """The place where one output grows until it is committed.

    Args:
      out: the output's final name.
      folder: whether the output is a folder.
      overwrite: whether to replace what has that name.

    Attributes:
      content: what becomes OUT: a folder that exists, or a file to be written.
      scratch: a folder for temporary files, gone after the commit.

    Raises:
      CheckpointError: if OUT exists and is not to be overwritten, or `OUT.partial` is
        in use or not ours.
    """

    def __init__(
        self, out: str | os.PathLike, *, folder: bool, overwrite: bool = False
    ):
        # Not resolved: a link is replaced, not what it points to.
        self.out = Path(os.path.abspath(out))
        if not self.out.name:
            raise CheckpointError(f"{out} cannot be the name of an output")
        self._folder, self._overwrite = folder, overwrite
        partial = self.out.with_name(self.out.name + ".partial")
        previous = partial / _PREVIOUS
        if not os.path.lexists(previous):
            _check_target(self.out, folder=folder, overwrite=overwrite)
        self._lock = _claim(partial)
        self.scratch = partial
        self.content = partial / "content"
        try:
            if os.path.lexists(previous) and not os.path.lexists(self.out):
                # A run was killed between the two renames of `_replace`.
                os.rename(previous, self.out)
            _check_target(self.out, folder=folder, overwrite=overwrite)
            for child in partial.iterdir():
                if child.name != _MARKER:
                    _remove(child)
            if folder:
                self.content.mkdir()
        except BaseException:
            self.discard()
            raise

    def commit(self) -> None:
        """Flushes the content and gives it its name; `OUT.partial` is gone then.

        Raises:
          CheckpointError: if OUT has appeared meanwhile.
        """
        if self._folder:
            for parent, _, files in os.walk(self.content, topdown=False):
                for name in files:
                    sync(Path(parent, name))
                sync(Path(parent))
        else:
            sync(self.content)
        _check_target(self.out, folder=self._folder, overwrite=self._overwrite)
        self._replace()
        sync(self.out.parent)
        self.discard()

    def _replace(self) -> None:
        there = os.path.lexists(self.out)
        if there and not _exchange(self.content, self.out):
            os.rename(self.out, self.scratch / _PREVIOUS)
            there = False
        if not there:
            os.rename(self.content, self.out)

    def discard(self) -> None:
        """Removes `OUT.partial` and all that is in it; a second time does nothing."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            shutil.rmtree(self.scratch)
            os.close(lock)
