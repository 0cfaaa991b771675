"""Repeated n-grams of the words of each document, by the hashes of words, for the native repetition rules.

N-grams are found level by level: only a place whose n-gram occurs twice can begin an (n+1)-gram that does. Each such
place knows the first one with its n-gram, its leader. If the word that follows there follows at the leader too, the
two stay together and nothing has to be looked up; most repeated text is longer than a few words, so that is most of
them. Legend: D documents, W words of a document.
"""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .byte_masks import highest
from .datatrove_tables import BASE
from .fasttext_vectors import expect
from .kernel import inline, lean
from .lanes import copies, data_of, load

LARGEST = 10
_TOP = 4  # the largest n of which the most frequent n-gram counts, and not those that came before
_MARKS = 8  # for each word
_AHEAD = 12  # so many look-ups earlier a slot is asked for
_KEPT = (1 << 18) - 1  # words for which the scratch is not made anew for every batch


class Scratch(NamedTuple):
    """For the largest W: uint32 [W] places that may repeat, by place its leader and (of a leader) how many it has with
    itself, places to look up; uint64 [W] their keys; uint8 marks, some for each word; uint64 [2 ** n] open addressing
    by twos: key, and stamp | leader, where a slot is taken if its stamp is the current one; uint64 [1] the last stamp.
    """

    places: np.ndarray
    leaders: np.ndarray
    times: np.ndarray
    wanted: np.ndarray
    keys: np.ndarray
    marks: np.ndarray
    slots: np.ndarray
    stamp: np.ndarray


def new_scratch(words: int) -> Scratch:
    bits = max(words, 1).bit_length()
    places, leaders, times, wanted = np.empty((4, words), np.uint32)
    return Scratch(
        places,
        leaders,
        times,
        wanted,
        np.empty(words, np.uint64),
        np.empty(_MARKS << bits, np.uint8),
        np.zeros(4 << bits, np.uint64),
        np.zeros(1, np.uint64),
    )


class _Kept(threading.local):
    scratch: Scratch | None = None


_kept = _Kept()


def scratch_for(words: int) -> Scratch:
    """One with room for so many words; small ones are this thread's own, whose memory is there already."""
    if words > _KEPT:
        return new_scratch(words)
    if _kept.scratch is None or _kept.scratch.stamp[0] >> np.uint64(63):
        _kept.scratch = new_scratch(_KEPT)
    return _kept.scratch


