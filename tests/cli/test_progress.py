import io

from jaxmerge.checkpoint import Progress
from jaxmerge.cli.progress import ProgressLines, show_progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_line_every_few_seconds_with_rate_and_time_left():
    now, stream = iter([0.0, 1.0, 10.0, 12.0, 20.0]), io.StringIO()
    show = ProgressLines(stream, clock=lambda: next(now))
    for tensors, read in [(0, 10**6), (3, 10**7), (4, 2 * 10**7), (5, 4 * 10**7)]:
        show(Progress("w", tensors, 10, read, 10**8))
    assert stream.getvalue().splitlines() == [
        "3/10 tensors, 10.0 MB of 100 MB read, 1.0 MB/s, 1:30 left",
        "5/10 tensors, 40.0 MB of 100 MB read, 2.0 MB/s, 30.0 s left",
    ]


def test_a_bar_on_a_terminal():
    stream = Terminal()
    with show_progress(stream) as show:
        assert show is not None
        show(Progress("w", 4, 10, 10**9, 2 * 10**9))
        show(Progress("w", 10, 10, 2 * 10**9, 2 * 10**9))
    assert "100%" in stream.getvalue()
    assert "10/10 tensors" in stream.getvalue()
    assert "2.00G/2.00G" in stream.getvalue()


def test_nothing_when_quiet():
    stream = Terminal()
    with show_progress(stream, quiet=True) as show:
        assert show is None
    assert stream.getvalue() == ""
