"""The words of shingles and their hashes; what a word is `shingles.py` says.

Words of ASCII and Hangul syllables are found 64 bytes at a time and hashed where they are; every other word is
taken character by character and written, lower-cased, to a place beside the text. Up to `WAITING` words wait and are
hashed eight at a time.
"""

from __future__ import annotations

import numpy as np

from .byte_masks import below, bits_in, lowest, masks
from .code_points import MARK, OTHER, SINGLE, WORD, encode
from .hash_lanes import copy_lower, hash_eight_lower
from .hashing import word64, xxh64
from .kernel import inline, lean
from .lanes import address, put_places
from .script_masks import hangul_masks, script_masks
from .words import decode_safely

WAITING = 2048
_FULL = WAITING - 64
_SIDE = 1 << 15
_REACH = 80
"""Bytes from a place on that must be there where 64 of them are looked at and words are hashed where they are."""


def waiting_room(longest: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(bytes beside the text, starts, ends) for documents of up to `longest` bytes."""
    # A lower-case letter may take three bytes where the capital took two, and a broken byte becomes two.
    side = np.empty(3 * longest + _SIDE + 64, np.uint8)
    return side, np.empty(WAITING + 16, np.int64), np.empty(WAITING + 16, np.int64)


# Of ASCII: letters, digits and the underscore; what is not ASCII.
_ascii_masks = masks(
    (((0, 0x61, 0x7A, 0x20),), ((0, 0x30, 0x39),), ((0, 0x5F, 0x5F),)),
    (((0, 0x80, 0xFF),),),
)


@lean
def _plain_words(
    data: np.ndarray, p: int, last: int, room: tuple[np.ndarray, ...], begun: int, ended: int
) -> tuple[int, int, int]:
    """From `p` on, until there is something else or no room: (position, words begun, words ended)."""
    _, start, end = room
    inside, inside_alone = np.uint64(begun - ended), np.uint64(0)
    if inside and 0xE3 <= data[start[begun - 1]] < 0xEA:
        inside_alone = inside
    while p < last and p + _REACH <= len(data) and begun <= _FULL:
        take = min(64, last - p)
        words, unknown = _ascii_masks(data, p)
        alone, stop = np.uint64(0), False
        if unknown:
            # A character that the 64 bytes or the document cut waits for the next round.
            whole = below(take) >> np.uint64(2)
            syllables, _, _ = hangul_masks(data, p, whole)
            words, unknown = words | syllables, unknown & ~syllables
            if unknown & whole:
                more_words, alone, known = script_masks(data, p, whole)
                words, unknown = words | more_words, unknown & ~known
            clean = min(take, lowest(unknown))
            stop = clean < min(take, 62)
            take = clean
            if take == 0:
                break
        within = below(take)
        words &= within
        before = (words << np.uint64(1)) | inside
        parts = np.uint64(0)
        if alone | inside_alone:
            alone &= within
            covered = (alone | (alone << np.uint64(1)) | (alone << np.uint64(2))) & within
            parts = alone | (words & ~covered & ((covered << np.uint64(1)) | inside_alone))
            inside_alone = covered >> np.uint64(take - 1)
        begins, ends = (words & ~before) | parts, before & (parts | ~words) & within
        inside = words >> np.uint64(take - 1)
        more, less = bits_in(begins), bits_in(ends)
        for i in range(0, max(more, less), 8):
            begins = put_places(begins, p, start, begun + i)
            ends = put_places(ends, p, end, ended + i)
        begun, ended, p = begun + more, ended + less, p + take
        if stop:
            break
    return p, begun, ended


@inline
def _plain_again(data: np.ndarray, p: int) -> bool:
    """Whether it looks as if plain words came now."""
    high = data[p]
    if high >= 0x80:
        return bool(
            0xE2 <= high <= 0xED or 0xC2 <= high <= 0xC5 or 0xCE <= high <= 0xD1 or 0xD7 <= high <= 0xD9
        )
    return bool(word64(data, p) & np.uint64(0x8080808080808080) == 0)


@lean
def _any_words(
    data: np.ndarray,
    p: int,
    last: int,
    tables: tuple[np.ndarray, ...],
    room: tuple[np.ndarray, ...],
    begun: int,
    used: int,
) -> tuple[int, int, int]:
    """Words of any characters, until plain ones come or there is no room: (position, words begun, bytes beside)."""
    classes, lower = tables
    side, start, end = room
    away = address(side) - address(data)
    first, w, kind = p, used, OTHER
    while p < last:
        if w == used and p > first and p + _REACH <= len(data) and _plain_again(data, p):
            break
        point, after = decode_safely(data, p, last)
        now = classes[point]
        if w > used and not (now == MARK or (now == WORD and kind == WORD)):
            start[begun], end[begun] = away + used, away + w
            begun, used = begun + 1, w
            if begun > _FULL or used > _SIDE:
                break
        if WORD <= now <= SINGLE:
            kind = now
        if WORD <= now <= SINGLE or (now == MARK and w > used):
            w = encode(lower[point], side, w)
        p = after
    if w > used:
        start[begun], end[begun] = away + used, away + w
        begun, used = begun + 1, w
    return p, begun, used


@lean
def _hash_waiting(
    data: np.ndarray, room: tuple[np.ndarray, ...], waiting: int, used: int, hashes: np.ndarray, total: int
) -> int:
    """The hashes of the words that wait into `hashes[total:]`, and how many there are then."""
    side, start, end = room
    away = address(side) - address(data)
    for k in range(waiting, waiting + 7):
        start[k] = end[k] = away
    for i in range(0, waiting, 8):
        long_ = hash_eight_lower(data, start, end, i, hashes, total + i)
        while long_:
            k = i + lowest(long_)
            long_ &= np.uint64(long_ - np.uint64(1))
            begin, size = start[k] - away, end[k] - start[k]
            if begin < 0 or begin >= used:
                # In the text: by way of what is free beside it, for its capitals.
                begin = used
                for j in range(0, size, 8):
                    copy_lower(data, start[k] + j, side, used + j)
            hashes[total + k] = xxh64(side, begin, begin + size, np.uint64(0))
    return total + waiting


@lean
def word_hashes(
    data: np.ndarray,
    offsets: np.ndarray,
    tables: tuple[np.ndarray, ...],
    room: tuple[np.ndarray, ...],
    first: np.ndarray,
    hashes: np.ndarray,
) -> None:
    """xxh64 of every lower-cased word into `hashes`, where the words of a document begin into `first`.

    tables: those of `code_points`; room: a `waiting_room`; first: int64 [documents + 1]; hashes: uint64, with room
    for eight more than there are words.
    """
    _, start, end = room
    total = begun = ended = used = 0
    for document in range(len(offsets) - 1):
        first[document] = total + ended
        p, last = offsets[document], offsets[document + 1]
        while p < last:
            if begun > _FULL or used > _SIDE:
                open_ = start[ended]
                total = _hash_waiting(data, room, ended, used, hashes, total)
                start[0] = open_
                begun, ended, used = begun - ended, 0, 0
            p, begun, ended = _plain_words(data, p, last, room, begun, ended)
            if p < last and begun <= _FULL:
                if begun > ended:
                    begun -= 1
                    p = start[begun]
                p, begun, used = _any_words(data, p, last, tables, room, begun, used)
                ended = begun
        if begun > ended:
            end[ended] = last
            ended += 1
    first[len(offsets) - 1] = total + ended
    _hash_waiting(data, room, ended, used, hashes, total)
