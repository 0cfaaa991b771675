"""The summary that a run ends with."""

from __future__ import annotations

from collections.abc import Mapping

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from .figures import Sheet, headline, sheets, speed
from .manifest import Manifest

GAP = 3


def print_summary(manifest: Manifest, seconds: Mapping[str, float], console: Console, place: str) -> None:
    """Print what was read, kept and dropped and why, how the corpus is composed, and where it lies.

    `seconds`: wall seconds of each stage and of the whole run (`total`), as far as known; `place`: the run's
    folder.
    """
    console.print()
    console.print(Text(f"{manifest.name}: {headline(manifest)}", style="bold"), soft_wrap=True)
    for sheet in sheets(manifest, seconds):
        console.print()
        head, *body = _lines(sheet, console.width)
        console.print(Text(head, style="bold"), soft_wrap=True)
        for line in body:
            console.print(Text(line), soft_wrap=True)
        for note in sheet.notes:
            console.print(Text(note, style="dim"))
    console.print()
    first = manifest.books[0] if manifest.books else None
    if first is not None and seconds.get("total"):
        times = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items() if name != "total")
        rate = speed(first.read_bytes, seconds["total"])
        line = f"Time     {seconds['total']:.1f} s for {first.read_bytes / 1e6:,.1f} MB of text: {rate} MB/s"
        console.print(Text(f"{line} ({times})" if times else line), soft_wrap=True)
    for name, value in (
        ("Corpus", f"{place}/corpus"),
        ("Dropped", f"{place}/dropped"),
        ("Manifest", f"{place}/manifest.json ({manifest.manifest_hash[:16]})"),
    ):
        console.print(Text(f"{name:<8} {value}"), soft_wrap=True)


def _lines(sheet: Sheet, width: int) -> list[str]:
    """The table with its title over the first column; wide (CJK) characters take two cells."""
    rows = [(sheet.title, *sheet.columns[1:]), *sheet.rows]
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    widths[0] = max(12, min(widths[0], width - sum(widths[1:]) - GAP * len(widths)))
    words = 2 if "stage" in sheet.columns[1:] else 1
    lines = []
    for row in rows:
        first = row[0] if cell_len(row[0]) <= widths[0] else set_cell_size(row[0], widths[0] - 1) + "…"
        cells = []
        for index, (cell, cells_wide) in enumerate(zip((first, *row[1:]), widths, strict=True)):
            blank = " " * (cells_wide - cell_len(cell))
            cells.append(cell + blank if index < words else blank + cell)
        lines.append((" " * GAP).join(cells).rstrip())
    return lines
