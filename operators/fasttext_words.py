"""Words of a text and their keys, many bytes at a time."""

from __future__ import annotations

import numpy as np

from .byte_masks import bits_in, lowest, masks
from .fasttext_vectors import SEED, expect, mix, mix_words
from .hashing import word64
from .kernel import inline, lean
from .lanes import put_places

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
def word_key(data: np.ndarray, a: int, b: int) -> np.uint64:
    """A number of 64 bits that stands for the word data[a:b], which is not empty."""
    h: np.uint64 = np.uint64(SEED)
    p = a
    while True:
        if p + 16 <= len(data):
            h = mix(h, word64(data, p), word64(data, p + 8), b - p)
        else:
            h = mix(h, _some_bytes(data, p), _some_bytes(data, p + 8), b - p)
        p += 16
        if p >= b:
            break
    return h


@lean
def word_keys(data: np.ndarray, edges: np.ndarray, words: int, keys: np.ndarray) -> None:
    """keys[w] = the key of each of the words, whose starts and ends are `edges`."""
    done = np.int64(0)
    while done + 8 <= words and edges[2 * done + 14] + 16 <= len(data):
        long = mix_words(data, edges, 2 * done, keys, done)
        while long:
            w = done + lowest(long)
            keys[w] = word_key(data, edges[2 * w], edges[2 * w + 1])
            long &= long - np.uint64(1)
        done += 8
    for w in range(done, words):
        keys[w] = word_key(data, edges[2 * w], edges[2 * w + 1])
