"""The character n-grams of many words at once, sixteen places side by side.

Words are laid one behind the other in a block of characters. At sixteen places of a word at a time the n-grams that
begin there are hashed, and those that have a vector in the model are picked out: by group of sixteen places of the
word, then by length, then by place, so that a word's sum does not depend on what else is in the block.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .fasttext_file import Tables
from .fasttext_rows import AHEAD, add_rows
from .fasttext_vectors import LANES, every, hash_bytes, keep, load, population, remainder, test_bits, widen
from .kernel import inline, lean

_BLOCK = 2048
_PIECE = 512  # places, a multiple of sixteen: a longer word is cut, always at the same places of it
_BOW, _EOW = np.uint32(0x3C), np.uint32(0x3E)
_FIRST, _LAST = 1, 2


class Block(NamedTuple):
    """Scratch. chars uint32 [.]: the UTF-8 bytes of a character, first byte lowest; pieces int64 [., 5] of words: where
    in chars, how many of them, row of `sums`, most bytes of a character, whether it has the word's < (1) and > (2);
    stop int64 [.]: where its n-grams end in found uint32 [.], buckets, then rows; state int64 [2]: characters, pieces.
    """

    chars: np.ndarray
    pieces: np.ndarray
    stop: np.ndarray
    found: np.ndarray
    state: np.ndarray


def new_block(maxn: int) -> Block:
    size, longest = _BLOCK + maxn + 2 * LANES, max(maxn, 1)
    return Block(
        np.zeros(size, np.uint32),
        np.zeros((_BLOCK, 5), np.int64),
        np.zeros(_BLOCK, np.int64),
        np.zeros(longest * _BLOCK + AHEAD + LANES, np.uint32),
        np.zeros(2, np.int64),
    )


@inline
def has_row(there: np.ndarray, bucket: np.uint32) -> np.int64:
    """1 if the n-grams of this hash bucket have a vector."""
    return np.int64((there[bucket >> np.uint32(5)] >> (bucket & np.uint32(31))) & np.uint32(1))


@inline
def row_of(there: np.ndarray, ranks: np.ndarray, bucket: np.uint32) -> np.int64:
    """The row of a bucket that has one: how many buckets before it have one."""
    below = np.uint32((np.uint32(1) << (bucket & np.uint32(31))) - np.uint32(1))
    before = population(np.uint64(there[bucket >> np.uint32(5)] & below))
    return np.int64(ranks[bucket >> np.uint32(5)] + before)


@inline
def add_row(to: np.ndarray, i: int, rows: np.ndarray, j: Any) -> None:
    """to[i] += rows[j], four floats at a time: loads before stores, or the compiler fears an overlap."""
    dim = rows.shape[1]
    d = 0
    while d + 4 <= dim:
        a, b = to[i, d] + rows[j, d], to[i, d + 1] + rows[j, d + 1]
        c, e = to[i, d + 2] + rows[j, d + 2], to[i, d + 3] + rows[j, d + 3]
        to[i, d], to[i, d + 1], to[i, d + 2], to[i, d + 3] = a, b, c, e
        d += 4
    while d < dim:
        to[i, d] += rows[j, d]
        d += 1


@inline
def _first_lanes(n: int) -> np.uint64:
    """The lowest n of 16 bits, none for n <= 0."""
    return np.uint64((np.int64(1) << min(max(n, 0), LANES)) - 1)


@lean
def _pick(block: Block, pieces: int, t: Tables) -> np.int64:
    """The buckets of the n-grams that have a vector; how many."""
    chars, found, there, piece, stop = block.chars, block.found, t.there, block.pieces, block.stop
    minn, maxn, size = t.minn, t.maxn, np.uint32(t.bucket)
    inverse = np.uint32(min((1 << 32) // t.bucket, (1 << 32) - 1))
    count = np.int64(0)
    for i in range(pieces):
        at, held, steps, edges = piece[i, 0], piece[i, 1], piece[i, 3], piece[i, 4]
        places = held if edges & _LAST else np.int64(_PIECE)
        for group in range(0, places, LANES):
            h = every(np.uint32(2166136261))
            for k in range(maxn):
                h = hash_bytes(h, load(chars, at + group + k), steps)
                if k + 1 >= minn:
                    inside = _first_lanes(min(held - k, places) - group)
                    if k == 0:
                        if edges & _FIRST and group == 0:
                            inside &= ~np.uint64(1)
                        if edges & _LAST:
                            inside &= _first_lanes(held - 1 - group)
                    bucket = remainder(h, size, inverse)
                    inside &= test_bits(there, bucket)
                    keep(found, count, bucket, inside)
                    count += population(inside)
        stop[i] = count
    return count


@lean
def _flush(block: Block, t: Tables, sums: np.ndarray, sizes: np.ndarray) -> None:
    """Add the vectors of the block's n-grams to the sums of their words."""
    piece, stop, found, there, ranks = block.pieces, block.stop, block.found, t.there, t.ranks
    pieces = block.state[1]
    count = _pick(block, pieces, t)
    for j in range(count):
        found[j] = row_of(there, ranks, found[j])
    first = np.int64(0)
    for i in range(pieces):
        row = piece[i, 2]
        sizes[row] += np.int32(stop[i] - first)
        add_rows(sums, row, t.grams, found, first, stop[i])
        first = stop[i]
    block.state[0] = block.state[1] = 0


