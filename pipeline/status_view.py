"""`malmoi status`: the status of a run on the terminal, once or again and again."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .status import Status, read_status


def print_status(
    run: str,
    console: Console,
    *,
    overrides: Sequence[str] = (),
    as_json: bool = False,
    watch: float | None = None,
) -> Status:
    """Print the status; with `watch` every so many seconds, until the run is no longer running."""
    while True:
        found = read_status(run, overrides=overrides)
        if as_json:
            console.print(found.as_json(), markup=False, highlight=False, soft_wrap=True)
        else:
            _print(found, console)
        if watch is None or found.state != "running":
            return found
        time.sleep(max(watch, 1.0))


def _print(found: Status, console: Console) -> None:
    colour = {"finished": "green", "running": "green", "stale": "red", "stopped": "red"}.get(
        found.state, "bold"
    )
    console.print(f"[{colour}]{escape(found.headline)}[/]", soft_wrap=True)
    calls = f", {found.runs} call{'' if found.runs == 1 else 's'}" if found.runs else ""
    console.print(escape(f"{found.url}  (plan {found.plan[:8] or 'unknown'}{calls})"), soft_wrap=True)
    sheets = found.sheets()
    for sheet in sheets:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for index, heading in enumerate(sheet.columns):
            table.add_column(heading, justify="right" if index else "left", no_wrap=True)
        for row in sheet.rows:
            table.add_row(*map(escape, row))
        console.print()
        if sheet is not sheets[0]:
            console.print(escape(sheet.title))
        console.print(table, soft_wrap=True)
