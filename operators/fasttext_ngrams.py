"""The character n-grams of many words at once, sixteen places side by side.

Words are laid one behind the other in a block of characters, each character beside the row of the word's sum. Length
by length the n-grams that begin at each place of the block are hashed, and those that have a vector in the model are
picked out: first by a small table that most of the others do not pass, then by the whole one. A word's n-grams are
added by length, then by place, so that its sum does not depend on what else is in the block. Nothing has a loop per
word: its end cannot be foreseen, and a wrong guess costs as much as the hashing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .byte_masks import bits_in, lowest
from .fasttext_file import FILTER, LONGEST, Tables
from .fasttext_rows import AHEAD, sum_rows
from .fasttext_vectors import (
    LANES,
    bytes_of,
    characters,
    every,
    fill,
    hash_bytes,
    keep,
    larger,
    load,
    ranks_of,
    remainder,
    same,
    store,
    test_bits,
    widen,
)
from .hashing import word32
from .kernel import inline, lean

BLOCK = 1024
PIECE = 512  # characters: a longer word is cut, always at the same places of it
_ROOM = LANES + BLOCK + PIECE + LONGEST + 2 * LANES
_NONE = np.uint32(0xFFFFFFFF)
_BOW, _EOW = np.uint32(0x3C), np.uint32(0x3E)
_ALL = np.uint64(0xFFFF)
_SHORT = 126
_WITHIN = np.uint32(32 * FILTER - 1)


class Block(NamedTuple):
    """Scratch, characters from place 16 on. chars uint32 [.]: the UTF-8 bytes of each, first byte lowest; owner
    uint32 [.]: its row of the sums; hashes uint32 [.]: of the n-grams that begin there; found uint32 [.]: n-grams,
    then rows; target uint32 [.]: the rows of the sums to which they are added.
    """

    chars: np.ndarray
    owner: np.ndarray
    hashes: np.ndarray
    found: np.ndarray
    target: np.ndarray


def new_block(maxn: int) -> Block:
    room = max(maxn, 1) * _ROOM + AHEAD
    return Block(*(np.zeros(size, np.uint32) for size in (_ROOM, _ROOM, _ROOM, room, room)))


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
def _first(n: Any) -> np.uint64:
    """The lowest n of sixteen bits, none for n <= 0."""
    return _ALL >> np.uint64(LANES - min(max(n, 0), LANES))


@lean
def _pick(block: Block, limit: int, t: Tables) -> np.int64:
    """The n-grams that begin before `limit` and pass the filter, by length and then by place; how many."""
    chars, owner, hashes, found, target, table = (
        block.chars,
        block.owner,
        block.hashes,
        block.found,
        block.target,
        t.filter,
    )
    size, inverse = np.uint32(t.bucket), np.uint32(min((1 << 32) // t.bucket, (1 << 32) - 1))
    top = every(np.uint32(0))
    for at in range(LANES, limit + t.maxn, LANES):
        top = larger(top, load(chars, at))
    steps = bytes_of(top)
    count = np.int64(0)
    for k in range(t.maxn):
        for at in range(LANES, limit, LANES):
            h = hash_bytes(load(hashes, at), load(chars, at + k), steps)
            store(hashes, at, h)
            if k + 1 >= t.minn:
                inside = same(owner, at, at + k) & _first(limit - at)
                if k == 0:
                    inside &= same(owner, at, at - 1) & same(owner, at, at + 1)
                bucket = remainder(h, size, inverse)
                inside = test_bits(table, bucket, _WITHIN, inside)
                keep(found, count, bucket, inside)
                keep(target, count, load(owner, at), inside)
                count += bits_in(inside)
    return count


@lean
def flush(block: Block, end: int, limit: int, t: Tables, sums: np.ndarray, sizes: np.ndarray) -> None:
    """Add the n-grams of the block's words, characters up to `end`, that begin before `limit` to their sums."""
    owner, found, target, there, ranks = block.owner, block.found, block.target, t.there, t.ranks
    for at in range(end, end + LONGEST + LANES, LANES):
        fill(owner, at, _NONE)
    for at in range(LANES, limit, LANES):
        fill(block.hashes, at, np.uint32(2166136261))
    some = _pick(block, limit, t)
    count = np.int64(0)
    for j in range(0, some, LANES):
        bucket, own = load(found, j), load(target, j)
        inside = test_bits(there, bucket, _NONE, _first(some - j))
        keep(found, count, bucket, inside)
        keep(target, count, own, inside)
        count += bits_in(inside)
    for j in range(0, count, LANES):
        store(found, j, ranks_of(there, ranks, load(found, j), _first(count - j)))
    for j in range(count):
        sizes[target[np.uint64(j)]] += np.int32(1)
    sum_rows(sums, target, t.rows, found, count)
    owner[LANES - 1] = _NONE


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
def lay_any(
    data: np.ndarray,
    p: int,
    stop: int,
    at: Any,
    row: Any,
    block: Block,
    t: Tables,
    sums: np.ndarray,
    sizes: np.ndarray,
) -> Any:
    """Lay the word data[p:stop] of any characters into the block from place `at` on; the place behind it.

    There must be room for a piece; one that is not the last is flushed at once.
    """
    chars, owner = block.chars, block.owner
    behind = max(t.maxn - 1, 1)
    chars[at] = _BOW
    n: Any = np.int64(at + 1)
    while p < stop:
        if p + 2 * LANES <= len(data):
            n += characters(data, p, stop, chars, n)
            p += LANES
        elif (data[p] & 0xC0) == 0x80:
            p += 1
        else:
            chars[n], p = _character(data, p, stop)
            n += 1
        if n >= at + PIECE + behind:
            for k in range(at, n, LANES):
                fill(owner, k, np.uint32(row))
            flush(block, n, at + PIECE, t, sums, sizes)
            for k in range(0, n - at - PIECE, LANES):
                store(chars, LANES + k, load(chars, at + PIECE + k))
            n -= at + PIECE - LANES
            at = LANES
            owner[at - 1] = row
    chars[n] = _EOW
    n += 1
    for k in range(at, n, LANES):
        fill(owner, k, np.uint32(row))
    return n


