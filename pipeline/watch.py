"""What a run tells of itself while it goes on, for people and `malmoi status`; no part of its output.

    run.log.jsonl                          one JSON object a line, by the process that leads the run
    run.alive.json                         a sign of life, written anew every few seconds, gone at the end
    stages/<stage>/<job>.running.json      a job at work, by its worker, gone once it is committed

Every line of the log has `t` (UTC), `run` (an id for each call that worked on the folder) and `event`:
run_start, stage_start, part_start, part_commit, stage_end, run_end. A part's two lines are written when it is
committed, with the times at which it began and ended; `attempt` above 1 is a retry. Nothing here may stop a
run: what cannot be written is left out.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from . import metrics
from .storage import Folder

LOG = "run.log.jsonl"
ALIVE = "run.alive.json"
RUNNING = ".running.json"
ALIVE_SECONDS = 15.0
_FIGURES = ("seconds", "read", "kept", "dropped", "quarantined", "text_bytes")
_BYTES_PER_SECOND = 100_000  # on object stores the whole log is written anew: seldom when it is long


def stamp(seconds: float) -> str:
    """A Unix time as UTC text to the millisecond, which sorts."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass
class RunLog:
    """The log of one call of a run; `event` may be called from any thread of the leading process."""

    folder: Folder
    plan: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    stage: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _stop: threading.Event = field(default_factory=threading.Event, repr=False)
    _text: list[bytes] = field(default_factory=list, repr=False)
    _written: tuple[int, float] = (0, 0.0)

    def event(self, name: str, fields: Mapping[str, Any] | None = None, t: float | None = None) -> None:
        """Append one line."""
        entry = {"t": stamp(time.time() if t is None else t), "run": self.id, "event": name, **(fields or {})}
        line = (json.dumps(entry, ensure_ascii=False, default=str) + "\n").encode("utf-8", "replace")
        path = self.folder.local_path(LOG)
        with self._lock, suppress(OSError):
            if path is None:
                self._text.append(line)
                return
            handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                os.write(handle, line)  # one call: a line is there whole or not at all
            finally:
                os.close(handle)

    def stage_start(self, stage: str, jobs: int) -> None:
        self.stage = stage
        self.event("stage_start", {"stage": stage, "parts": jobs})
        metrics.show_stage(self.plan, stage, jobs, 0)
        self._flush()

    def stage_end(self, stage: str, seconds: float) -> None:
        self.event("stage_end", {"stage": stage, "seconds": round(seconds, 3)})

    def ticker(
        self, stage: str, jobs: int, tick: Callable[[dict[str, Any]], None]
    ) -> Callable[[dict[str, Any]], None]:
        """`tick`, and a start and a commit line for each part that this call did; the others are only counted."""
        done = 0

        def told(counts: dict[str, Any]) -> None:
            nonlocal done
            done += 1
            if not counts.get("earlier"):
                self._part(stage, counts)
            metrics.show_stage(self.plan, stage, jobs, done)
            tick(counts)

        return told

    def _part(self, stage: str, counts: Mapping[str, Any]) -> None:
        name, began, host, pid, attempt = counts.get("where") or ("?", time.time(), "?", 0, 1)
        where = {"stage": stage, "part": name, "host": host, "pid": pid, "attempt": attempt}
        figures = {key: counts[key] for key in _FIGURES if key in counts}
        self.event("part_start", where, t=began)
        self.event("part_commit", where | figures, t=began + counts.get("seconds", 0.0))

    def _flush(self) -> None:
        """Write the log of a remote folder."""
        with self._lock:
            data = b"".join(self._text)
            self._written = (len(data), time.monotonic())
        if data and not self.folder.is_local:
            with suppress(Exception):
                self.folder.write_bytes(LOG, data)

    def _beat(self) -> None:
        while True:
            life = {"t": time.time(), "run": self.id, "host": socket.gethostname(), "pid": os.getpid()}
            life |= {"stage": self.stage, "every": ALIVE_SECONDS}
            with suppress(Exception):
                self.folder.write_bytes(ALIVE, json.dumps(life).encode())
            size, when = self._written
            if time.monotonic() - when > size / _BYTES_PER_SECOND:
                self._flush()
            if self._stop.wait(ALIVE_SECONDS):
                return


