"""Second attempt at a part whose first one ended its process: the records that do it are found and set aside.

Such an end has many causes: the machine, the operator of the cluster, a lack of memory, or a record on which
native code crashes or never comes back. A child process (`probe`) judges the part in groups of 64 records, and
the group in which it ends record by record. A record that ends a process of its own twice goes to quarantine
as `quarantine.crash` or `quarantine.timeout`; where none does, the part is judged as ever.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from .errors import MalmoiError
from .filtering import FilterPart, filter_part
from .poison import Poison
from .probe import GROUP, Probe
from .recipe import Source
from .records import Batch
from .sources import read_part
from .storage import Folder

MOST = 16  # records a part; more are no accident of the records but a fault of the step
START_S = 600.0  # for a probe to import everything and to compile the kernels
_START: dict[str, Any] = {"at": "start"}
_PROOFS = 2  # ends of one record's own process: one may be chance, as when memory runs out


@dataclass(frozen=True)
class End:
    """How a probe ended. `how`: "" (all went well, or with a Python error that is not ours to judge), "crash"
    or "timeout"; `at`: the last line that it wrote."""

    how: str
    detail: str
    at: dict[str, Any]


def filter_carefully(folder: Folder, work: FilterPart) -> dict[str, Any]:
    """`filter_part` without the records that end a process."""
    found, alone = find_poison(work)
    run = work.run.model_copy(update={"batch_rows": 1 if alone else min(GROUP, work.run.batch_rows)})
    return filter_part(folder, replace(work, poison=found, run=run))


def find_poison(work: FilterPart) -> tuple[tuple[Poison, ...], bool]:
    """The poisonous records of a part, and whether some group ends a process though none of its records does."""
    ends: dict[int, list[End]] = {}
    first = single = unexplained = 0
    alone = False
    while True:
        guilty = {row for row, seen in ends.items() if len(seen) >= _PROOFS}
        end = _probe(Probe(work, first, single, frozenset(guilty), os.getpid()))
        if not end.how:
            return _places(work, {row: ends[row][-1] for row in sorted(guilty)}), alone
        if "first" not in end.at:
            unexplained += 1
            if unexplained <= _PROOFS:
                continue  # it may have been chance
            raise MalmoiError(
                f"{_files(work)}: {_READING[end.how]}; no record can be named: take the file out of the source"
            )
        first, count = int(end.at["first"]), int(end.at["count"])
        if count > 1:
            single, alone = first + count, True
            continue
        ends.setdefault(first, []).append(end)
        if len(ends[first]) == _PROOFS:
            alone = False
            _check_number(work, ends)


_READING = {
    "crash": "the process that reads it crashes",
    "timeout": "reading it takes longer than run.batch_timeout_s",
}


def _check_number(work: FilterPart, ends: dict[int, list[End]]) -> None:
    guilty = [seen[-1] for seen in ends.values() if len(seen) >= _PROOFS]
    if len(guilty) > MOST:
        raise MalmoiError(
            f"more than {MOST} records of {_files(work)} end the process that judges them, the last by "
            f"{guilty[-1].detail}: mend the step"
        )


def _files(work: FilterPart) -> str:
    names = list(dict.fromkeys(piece.file.url for piece in work.part.pieces))
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _places(work: FilterPart, ends: dict[int, End]) -> tuple[Poison, ...]:
    """Where the records stand: read once more without ids of their own, each gets `<file>#<offset>` as its id."""
    if not ends:
        return ()
    refused = {
        f"{file}#{offset}"
        for batch in _read(work, work.source)
        for file, offset in zip(
            batch.quarantine.column("file").to_pylist(),
            batch.quarantine.column("offset").to_pylist(),
            strict=True,
        )
    }
    found, row = [], 0
    for batch in _read(work, work.source.model_copy(update={"id": None})):
        for place in batch.table.column("id").to_pylist():  # of one part, once, on the way to a rare record
            if place in refused:
                continue
            if row in ends:
                file, _, offset = place.rpartition("#")
                found.append(Poison(row, f"quarantine.{ends[row].how}", ends[row].detail, file, int(offset)))
            row += 1
    return tuple(found)


def _read(work: FilterPart, source: Source) -> Iterator[Batch]:
    return read_part(
        work.part,
        source,
        work.source_extras,
        base=work.base,
        batch_bytes=work.run.batch_bytes,
        max_record_bytes=work.max_record_bytes,
    )


def _probe(probe: Probe) -> End:
    """Run a child to its end, or end it where it says nothing new for too long."""
    run = probe.work.run
    with _child(probe) as child:
        at = _START
        pieces = b""
        while True:
            limit = run.record_timeout_s if "first" in at else run.batch_timeout_s
            if at == _START:
                limit = max(limit, START_S)
            if not _readable(child, limit):
                return End("timeout", f"step {at.get('step')}: did not come to an end in time", at)
            some = os.read(_pipe(child), 65536)
            if not some:
                break
            *lines, pieces = (pieces + some).split(b"\n")
            at = json.loads(lines[-1]) if lines else at
        code = child.wait()
    if at == {"at": "end"} or code == 1:  # 1: a Python error, which the real attempt meets as well
        return End("", "", at)
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
    return End("crash", f"step {at.get('step')}: ended its process with {how}", at)


def _pipe(child: subprocess.Popen[bytes]) -> int:
    assert child.stdout is not None
    return child.stdout.fileno()


def _readable(child: subprocess.Popen[bytes], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if select.select([_pipe(child)], [], [], left)[0]:
            return True
    return False


@contextmanager
def _child(probe: Probe) -> Iterator[subprocess.Popen[bytes]]:
    """A process with the modules of this one, killed at the end of the block."""
    from ray import cloudpickle  # an operator may be defined in a notebook

    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "malmoi.pipeline.probe"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=None if os.environ.get("MALMOI_DEBUG") else subprocess.DEVNULL,
    )
    try:
        assert child.stdin is not None
        try:
            child.stdin.write(cloudpickle.dumps(probe))
            child.stdin.close()
        except BrokenPipeError:
            pass  # it ended before it began: told as such
        yield child
    finally:
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()