@lean
def lay_ascii(
    data: np.ndarray,
    edges: np.ndarray,
    place: np.ndarray,
    words: np.ndarray,
    i: Any,
    stop: int,
    others: Any,
    prefix: np.ndarray,
    chars: np.ndarray,
    owner: np.ndarray,
) -> tuple[Any, Any, Any]:
    """Lay the words words[i:stop] into the block until it is full, but for those that are long or not ASCII, or may be
    labels: they go to words[others:]. The next i, the next `others` and the place behind the last character."""
    at: Any = np.int64(LANES)
    first = prefix[0]
    while i < stop:
        w = np.int64(words[np.uint64(i)])
        a = edges[np.uint64(2 * w)]
        size = edges[np.uint64(2 * w + 1)] - a
        plain = 0 < size <= _SHORT and a + size + LANES < len(data) and data[np.uint64(a)] != first
        high = np.uint64(1)
        if plain:
            if at + size + 2 > LANES + BLOCK:
                break
            row = np.uint32(place[np.uint64(w)])
            high = widen(data, a, chars, at + 1) & (_ALL >> np.uint64(LANES - min(size, LANES)))
            fill(owner, at, row)
            for k in range(LANES, size + 2, LANES):
                high |= widen(data, a + k, chars, at + 1 + k) & _first(size - k)
                fill(owner, at + k, row)
            chars[np.uint64(at)], chars[np.uint64(at + size + 1)] = _BOW, _EOW
        words[np.uint64(others)] = w
        i += 1
        others += np.int64(high != np.uint64(0))
        at += 0 if high else size + 2
    return i, others, at
