"""Records that crash or hang the process that judges them: how a hang is ended, how they are set aside.

A worker that judges records is ended by a timer when one batch takes too long (`limited`, `alive`); the timer
is a C thread, so it fires while native code holds the interpreter. Which record it was is found afterwards, in
`careful`; here such a record is taken out of its part and becomes a row of the quarantine.
"""

from __future__ import annotations

import faulthandler
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .json_lines import json_lines
from .records import QUARANTINE, Batch

_STDERR = 2
_limit: list[float] = []  # of this process, the innermost last


@dataclass(frozen=True)
class Poison:
    """A record that may not be judged. `row`: its number among the records of its part, whatever the batches;
    `reason`: `quarantine.crash` or `quarantine.timeout`; `offset`: byte, or row of a Parquet file."""

    row: int
    reason: str
    detail: str
    file: str
    offset: int


@contextmanager
def limited(seconds: float | None) -> Iterator[None]:
    """End this process, with its stack on stderr, when `alive` is not called for so many seconds; None: never.

    For worker processes: another process has to notice the end.
    """
    if seconds is None:
        yield
        return
    _limit.append(seconds)
    alive()
    try:
        yield
    finally:
        _limit.pop()
        faulthandler.cancel_dump_traceback_later()


def alive() -> None:
    """Work goes on: the time of `limited` begins anew."""
    if _limit:
        faulthandler.dump_traceback_later(_limit[-1], exit=True, file=_STDERR)


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
