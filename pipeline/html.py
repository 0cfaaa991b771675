"""Pieces of HTML for notebooks: tables, bars, histograms. Colours work on light and dark pages.

Everything that comes from data is escaped here; nothing loads from the network and nothing needs a plotting
library.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from .figures import Sheet

BLUE, RED = "#4c78a8", "#e45756"
_CELL = "padding:2px 12px 2px 0;vertical-align:top"
_NUMBER = f"{_CELL};text-align:right;font-variant-numeric:tabular-nums"


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1) -> str:
    """A table of text; the first `words` columns are set left, the others right."""
    return raw_table(title, columns, ([escape(cell) for cell in row] for row in rows), words=words)


def raw_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1) -> str:
    """A table whose cells are HTML already; title and headings are text."""

    def line(cells: Sequence[str], tag: str) -> str:
        styles = [_CELL + ";text-align:left" if i < words else _NUMBER for i in range(len(cells))]
        inner = (f'<{tag} style="{style}">{cell}</{tag}>' for style, cell in zip(styles, cells, strict=True))
        return f"<tr>{''.join(inner)}</tr>"

    head = line([escape(name) for name in columns], "th")
    body = "".join(line(row, "td") for row in rows)
    heading = f'<div style="font-weight:600;margin-top:10px">{escape(title)}</div>' if title else ""
    return (
        f'{heading}<table style="border-collapse:collapse"><thead>{head}</thead><tbody>{body}</tbody></table>'
    )


def sheet(found: Sheet) -> str:
    """A table of figures with its notes."""
    return table(
        found.title, found.columns, found.rows, words=2 if "stage" in found.columns[1:] else 1
    ) + notes(found.notes)


def notes(lines: Iterable[str]) -> str:
    return "".join(f'<div style="opacity:.7">{escape(line)}</div>' for line in lines)


def page(title: str, *parts: str) -> str:
    """A heading and what stands below it."""
    heading = f'<div style="font-size:1.1em;font-weight:600">{escape(title)}</div>'
    return f'<div class="malmoi" style="line-height:1.45">{heading}{"".join(parts)}</div>'


def bar(share: float, *, width: int = 90) -> str:
    """A share between 0 and 1 as a bar."""
    filled = round(width * min(max(share, 0.0), 1.0))
    return (
        f'<svg width="{width}" height="10" role="img"><rect width="{width}" height="10" fill="currentColor" '
        f'opacity=".12"/><rect width="{filled}" height="10" fill="{RED}"/></svg>'
    )


def histogram(counts: Sequence[int], failed: Sequence[int], *, width: int = 150, height: int = 28) -> str:
    """Columns of `counts`, of which `failed` stand in red at the foot of each."""
    top, step = max([*counts, 1]), width / max(len(counts), 1)
    bars = []
    for index, (count, bad) in enumerate(zip(counts, failed, strict=True)):
        for value, colour in ((count, BLUE), (bad, RED)):
            # a column of few documents is still seen beside one of many
            tall = max(height * value / top, 1.0) if value else 0.0
            if tall:
                bars.append(
                    f'<rect x="{index * step:.1f}" y="{height - tall:.1f}" width="{max(step - 0.5, 0.5):.1f}" '
                    f'height="{tall:.1f}" fill="{colour}"/>'
                )
    return f'<svg width="{width}" height="{height}" role="img">{"".join(bars)}</svg>'


def text(value: str, *, limit: int = 600) -> str:
    """A document's text as it stands, its beginning where it is long."""
    shown = escape(value[:limit]) + (" …" if len(value) > limit else "")
    return f'<div style="white-space:pre-wrap;text-align:left">{shown}</div>'
