"""What all operators of a batch need of its text, found once: characters, words, lines, paragraphs, hashes.

`analyse(table)` remembers its last few results by the identity of the text column's Arrow buffers, so
operators that know nothing of each other share one analysis. Every part is made when it is first asked for.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from .byte_masks import below, bits_in, lowest, masks
from .code_points import encode
from .contract import TEXT
from .datatrove_tables import english_rules
from .hash_lanes import LONG, hash_eight, hash_eight_lower
from .hashing import xxh64
from .kernel import lean
from .lanes import put_places
from .normalise import text_array, text_buffers
from .spans import count_points, find_lines, join_paragraphs
from .text_scan import strip_lines
from .unicode_tables import LETTER, NUMBER, SYMBOL, lower_case
from .word_runs import WRITTEN
from .words import decode_safely, segment, tables_of

REMEMBERED = 4
_BLOCK = 1024


@dataclass(frozen=True, eq=False)
class Spans:
    """Pieces of the documents of a batch; S pieces in all.

    first: int64 [documents + 1], the pieces of document i are first[i]:first[i + 1]; start, end: int64 [S]
    bytes in `data`; chars: int32 [S] code points; flags: uint8 [S], 1 = has a letter, 2 = has a number,
    4 = nothing but punctuation and symbols, 8 = may have a capital.
    """

    data: np.ndarray
    first: np.ndarray
    start: np.ndarray
    end: np.ndarray
    chars: np.ndarray
    flags: np.ndarray

    @cached_property
    def hash(self) -> np.ndarray:
        """uint64 [S]: xxh64 (seed 0) of the bytes."""
        out = np.empty(len(self.start), np.uint64)
        _hash_spans(self.data, self.start, self.end, len(self.data) < 16 * len(out), out)
        return out

    @cached_property
    def lower_hash(self) -> np.ndarray:
        """uint64 [S]: xxh64 (seed 0) of the UTF-8 after simple lower-casing, code point by code point."""
        return self._lower_hashes(self.first, np.arange(len(self.first) - 1))

    def _lower_hashes(self, first: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """`lower_hash` of some documents; `first` int64 [rows + 1]: where each of them begins."""
        out = np.empty(int(first[-1]), np.uint64)
        # Bytes that are not UTF-8 are no characters in `chars`; a lower case has at most a byte more.
        scratch = np.empty(int((self.end - self.start).max(initial=0)) * 2 + 8, np.uint8)
        spans, numbers = (self.start, self.end, self.chars, self.flags), np.empty((3, _BLOCK + 8), np.int64)
        room = (*numbers, np.empty(_BLOCK, np.uint64))
        _hash_lower(self.data, (rows, first, self.first), spans, self.hash, lower_case(), scratch, room, out)
        return out


@dataclass(frozen=True, eq=False)
class TextBatch:
    """The text of a batch. data: uint8 [N] UTF-8; offsets: int64 [documents + 1], from 0 to N."""

    data: np.ndarray
    offsets: np.ndarray

    @property
    def num_docs(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def num_chars(self) -> np.ndarray:
        """int64 [documents] code points."""
        out = np.zeros(self.num_docs, np.int64)
        _count_chars(self.data, self.offsets, out)
        return out

    def _segments(self, any_of: int) -> Spans:
        # A third: of Chinese every character is a word, and what is not written to takes no memory.
        first, room = np.empty(self.num_docs + 1, np.int64), len(self.data) // 3 + 1024
        while True:
            spans = _room(room)
            found = int(segment(self.data, self.offsets, tables_of(), any_of, first, spans))
            if found + WRITTEN <= room:
                return Spans(self.data, first, *(part[:found] for part in spans))
            room = found + WRITTEN

    @cached_property
    def words(self) -> Spans:
        """UAX #29 segments with at least one letter or number."""
        part = self.__dict__.get("part_of")
        if not part:
            return self._segments(LETTER | NUMBER)
        words, rows, offsets = part
        return _take(words, rows, offsets, self)

    @cached_property
    def lower_words(self) -> tuple[np.ndarray, np.ndarray]:
        """`words.first` and `words.lower_hash`; of a batch that is part of another without taking its words over."""
        part = self.__dict__.get("part_of")
        if not part:
            return self.words.first, self.words.lower_hash
        words, rows, _ = part
        first = _first_of(words, rows)
        return first, words._lower_hashes(first, rows)

    @cached_property
    def tokens(self) -> Spans:
        """UAX #29 segments that are more than white space: words, punctuation, symbols, emoji."""
        return self._segments(LETTER | NUMBER | SYMBOL)

    @cached_property
    def lines(self) -> Spans:
        r"""As `text.split("\n")`, the newline left out, empty lines kept; `flags` are 8."""
        first, room = np.empty(self.num_docs + 1, np.int64), len(self.data) // 16 + self.num_docs + 64
        while True:
            spans = _room(room)
            found = int(find_lines(self.data, self.offsets, first, spans))
            if found <= room:
                return _pieces(self.data, first, spans, found)
            room = found

    @cached_property
    def stripped(self) -> np.ndarray:
        """int64 [2, lines]: start and end of the lines without white space (as `str.isspace` has it)."""
        out = np.empty((2, len(self.lines.start)), np.int64)
        strip_lines(self.data, self.lines.start, self.lines.end, english_rules().kinds, out)
        return out

    @cached_property
    def paragraphs(self) -> Spans:
        r"""As `re.split(r"\n{2,}", text.strip())`; `flags` are 8."""
        first, lines = np.empty(self.num_docs + 1, np.int64), self.lines
        spans = _room(len(lines.start))
        parts = (lines.first, lines.start, lines.end, lines.chars)
        found = int(join_paragraphs(self.data, self.offsets, parts, self.stripped, first, spans))
        return _pieces(self.data, first, spans, found)