@contextmanager
def logged(folder: Folder, plan: str, name: str) -> Iterator[RunLog]:
    """The log of a call, from its first line to its last, whatever ends it."""
    log = RunLog(folder, plan)
    if not folder.is_local:
        with suppress(Exception):
            log._text.append(folder.read_bytes(LOG))
    log.event("run_start", {"name": name, "plan": plan, "host": socket.gethostname(), "pid": os.getpid()})
    beat = threading.Thread(target=log._beat, name="malmoi-alive", daemon=True)
    beat.start()
    began, outcome = time.perf_counter(), {"outcome": "finished"}
    try:
        yield log
    except BaseException as error:
        outcome = {
            "outcome": "stopped",
            "error": f"{type(error).__name__}: {error}"[:2000].removesuffix(": "),
        }
        raise
    finally:
        log._stop.set()
        beat.join(timeout=60.0)
        log.event(
            "run_end", {"stage": log.stage, "seconds": round(time.perf_counter() - began, 3), **outcome}
        )
        log._flush()
        with suppress(Exception):
            folder.remove(ALIVE)


@dataclass(frozen=True)
class Attempt:
    """A job at work in this process: since when (Unix time), and the how manieth try it is.

    `after_death`: the try before ended with its process, and not with an error; `deaths`: how many tries of the
    same `call` ended so, one after the other.
    """

    folder: Folder
    marker: str
    plan: str
    stage: str
    name: str
    began: float
    number: int
    after_death: bool = False
    call: str = ""
    deaths: int = 0

    @property
    def where(self) -> list[Any]:
        """For the commit record: [job, begin, host, process, attempt]."""
        return [self.name, self.began, socket.gethostname(), os.getpid(), self.number]

    def committed(self, counts: Mapping[str, Any]) -> None:
        metrics.count_job(self.plan, self.stage, counts, self.number)
        with suppress(Exception):
            self.folder.remove(self.marker)

    def failed(self) -> None:
        metrics.count_job(self.plan, self.stage, None)
        if not _mark(self, error=True):
            with suppress(Exception):
                self.folder.remove(self.marker)  # the disk is full: better no mark than one of a death


def begin(folder: Folder, stage: str, name: str, plan: str, call: str = "") -> Attempt:
    """Mark a job as being worked on; a mark that is there already is of an attempt that came to nothing."""
    marker, number, died, deaths = f"stages/{stage}/{name}{RUNNING}", 1, False, 0
    with suppress(Exception):
        if folder.exists(marker):
            held = json.loads(folder.read_bytes(marker))
            if held["plan"] == plan:
                number, died = int(held["attempt"]) + 1, not held.get("error", False)
                deaths = int(held["deaths"]) + 1 if died and call and held["call"] == call else 0
    attempt = Attempt(folder, marker, plan, stage, name, time.time(), number, died, call, deaths)
    _mark(attempt, error=False)
    return attempt


def _mark(attempt: Attempt, *, error: bool) -> bool:
    life = {"t": attempt.began, "host": socket.gethostname(), "pid": os.getpid(), "attempt": attempt.number}
    life |= {"call": attempt.call, "deaths": attempt.deaths}
    data = json.dumps({**life, "plan": attempt.plan, "error": error}).encode()
    try:
        attempt.folder.write_bytes(attempt.marker, data)
    except Exception:
        return False
    return True


def clean_marks(folder: Folder, stages: tuple[str, ...]) -> None:
    """Remove marks of workers that ended between a commit and its end; for a run that is finished."""
    for stage in stages:
        for name in folder.list(f"stages/{stage}"):
            if name.endswith(RUNNING):
                folder.remove(name)
