"""Normalise: text in NFC, with "\\n" as its only line end and without control characters.

A numba scan finds the documents that need anything at all; the others keep their bytes, and a batch in
which no document needs anything keeps its very buffers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .byte_masks import below, copy_block, lowest, masks
from .contract import TEXT, Kind, with_columns
from .kernel import inline, kernel, lean

_EDIT, _COMPOSE = 1, 2  # what a document needs
_NEWLINES, _CONTROLS, _SPACES, _BLANK_LINES = 0, 1, 2, 3  # columns of the switches and of the counts


def text_array(column: pa.Array | pa.ChunkedArray) -> pa.LargeStringArray:
    """One large_string array of the column, no copy where it is one chunk of that type; nulls stay."""
    if column.type != pa.large_string():  # before chunks are joined: theirs may be over 2 GB together
        column = column.cast(pa.large_string())
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    return column


def text_buffers(column: pa.LargeStringArray) -> tuple[np.ndarray, np.ndarray]:
    """(uint8 [bytes], int64 [rows + 1]): views of the array's buffers; the first offset need not be 0.

    They cannot be written to, wherever the buffers come from: of arrays that can, a kernel is compiled once more.
    """
    _, positions, data = column.buffers()
    if len(column) == 0 or positions is None:
        return np.frombuffer(b"", np.uint8), np.frombuffer(bytes(8), np.int64)
    offsets = np.frombuffer(positions, np.int64)[column.offset : column.offset + len(column) + 1]
    text = np.frombuffer(data if data is not None else b"", np.uint8)
    text.flags.writeable = offsets.flags.writeable = False
    return text, offsets


@cache
def quick_check_table() -> tuple[np.ndarray, np.ndarray]:
    """(uint8 [4352], uint8 [blocks, 256]) as written by benchmarks/make_nfc_table.py."""
    with np.load(Path(__file__).with_name("nfc_quick.npz")) as stored:
        return stored["index"], stored["blocks"]


@inline
def _newline_at(data: np.ndarray, p: int, end: int) -> int:
    """Bytes of the line end at `p` that is not a plain line feed, else 0."""
    b = data[p]
    if b == 0x0D:
        return 2 if p + 1 < end and data[p + 1] == 0x0A else 1
    if b == 0x0B or b == 0x0C:
        return 1
    if b == 0xC2 and p + 1 < end and data[p + 1] == 0x85:
        return 2
    if b == 0xE2 and p + 2 < end and data[p + 1] == 0x80 and (data[p + 2] == 0xA8 or data[p + 2] == 0xA9):
        return 3
    return 0


@inline
def _control_at(data: np.ndarray, p: int, end: int) -> int:
    """Bytes of the control character or U+FEFF at `p`, else 0; line ends are none."""
    b = data[p]
    if b < 0x20:
        return 0 if 0x09 <= b <= 0x0D else 1
    if b == 0x7F:
        return 1
    if b == 0xC2 and p + 1 < end and data[p + 1] < 0xA0 and data[p + 1] != 0x85:
        return 2
    if b == 0xEF and p + 2 < end and data[p + 1] == 0xBB and data[p + 2] == 0xBF:
        return 3
    return 0


# The bytes at which something may have to be done: controls, line ends, and what begins the code points that
# quick_check_table() does not give as 0, with few others. A test holds that it is so.
_LOOK = (
    ((0, 0x00, 0x08),),
    ((0, 0x0B, 0x1F),),
    ((0, 0x7F, 0x7F),),
    ((0, 0xC2, 0xC2), (1, 0x80, 0x9F)),
    ((0, 0xCC, 0xCE),),
    ((0, 0xD2, 0xD2),),
    ((0, 0xD4, 0xE1),),
    ((0, 0xE2, 0xE2), (1, 0x80, 0x80), (2, 0x80, 0x81)),
    ((0, 0xE2, 0xE2), (1, 0x80, 0x80), (2, 0xA8, 0xA9)),
    ((0, 0xE2, 0xE2), (1, 0x81, 0xBF)),
    ((0, 0xE3, 0xE3), (1, 0x80, 0x80), (2, 0xAA, 0xAF)),
    ((0, 0xE3, 0xE3), (1, 0x81, 0x81), (2, 0x80, 0x80)),
    ((0, 0xE3, 0xE3), (1, 0x82, 0x82), (2, 0x97, 0x9A)),
    ((0, 0xE3, 0xE3), (1, 0x84, 0x88)),
    ((0, 0xEA, 0xEA), (1, 0x80, 0xAF)),
    ((0, 0xED, 0xED), (1, 0x9E, 0x9E), (2, 0xA4, 0xBF)),
    ((0, 0xED, 0xED), (1, 0x9F, 0x9F)),
    ((0, 0xEF, 0xEF), (1, 0x80, 0xBC)),
    ((0, 0xEF, 0xEF), (1, 0xBE, 0xBF)),
    ((0, 0xF0, 0xFF),),
)
_look_ascii = masks(_LOOK[:3], (((0, 0x80, 0xFF),),))
_look = masks(_LOOK[3:])
# Bytes that `_edit` has to look at: the others it copies.
_special = masks(
    (
        ((0, 0x00, 0x1F),),
        ((0, 0x7F, 0x7F),),
        ((0, 0xC2, 0xC2),),
        ((0, 0xE2, 0xE2),),
        ((0, 0xEF, 0xFF),),
    )
)


@inline
def _code_at(data: np.ndarray, p: int, end: int) -> tuple[int, int]:
    """The code point of two bytes and more at `p`, and the position after it; nothing is read behind `end`."""
    b = int(data[p])
    if b < 0xE0 or p + 2 >= end:
        return (b & 0x1F) << 6 | int(data[min(p + 1, end - 1)]) & 0x3F, p + 2
    code = (b & 0x0F) << 12 | (int(data[p + 1]) & 0x3F) << 6 | int(data[p + 2]) & 0x3F
    if b < 0xF0:
        return code, p + 3
    return (code & 0x7FFF) << 6 | int(data[min(p + 3, end - 1)]) & 0x3F, p + 4


@lean
def _scan(
    data: np.ndarray,
    offsets: np.ndarray,
    index: np.ndarray,
    blocks: np.ndarray,
    on: np.ndarray,
    needs: np.ndarray,
) -> None:
    """Fill uint8 [rows]: _EDIT where a newline or a control must go, _COMPOSE where NFC is not certain."""
    for row in range(len(needs)):
        begin, end = offsets[row], offsets[row + 1]
        need, after = 0, begin
        last: Any = 0  # canonical combining class of the code point that ends at `after`
        while begin < end:
            bits, high = _look_ascii(data, begin)
            if high:
                bits |= _look(data, begin)[0]
            bits = np.uint64(bits & below(end - begin))
            while bits:
                p = begin + lowest(bits)
                bits = np.uint64(bits & (bits - np.uint64(1)))
                last = last if p == after else 0
                if on[0] and _newline_at(data, p, end) != 0:
                    need |= 1
                length = _control_at(data, p, end) if on[1] else 0
                if length != 0:  # it goes, so the marks on both its sides meet: `last` stays
                    need |= 1
                    after = p + length
                elif data[p] < 0x80:
                    last, after = 0, p + 1
                else:
                    code, after = _code_at(data, p, end)
                    kind = np.int64(blocks[index[min(code >> 8, 0x10FF)], code & 0xFF])
                    if kind != 0 and (kind == 255 or last > kind):
                        need |= 2
                    last = kind
            begin += 64
        needs[row] = need


@lean
def _strip(out: np.ndarray, first: int, w: int) -> tuple[int, int]:
    """Drop blanks (space, tab, U+00A0, U+3000) before position `w`; the new position and how many went."""
    gone = 0
    while w > first:
        if out[w - 1] == 0x20 or out[w - 1] == 0x09:
            w -= 1
        elif w - first >= 2 and out[w - 2] == 0xC2 and out[w - 1] == 0xA0:
            w -= 2
        elif w - first >= 3 and out[w - 3] == 0xE3 and out[w - 2] == 0x80 and out[w - 1] == 0x80:
            w -= 3
        else:
            break
        gone += 1
    return w, gone


@kernel
def _edit(
    data: np.ndarray, offsets: np.ndarray, on: np.ndarray, out: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """Write every document edited into `out`, what went into `counts` (int32 [rows, 4]); the new offsets."""
    rows = len(offsets) - 1
    places = np.zeros(rows + 1, np.int64)
    w = 0
    for row in range(rows):
        p, end, first = offsets[row], offsets[row + 1], w
        while p < end:
            plain = min(lowest(_special(data, p)[0]), end - p)
            if plain > 0 and p + 64 <= len(data) and w + 64 <= len(out):
                copy_block(out, w, data, p)
                w, p = w + plain, p + plain
                continue
            b = data[p]
            if plain > 0:
                out[w] = b
                w, p = w + 1, p + 1
                continue
            length = _newline_at(data, p, end) if on[0] else 0
            if length or b == 0x0A:
                counts[row, 0] += 1 if length else 0
                p += max(length, 1)
                if on[2]:
                    w, gone = _strip(out, first, w)
                    counts[row, 2] += gone
                if (
                    on[3]
                    and w - first >= 3
                    and out[w - 1] == 0x0A
                    and out[w - 2] == 0x0A
                    and out[w - 3] == 0x0A
                ):
                    counts[row, 3] += 1
                else:
                    out[w] = 0x0A
                    w += 1
                continue
            length = _control_at(data, p, end) if on[1] else 0
            if length:
                counts[row, 1] += 1
                p += length
                continue
            out[w] = b
            w += 1
            p += 1
        if on[2]:
            w, gone = _strip(out, first, w)
            counts[row, 2] += gone
        places[row + 1] = w
    return places


def _edited(column: pa.LargeStringArray, on: np.ndarray) -> tuple[pa.LargeStringArray, np.ndarray]:
    """The column (no nulls) after the switches, and int32 [rows, 4]: how often each switch acted."""
    data, offsets = text_buffers(column)
    counts = np.zeros((len(column), 4), np.int32)
    out = np.empty(offsets[-1] - offsets[0], np.uint8)
    places = _edit(data, offsets, on, out, counts)
    buffers = [None, pa.py_buffer(places), pa.py_buffer(out[: places[-1]])]
    return pa.Array.from_buffers(pa.large_string(), len(column), buffers), counts


@dataclass(frozen=True)
class Normalise:
    """Bring `text` to one form and record, per document, what was changed; doing it twice changes nothing.

    - `nfc`: Unicode Normalization Form C, so that a Hangul syllable is one code point whatever its source.
      Column `normalise.nfc` (bool): the text was not in NFC.
    - `newlines`: CR LF, CR, VT, FF, NEL (U+0085), LS (U+2028) and PS (U+2029) become "\\n", as the Unicode
      Standard section 5.8 lists them. Column `normalise.newlines` (int32): line ends replaced.
    - `controls`: every other character of category Cc but "\\n" and "\\t" goes, and U+FEFF (BOM). Joiners
      (U+200C, U+200D) stay: scripts and emoji need them. Column `normalise.controls` (int32): how many went.
    - `trailing_spaces`: blanks (space, tab, U+00A0, U+3000) at line ends go. Column
      `normalise.trailing_spaces` (int32): code points gone; only there if the switch is on.
    - `blank_lines`: more than three "\\n" in a row become three, so that at most two empty lines part text.
      Column `normalise.blank_lines` (int32): lines gone; only there if the switch is on.
    """

    name: ClassVar[str] = "normalise"
    version: ClassVar[int] = 1
    kind: ClassVar[Kind] = "editor"
    reference: ClassVar[str] = "Unicode Standard 5.8 (newlines), UAX #15 (NFC)"

    nfc: bool = True
    newlines: bool = True
    controls: bool = True
    trailing_spaces: bool = False
    blank_lines: bool = False

    @property
    def needs(self) -> tuple[str, ...]:
        return (TEXT,)

    @property
    def _counted(self) -> tuple[tuple[int, str], ...]:
        names = [(_NEWLINES, "newlines"), (_CONTROLS, "controls")]
        names += [(_SPACES, "trailing_spaces")] if self.trailing_spaces else []
        names += [(_BLANK_LINES, "blank_lines")] if self.blank_lines else []
        return tuple(names)

    @property
    def adds(self) -> pa.Schema:
        counts = [pa.field(f"normalise.{name}", pa.int32()) for _, name in self._counted]
        return pa.schema([pa.field("normalise.nfc", pa.bool_()), *counts])

    def __call__(self, table: pa.Table) -> pa.Table:
        column = text_array(table.column(TEXT))
        on = np.array([self.newlines, self.controls, self.trailing_spaces, self.blank_lines])
        needs = np.zeros(len(column), np.uint8)
        _scan(*text_buffers(column), *quick_check_table(), on, needs)
        needs &= np.uint8(_EDIT | _COMPOSE if self.nfc else _EDIT)
        if self.trailing_spaces or self.blank_lines:
            needs |= np.uint8(_EDIT)
        if column.null_count:
            needs[column.is_null().to_numpy(zero_copy_only=False)] = 0
        counts = np.zeros((len(column), 4), np.int32)
        composed = np.zeros(len(column), bool)
        rows = np.flatnonzero(needs)
        if len(rows):
            some, counts[rows] = _edited(column.take(pa.array(rows)), on)
            marked = np.flatnonzero(needs[rows] & _COMPOSE)
            before = some.take(pa.array(marked))
            after = pc.utf8_normalize(before, form="NFC")
            composed[rows[marked]] = pc.not_equal(before, after).to_numpy(zero_copy_only=False)
            some = pc.replace_with_mask(some, pa.array((needs[rows] & _COMPOSE) > 0), after)
            column = pc.replace_with_mask(column, pa.array(needs > 0), some)
        columns = [("normalise.nfc", pa.array(composed))]
        columns += [(f"normalise.{name}", pa.array(counts[:, slot])) for slot, name in self._counted]
        return with_columns(table, [(TEXT, column), *columns])
