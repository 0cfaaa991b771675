"""Records that crash or hang the process that judges them: how a hang is ended, how they are set aside.

A worker that judges records is ended by a timer when one batch takes too long (`limited`, `alive`); the timer
is a C thread, so it fires while native code holds the interpreter. A run in the user's own process is interrupted
by a signal instead, which Python code, `re` and sleeps heed, and native code that never returns does not. Which
record it was is found afterwards, in `careful`; here such a record is taken out of its part and becomes a row of
the quarantine.
"""

from __future__ import annotations

import faulthandler
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .json_lines import json_lines
from .records import QUARANTINE, Batch

_STDERR = 2
_arm: list[Callable[[], None]] = []  # of this process: starts the timer anew


@dataclass(frozen=True)
class Poison:
    """A record that may not be judged. `row`: its number among the records of its part, whatever the batches;
    `reason`: `quarantine.crash` or `quarantine.timeout`; `offset`: byte, or row of a Parquet file."""

    row: int
    reason: str
    detail: str
    file: str
    offset: int


class Overdue(BaseException):
    """A batch took too long; no Exception, so that no operator takes it for its own."""


@contextmanager
def limited(seconds: float, *, end: bool) -> Iterator[None]:
    """Where `alive` is not called for so many seconds: end this process with its stack on stderr (`end`, for a
    worker; another process has to notice), else raise Overdue, in the main thread of a process without a timer
    of its own."""
    if not end and not _may_interrupt():
        yield
        return
    _arm.append(_end_in(seconds) if end else _interrupt_in(seconds))
    before = None if end else signal.signal(signal.SIGALRM, _overdue)
    alive()
    try:
        yield
    finally:
        _arm.pop()
        if end:
            faulthandler.cancel_dump_traceback_later()
        else:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            signal.signal(signal.SIGALRM, before)


def alive() -> None:
    """Work goes on: the time of `limited` begins anew."""
    if _arm:
        _arm[-1]()


def _end_in(seconds: float) -> Callable[[], None]:
    return lambda: faulthandler.dump_traceback_later(seconds, exit=True, file=_STDERR)


def _interrupt_in(seconds: float) -> Callable[[], None]:
    return lambda: signal.setitimer(signal.ITIMER_REAL, seconds) and None


def _may_interrupt() -> bool:
    main = threading.current_thread() is threading.main_thread()
    return main and signal.getsignal(signal.SIGALRM) == signal.SIG_DFL


def _overdue(number: int, frame: FrameType | None) -> None:
    raise Overdue


def without(batches: Iterable[Batch], poison: tuple[Poison, ...]) -> Iterator[Batch]:
    """The batches without the poisonous records, which follow as one last batch of quarantined rows.

    Last, so that their place in the quarantine does not depend on the batches.
    """
    known = {found.row: found for found in poison}
    rows = 0
    aside: list[pa.Table] = []
    nothing: pa.Table | None = None
    for batch in batches:
        alive()
        table, here = batch.table, range(rows, rows + batch.table.num_rows)
        rows = here.stop
        bad = sorted(set(known).intersection(here)) if known else []
        if bad:
            places = np.array(bad) - here.start
            aside.append(_quarantined(table.take(pa.array(places)), [known[row] for row in bad]))
            stays = np.ones(len(here), dtype=np.bool_)
            stays[places] = False
            batch = Batch(table.filter(pa.array(stays)), batch.quarantine)
            nothing = table.slice(0, 0)
        yield batch
    alive()
    if nothing is not None:
        yield Batch(nothing, pa.concat_tables(aside))


def _quarantined(table: pa.Table, found: list[Poison]) -> pa.Table:
    """Rows of QUARANTINE; `raw` is the whole record as a JSON object."""
    raw = pc.utf8_rtrim(json_lines(table), "\n").cast(pa.large_binary())
    columns = {
        "source": table.column("source"),
        "file": [x.file for x in found],
        "offset": [x.offset for x in found],
        "length": pc.binary_length(raw).cast(pa.int64()),
        "reason": [x.reason for x in found],
        "detail": [x.detail for x in found],
        "raw": raw,
    }
    return pa.table(columns, schema=QUARANTINE)