@inline
def _close(block: Block, at: int, held: int, row: int, top: np.uint32, edges: int) -> None:
    """The characters from `at` on are a piece of a word."""
    piece, i = block.pieces, block.state[1]
    steps = (
        1
        + np.int64(top > np.uint32(0xFF))
        + np.int64(top > np.uint32(0xFFFF))
        + np.int64(top > np.uint32(0xFFFFFF))
    )
    piece[i, 0], piece[i, 1], piece[i, 2], piece[i, 3], piece[i, 4] = at, held, row, steps, edges
    block.state[0], block.state[1] = at + held, i + 1


@lean
def _lay_any(
    data: np.ndarray,
    a: int,
    stop: int,
    row: int,
    block: Block,
    t: Tables,
    sums: np.ndarray,
    sizes: np.ndarray,
) -> None:
    """Lay a word of any characters and any length into the block."""
    chars = block.chars
    at: Any = block.state[0]
    chars[at], held = _BOW, 1
    top, edges = np.uint32(0), _FIRST
    p = a
    while p < stop:
        if held == _PIECE + t.maxn - 1:
            _close(block, at, held, row, top, edges)
            _flush(block, t, sums, sizes)
            for k in range(t.maxn - 1):
                chars[k] = chars[at + _PIECE + k]
            at, held, edges = np.int64(0), t.maxn - 1, 0
        c = np.uint32(data[p])
        p += 1
        shift = np.uint32(8)
        while p < stop and (data[p] & 0xC0) == 0x80 and shift < np.uint32(32):
            c |= np.uint32(data[p]) << shift
            shift = np.uint32(shift + np.uint32(8))
            p += 1
        top |= c
        chars[at + held] = c
        held += 1
    chars[at + held] = _EOW
    _close(block, at, held + 1, row, top, edges | _LAST)


@lean
def push_words(
    data: np.ndarray,
    start: np.ndarray,
    end: np.ndarray,
    rows: np.ndarray,
    words: int,
    block: Block,
    t: Tables,
    sums: np.ndarray,
    sizes: np.ndarray,
) -> None:
    """Add to sums[rows[w]] the n-grams of each word data[start[w]:end[w]] with its < and >; an empty one has none."""
    chars, state = block.chars, block.state
    for w in range(words):
        a, stop = start[w], end[w]
        if a == stop:
            continue
        if state[0] + _PIECE + t.maxn + 1 > _BLOCK:
            _flush(block, t, sums, sizes)
        at, size = state[0], stop - a
        high = np.uint64(1)
        if size + 2 <= _PIECE and stop + LANES <= len(data):
            high = np.uint64(0)
            for k in range(0, size, LANES):
                high |= widen(data, a + k, chars, at + 1 + k) & _first_lanes(size - k)
        if high:
            _lay_any(data, a, stop, rows[w], block, t, sums, sizes)
        else:
            chars[at], chars[at + size + 1] = _BOW, _EOW
            _close(block, at, size + 2, rows[w], np.uint32(0), _FIRST | _LAST)
    _flush(block, t, sums, sizes)
