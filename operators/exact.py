"""Exact copies: 128-bit hashes of documents.

The scheme `xxh64x2-ws-v1`: white space (the Unicode property White_Space) is trimmed, every run of it becomes
one space, and the UTF-8 of the rest is hashed with xxh64, seeds 0 and 1. Case, punctuation and the form of
composed characters count; composing them is the normaliser's work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .analysis import analyse
from .byte_masks import lowest, masks
from .code_points import SPACE, code_points
from .contract import TEXT, Kind, with_columns
from .hashing import xxh64
from .kernel import lean
from .lanes import INT64, data_of, load, store
from .normalise import text_buffers
from .words import decode_safely

TEXT_SCHEME = "xxh64x2-ws-v1"
ID_SCHEME = "xxh64x2-id-v1"

_REACH = 128
"""Bytes from a place on that must be there where 64 of them are looked at and copied from any one on."""


@dataclass(frozen=True)
class ExactHash:
    """Adds `exact_lo`, `exact_hi`: two documents are exact copies where both are equal."""

    name: ClassVar[str] = "exact_hash"
    version: ClassVar[int] = 1
    kind: ClassVar[Kind] = "signal"
    reference: ClassVar[str] = "xxHash specification 0.1.1, XXH64"

    @property
    def needs(self) -> tuple[str, ...]:
        return (TEXT,)

    @property
    def adds(self) -> pa.Schema:
        return pa.schema([("exact_lo", pa.uint64()), ("exact_hi", pa.uint64())])

    @property
    def scheme(self) -> str:
        return TEXT_SCHEME

    def __call__(self, table: pa.Table) -> pa.Table:
        lo, hi = text_hash(table)
        return with_columns(table, [("exact_lo", pa.array(lo)), ("exact_hi", pa.array(hi))])


def text_hash(column: pa.Table | pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """(lo, hi) uint64 [rows]: xxh64 with seed 0 and with seed 1 of every text with its white space collapsed.

    `column`: a text column, or a table with `text`.
    """
    batch = analyse(column)
    lo = np.empty(len(batch.offsets) - 1, dtype=np.uint64)
    hi = np.empty_like(lo)
    scratch = np.empty(int(np.diff(batch.offsets).max(initial=0)) + 64, dtype=np.uint8)
    _text_hashes(batch.data, batch.offsets, code_points()[0], scratch, lo, hi)
    return lo, hi


def id_hash(
    source: pa.Array | pa.ChunkedArray, id: pa.Array | pa.ChunkedArray
) -> tuple[np.ndarray, np.ndarray]:
    """(lo, hi) uint64 [rows]: xxh64 with seed 0 and with seed 1 of source + "\\0" + id, UTF-8.

    Raises ValueError where a source or an id is null.
    """
    missing = source.null_count + id.null_count
    if missing:
        raise ValueError(f"want a source and an id in every row, got {missing} nulls")
    text = pa.large_string()
    names = pc.binary_join_element_wise(source.cast(text), id.cast(text), pa.scalar("\0", text))
    if isinstance(names, pa.ChunkedArray):
        names = names.combine_chunks()
    lo = np.empty(len(names), dtype=np.uint64)
    hi = np.empty_like(lo)
    _hashes(*text_buffers(names), lo, hi)
    return lo, hi


@lean
def _hashes(data: np.ndarray, offsets: np.ndarray, lo: np.ndarray, hi: np.ndarray) -> None:
    for row in range(len(lo)):
        lo[row] = xxh64(data, offsets[row], offsets[row + 1], np.uint64(0))
        hi[row] = xxh64(data, offsets[row], offsets[row + 1], np.uint64(1))


_white_masks = masks(
    (((0, 0x20, 0x20),), ((0, 0x09, 0x0D),)),  # white space of ASCII
    (((0, 0xC2, 0xC2),), ((0, 0xE1, 0xE3),)),  # may begin other white space
)


@intrinsic
def _other_white(typing: Any, data: Any, p: Any) -> Any:
    """With which of the 64 bytes from `p` on white space outside ASCII may begin; the first one's bit is the lowest.

    Where text is not UTF-8, it has whatever is to be looked at as a character. Reads 66 bytes.
    """

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        start = data_of(context, builder, signature, values, 0)
        places = [builder.add(values[1], ir.Constant(INT64, k)) for k in range(3)]
        lead, second, third = (load(builder, start, place, 64) for place in places)
        short = (second & 0xC0).compare("!=", 0x80)
        broken = short | (third & 0xC0).compare("!=", 0x80)
        spaces = third.compare("<", 0x8B) | (third & 0xFE).compare("==", 0xA8) | third.compare("==", 0xAF)
        general = second.compare("==", 0x80) & spaces
        medium = second.compare("==", 0x81) & third.compare("==", 0x9F)
        wide = second.compare("==", 0x80) & third.compare("==", 0x80)
        other = lead.compare("==", 0xC2) & (short | second.compare("==", 0x85) | second.compare("==", 0xA0))
        other = other | (lead.compare("==", 0xE1) & (broken | second.compare("==", 0x9A)))
        other = other | (lead.compare("==", 0xE2) & (broken | general | medium))
        other = other | (lead.compare("==", 0xE3) & (broken | wide))
        return other.cast(INT64).value

    return types.uint64(data, types.int64), emit


@intrinsic
def _copy_spaced(typing: Any, data: Any, p: Any, text: Any, w: Any) -> Any:
    """64 bytes from `p` to `w`, white space of ASCII as spaces."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        read, to = (data_of(context, builder, signature, values, n) for n in (0, 2))
        found = load(builder, read, values[1], 64)
        store(builder, to, values[3], (found - 0x09).compare("<", 5).where((found & 0) | 0x20, found))
        return context.get_dummy_value()

    return types.void(data, types.int64, text, types.int64), emit


