"""The character n-grams of many words at once, sixteen places side by side.

Words are laid one behind the other in a block of characters. At sixteen places of a word at a time the n-grams that
begin there are hashed, and those that have a vector in the model are picked out: by group of sixteen places of the
word, then by length, then by place, so that a word's sum does not depend on what else is in the block. Hashing and
adding have no loop per word: its end cannot be foreseen, and a wrong guess costs as much as the hashing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .byte_masks import bits_in, lowest
from .fasttext_file import Tables
from .fasttext_rows import AHEAD, sum_rows
from .fasttext_vectors import (
    LANES,
    every,
    fill,
    hash_bytes,
    keep,
    load,
    remainder,
    test_bits,
    widen,
)
from .hashing import word32
from .kernel import inline, lean

_BLOCK = 2048
_GROUPS = 512
_PIECE = 512  # characters, a multiple of sixteen: a longer word is cut, always at the same places of it
_FIRST, _LAST = 1, 2
_BOW, _EOW = np.uint32(0x3C), np.uint32(0x3E)
_AT, _INSIDE, _EDGE, _ROW, _STEPS, _NUMBER = range(6)


class Block(NamedTuple):
    """Scratch. chars uint32 [.]: the UTF-8 bytes of a character, first byte lowest; groups int64 [_GROUPS, 6]: where in
    chars, a bit for each character from there on to the word's end, those of its < and >, row of `sums`, most bytes
    of a character, number of the word itself or -1; found uint32 [.]: what `there` has a bit for, then its rows;
    target uint32 [.]: the rows of `sums` to which they are added; state int64 [2]: characters, groups.
    """

    chars: np.ndarray
    groups: np.ndarray
    found: np.ndarray
    target: np.ndarray
    state: np.ndarray


def new_block(maxn: int) -> Block:
    room = max(maxn, 1) * _GROUPS * LANES + _GROUPS + AHEAD + LANES
    return Block(
        np.zeros(_BLOCK + maxn + 2 * LANES, np.uint32),
        np.zeros((_GROUPS, 6), np.int64),
        np.zeros(room, np.uint32),
        np.zeros(room, np.uint32),
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
    before = bits_in(np.uint64(there[bucket >> np.uint32(5)] & below))
    return np.int64(ranks[bucket >> np.uint32(5)] + before)


@inline
def _first(n: int) -> np.uint64:
    """The lowest n of 62 bits, none for n <= 0."""
    return np.uint64((np.int64(1) << min(max(n, 0), 62)) - 1)


@lean
def _pick(block: Block, t: Tables, sizes: np.ndarray) -> np.int64:
    """The words themselves and their n-grams, those that have a vector; how many."""
    chars, group, found, target, there = block.chars, block.groups, block.found, block.target, t.there
    minn, maxn, size = t.minn, t.maxn, np.uint32(t.bucket)
    inverse = np.uint32(min((1 << 32) // t.bucket, (1 << 32) - 1))
    first = every(np.uint32(t.words))
    count = np.uint64(0)
    for g in range(block.state[1]):
        at, row, before = group[g, _AT], group[g, _ROW], count
        places = np.uint64(group[g, _INSIDE])
        found[count] = group[g, _NUMBER]
        count += np.uint64(group[g, _NUMBER] >= 0)
        h = every(np.uint32(2166136261))
        for k in range(maxn):
            h = hash_bytes(h, load(chars, at + k), group[g, _STEPS])
            if k + 1 >= minn:
                inside = (places >> np.uint64(k)) & np.uint64(0xFFFF)
                if k == 0:
                    inside &= ~np.uint64(group[g, _EDGE])
                bucket = remainder(h, size, inverse, first)
                inside = test_bits(there, bucket, inside)
                keep(found, count, bucket, inside)
                count += np.uint64(bits_in(inside))
        for done in range(before, count, np.uint64(LANES)):
            fill(target, done, row)
        sizes[row] += np.int32(count - before)
    return np.int64(count)


@lean
def flush(block: Block, t: Tables, sums: np.ndarray, sizes: np.ndarray) -> None:
    """Add what is in the block to the sums of its words."""
    found, there, ranks = block.found, t.there, t.ranks
    count = _pick(block, t, sizes)
    for j in range(count):
        found[j] = row_of(there, ranks, found[j])
    sum_rows(sums, block.target, t.rows, found, count)
    block.state[0] = block.state[1] = 0


@inline
def _close(
    groups: np.ndarray, state: np.ndarray, held: int, row: int, top: np.uint32, number: int, edges: int
) -> None:
    """The next `held` characters are a word, or a piece of one; `edges`: has it the < (1), the > (2)."""
    at, g = state[0], state[1]
    steps = (
        1
        + np.int64(top > np.uint32(0xFF))
        + np.int64(top > np.uint32(0xFFFF))
        + np.int64(top > np.uint32(0xFFFFFF))
    )
    places = held if edges & _LAST else _PIECE
    left = 0
    while True:
        groups[g, _AT], groups[g, _INSIDE], groups[g, _ROW] = at + left, np.int64(_first(held - left)), row
        groups[g, _STEPS], groups[g, _NUMBER] = steps, number
        edge = np.int64(edges & _FIRST and left == 0)
        if edges & _LAST:
            edge |= np.int64(1) << min(held - 1 - left, 62)
        groups[g, _EDGE] = edge
        g += 1
        left += LANES
        if left >= places:
            break
        number = -1
    state[0], state[1] = at + held, g


@inline
def _character(data: np.ndarray, p: int, stop: int) -> tuple[np.uint32, int]:
    """The bytes of the character at p, the first one lowest, four at most; the position behind it."""
    if p + 4 <= len(data):
        c = np.uint32(word32(data, p))
        others = (c & np.uint32(0xC0C0C000)) ^ np.uint32(0x80808000)
        size = lowest((np.uint64(others) >> np.uint64(8)) | np.uint64(1 << 24)) >> 3
        return c & (np.uint32(0xFFFFFFFF) >> np.uint32(24 - 8 * size)), p + 1 + size
    c = np.uint32(data[p])
    p += 1
    shift = np.uint32(8)
    while p < stop and (data[p] & 0xC0) == 0x80 and shift < np.uint32(32):
        c |= np.uint32(data[p]) << shift
        shift = np.uint32(shift + np.uint32(8))
        p += 1
    return c, p


@lean
def _lay_any(
    data: np.ndarray,
    p: int,
    stop: int,
    whole: bool,
    row: int,
    number: int,
    maxn: int,
    chars: np.ndarray,
    groups: np.ndarray,
    state: np.ndarray,
) -> int:
    """Lay a word of any characters into the block, or the next piece of it; where the one after it begins, -1: none."""
    at, after = state[0], p
    held: Any = np.int64(0)
    edges = _FIRST if whole else 0
    if whole:
        chars[at] = _BOW
        held += 1
    top = np.uint32(0)
    while p < stop:
        if held == _PIECE:
            after = p
        if held == _PIECE + max(maxn, 1) - 1:
            _close(groups, state, held, row, top, number, edges)
            return after
        c, p = _character(data, p, stop)
        top |= c
        chars[at + held] = c
        held += 1
    chars[at + held] = _EOW
    _close(groups, state, held + 1, row, top, number, edges | _LAST)
    return -1


@inline
def push_word(
    data: np.ndarray,
    a: int,
    stop: int,
    row: int,
    number: int,
    block: Block,
    t: Tables,
    sums: np.ndarray,
    sizes: np.ndarray,
) -> None:
    """Lay the word data[a:stop] into the block: its vector (-1: none) and its n-grams' go to sums[row], which is 0."""
    chars, groups, state, maxn = block.chars, block.groups, block.state, t.maxn
    if state[0] + _PIECE + maxn + 1 > _BLOCK or state[1] + _PIECE // LANES + 2 > _GROUPS:
        flush(block, t, sums, sizes)
    at, size = state[0], stop - a
    high = np.uint64(1)
    if size + 2 <= _PIECE and stop + LANES <= len(data):
        high = widen(data, a, chars, at + 1) & _first(min(size, LANES))
        for k in range(LANES, size, LANES):
            high |= widen(data, a + k, chars, at + 1 + k) & _first(min(size - k, LANES))
    if high == np.uint64(0):
        chars[at], chars[at + size + 1] = _BOW, _EOW
        _close(groups, state, size + 2, row, np.uint32(0), number, _FIRST | _LAST)
    else:
        p = _lay_any(data, a, stop, True, row, number, maxn, chars, groups, state)
        while p >= 0:
            flush(block, t, sums, sizes)
            p = _lay_any(data, p, stop, False, row, -1, maxn, chars, groups, state)
