"""Exact copies: 128-bit hashes of documents.

The scheme `xxh64x2-ws-v1`: white space (the Unicode property White_Space) is trimmed, every run of it becomes
one space, and the UTF-8 of the rest is hashed with xxh64, seeds 0 and 1. Case, punctuation and the form of
composed characters count; composing them is the normaliser's work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .analysis import analyse
from .code_points import SPACE, code_points
from .contract import TEXT, Kind, with_columns
from .hashing import xxh64
from .kernel import lean
from .normalise import text_buffers
from .words import decode_safely

TEXT_SCHEME = "xxh64x2-ws-v1"
ID_SCHEME = "xxh64x2-id-v1"


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
    scratch = np.empty(int(np.diff(batch.offsets).max(initial=0)), dtype=np.uint8)
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
        p, end, w, blank = offsets[document], offsets[document + 1], 0, False
        while p < end:
            b = data[p]
            # Nothing that can be white space:
            if b > 0x20 and b != 0x7F and b != 0xC2 and (b < 0xE1 or b > 0xE3):
                if blank:
                    text[w] = 32
                    w, blank = w + 1, False
                text[w] = b
                w += 1
                p += 1
                continue
            point, after = decode_safely(data, p, end)
            if classes[point] == SPACE:
                blank = w > 0
            else:
                if blank:
                    text[w] = 32
                    w, blank = w + 1, False
                for i in range(p, after):
                    text[w] = data[i]
                    w += 1
            p = after
        lo[document] = xxh64(text, 0, w, np.uint64(0))
        hi[document] = xxh64(text, 0, w, np.uint64(1))
