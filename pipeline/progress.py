"""Progress of a stage: a live bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

Tick = Callable[[Mapping[str, Any]], None]

LINE_SECONDS = 5.0
TOP_REASONS = 3


@dataclass
class Tally:
    """What a stage has done so far."""

    stage: str
    total: int
    clock: Callable[[], float]
    started: float
    done: int = 0
    read: int = 0
    text_bytes: int = 0
    quarantined: int = 0
    earlier: tuple[int, int] = (0, 0)
    dropped: Counter[str] = field(default_factory=Counter)

    def add(self, counts: Mapping[str, Any]) -> None:
        """Counts of one finished part: read, dropped {reason: n}, quarantined, text_bytes; all optional.

        With `earlier` the part was finished by an earlier call: it counts, but not towards the speed.
        """
        self.done += 1
        if counts.get("earlier"):
            documents, text_bytes = self.earlier
            self.earlier = (
                documents + int(counts.get("read", 0)),
                text_bytes + int(counts.get("text_bytes", 0)),
            )
        self.read += int(counts.get("read", 0))
        self.text_bytes += int(counts.get("text_bytes", 0))
        self.quarantined += int(counts.get("quarantined", 0))
        self.dropped.update(counts.get("dropped", {}))

    @property
    def seconds(self) -> float:
        return max(self.clock() - self.started, 1e-9)

    @property
    def parts(self) -> str:
        return f"{self.done}/{self.total}"

    @property
    def speed(self) -> str:
        documents, text_bytes = self.read - self.earlier[0], self.text_bytes - self.earlier[1]
        return f"{documents / self.seconds:,.0f} docs/s  {text_bytes / 1e6 / self.seconds:,.1f} MB/s"

    @property
    def losses(self) -> str:
        """Share of the documents read: dropped in all, by the commonest reasons, quarantined."""
        gone = sum(self.dropped.values())
        if not self.read or not (gone or self.quarantined):
            return ""
        top = sorted(self.dropped.items(), key=lambda item: (-item[1], item[0]))[:TOP_REASONS]
        reasons = ", ".join(f"{name} {_percent(count, self.read)}" for name, count in top)
        shown = f"dropped {_percent(gone, self.read)}" + (f" ({reasons})" if reasons else "") if gone else ""
        bad = f"quarantined {self.quarantined:,}" if self.quarantined else ""
        return ", ".join(text for text in (shown, bad) if text)

    @property
    def closing(self) -> str:
        losses = f", {self.losses}" if self.losses else ""
        return f"{self.stage}: {self.read:,} documents in {self.seconds:.1f} s, {self.speed}{losses}"


def _percent(count: int, of: int) -> str:
    return f"{100 * count / of:.1f} %"


@contextmanager
def stage_progress(
    name: str, total_parts: int, console: Console, *, clock: Callable[[], float] = time.monotonic
) -> Iterator[Tick]:
    """`with stage_progress("filter", 12, console) as tick: tick(counts)`, once for each finished part.

    In a terminal a live bar, replaced by a closing line; elsewhere a line at most every five seconds and a
    closing line. No closing line if the block raises.
    """
    tally = Tally(name, total_parts, clock, clock())
    show = _live if console.is_terminal else _lines
    with show(tally, console) as tick:
        yield tick
    console.print(escape(tally.closing), soft_wrap=True, highlight=False)


@contextmanager
def _live(tally: Tally, console: Console) -> Iterator[Tick]:
    columns = (
        SpinnerColumn(),
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[parts]} parts  {task.fields[speed]}  [dim]{task.fields[losses]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(tally.stage, total=tally.total, parts=tally.parts, speed="", losses="")

        def tick(counts: Mapping[str, Any]) -> None:
            tally.add(counts)
            losses = escape(tally.losses)
            bar.update(task, completed=tally.done, parts=tally.parts, speed=tally.speed, losses=losses)

        yield tick


@contextmanager
def _lines(tally: Tally, console: Console) -> Iterator[Tick]:
    last = tally.started

    def tick(counts: Mapping[str, Any]) -> None:
        nonlocal last
        tally.add(counts)
        now = tally.clock()
        if now - last >= LINE_SECONDS and tally.done < tally.total:
            last = now
            losses = f"  {tally.losses}" if tally.losses else ""
            line = f"{tally.stage}: {tally.parts} parts  {tally.speed}{losses}"
            console.print(escape(line), soft_wrap=True, highlight=False)

    yield tick
