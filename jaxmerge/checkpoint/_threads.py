"""Threads that read ahead, write behind and count, all on a short lead.

All bookkeeping is in the thread that merges: it hands out jobs and collects results,
and never waits for anything but them. So an error in a thread surfaces where its result
is asked for, and leaving early, by an error or an interrupt, only waits for the system
calls that are under way.
"""

import collections
import functools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from jaxmerge.checkpoint.safetensors import aligned_empty

_LARGE_BUFFERS = 3  # a base's, the expert's at work, the next one


class Job(NamedTuple):
    """A read: the bytes of buffer that it needs, and what to do with the buffer."""

    nbytes: int
    read: Callable[[np.ndarray], Any]


class ReadAhead:
    """Runs reads in a thread, in order, into reused buffers.

    Buffers are of two sizes: `small_buffers` of `small` bytes for pieces of tensors,
    three of `large` bytes for whole ones. None is allocated before it is needed.

    Args:
      jobs: the reads, in the order in which their results are asked for.
      small: bytes of a small buffer.
      large: bytes of a large buffer, at least those of the largest job.
      small_buffers: how many small ones there are.
    """

    def __init__(
        self, jobs: Iterable[Job], *, small: int, large: int, small_buffers: int
    ):
        self._jobs = iter(jobs)
        self._sizes = (small, large)
        self._unmade = [small_buffers, _LARGE_BUFFERS]
        self._free: tuple[list[np.ndarray], ...] = ([], [])
        self._next = next(self._jobs, None)
        self._pending: collections.deque[tuple[Future, int, np.ndarray]]
        self._pending = collections.deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="jaxmerge-read")
        self._submit()

    def _buffer(self, kind: int, needed: bool) -> np.ndarray | None:
        if self._free[kind]:
            return self._free[kind].pop()
        if self._unmade[kind] > 0 or needed:
            self._unmade[kind] -= 1
            return aligned_empty(self._sizes[kind])
        return None

    def _submit(self) -> None:
        """Starts reads as far as there are buffers, and one if none is under way."""
        while self._next is not None:
            kind = int(self._next.nbytes > self._sizes[0])
            buffer = self._buffer(kind, needed=not self._pending)
            if buffer is None:
                return
            future = self._thread.submit(self._next.read, buffer)
            self._pending.append((future, kind, buffer))
            self._next = next(self._jobs, None)

    def next(self) -> tuple[Any, Callable[[], None]]:
        """The next job's result, and a function that gives its buffer back.

        The result is not to be used after that.
        """
        if not self._pending:
            self._submit()
        future, kind, buffer = self._pending.popleft()
        return future.result(), functools.partial(self._release, kind, buffer)

    def _release(self, kind: int, buffer: np.ndarray) -> None:
        self._free[kind].append(buffer)
        self._submit()

    def close(self) -> None:
        """Drops the reads that are not under way, and waits for the one that is."""
        self._next = None
        self._thread.shutdown(wait=True, cancel_futures=True)


class InOrder:
    """Runs calls in threads, and gives their results in order.

    An error surfaces where the call's result would.

    Args:
      num_threads: how many calls run at a time.
    """

    def __init__(self, num_threads: int):
        self._pending: collections.deque[Future] = collections.deque()
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="jaxmerge")

    def submit(self, call: Callable[..., Any], *arguments: Any) -> None:
        """Queues a call."""
        self._pending.append(self._threads.submit(call, *arguments))

    def done(self, behind: int) -> Iterator[Any]:
        """The results of the oldest calls, waiting until only `behind` are left."""
        while len(self._pending) > behind:
            yield self._pending.popleft().result()

    def close(self) -> None:
        """Drops the calls that are not under way, and waits for those that are."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._pending.clear()
