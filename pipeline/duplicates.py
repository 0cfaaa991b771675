"""`malmoi duplicates RUN`: pairs of documents side by side, with what differs marked.

Shown are the compared pairs nearest the threshold, above and below it, or the largest clusters. Both texts are
read from the run's kept documents; equal stretches of many words are cut to their ends.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from .alarms import samples
from .errors import SourceError
from .run_folder import is_there, run_folder
from .shards import part_file, read_rows
from .storage import Folder

NEAREST = "stages/decide/nearest.parquet"
RECORD = "stages/decide/all.commit.json"
AROUND = 8
"""Words of an equal stretch that are shown at each of its ends."""
MAX_WORDS = 4000

_TEXT = pa.schema([("text", pa.large_string())])
# A word with the space behind it; a character of a script without spaces is a word.
_ALONE = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"(?:[{_ALONE}]|[^\s{_ALONE}]+)\s*")
_SPACE = re.compile(r"\s+$")


@dataclass(frozen=True)
class Side:
    """A document of a pair. `fate`: what became of it: `stays`, or why it does not."""

    id: str
    source: str
    text: str
    fate: str


@dataclass(frozen=True)
class Pair:
    similarity: float
    left: Side
    right: Side

    @property
    def verdict(self) -> str:
        if "stays" == self.left.fate == self.right.fate:
            return "both stay"
        gone = [side for side in (self.left, self.right) if side.fate != "stays"]
        return "; ".join(f"{side.id}: {side.fate}" for side in gone)


def least_sure(folder: Folder, count: int) -> list[Pair]:
    """The compared pairs nearest the threshold, nearest first. SourceError where the run has not decided yet."""
    if not is_there(folder, NEAREST):
        raise SourceError(
            f"{folder.url}: no compared pairs there; want the folder of a run that deduplicated ({NEAREST} is missing)"
        )
    with folder.open(NEAREST) as stream:
        rows = pq.read_table(stream).slice(0, count).to_pylist()
    verdicts: dict[int, pa.Table] = {}

    def side(row: dict[str, Any], name: str) -> Side:
        part, place = row[f"{name}_part"], row[f"{name}_row"]
        if part not in verdicts:
            with folder.open(part_file(part, "verdict")) as stream:
                verdicts[part] = pq.read_table(stream)
        verdict = verdicts[part].slice(place, 1).to_pylist()[0]
        text = read_rows(folder, part, np.array([place]), _TEXT).column("text")[0].as_py()
        fate = "stays" if verdict["reason"] is None else f"left out ({verdict['reason']})"
        if verdict["duplicate_of"] is not None:
            fate = f"removed for {verdict['duplicate_of']} ({verdict['similarity']:.3f})"
        return Side(row[f"{name}_id"], row[f"{name}_source"], text, fate)

    return [Pair(row["similarity"], side(row, "a"), side(row, "b")) for row in rows]


def marked(left: str, right: str) -> tuple[list[tuple[str, bool]], list[tuple[str, bool]]]:
    """Both texts as pieces (text, differs), equal stretches shortened; white space counts as one space."""
    words = [[_SPACE.sub(" ", word) for word in _WORD.findall(text)[:MAX_WORDS]] for text in (left, right)]
    sides: tuple[list[tuple[str, bool]], list[tuple[str, bool]]] = ([], [])
    blocks = difflib.SequenceMatcher(None, words[0], words[1], autojunk=False).get_opcodes()
    for number, (kind, a, b, c, d) in enumerate(blocks):
        for side, piece in zip(sides, (words[0][a:b], words[1][c:d]), strict=True):
            if kind == "equal":
                piece = _ends(piece, first=number == 0, last=number == len(blocks) - 1)
            if piece:
                side.append(("".join(piece).strip(), kind != "equal"))
    return sides


def _ends(words: list[str], *, first: bool, last: bool) -> list[str]:
    head, tail = 0 if first else AROUND, 0 if last else AROUND
    if first and last:
        head = AROUND
    if len(words) <= head + tail + 1:
        return words
    return [*words[:head], f"[... {len(words) - head - tail} words ...] ", *words[len(words) - tail :]]


def print_duplicates(
    run: str,
    console: Console,
    count: int = 20,
    clusters: int | None = None,
    plain: bool = False,
    overrides: Iterable[str] = (),
) -> None:
    """Print pairs, or with `clusters` the largest clusters. `plain`: without colour and columns, differences in
    [- -] and {+ +}; so it is wherever the output is no terminal. `run`, `overrides`: as in `run_folder`."""
    folder = run_folder(run, overrides)
    if clusters is not None:
        _print_clusters(folder, console, clusters)
        return
    pairs = least_sure(folder, count)
    threshold = _threshold(folder)
    console.print(
        f"{len(pairs)} compared pairs nearest the threshold{threshold}, nearest first", highlight=False
    )
    for pair in pairs:
        console.print()
        head = f"{pair.similarity:.4f}  {pair.verdict}"
        console.print(Text(head, style="bold"), soft_wrap=True)
        if plain or not console.is_terminal:
            _print_plain(pair, console)
        else:
            _print_beside(pair, console)


def _threshold(folder: Folder) -> str:
    plan = json.loads(folder.read_bytes("plan.json")) if folder.exists("plan.json") else {}
    value = plan.get("recipe", {}).get("dedup", {}).get("fuzzy", {}).get("threshold")
    return f" {value:g}" if value is not None else ""


def _print_clusters(folder: Folder, console: Console, clusters: int) -> None:
    if not is_there(folder, RECORD):
        raise SourceError(f"{folder.url}: not a run that deduplicated: {RECORD} is missing")
    found = json.loads(folder.read_bytes(RECORD)).get("largest", [])
    console.print(f"the largest of the clusters ({len(found[:clusters])} shown)", highlight=False)
    for line in samples(folder, found[:clusters]):
        console.print(Text(line), soft_wrap=True)


def _print_plain(pair: Pair, console: Console) -> None:
    for side, pieces, (begin, end) in zip(
        (pair.left, pair.right),
        marked(pair.left.text, pair.right.text),
        (("[-", "-]"), ("{+", "+}")),
        strict=True,
    ):
        text = " ".join(f"{begin}{piece}{end}" if differs else piece for piece, differs in pieces)
        console.print(Text(f"{side.id} ({side.source})"), soft_wrap=True)
        console.print(Text(f"  {text}"), soft_wrap=True)


def _print_beside(pair: Pair, console: Console) -> None:
    """Two columns, each wrapped by itself; wide (CJK) characters take two cells."""
    width = (console.width - 3) // 2
    columns = []
    for side, pieces, style in zip(
        (pair.left, pair.right), marked(pair.left.text, pair.right.text), ("red", "green"), strict=True
    ):
        text = Text(f"{side.id} ({side.source})\n", style="")
        text.stylize("dim")
        body = Text()
        for piece, differs in pieces:
            body.append(piece, style=f"bold {style}" if differs else "")
            body.append(" ")
        columns.append([*text.wrap(console, width), *body.wrap(console, width)])
    for left, right in _beside(*columns):
        gap = " " * max(0, width - cell_len(left.plain))
        console.print(Text.assemble(left, gap, " | ", right), soft_wrap=True)


def _beside(left: list[Text], right: list[Text]) -> Iterator[tuple[Text, Text]]:
    for line in range(max(len(left), len(right))):
        pieces = [column[line].copy() if line < len(column) else Text() for column in (left, right)]
        for piece in pieces:
            piece.rstrip()
        yield pieces[0], pieces[1]
