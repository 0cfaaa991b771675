"""The child process of `careful`: judges the records of a part in small groups and tells where it is.

`python -m malmoi.pipeline.probe`, with a pickled `Probe` on stdin. Before anything that may end this process it
writes a line of JSON to stdout: `{"at": "read"}` before records are read, `{"first": 128, "count": 64, "step":
"words"}` before a step judges these records, `{"at": "end"}` when all went well. Nothing is kept of the result.
"""

from __future__ import annotations

import ctypes
import json
import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from malmoi.operators.analysis import forget

from .filtering import FilterPart, align, apply_steps, key_table
from .sources import read_part

GROUP = 64
_WARM = (
    "Kernels that are not compiled yet are compiled for these texts.\nSo no record is blamed for it, slow as it is.",
    "아직 옮겨지지 않은 코드는 이 글을 위해 옮겨진다. 느리더라도 어떤 기록의 탓도 아니다.",
    "",
)
_DEATH_OF_PARENT = 1  # PR_SET_PDEATHSIG of <sys/prctl.h>


@dataclass(frozen=True)
class Probe:
    """Records `first` and later, without `skip`; those before `single` one at a time. `parent`: its process."""

    work: FilterPart
    first: int
    single: int
    skip: frozenset[int]
    parent: int


def groups(probe: Probe) -> Iterator[tuple[int, pa.Table]]:
    """(number of the first record, records) of what is to be judged."""
    work, rows = probe.work, 0
    for batch in read_part(
        work.part,
        work.source,
        work.source_extras,
        base=work.base,
        batch_rows=GROUP,
        batch_bytes=work.run.batch_bytes,
        max_record_bytes=work.max_record_bytes,
    ):
        table, begin = batch.table, rows
        rows += table.num_rows
        start = max(begin, probe.first)
        while start < rows:
            alone = start < probe.single or any(row in probe.skip for row in range(start, rows))
            stop = start + 1 if alone else rows
            if start not in probe.skip:
                yield start, table.slice(start - begin, stop - start)
            start = stop


def judge(probe: Probe, tell: Callable[[Any], None]) -> None:
    """Judge all groups, telling each step of each."""
    work = probe.work
    _warm(work)
    tell({"at": "read"})
    for first, table in groups(probe):
        place = {"first": first, "count": table.num_rows}
        _judge(align(table, work.extras), work, partial(_tell_step, tell, place))
        forget()
        tell({"at": "read"})
    tell({"at": "end"})


def _warm(work: FilterPart) -> None:
    """Compile what is not compiled yet, outside the time of any record."""
    texts = pa.array(_WARM, pa.large_string())
    with suppress(Exception):  # a step may not like the missing columns
        _judge(
            align(pa.table({"id": texts, "source": texts, "text": texts}), work.extras), work, lambda _: None
        )


def _tell_step(tell: Callable[[Any], None], place: dict[str, Any], step: str) -> None:
    tell({**place, "step": step})


def _judge(table: pa.Table, work: FilterPart, tell: Callable[[str], None]) -> None:
    for step in work.steps:
        tell(step.name)
        table = apply_steps(table, (step,))
    tell("keys")
    key_table(apply_steps(table, ()), work.keys, work.source.priority)


def main() -> None:
    """Never outlives its parent: what hangs here would hang for ever."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DEATH_OF_PARENT, signal.SIGKILL)
    probe: Probe = pickle.load(sys.stdin.buffer)
    if os.getppid() != probe.parent:
        return
    told = os.dup(1)
    os.dup2(2, 1)  # what an operator prints is no word of ours

    def tell(line: Any) -> None:
        os.write(told, json.dumps(line).encode() + b"\n")

    judge(probe, tell)


if __name__ == "__main__":
    main()