@intrinsic
def _is_open(typing: Any, slots: Any, i: Any, key: Any, stamp: Any) -> Any:
    """Whether slots[i] is `key` or slots[i + 1] is below `stamp`. In one register and by one branch: which of the two
    it is is a matter of chance, that it is neither is rare."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pair = load(builder, data_of(context, builder, signature, values, 0), values[1], 2)
        same = pair.compare("==", copies(builder, values[2], 2))
        free = pair.compare("<", copies(builder, values[3], 2))
        both = ir.Constant(same.value.type, [1, 0])
        open_ = builder.bitcast(builder.select(both, same.value, free.value), ir.IntType(2))
        return builder.icmp_unsigned("!=", open_, ir.Constant(open_.type, 0))

    return types.boolean(slots, types.int64, types.uint64, types.uint64), emit


@inline
def _leader(
    slots: np.ndarray, stamp: np.uint64, shift: np.uint64, key: np.uint64, place: np.uint64
) -> np.uint64:
    """The place that had `key` first; `place` itself if none had. Slots are those of the highest bits of keys."""
    one, mask = np.uint64(1), np.uint64(np.uint64(0xFFFFFFFFFFFFFFFF) >> shift)
    slot = np.uint64(key >> shift)
    while not _is_open(slots, np.int64(slot << one), key, stamp):
        slot = np.uint64((slot + one) & mask)
    tag = slots[slot << one | one]
    leader = place if tag < stamp else np.uint64(tag & np.uint64(0xFFFFFFFF))
    slots[slot << one], slots[slot << one | one] = key, np.uint64(stamp | leader)
    return leader


@inline
def _shift_for(least: int) -> np.uint64:
    """To the right by it, a key is a place among `least` or the next power of two, 16 or more."""
    return np.uint64(63 - highest(np.uint64(max(least, 16) - 1)))


@lean
def _bigrams(hashes: np.ndarray, begin: np.uint64, words: int, scratch: Scratch) -> int:
    """Want the n-grams at all places; how many."""
    wanted, keys = scratch.wanted, scratch.keys
    for k in range(np.uint64(max(words - 1, 0))):
        i = np.uint64(begin + k)
        keys[k] = np.uint64(np.uint64(hashes[i] * BASE) + hashes[i + np.uint64(1)])
        wanted[k] = k
    return max(words - 1, 0)


@lean
def _go_on(hashes: np.ndarray, begin: np.uint64, found: int, n: int, scratch: Scratch) -> Any:
    """Count the places that go on as their leaders do, and want the n-grams of the others; how many."""
    places, leaders, times, wanted, keys = scratch[:5]
    at = np.uint64(begin + np.uint64(n - 1))
    others = np.uint64(0)
    for k in range(np.uint64(found)):
        i = np.uint64(places[k])
        leader, last = np.uint64(leaders[i]), hashes[at + i]
        same = hashes[at + leader] == last
        times[i] = 0
        leaders[i] = leader if same else i
        times[leader] += np.uint32(same)
        wanted[others], keys[others] = i, np.uint64(np.uint64(leader * BASE) + last)
        others += np.uint64(not same)
    return np.int64(others)


@lean
def _may_repeat(count: int, scratch: Scratch) -> Any:
    """Of the wanted n-grams those that occur twice, and few others; how many.

    A first pass marks bytes by the highest bits of the keys: 1, and more where one was marked already. There is no
    branch in it, where a look into a table is a matter of chance.
    """
    wanted, keys, marks = scratch.wanted, scratch.keys, scratch.marks
    shift = _shift_for(_MARKS * count)
    for m in range(np.uint64(1) << np.uint64(np.uint64(64) - shift)):
        marks[m] = 0
    for k in range(np.uint64(count)):
        slot = np.uint64(keys[k] >> shift)
        marks[slot] = 1 | (marks[slot] << 1)
    kept = np.uint64(0)
    for k in range(np.uint64(count)):
        key = keys[k]
        wanted[kept], keys[kept] = wanted[k], key
        kept += np.uint64(marks[np.uint64(key >> shift)] > 1)
    return np.int64(kept)


@lean
def _look_up(count: int, scratch: Scratch) -> None:
    """Find the leaders of the wanted n-grams."""
    leaders, times, wanted, keys, slots = (
        scratch.leaders,
        scratch.times,
        scratch.wanted,
        scratch.keys,
        scratch.slots,
    )
    shift = _shift_for(2 * count)
    scratch.stamp[0] += np.uint64(1 << 32)
    stamp = scratch.stamp[0]
    last = np.uint64(max(count - 1, 0))
    for k in range(np.uint64(count)):
        ahead = np.uint64(keys[min(np.uint64(k + np.uint64(_AHEAD)), last)] >> shift)
        expect(slots, np.int64(ahead << np.uint64(1)))
        i = np.uint64(wanted[k])
        leader = _leader(slots, stamp, shift, keys[k], i)
        leaders[i], times[i] = leader, 0
        times[leader] += np.uint32(1)


@lean
def _keep(source: np.ndarray, count: int, scratch: Scratch) -> Any:
    """The places of `source` whose n-grams occur twice; how many."""
    places, leaders, times = scratch.places, scratch.leaders, scratch.times
    kept = np.uint64(0)
    for k in range(np.uint64(count)):
        i = np.uint64(source[k])
        places[kept] = i
        kept += np.uint64(times[np.uint64(leaders[i])] > 1)
    return np.int64(kept)


@lean
def _chars_of(chars: np.ndarray, begin: np.uint64, end: np.uint64) -> np.int64:
    """Code points of words."""
    total = np.int64(0)
    for i in range(np.int64(end - begin)):
        total += chars[np.uint64(begin + np.uint64(i))]
    return total


@lean
def _top_chars(chars: np.ndarray, begin: np.uint64, found: int, n: int, scratch: Scratch) -> np.int64:
    """Code points of the most frequent n-gram times its count, the earliest of equals."""
    best, most = np.uint64(0), np.uint64(0)
    for k in range(found):
        i = np.uint64(scratch.places[k])
        if np.uint64(scratch.times[i]) > most:
            best, most = i, np.uint64(scratch.times[i])
    return np.int64(most) * _chars_of(chars, begin + best, begin + best + np.uint64(n))


@lean
def _duplicate_chars(chars: np.ndarray, begin: np.uint64, found: int, n: int, scratch: Scratch) -> np.int64:
    """Code points of words in an n-gram that came before in the document, each word once."""
    total, covered = np.int64(0), np.uint64(0)
    for k in range(found):
        i = np.uint64(scratch.places[k])
        end = np.uint64(i + np.uint64(n))
        if np.uint64(scratch.leaders[i]) != i:
            total += _chars_of(chars, begin + max(i, covered), begin + end)
            covered = end
    return total


@lean
def repeated_words(
    first: np.ndarray, hashes: np.ndarray, chars: np.ndarray, scratch: Scratch, result: np.ndarray
) -> None:
    """Fill int64 [10, D]: row 0 code points of all words, row n - 1 those of the top n-gram (n 2..4) times its count,
    of words in n-grams that came before (5..10).

    first: int64 [D + 1]; hashes uint64, chars int32: of all words.
    """
    for doc in range(first.size - 1):
        begin, words = np.uint64(first[doc]), first[doc + 1] - first[doc]
        result[0, doc] = _chars_of(chars, begin, begin + np.uint64(words))
        wanted = _may_repeat(_bigrams(hashes, begin, words, scratch), scratch)
        _look_up(wanted, scratch)
        found, n = _keep(scratch.wanted, wanted, scratch), 2
        while found > 0:
            if n <= _TOP:
                result[n - 1, doc] = _top_chars(chars, begin, found, n, scratch)
            else:
                result[n - 1, doc] = _duplicate_chars(chars, begin, found, n, scratch)
            n += 1
            while found > 0 and np.int64(scratch.places[found - 1]) + n > words:
                found -= 1
            if n > LARGEST:
                break
            _look_up(_may_repeat(_go_on(hashes, begin, found, n, scratch), scratch), scratch)
            found = _keep(scratch.places, found, scratch)
