"""Shingles: the sets of short runs of words or characters whose overlap says how alike two documents are.

The scheme `malmoi-shingle-v1`, published so that anyone can compute the same sets:

* The text is lower-cased code point by code point (simple case mapping).
* `ngram="word"`: a word is a run of letters, numbers and underscores (what `\\w+` finds), with the combining
  marks and the zero-width non-joiners inside it; a character of a script that is written without spaces
  (Han, Hiragana, Katakana, Thai, Lao, Khmer, Myanmar) is a word of its own, with its marks. A shingle is the
  UTF-8 of `n` consecutive words joined by one space, its hash `word_hash64`.
* `ngram="char"`: white space is trimmed and every run of it becomes one space. A shingle is the UTF-8 of `n`
  consecutive code points, its hash `char_hash64`.
* A document of fewer than `n` (but at least one) is one shingle; without any it has no shingles.
* A shingle's id in exact comparisons is the 64-bit hash; MinHash takes its upper 32 bits: `word_hash32` and
  `char_hash32` are what `datasketch.MinHash(hashfunc=...)` is given.

Words, not bytes, are hashed: the hash of a shingle is a polynomial in the xxh64 of its words, so that a word
is hashed once and not n times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Literal

import numpy as np
import pyarrow as pa
import xxhash

from .analysis import analyse
from .code_points import SPACE, code_points, encode
from .hash_lanes import combine_eight
from .hashing import xxh64
from .kernel import kernel, lean
from .shingle_words import waiting_room, word_hashes
from .words import decode_safely

SCHEME = "malmoi-shingle-v1"
Ngram = Literal["word", "char"]
BASE = 0x9E3779B97F4A7C15
"""The polynomial's base: 2^64 divided by the golden ratio, odd."""

RUN = 1 << 19
_MASK = (1 << 64) - 1


def word_hash64(shingle: bytes) -> int:
    """The id of a word shingle: fmix64(sum of xxh64(word_i) * BASE^(k-1-i) mod 2^64) of its k words.

    `shingle`: UTF-8 words joined by one space. `fmix64` is MurmurHash3's finalizer.
    """
    combined = 0
    for word in shingle.split(b" "):
        combined = (combined * BASE + xxhash.xxh64_intdigest(word, 0)) & _MASK
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        combined = ((combined ^ (combined >> 33)) * factor) & _MASK
    return combined ^ (combined >> 33)


def char_hash64(shingle: bytes) -> int:
    """The id of a character shingle: xxh64 of its UTF-8, seed 0."""
    return xxhash.xxh64_intdigest(shingle, 0)


def word_hash32(shingle: bytes) -> int:
    """What `datasketch.MinHash(hashfunc=...)` is given for word shingles: the upper half of `word_hash64`."""
    return word_hash64(shingle) >> 32


def char_hash32(shingle: bytes) -> int:
    """What `datasketch.MinHash(hashfunc=...)` is given for character shingles."""
    return char_hash64(shingle) >> 32


def hashfunc(ngram: Ngram) -> Callable[[bytes], int]:
    """`word_hash32` or `char_hash32`."""
    return word_hash32 if ngram == "word" else char_hash32


def shingle_ids(
    column: pa.Table | pa.Array | pa.ChunkedArray, ngram: Ngram, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """The ids of all shingles in text order, repeated ones too: (first int64 [rows + 1], ids uint64).

    The shingles of row i are `ids[first[i]:first[i + 1]]`. `column`: a text column, or a table with `text`.
    Raises ValueError where `size` < 1 or `ngram` is neither "word" nor "char".
    """
    batch = analyse(column)
    return next(_runs(batch.data, batch.offsets, [0, batch.num_docs], ngram, size))


def shingle_runs(
    column: pa.Table | pa.Array | pa.ChunkedArray, ngram: Ngram, size: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """The same for runs of documents: (row of the first, first, ids). A run is `RUN` bytes of text and more only where
    one document is, so that its hashes are still in the cache when they are used."""
    batch = analyse(column)
    rows = [0]
    while rows[-1] < batch.num_docs:
        after = int(np.searchsorted(batch.offsets, batch.offsets[rows[-1]] + RUN, side="right")) - 1
        rows.append(min(max(after, rows[-1] + 1), batch.num_docs))
    for row, (first, ids) in zip(rows, _runs(batch.data, batch.offsets, rows, ngram, size), strict=False):
        yield row, first, ids


def _runs(
    data: np.ndarray, offsets: np.ndarray, rows: list[int], ngram: Ngram, size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(first, ids) of the documents rows[k]:rows[k + 1] for every k."""
    if ngram not in ("word", "char") or size < 1:
        raise ValueError(f"want ngram word or char and size >= 1, got ngram={ngram!r}, size={size}")
    room = waiting_room(int(np.diff(offsets).max(initial=0)))
    hashes = np.empty(0, dtype=np.uint64)
    for row, after in pairwise(rows):
        run = offsets[row : after + 1]
        starts, first = np.zeros((2, len(run)), dtype=np.int64)
        num_bytes = int(run[-1] - run[0])
        if ngram == "char":
            ids = np.empty(num_bytes, dtype=np.uint64)
            _char_shingles(data, run, *code_points(), size, room[0], starts, ids)
        else:
            # Two words have at least a byte between them, or one of them is a character of three bytes.
            most = num_bytes // 2 + len(run) + size + 8
            hashes = hashes if len(hashes) >= most else np.empty(most, dtype=np.uint64)
            word_hashes(data, run, code_points(), room, first, hashes)
            ids = np.empty(int(first[-1]) + 8, dtype=np.uint64)
            _combine(first, hashes, size, starts, ids)
        yield starts, ids[: starts[-1]]


@lean
def _combine(first: np.ndarray, hashes: np.ndarray, size: int, starts: np.ndarray, ids: np.ndarray) -> None:
    place = 0
    for document in range(len(first) - 1):
        begin, words = first[document], first[document + 1] - first[document]
        terms = min(size, words)
        count = words - terms + 1 if words else 0
        # The last eight may go into the next document's place, which is filled after them.
        for i in range(0, count, 8):
            combine_eight(hashes, begin + i, terms, np.uint64(BASE), ids, place + i)
        place += count
        starts[document + 1] = place


@kernel
def _char_shingles(
    data: np.ndarray,
    offsets: np.ndarray,
    classes: np.ndarray,
    lower: np.ndarray,
    size: int,
    text: np.ndarray,
    first: np.ndarray,
    ids: np.ndarray,
) -> int:
    total = 0
    begins = np.zeros(size, np.int64)  # where the last `size` characters begin, in a ring
    for document in range(len(offsets) - 1):
        p, end, w, chars, blank = offsets[document], offsets[document + 1], 0, 0, False
        while p < end:
            point, p = decode_safely(data, p, end)
            if classes[point] == SPACE:
                blank = w > 0
                continue
            for space in range(2 if blank else 1):
                begins[chars % size] = w
                w = encode(32 if blank and space == 0 else lower[point], text, w)
                chars += 1
                if chars >= size:
                    ids[total] = xxh64(text, begins[chars % size], w, np.uint64(0))
                    total += 1
            blank = False
        if 0 < chars < size:
            ids[total] = xxh64(text, 0, w, np.uint64(0))
            total += 1
        first[document + 1] = total
    return total
