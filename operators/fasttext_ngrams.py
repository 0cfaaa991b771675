"""The character n-grams of many words at once, hashed and looked up side by side.

Words are laid one behind the other in a block of characters. Each n-gram length is one loop over the block that
the compiler turns into vector instructions; the few n-grams that have a vector in the model are then picked out
in order (by place, then by length), so that a word's sum does not depend on what else is in the block.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .fasttext_file import Tables
from .fasttext_rows import AHEAD, add_rows
from .kernel import inline, lean

BLOCK = 2048
BOW, EOW = np.uint32(0x3C), np.uint32(0x3E)


class Block(NamedTuple):
    """Scratch. chars uint32 [BLOCK + maxn]: the UTF-8 bytes of a character, first byte lowest; word int32: its word
    (a row of `sums`); edge uint8: 1 for the < and > around a word; hashes uint32 [BLOCK]; buckets uint32
    [maxn, BLOCK]; found, found_word [maxn * BLOCK + AHEAD]; state int64 [2]: characters held, whether any is wide.
    """

    chars: np.ndarray
    word: np.ndarray
    edge: np.ndarray
    hashes: np.ndarray
    buckets: np.ndarray
    found: np.ndarray
    found_word: np.ndarray
    state: np.ndarray


def new_block(maxn: int) -> Block:
    size, longest = BLOCK + maxn + 1, max(maxn, 1)
    return Block(
        np.zeros(size, np.uint32),
        np.zeros(size, np.int32),
        np.zeros(size, np.uint8),
        np.zeros(BLOCK, np.uint32),
        np.zeros((longest, BLOCK), np.uint32),
        np.zeros(longest * BLOCK + AHEAD, np.uint32),
        np.zeros(longest * BLOCK + AHEAD, np.int32),
        np.zeros(2, np.int64),
    )


@inline
def _bits(x: np.uint32) -> np.uint32:
    x = np.uint32(x - ((x >> np.uint32(1)) & np.uint32(0x55555555)))
    x = np.uint32((x & np.uint32(0x33333333)) + ((x >> np.uint32(2)) & np.uint32(0x33333333)))
    x = np.uint32((x + (x >> np.uint32(4))) & np.uint32(0x0F0F0F0F))
    return np.uint32(np.uint32(x * np.uint32(0x01010101)) >> np.uint32(24))


@inline
def has_row(there: np.ndarray, bucket: np.uint32) -> np.int64:
    """1 if the n-grams of this hash bucket have a vector."""
    return np.int64((there[bucket >> np.uint32(5)] >> (bucket & np.uint32(31))) & np.uint32(1))


@inline
def row_of(there: np.ndarray, ranks: np.ndarray, bucket: np.uint32) -> np.int64:
    """The row of a bucket that has one: how many buckets before it have one."""
    below = np.uint32((np.uint32(1) << (bucket & np.uint32(31))) - np.uint32(1))
    return np.int64(ranks[bucket >> np.uint32(5)] + _bits(there[bucket >> np.uint32(5)] & below))


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


@lean
def _hash_block(block: Block, starts: int, wide: bool, t: Tables) -> None:
    """The bucket of the n-gram that begins at each place, for each length: FNV-1a of signed bytes, modulo."""
    chars, h = block.chars, block.hashes
    size, inverse = np.uint32(t.bucket), 1.0 / np.float64(t.bucket)
    for i in range(starts):
        h[i] = np.uint32(2166136261)
    for k in range(t.maxn):
        if wide:
            for i in range(starts):
                c = chars[i + k]
                b = np.uint32(c & np.uint32(255))
                b |= np.uint32(0xFFFFFF00) if b > np.uint32(127) else np.uint32(0)
                x = np.uint32(np.uint32(h[i] ^ b) * np.uint32(16777619))
                for shift in range(8, 32, 8):
                    b = np.uint32((c >> np.uint32(shift)) & np.uint32(255))
                    y = np.uint32(np.uint32(x ^ (b | np.uint32(0xFFFFFF00))) * np.uint32(16777619))
                    x = y if b != np.uint32(0) else x
                h[i] = x
        else:
            for i in range(starts):
                h[i] = np.uint32(np.uint32(h[i] ^ chars[i + k]) * np.uint32(16777619))
        if k + 1 >= t.minn:
            row = block.buckets[k]
            for i in range(starts):
                # The quotient in double precision is never too large, and too small by one at most.
                rest = np.uint32(h[i] - np.uint32(np.uint32(np.float64(h[i]) * inverse) * size))
                row[i] = np.uint32(rest - size) if rest >= size else rest


@lean
def _pick(block: Block, starts: int, t: Tables) -> np.int64:
    """The n-grams with a vector, in order; how many. Without a branch: which they are cannot be foreseen."""
    word, found, found_word, there = block.word, block.found, block.found_word, t.there
    count = np.int64(0)
    for i in range(starts):
        w = word[i]
        for k in range(t.minn - 1, t.maxn):
            bucket = block.buckets[k, i]
            found[count], found_word[count] = bucket, w
            inside = np.int64(word[i + k] == w)
            if k == 0:
                inside &= np.int64(block.edge[i] == 0)
            count += has_row(there, bucket) & inside
    return count


@lean
def flush(block: Block, t: Tables, last: bool, sums: np.ndarray, sizes: np.ndarray) -> None:
    """Add the vectors of the block's n-grams to the sums of their words; what may go on behind it stays."""
    held, wide = block.state[0], block.state[1] != 0
    if last:
        starts = held
        for k in range(t.maxn):
            block.word[held + k] = -1
    else:
        starts = held - (t.maxn - 1)
    if starts <= 0:
        return
    _hash_block(block, starts, wide, t)
    count = _pick(block, starts, t)
    found, word = block.found, block.found_word
    for j in range(count):
        found[j] = row_of(t.there, t.ranks, found[j])
    first: Any = np.int64(0)
    while first < count:
        stop, w = first, word[first]
        while stop < count and word[stop] == w:
            stop += 1
        sizes[w] += np.int32(stop - first)
        add_rows(sums, w, t.grams, found, first, stop)
        first = stop
    left = held - starts
    for k in range(left):
        block.chars[k] = block.chars[starts + k]
        block.word[k] = block.word[starts + k]
        block.edge[k] = block.edge[starts + k]
    block.state[0], block.state[1] = left, block.state[1] if left else 0


