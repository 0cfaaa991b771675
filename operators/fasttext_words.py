"""Words of a text and their keys, many bytes at a time."""

from __future__ import annotations

import numpy as np

from .byte_masks import bits_in, masks
from .fasttext_vectors import expect, fold
from .hashing import word64
from .kernel import inline, lean
from .lanes import put_places

# The lowest byte of each is a space, which no byte of a word equals: what is multiplied is never 0.
_A, _B, _C = np.uint64(0xA0761D6478BD6420), np.uint64(0xE7037ED1A0B42820), np.uint64(0x8EBC6AF09C88C620)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)


_blanks = masks((((0, 0x09, 0x0D),), ((0, 0, 0),), ((0, 0x20, 0x20),)))  # where fastText splits words


@lean
def _some_bytes(data: np.ndarray, p: int) -> np.uint64:
    """The bytes from p on to the end of the data, eight at most."""
    x = np.uint64(0)
    for i in range(p, min(p + 8, len(data))):
        x |= np.uint64(data[i]) << np.uint64(8 * (i - p))
    return x


@inline
def find_words(
    data: np.ndarray, p: int, end: int, before: np.uint64, edges: np.ndarray, n: int
) -> tuple[int, np.uint64]:
    """Starts and ends, in turn, of the words of data[p : p + 64], to edges[n:]; `end` and what is behind it is blank.

    Their count, and whether the last byte was blank, as `before` is of the byte before p.
    """
    bits = _blanks(data, p)[0]
    expect(data, p + 768)
    if end < p + 64:
        bits |= _ALL << np.uint64(end - p)
    change = bits ^ ((bits << np.uint64(1)) | before)
    found, at = bits_in(change), n
    while change:
        change = put_places(change, p, edges, at)
        at += 8
    return n + found, bits >> np.uint64(63)


@inline
def _bytes(data: np.ndarray, p: int, left: int) -> np.uint64:
    """Eight bytes from p on, 0 behind the first `left`."""
    x = word64(data, p) if p + 8 <= len(data) else _some_bytes(data, p)
    half = np.uint64(32 - 4 * min(max(left, 0), 8))
    return x & ((_ALL >> half) >> half)


@inline
def word_key(data: np.ndarray, a: int, b: int) -> np.uint64:
    """A number of 64 bits that stands for the word data[a:b], which is not empty. Never 0."""
    h, p = _A, a
    while True:
        h = fold(h ^ _bytes(data, p, b - p), _B ^ _bytes(data, p + 8, b - p - 8))
        p += 16
        if p >= b:
            break
    h = fold(h ^ _A, _C)
    return np.uint64(h + np.uint64(h == np.uint64(0)))
