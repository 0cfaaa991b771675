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

from collections.abc import Callable
from functools import cache
from typing import Literal

import numpy as np
import pyarrow as pa
import xxhash

from .analysis import analyse
from .code_points import MARK, OTHER, SINGLE, SPACE, WORD, code_points, encode
from .hashing import fmix64, xxh64
from .kernel import kernel, lean
from .words import decode_safely

SCHEME = "malmoi-shingle-v1"
Ngram = Literal["word", "char"]
BASE = 0x9E3779B97F4A7C15
"""The polynomial's base: 2^64 divided by the golden ratio, odd."""

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
    if ngram not in ("word", "char") or size < 1:
        raise ValueError(f"want ngram word or char and size >= 1, got ngram={ngram!r}, size={size}")
    batch = analyse(column)
    data, offsets = batch.data, batch.offsets
    longest = int(np.diff(offsets).max(initial=0))
    # A lower-case letter may take three bytes where the capital took two, and a broken byte becomes two.
    scratch = np.empty(2 * longest + 4, dtype=np.uint8)
    first = np.zeros(len(offsets), dtype=np.int64)
    if ngram == "char":
        ids = np.empty(len(data), dtype=np.uint64)
        total = _char_shingles(data, offsets, *code_points(), size, scratch, first, ids)
        return first, ids[:total]
    # Two words have at least a byte between them, or one of them is a character of three bytes.
    hashes = np.empty(len(data) // 2 + len(offsets), dtype=np.uint64)
    _word_hashes(data, offsets, *code_points(), _byte_classes(), scratch, first, hashes)
    starts = np.zeros(len(offsets), dtype=np.int64)
    words = np.diff(first)
    np.cumsum(np.maximum(words - (size - 1), np.minimum(words, 1)), out=starts[1:])
    ids = np.empty(int(starts[-1]), dtype=np.uint64)
    _combine(first, hashes, size, starts, ids)
    return starts, ids


@cache
def _byte_classes() -> np.ndarray:
    """uint8 [256]: 1 = an ASCII letter or digit that is its own lower case, 2 = ASCII that ends a word, 3 = EB and EC,
    with which only Hangul syllables begin; 0 = to be looked at as a character."""
    classes, lower = code_points()
    found = np.zeros(256, np.uint8)
    for point in range(128):
        if classes[point] == WORD and lower[point] == point:
            found[point] = 1
        elif classes[point] in (SPACE, OTHER):
            found[point] = 2
    found[0xEB:0xED] = 3
    return found


@lean
def _plain_word(data: np.ndarray, p: int, end: int, bytes_: np.ndarray) -> int:
    """The end of a whole word at `p` that needs no lower case, or `p` where there is none."""
    q = p
    while q < end:
        kind = bytes_[data[q]]
        if kind == 1:
            q += 1
        elif kind == 3 and q + 3 <= end:
            q += 3
        elif kind == 2:
            return q
        else:
            return p
    return q


@lean
def _word_hashes(
    data: np.ndarray,
    offsets: np.ndarray,
    classes: np.ndarray,
    lower: np.ndarray,
    bytes_: np.ndarray,
    word: np.ndarray,
    first: np.ndarray,
    hashes: np.ndarray,
) -> None:
    """xxh64 of every lower-cased word into `hashes`, where the words of a document begin into `first`."""
    total = 0
    for document in range(len(offsets) - 1):
        p, end, w, kind = offsets[document], offsets[document + 1], 0, OTHER
        while p < end:
            if w == 0:
                if bytes_[data[p]] == 2:
                    p += 1
                    continue
                q = _plain_word(data, p, end, bytes_)
                if q > p:
                    hashes[total] = xxh64(data, p, q, np.uint64(0))
                    total, p = total + 1, q
                    continue
            point, p = decode_safely(data, p, end)
            now = classes[point]
            if w > 0 and not (now == MARK or (now == WORD and kind == WORD)):
                hashes[total] = xxh64(word, 0, w, np.uint64(0))
                total, w = total + 1, 0
            if WORD <= now <= SINGLE:
                kind = now
            if WORD <= now <= SINGLE or (now == MARK and w > 0):
                w = encode(lower[point], word, w)
        if w > 0:
            hashes[total] = xxh64(word, 0, w, np.uint64(0))
            total += 1
        first[document + 1] = total


@lean
def _combine(first: np.ndarray, hashes: np.ndarray, size: int, starts: np.ndarray, ids: np.ndarray) -> None:
    base, leave = np.uint64(BASE), np.uint64(1)
    for _ in range(size - 1):
        leave = np.uint64(leave * base)
    for document in range(len(first) - 1):
        begin, end = first[document], first[document + 1]
        place, value = starts[document], np.uint64(0)
        for i in range(begin, end):
            if i >= begin + size:
                value = np.uint64(value - np.uint64(hashes[i - size] * leave))
            value = np.uint64(np.uint64(value * base) + hashes[i])
            if i + 1 >= begin + size or i + 1 == end:
                ids[place] = fmix64(value)
                place += 1


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