@lean
def _collapse_plain(
    data: np.ndarray, p: int, end: int, text: np.ndarray, w: int, white: np.uint64
) -> tuple[int, int, np.uint64]:
    """From `p` on, 64 bytes at a time, until there is something else: (position, bytes written, last one is white)."""
    every = np.uint64(0xFFFFFFFFFFFFFFFF)
    while p < end and p + _REACH <= len(data):
        blanks, other = _white_masks(data, p)
        if other:
            other = _other_white(data, p)
        take = min(64, end - p, lowest(other))
        if take == 0:
            break
        within = np.uint64(every >> np.uint64(64 - take))
        blanks &= within
        keep = np.uint64(within & ~np.uint64(blanks & np.uint64(np.uint64(blanks << np.uint64(1)) | white)))
        white = np.uint64(blanks >> np.uint64(take - 1))
        while keep:
            first = lowest(keep)
            run = lowest(np.uint64(~np.uint64(keep >> np.uint64(first))))
            _copy_spaced(data, p + first, text, w)
            w += run
            if first + run >= 64:
                break
            keep &= np.uint64(every << np.uint64(first + run))
        p += take
    return p, w, white


@lean
def _text_hashes(
    data: np.ndarray,
    offsets: np.ndarray,
    classes: np.ndarray,
    text: np.ndarray,
    lo: np.ndarray,
    hi: np.ndarray,
) -> None:
    for document in range(len(lo)):
        p, end, w, white = offsets[document], offsets[document + 1], 0, np.uint64(1)
        while p < end:
            p, w, white = _collapse_plain(data, p, end, text, w, white)
            while p < end:
                b, after, blank = data[p], p + 1, False
                # Else nothing that can be white space.
                if b <= 0x20 or b == 0xC2 or 0xE1 <= b <= 0xE3:
                    point, after = decode_safely(data, p, end)
                    blank = classes[point] == SPACE
                if blank:
                    text[w] = 32
                    w, white = w + (0 if white else 1), np.uint64(1)
                else:
                    for i in range(p, after):
                        text[w] = data[i]
                        w += 1
                    white = np.uint64(0)
                p = after
                if p + _REACH <= len(data):
                    break
        if white and w > 0:
            w -= 1
        lo[document] = xxh64(text, 0, w, np.uint64(0))
        hi[document] = xxh64(text, 0, w, np.uint64(1))
