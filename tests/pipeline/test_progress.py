"""Progress lines without and with a terminal, on a clock that the test turns."""

import io

import pytest
from rich.console import Console

from malmoi.pipeline.progress import stage_progress

COUNTS = {
    "read": 1000,
    "kept": 890,
    "dropped": {"c4.[lorem]": 60, "언어.낮음": 30, "a.b": 10, "z.z": 9},
    "quarantined": 1,
    "text_bytes": 5_000_000,
    "seconds": 1.0,
}


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_plain_lines_at_most_every_five_seconds():
    clock, out = Clock(), io.StringIO()
    with stage_progress("filter", 4, Console(file=out, width=100), clock=clock) as tick:
        for seconds in (2, 5, 6, 11):
            clock.now = 100.0 + seconds
            tick(COUNTS)
    losses = "dropped 10.9 % (c4.[lorem] 6.0 %, 언어.낮음 3.0 %, a.b 1.0 %), quarantined"
    assert out.getvalue().splitlines() == [
        f"filter: 2/4 parts  400 docs/s  2.0 MB/s  {losses} 2",
        f"filter: 4,000 documents in 11.0 s, 364 docs/s  1.8 MB/s, {losses} 4",
    ]


def test_nothing_to_do_and_counts_that_lack_keys():
    clock, out = Clock(), io.StringIO()
    console = Console(file=out, width=100)
    with stage_progress("write", 0, console, clock=clock):
        clock.now += 1
    with stage_progress("scatter", 1, console, clock=clock) as tick:
        clock.now += 1
        tick({})
    assert out.getvalue().splitlines() == [
        "write: 0 documents in 1.0 s, 0 docs/s  0.0 MB/s",
        "scatter: 0 documents in 1.0 s, 0 docs/s  0.0 MB/s",
    ]


def test_terminal():
    clock, out = Clock(), io.StringIO()
    console = Console(file=out, width=200, force_terminal=True, _environ={"TERM": "xterm"})
    with stage_progress("filter", 2, console, clock=clock) as tick:
        clock.now += 1
        tick(COUNTS)
        tick(COUNTS)
    shown = out.getvalue()
    assert "2/2 parts" in shown
    assert "c4.[lorem] 6.0 %" in shown
    assert "2,000 documents in 1.0 s" in shown.splitlines()[-1]


def test_no_closing_line_after_an_error():
    out = io.StringIO()

    def stop():
        with stage_progress("filter", 2, Console(file=out, width=100)) as tick:
            tick(COUNTS)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert out.getvalue() == ""