def _pieces(data: np.ndarray, first: np.ndarray, spans: tuple[np.ndarray, ...], found: int) -> Spans:
    spans[3][:found] = 8
    return Spans(data, first, *(part[:found] for part in spans))


def _room(spans: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    flags = np.empty(spans, np.uint8)
    return np.empty(spans, np.int64), np.empty(spans, np.int64), np.empty(spans, np.int32), flags


@lean
def _count_chars(data: np.ndarray, offsets: np.ndarray, out: np.ndarray) -> None:
    for document in range(len(out)):
        out[document] = count_points(data, offsets[document], offsets[document + 1])


@lean
def _hash_spans(data: np.ndarray, start: np.ndarray, end: np.ndarray, short: bool, out: np.ndarray) -> None:
    """`short`: most spans are words, and eight are hashed at once."""
    i, count = 0, len(start)
    while short and i + 8 <= count and end[i + 7] + 8 <= len(data):
        long_ = hash_eight(data, start, end, i, out, i)
        while long_:
            k = i + lowest(long_)
            out[k] = xxh64(data, start[k], end[k], np.uint64(0))
            long_ = np.uint64(long_ & (long_ - np.uint64(1)))
        i += 8
    for k in range(i, count):
        out[k] = xxh64(data, start[k], end[k], np.uint64(0))


@lean
def _lower(data: np.ndarray, p: int, end: int, lower: np.ndarray, scratch: np.ndarray) -> int:
    """Write the span into `scratch` with every code point as its lower case; how many bytes that is."""
    w = 0
    while p < end:
        b = data[p]
        if b < 0x80:
            scratch[w] = b + 32 if 65 <= b <= 90 else b
            p += 1
            w += 1
        else:
            point, after = decode_safely(data, p, end)
            if after > p + 1:
                w = encode(int(lower[point]) if point < len(lower) else point, scratch, w)
            else:  # no character; `hash_eight_lower` leaves it as it is, too
                scratch[w] = b
                w += 1
            p = after
    return w


_cased = masks((((0, 8, 255),),))  # of flags


@lean
def _hash_lower(
    data: np.ndarray,
    documents: tuple[np.ndarray, ...],
    spans: tuple[np.ndarray, ...],
    hashes: np.ndarray,
    lower: np.ndarray,
    scratch: np.ndarray,
    room: tuple[np.ndarray, ...],
    out: np.ndarray,
) -> None:
    """Copy the hashes of some documents' spans to `out`, and hash again the spans that may have a capital.

    documents: numbers, where each begins in `out`, where all begin among the spans. `room`: int64 places, starts,
    ends (eight to spare) and uint64 hashes, [_BLOCK] each, of words of ASCII, hashed eight at a time.
    """
    rows, out_first, all_first = documents
    start, end, chars, flags = spans
    places, first, last, found = room
    for row in range(len(rows)):
        stop, shift = all_first[rows[row] + 1], out_first[row] - all_first[rows[row]]
        for begin in range(all_first[rows[row]], stop, _BLOCK):
            last_one = min(begin + _BLOCK, stop)
            for i in range(begin, last_one):
                out[np.uint64(i + shift)] = hashes[np.uint64(i)]
            count = waiting = np.int64(0)
            for i in range(begin, last_one, 64):
                cased = np.uint64(_cased(flags, i)[0] & below(last_one - i))
                more = bits_in(cased)
                for k in range(0, more, 8):
                    cased = put_places(cased, i, places, count + k)
                count += more
            for k in range(count):
                i = places[k]
                size = end[i] - start[i]
                if size == chars[i] and size < LONG and end[i] + 8 <= len(data):
                    places[waiting], first[waiting], last[waiting] = i, start[i], end[i]
                    waiting += 1
                else:
                    size = _lower(data, start[i], end[i], lower, scratch)
                    out[i + shift] = xxh64(scratch, 0, size, np.uint64(0))
            for k in range(waiting, -(-waiting // 8) * 8):
                first[k] = last[k] = 0
            for k in range(0, waiting, 8):
                hash_eight_lower(data, first, last, k, found, k)
            for k in range(waiting):
                out[places[k] + shift] = found[k]


def text_column(source: pa.Table | pa.Array | pa.ChunkedArray) -> pa.LargeStringArray:
    """The text as one large_string array without a copy where it is one already; null becomes empty."""
    column = text_array(source.column(TEXT) if isinstance(source, pa.Table) else source)
    return column.fill_null("") if column.null_count else column


class _Memory(threading.local):
    """The last results of this thread: (identity, array that keeps the buffers alive, result)."""

    def __init__(self) -> None:
        self.entries: list[tuple[tuple[int, ...], object, TextBatch]] = []


_memory = _Memory()


def _identity(source: pa.Table | pa.Array | pa.ChunkedArray) -> tuple[int, ...]:
    column = source.column(TEXT) if isinstance(source, pa.Table) else source
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    identity: list[int] = []
    for chunk in chunks:
        identity += [chunk.offset, len(chunk)]
        identity += [buffer.address if buffer is not None else 0 for buffer in chunk.buffers()]
    return tuple(identity)


def analyse(source: pa.Table | pa.Array | pa.ChunkedArray) -> TextBatch:
    """The analysis of a table's column `text`, or of a text column itself."""
    key = _identity(source)
    for entry in _memory.entries:
        if entry[0] == key:
            return entry[2]
    column = text_column(source)
    batch = _batch(column)
    _remember(source, column, batch)
    return batch


def restrict(source: pa.Table, kept: pa.Table, is_kept: pa.ChunkedArray) -> None:
    """Remember the analysis of `kept`, the rows of `source` where the boolean `is_kept` holds, without a new search.

    The words of `source` are taken over where they were found and are asked for; what they hash to and the
    characters as well.
    """
    whole, column = analyse(source), text_column(kept)
    batch = _batch(column)
    rows = np.flatnonzero(is_kept.to_numpy())
    if "num_chars" in whole.__dict__:
        batch.__dict__["num_chars"] = whole.num_chars[rows]
    words = whole.__dict__.get("words")
    if words is not None:
        batch.__dict__["part_of"] = (words, rows, whole.offsets)
    _remember(kept, column, batch)


def _first_of(spans: Spans, rows: np.ndarray) -> np.ndarray:
    first = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(np.diff(spans.first)[rows], out=first[1:])
    return first


def _take(spans: Spans, rows: np.ndarray, offsets: np.ndarray, batch: TextBatch) -> Spans:
    """The spans of some documents, at their places in `batch`."""
    first = _first_of(spans, rows)
    hashes = spans.__dict__.get("hash", np.empty(0, np.uint64))
    start, end, chars, flags = _room(int(first[-1]))
    hash_ = np.empty(len(start) if len(hashes) else 0, np.uint64)
    old = (spans.start, spans.end, spans.chars, spans.flags, hashes)
    _copy_spans(rows, spans.first, offsets, batch.offsets, old, (start, end, chars, flags, hash_))
    taken = Spans(batch.data, first, start, end, chars, flags)
    if len(hashes):
        taken.__dict__["hash"] = hash_
    return taken


@lean
def _copy_spans(
    rows: np.ndarray,
    first: np.ndarray,
    offsets: np.ndarray,
    new_offsets: np.ndarray,
    old: tuple[np.ndarray, ...],
    new: tuple[np.ndarray, ...],
) -> None:
    start, end, chars, flags, hashes = old
    new_start, new_end, new_chars, new_flags, new_hashes = new
    i = 0
    for k in range(len(rows)):
        shift = new_offsets[k] - offsets[rows[k]]
        for j in range(first[rows[k]], first[rows[k] + 1]):
            new_start[i], new_end[i] = start[j] + shift, end[j] + shift
            new_chars[i], new_flags[i] = chars[j], flags[j]
            if len(new_hashes):
                new_hashes[i] = hashes[j]
            i += 1


def _remember(source: pa.Table | pa.Array | pa.ChunkedArray, column: pa.Array, batch: TextBatch) -> None:
    held = source.column(TEXT) if isinstance(source, pa.Table) else source
    _memory.entries = [*_memory.entries[-(REMEMBERED - 1) :], (_identity(source), (held, column), batch)]


def forget() -> None:
    """Let go of this thread's remembered analyses and the text that they hold."""
    _memory.entries = []


def _batch(column: pa.LargeStringArray) -> TextBatch:
    data, offsets = text_buffers(column)
    return TextBatch(data[offsets[0] : offsets[-1]], offsets - offsets[0])
