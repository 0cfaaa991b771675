"""Evidence as a notebook shows it: duplicates side by side, the fate of a document."""

from __future__ import annotations

import difflib
import io
from dataclasses import dataclass, field
from html import escape

import pyarrow as pa
from rich.console import Console

from malmoi.operators.contract import DROP, TEXT, Operator

from . import html
from .storage import Folder
from .why import Fate, print_fates


@dataclass(frozen=True, eq=False)
class Duplicates:
    """Removed documents beside those that stayed. `table`: id, source, text, drop, duplicate_of,
    duplicate_source, similarity, stays (the survivor's text); `total`: how many were removed in all."""

    table: pa.Table
    total: int

    def __repr__(self) -> str:
        return f"Duplicates({self.table.num_rows:,} of {self.total:,})"

    def _repr_html_(self) -> str:
        rows = []
        for row in self.table.slice(0, 20).to_pylist():
            left, right = _side_by_side(row["stays"] or "", row[TEXT])
            names = [
                escape(f"{row[a]} ({row[b]})")
                for a, b in (("duplicate_of", "duplicate_source"), ("id", "source"))
            ]
            kind = escape(row[DROP].partition("_")[0])
            head = f"{kind}, {row['similarity']:.3f}"
            rows.append([head, f"<b>{names[0]}</b>{left}", f"<b>{names[1]}</b>{right}"])
        shown = f"{len(rows):,} of {self.total:,} removed duplicates"
        return html.page(shown, html.raw_table("", ("similarity", "stays", "removed"), rows, words=3))


@dataclass(frozen=True, eq=False)
class Why:
    """The fates of the documents with one id (one in each source at most)."""

    fates: tuple[Fate, ...]
    folder: Folder = field(repr=False)
    steps: tuple[Operator, ...] = field(repr=False)

    def _printed(self) -> Console:
        console = Console(record=True, file=io.StringIO(), width=110, highlight=False, force_jupyter=False)
        print_fates(self.folder, self.steps, self.fates, console)
        return console

    def __repr__(self) -> str:
        return self._printed().export_text().rstrip()

    def _repr_html_(self) -> str:
        style = "font-size:12px;line-height:1.35;background:transparent"
        code = f'<pre style="{style}"><code>{{code}}</code></pre>'
        return self._printed().export_html(inline_styles=True, code_format=code)


def _side_by_side(stays: str, removed: str, *, limit: int = 900) -> tuple[str, str]:
    """Both texts as HTML with the words marked that the other has not."""
    left, right = stays[:limit].split(" "), removed[:limit].split(" ")
    sides: tuple[list[str], list[str]] = ([], [])
    for kind, a, b, c, d in difflib.SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        for side, words, colour in ((sides[0], left[a:b], html.BLUE), (sides[1], right[c:d], html.RED)):
            joined = escape(" ".join(words))
            if joined and kind != "equal":
                joined = f'<span style="background:{colour}55">{joined}</span>'
            side.append(joined)
    box = '<div style="white-space:pre-wrap;text-align:left;max-width:42em">{}</div>'
    ends = [" …" if len(text) > limit else "" for text in (stays, removed)]
    return box.format(" ".join(filter(None, sides[0])) + ends[0]), box.format(
        " ".join(filter(None, sides[1])) + ends[1]
    )
