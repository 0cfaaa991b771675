"""Repeated n-grams of the words of each document, by the hashes of words, for the native repetition rules.

N-grams are found level by level: only a place whose n-gram occurs twice can begin an (n+1)-gram that does. Each such
place knows the first one with its n-gram, its leader. If the word that follows there follows at the leader too, the
two stay together and nothing has to be looked up; most repeated text is longer than a few words, so that is most of
them. Legend: D documents, W words of a document.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .datatrove_tables import BASE
from .kernel import inline, lean

LARGEST = 10
_TOP = 4  # the largest n of which the most frequent n-gram counts, and not those that came before
_MARKS = 8  # for each word


class Scratch(NamedTuple):
    """For the largest W: uint32 [W] places that may repeat, by place its leader and (of a leader) how many it has with
    itself, room; int64 [W + 1] sums of code points; uint8 marks, some for each word; uint64 [2 ** n, 2] open
    addressing: key, and stamp << 32 | leader. A slot is taken if its stamp is the current one.
    """

    places: np.ndarray
    leaders: np.ndarray
    times: np.ndarray
    room: np.ndarray
    chars: np.ndarray
    marks: np.ndarray
    slots: np.ndarray


def new_scratch(words: int) -> Scratch:
    bits = max(words, 1).bit_length()
    places, leaders, times, room = np.empty((4, words), np.uint32)
    slots = np.zeros((4 << bits, 2), np.uint64)
    return Scratch(
        places, leaders, times, room, np.zeros(words + 1, np.int64), np.empty(_MARKS << bits, np.uint8), slots
    )


@inline
def _leader(
    slots: np.ndarray, stamp: np.uint64, shift: np.uint64, key: np.uint64, place: np.uint64
) -> np.uint64:
    """The place that had `key` first; `place` itself if none had. Slots are those of the highest bits of keys."""
    mask = np.uint64(np.uint64(0xFFFFFFFFFFFFFFFF) >> shift)
    slot = np.uint64(key >> shift)
    while slots[slot, 1] >= stamp and slots[slot, 0] != key:
        slot = np.uint64((slot + np.uint64(1)) & mask)
    tag = slots[slot, 1]
    leader = place if tag < stamp else np.uint64(tag & np.uint64(0xFFFFFFFF))
    slots[slot, 0], slots[slot, 1] = key, np.uint64(stamp | leader)
    return leader


@lean
def _bits_for(least: int) -> int:
    bits = 4
    while 1 << bits < least:
        bits += 1
    return bits


@inline
def _key(hashes: np.ndarray, at: np.uint64, n: int, leader: np.uint64) -> np.uint64:
    """Of the n-gram that begins with the word `at`: by its last word and the leader of the words before it."""
    last = hashes[at + np.uint64(n - 1)]
    before = hashes[at] if n == 2 else leader
    return np.uint64(np.uint64(before * BASE) + last)


@lean
def _may_repeat(hashes: np.ndarray, begin: np.uint64, found: int, n: int, scratch: Scratch) -> Any:
    """Of the places, those whose n-gram occurs twice, and few others; how many.

    A first pass marks bytes by the highest bits of the keys: 1, and more where one was marked already. There is no
    branch in it, where a look into a table is a matter of chance.
    """
    places, leaders, marks, room = scratch.places, scratch.leaders, scratch.marks, scratch.room
    bits = _bits_for(_MARKS * found)
    shift = np.uint64(64 - bits)
    for m in range(1 << bits):
        marks[m] = 0
    for k in range(found):
        i = np.uint64(places[k])
        slot = np.uint64(_key(hashes, np.uint64(begin + i), n, np.uint64(leaders[i])) >> shift)
        room[k] = slot
        marks[slot] = 1 | (marks[slot] << 1)
    kept = np.uint64(0)
    for k in range(found):
        places[kept] = places[k]
        kept += np.uint64(marks[np.uint64(room[k])] > 1)
    return np.int64(kept)


@lean
def _lead(
    hashes: np.ndarray, begin: np.uint64, found: int, n: int, scratch: Scratch, stamp: np.uint64
) -> Any:
    """Find the leaders of the n-grams at the places, and keep those that occur twice; how many."""
    places, leaders, times, slots = scratch.places, scratch.leaders, scratch.times, scratch.slots
    shift = np.uint64(64 - _bits_for(2 * found))
    for k in range(found):
        i = np.uint64(places[k])
        leader, at = np.uint64(leaders[i]), np.uint64(begin + np.uint64(n - 1))
        times[i] = 0
        if n == 2 or hashes[at + i] != hashes[at + leader]:
            leader = _leader(slots, stamp, shift, _key(hashes, np.uint64(begin + i), n, leader), i)
            leaders[i] = leader
        times[leader] += np.uint32(1)
    kept = np.uint64(0)
    for k in range(found):
        i = np.uint64(places[k])
        places[kept] = i
        kept += np.uint64(times[np.uint64(leaders[i])] > 1)
    return np.int64(kept)


@lean
def _top_chars(found: int, n: int, scratch: Scratch) -> int:
    """Code points of the most frequent n-gram times its count, the earliest of equals."""
    best, most = np.uint64(0), np.uint64(0)
    for k in range(found):
        i = np.uint64(scratch.places[k])
        if np.uint64(scratch.times[i]) > most:
            best, most = i, np.uint64(scratch.times[i])
    return int(most) * int(scratch.chars[best + np.uint64(n)] - scratch.chars[best])


@lean
def _duplicate_chars(found: int, n: int, scratch: Scratch) -> int:
    """Code points of words in an n-gram that came before in the document, each word once."""
    chars = scratch.chars
    total, covered = np.int64(0), np.uint64(0)
    for k in range(found):
        i = np.uint64(scratch.places[k])
        end = np.uint64(i + np.uint64(n))
        if np.uint64(scratch.leaders[i]) != i:
            total += chars[end] - chars[max(i, covered)]
            covered = end
    return int(total)


@lean
def repeated_words(
    first: np.ndarray, hashes: np.ndarray, chars: np.ndarray, scratch: Scratch, result: np.ndarray
) -> None:
    """Fill int64 [10, D]: row 0 code points of all words, row n - 1 those of the top n-gram (n 2..4) times its count,
    of words in n-grams that came before (5..10).

    first: int64 [D + 1]; hashes uint64, chars int32: of all words.
    """
    level = 0
    for doc in range(first.size - 1):
        begin, words = np.uint64(first[doc]), first[doc + 1] - first[doc]
        total = np.int64(0)
        for i in range(words):
            total += chars[begin + np.uint64(i)]
            scratch.chars[i + 1] = total
            scratch.places[i] = i
        result[0, doc] = total
        found = words
        for n in range(2, LARGEST + 1):
            level += 1
            while found > 0 and np.int64(scratch.places[found - 1]) + n > words:
                found -= 1
            found = _may_repeat(hashes, begin, found, n, scratch)
            found = _lead(hashes, begin, found, n, scratch, np.uint64(np.uint64(level) << np.uint64(32)))
            if found == 0:
                break
            if n <= _TOP:
                result[n - 1, doc] = _top_chars(found, n, scratch)
            else:
                result[n - 1, doc] = _duplicate_chars(found, n, scratch)