@inline
def _character(data: np.ndarray, c: np.uint32, p: int, stop: int) -> tuple[np.uint32, int]:
    """The bytes of the character with first byte `c`, the first one lowest; the position behind it."""
    shift = np.uint32(8)
    while p < stop and (data[p] & 0xC0) == 0x80 and shift < np.uint32(32):
        c |= np.uint32(data[p]) << shift
        shift = np.uint32(shift + np.uint32(8))
        p += 1
    return c, p


@lean
def _push_long(
    data: np.ndarray, a: int, stop: int, w: int, block: Block, t: Tables, sums: np.ndarray, sizes: np.ndarray
) -> int:
    """Lay a word of any length into the block, which is flushed whenever it is full; characters held then."""
    held: Any = block.state[0]
    p = a - 1
    while p <= stop:
        if held == BLOCK:
            block.state[0], block.state[1] = held, 1
            flush(block, t, False, sums, sizes)
            held = t.maxn - 1
        inner = a <= p < stop
        c = np.uint32(data[p]) if inner else (BOW if p < stop else EOW)
        p += 1
        if inner and c > np.uint32(127):
            c, p = _character(data, c, p, stop)
        block.chars[held], block.word[held], block.edge[held] = c, w, np.uint8(not inner)
        held += 1
    return int(held)


@lean
def push_words(
    data: np.ndarray,
    start: np.ndarray,
    end: np.ndarray,
    words: int,
    block: Block,
    t: Tables,
    sums: np.ndarray,
    sizes: np.ndarray,
) -> None:
    """Add to sums[w] the n-grams of each word data[start[w]:end[w]] with its < and >; one with no bytes has none."""
    chars, word, edge = block.chars, block.word, block.edge
    held: Any = np.int64(0)
    wide = np.uint32(0)
    block.state[1] = 0
    for w in range(words):
        a, stop = start[w], end[w]
        if a == stop:
            continue
        if held + (stop - a) + 2 > BLOCK:  # the longest words are cut over blocks, character by character
            block.state[0] = held
            block.state[1] |= np.int64(wide > np.uint32(127))
            held = _push_long(data, a, stop, w, block, t, sums, sizes)
            wide = np.uint32(128)
            continue
        begin = held
        chars[held], edge[held] = BOW, 1
        held += 1
        p = a
        while p < stop:
            c = np.uint32(data[p])
            p += 1
            if c > np.uint32(127):
                c, p = _character(data, c, p, stop)
            chars[held], edge[held] = c, 0
            wide |= c
            held += 1
        chars[held], edge[held] = EOW, 1
        held += 1
        for k in range(begin, held):
            word[k] = w
    block.state[0] = held
    block.state[1] |= np.int64(wide > np.uint32(127))
    flush(block, t, True, sums, sizes)
