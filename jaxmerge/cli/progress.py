"""Progress on stderr: a bar on a terminal, a line every few seconds elsewhere."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from jaxmerge.checkpoint import Progress
from jaxmerge.cli.text import human_bytes, human_time

_SECONDS_BETWEEN_LINES = 5.0
_BAR = (
    "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} "
    "[{rate_fmt}, {remaining} left] {postfix}"
)


class ProgressLines:
    """A callback that writes a plain line now and then.

    Args:
      stream: where to; a text file.
      clock: seconds that only go forward.
    """

    def __init__(self, stream: Any, clock: Callable[[], float] = time.monotonic):
        self._stream, self._clock = stream, clock
        self._start = self._last = clock()

    def __call__(self, progress: Progress) -> None:
        now = self._clock()
        if now - self._last < _SECONDS_BETWEEN_LINES:
            return
        self._last = now
        rate = progress.bytes_read / (now - self._start)
        left = progress.bytes_total - progress.bytes_read
        remaining = human_time(left / rate) if rate else "unknown time"
        print(
            f"{progress.tensors}/{progress.num_tensors} tensors, "
            f"{human_bytes(progress.bytes_read)} of "
            f"{human_bytes(progress.bytes_total)} read, {human_bytes(rate)}/s, "
            f"{remaining} left",
            file=self._stream,
            flush=True,
        )


@contextlib.contextmanager
def show_progress(
    stream: Any, *, quiet: bool = False
) -> Iterator[Callable[[Progress], None] | None]:
    """Gives a callback for `checkpoint.merge`; None if quiet.

    Args:
      stream: where to show it, such as `sys.stderr`.
      quiet: whether to show nothing.
    """
    if quiet:
        yield None
    elif not stream.isatty():
        yield ProgressLines(stream)
    else:
        import tqdm  # Only a terminal needs it.

        with tqdm.tqdm(
            total=0, unit="B", unit_scale=True, file=stream, bar_format=_BAR
        ) as bar:
            count = 0

            def update(progress: Progress) -> None:
                nonlocal count
                bar.total, count = progress.bytes_total, progress.num_tensors
                bar.set_postfix_str(
                    f"{progress.tensors}/{count} tensors", refresh=False
                )
                bar.update(progress.bytes_read - bar.n)

            yield update
            # The last tensor was read when the last record came; now it is written.
            bar.set_postfix_str(f"{count}/{count} tensors")
