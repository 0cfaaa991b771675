"""How far a run is, told by its folder alone: `malmoi status RUN`, on any machine that reaches the folder.

Read are the plan, the commit records of the stages (their names, and for parts that the log does not tell
their content), the log and the sign of life. Nothing is written, and no lock is taken.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from . import html
from .errors import SourceError
from .figures import Sheet, share
from .manifest import FILE as MANIFEST
from .run_folder import is_there, run_folder
from .storage import Folder, in_parallel
from .watch import ALIVE, LOG, RUNNING

State = Literal["finished", "running", "stale", "stopped", "not started"]

STAGES = ("filter", "verify", "decide", "split", "write")  # then others of the log, in its order
PASSING = ("verify",)  # their files go when the run is finished
COMMIT = ".commit.json"
STALE_BEATS = 6  # signs of life that may be missed: a busy disk or store is no dead run
TOP_REASONS = 8


@dataclass(frozen=True)
class StageStatus:
    """A stage. total: None while it is not known; read, kept, dropped, quarantined: documents of its done parts;
    documents_per_second: over the parts of the last call that worked on it, None before one is done."""

    name: str
    done: int
    total: int | None
    running: int = 0
    retried: int = 0
    read: int = 0
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    quarantined: int = 0
    text_bytes: int = 0
    documents_per_second: float | None = None


@dataclass(frozen=True)
class Status:
    """A run's state. `seen`: seconds since the last sign of life, None where there is none; `where`: host and
    process that lead it; `error`: what ended it; `runs`: calls that worked on it."""

    name: str
    url: str
    state: State
    plan: str
    stages: tuple[StageStatus, ...]
    runs: int = 0
    seen: float | None = None
    where: str = ""
    error: str = ""

    def as_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)

    def sheets(self) -> list[Sheet]:
        """The figures as tables of text: stages, then reasons."""
        columns = (
            "stage",
            "parts",
            "running",
            "retried",
            "documents",
            "kept",
            "dropped",
            "quarantined",
            "documents/s",
        )
        rows = tuple(_row(stage) for stage in self.stages)
        found = [Sheet("Stages", columns, rows)]
        for stage in self.stages:
            if stage.name == "split":
                continue  # writes down what the stages before it decided
            ranked = sorted(stage.dropped.items(), key=lambda item: (-item[1], item[0]))[:TOP_REASONS]
            reasons = tuple((name, f"{count:,}", share(count, stage.read)) for name, count in ranked)
            if reasons:
                found.append(
                    Sheet(f"Dropped in {stage.name}", ("reason", "documents", "of those read"), reasons)
                )
        return found

    @property
    def headline(self) -> str:
        told = {
            "finished": "finished",
            "running": f"running ({self.where})",
            "stale": f"stale: no sign of life for {_ago(self.seen)} ({self.where}); the same command goes on from here",
            "stopped": f"stopped{': ' + self.error if self.error else ''}; the same command goes on from here",
            "not started": "not started",
        }[self.state]
        return f"{self.name}: {told}"

    def __repr__(self) -> str:
        return f"Status({self.headline}; {self.url})"

    def _repr_html_(self) -> str:
        return html.page(
            self.headline, *map(html.sheet, self.sheets()), html.notes([self.url, f"plan {self.plan[:8]}"])
        )


def _row(stage: StageStatus) -> tuple[str, ...]:
    rate = stage.documents_per_second
    gone = sum(stage.dropped.values())
    return (
        stage.name,
        f"{stage.done:,}/{'?' if stage.total is None else f'{stage.total:,}'}",
        *(f"{x:,}" for x in (stage.running, stage.retried, stage.read, stage.kept)),
        f"{gone:,}" + (f" ({share(gone, stage.read)})" if gone else ""),
        f"{stage.quarantined:,}",
        "-" if rate is None else f"{rate:,.0f}",
    )


def _ago(seconds: float | None) -> str:
    if seconds is None:
        return "an unknown time"
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.0f} h"
    )


def read_status(
    run: str,
    options: Mapping[str, Any] | None = None,
    *,
    overrides: Iterable[str] = (),
    now: float | None = None,
) -> Status:
    """The status of the run in a folder (path or fsspec URL), or of the one that a recipe file writes to.

    SourceError where there is no run. `overrides`: as in `run_folder`; `now`: the Unix time to compare signs of life
    with.
    """
    folder = run_folder(run, overrides, options)
    there = is_there(folder, "plan.json")
    try:
        plan = _json(folder, "plan.json")
    except Exception as error:  # of many classes, by the driver of a remote store
        raise SourceError(f"{folder.url}: cannot be read ({type(error).__name__}: {error})") from error
    if not plan:
        if there:
            raise SourceError(f"{folder.url}: its plan.json cannot be read; is it a run's folder?")
        raise SourceError(
            f"{folder.url}: no run here (no plan.json); want the `output` of a recipe, or the recipe"
        )
    events = _events(folder)
    alive = _json(folder, ALIVE)
    seen = None if not alive else max((time.time() if now is None else now) - float(alive.get("t", 0.0)), 0.0)
    last = events[-1] if events else {}
    finished = folder.exists(MANIFEST)
    state = _state(finished, alive, seen, last)
    stages = tuple(_stages(folder, plan, events, at_work=state == "running", finished=finished))
    starts = [event for event in events if event.get("event") == "run_start"]
    return Status(
        name=str(plan.get("recipe", {}).get("name", "?")),
        url=folder.url,
        state=state,
        plan=str(starts[-1].get("plan", "")) if starts else "",
        stages=stages,
        runs=len(starts),
        seen=seen,
        where=f"process {alive.get('pid')} on {alive.get('host')}" if alive else "",
        error=str(last.get("error", "")) if state == "stopped" else "",
    )


def _state(finished: bool, alive: Mapping[str, Any], seen: float | None, last: Mapping[str, Any]) -> State:
    if seen is not None:
        late = STALE_BEATS * float(alive.get("every", 15.0))
        if seen <= late:
            return "running"
        return "finished" if finished else "stale"
    if finished:
        return "finished"
    return "stopped" if last else "not started"


def _json(folder: Folder, name: str) -> dict[str, Any]:
    """A JSON object; empty where there is none, or where it is being replaced."""
    with suppress(FileNotFoundError, ValueError):
        found = json.loads(folder.read_bytes(name))
        return found if isinstance(found, dict) else {}
    return {}


def _events(folder: Folder) -> list[dict[str, Any]]:
    """The lines of the log; a torn last one is left out."""
    try:
        lines = folder.read_bytes(LOG).splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        with suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict):
                found.append(event)
    return found


def _stages(
    folder: Folder, plan: Mapping[str, Any], events: list[dict[str, Any]], *, at_work: bool, finished: bool
) -> Iterable[StageStatus]:
    """The stages that have begun or whose size is known, in their order."""
    parts = int(plan.get("parts", 0))
    totals: dict[str, int | None] = {"filter": parts, "decide": 1, "write": None}
    for event in events:
        if event.get("event") == "stage_start" and event.get("stage") != "verify":
            totals[str(event.get("stage"))] = int(event.get("parts", 0))
    for name in dict.fromkeys((*STAGES, *totals)):
        if name in PASSING and finished:
            continue
        names = folder.list(f"stages/{name}")
        done = {Path(x).name.removesuffix(COMMIT) for x in names if x.endswith(COMMIT)}
        running = {Path(x).name.removesuffix(RUNNING) for x in names if x.endswith(RUNNING)} - done
        if name == "decide":
            done &= {"all"}
        if not (name in totals or done or running):
            continue
        total = totals.get(name)
        if finished:
            total = len(done)
        yield _stage(folder, name, sorted(done), total, events, len(running) if at_work else 0)


def _stage(
    folder: Folder, name: str, done: list[str], total: int | None, events: list[dict[str, Any]], running: int
) -> StageStatus:
    commits = [x for x in events if x.get("event") == "part_commit" and x.get("stage") == name]
    told: dict[str, dict[str, Any]] = {str(x.get("part")): x for x in commits}
    rest = [job for job in done if job not in told]
    read = in_parallel(folder, lambda job: _json(folder, f"stages/{name}/{job}{COMMIT}"), rest)
    records = [told[job] for job in done if job in told] + read
    dropped: dict[str, int] = {}
    for record in records:
        for reason, count in _reasons(record):
            dropped[reason] = dropped.get(reason, 0) + int(count)
    books = [record for record in records if "read" in record or "books" in record]

    def total_of(key: str) -> int:
        return sum(int(_first(record, key)) for record in books)

    return StageStatus(
        name=name,
        done=len(done),
        total=total,
        running=running,
        retried=sum(_attempt(record) > 1 for record in records),
        read=total_of("read"),
        kept=int(_last(records)) if name == "decide" and records else total_of("kept"),
        dropped=dropped,
        quarantined=total_of("quarantined"),
        text_bytes=sum(int(record.get("text_bytes", 0)) for record in records),
        documents_per_second=_rate(commits),
    )


def _attempt(record: Mapping[str, Any]) -> int:
    """Of a line of the log, or of a commit record."""
    return int(record["attempt"] if "attempt" in record else (record.get("where") or [1])[-1])


def _reasons(record: Mapping[str, Any]) -> Iterable[tuple[str, int]]:
    for book in record.get("books", [record]):
        yield from book.get("dropped", {}).items()


def _first(record: Mapping[str, Any], key: str) -> int:
    """A figure of a record; of one with several books the first, into which the documents come."""
    return int(record.get("books", [record])[0].get(key, 0))


def _last(records: list[dict[str, Any]]) -> int:
    return int(records[0].get("books", [{}])[-1].get("kept", 0))


def _rate(commits: list[dict[str, Any]]) -> float | None:
    """Documents a second over the parts of the last call, from when its first began to when its last ended."""
    mine = [x for x in commits if x.get("run") == commits[-1].get("run")] if commits else []
    if not mine:
        return None
    with suppress(ValueError, KeyError, TypeError):
        ends = [datetime.fromisoformat(x["t"]).timestamp() for x in mine]
        began = min(end - float(x.get("seconds", 0.0)) for end, x in zip(ends, mine, strict=True))
        span = max(ends) - began
        return sum(int(x.get("read", 0)) for x in mine) / span if span > 0 else None
    return None
