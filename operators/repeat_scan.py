"""Repeated lines and paragraphs of each document, and repeated n-grams of datatrove's tokens (those of words are
found in repeat_words.py): the kernels behind the repetition rules.

Each document gets a fresh open-addressing table by raising a stamp, in arrays that are reused. N-grams are
found level by level: only a place whose n-gram occurs twice can begin an (n+1)-gram that occurs twice, so
after bigrams ordinary text has few places left. Legend: D documents, W words (tokens) of a document.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .datatrove_tables import BASE, mix
from .kernel import inline, lean

TOP_SIZES = (2, 3, 4)
DUPLICATE_SIZES = (5, 6, 7, 8, 9, 10)
LARGEST = 10


class Seen(NamedTuple):
    """Open addressing by `hash & mask`. entries uint64 [size, 2]: the key; stamp << 32 | how often it was seen. A slot
    belongs to the document if its stamp is the current one. first int32 [size]: where the key was seen first.
    """

    entries: np.ndarray
    first: np.ndarray


def new_seen(entries: int) -> Seen:
    """Room for `entries` keys at a load of at most one half."""
    size = 1 << max(4, (2 * int(entries)).bit_length())
    return Seen(np.zeros((size, 2), np.uint64), np.empty(size, np.int32))


@lean
def mask_for(entries: int) -> int:
    """The mask of the smallest part of the table that `entries` keys fill at most half."""
    size = 16
    while size < 2 * entries:
        size *= 2
    return size - 1


@inline
def see(seen: Seen, stamp: np.uint64, mask: int, h: np.uint64, place: int) -> np.int64:
    """Count key `h`, first seen at `place`; returns its slot. `stamp`: larger than any before, shifted up by 32."""
    entries = seen.entries
    slot = np.int64(mix(h)) & mask
    while True:
        tag = entries[slot, 1]
        if tag < stamp:
            entries[slot, 0], entries[slot, 1] = h, np.uint64(stamp + np.uint64(1))
            seen.first[slot] = place
            break
        if entries[slot, 0] == h:
            entries[slot, 1] = np.uint64(tag + np.uint64(1))
            break
        slot = (slot + 1) & mask
    return slot


@inline
def times(seen: Seen, slot: np.int64) -> np.int64:
    """How often the key of the slot was seen."""
    return np.int64(seen.entries[slot, 1] & np.uint64(0xFFFFFFFF))


@inline
def stamp_of(number: int) -> np.uint64:
    return np.uint64(np.uint64(number) << np.uint64(32))


@lean
def count_repeats(
    first: np.ndarray, hashes: np.ndarray, chars: np.ndarray, seen: Seen, edges: bool, counts: np.ndarray
) -> None:
    """Fill int64 [4, D]: pieces, pieces seen before, chars of those, chars of all. Empty pieces do not count.

    With `edges` an empty piece at the very beginning or end counts, as in `re.split("\\n+", text)`.
    """
    for doc in range(first.size - 1):
        begin, end = first[doc], first[doc + 1]
        mask = mask_for(end - begin)
        stamp = stamp_of(doc + 1)
        for i in range(begin, end):
            if chars[i] == 0:
                continue
            counts[0, doc] += 1
            counts[3, doc] += chars[i]
            if times(seen, see(seen, stamp, mask, hashes[i], i - begin)) > 1:
                counts[1, doc] += 1
                counts[2, doc] += chars[i]
        if edges and end > begin:
            empty = int(chars[begin] == 0) + int(end - begin > 1 and chars[end - 1] == 0)
            counts[0, doc] += empty
            counts[1, doc] += int(empty == 2)


@lean
def _power(exponent: int) -> np.uint64:
    result, base = np.uint64(1), np.uint64(BASE)
    while exponent:
        if exponent & 1:
            result = np.uint64(result * base)
        base = np.uint64(base * base)
        exponent >>= 1
    return result


class Prefixes(NamedTuple):
    """Over W words: sums of code points `chars`, byte sizes `bytes`, rolling hashes by word and by byte;
    all [W + 1].
    """

    chars: np.ndarray
    bytes: np.ndarray
    by_word: np.ndarray
    by_byte: np.ndarray


class NGrams(NamedTuple):
    """Scratch: places that may repeat and the slots of their n-grams, int32 [W]."""

    places: np.ndarray
    slots: np.ndarray


def new_prefixes(words: int) -> Prefixes:
    return Prefixes(
        np.zeros(words + 1, np.int64),
        np.zeros(words + 1, np.int64),
        np.zeros(words + 1, np.uint64),
        np.zeros(words + 1, np.uint64),
    )


@lean
def _fill(
    prefixes: Prefixes,
    hashes: np.ndarray,
    chars: np.ndarray,
    sizes: np.ndarray,
    begin: int,
    end: int,
) -> None:
    by_word = by_byte = np.uint64(0)
    for i in range(begin, end):
        w = i - begin
        by_word = np.uint64(np.uint64(by_word * BASE) + mix(hashes[i]))
        prefixes.by_word[w + 1] = by_word
        prefixes.chars[w + 1] = prefixes.chars[w] + chars[i]
        by_byte = np.uint64(np.uint64(by_byte * _power(sizes[i])) + hashes[i])
        prefixes.by_byte[w + 1] = by_byte
        prefixes.bytes[w + 1] = prefixes.bytes[w] + sizes[i]


@lean
def _hash_ngram(prefixes: Prefixes, i: int, n: int, power: np.uint64, concatenated: bool) -> np.uint64:
    """Of words i..i+n: by words, or of the words' bytes joined without a space."""
    if concatenated:
        power = _power(prefixes.bytes[i + n] - prefixes.bytes[i])
        return np.uint64(prefixes.by_byte[i + n] - np.uint64(prefixes.by_byte[i] * np.uint64(power)))
    return np.uint64(prefixes.by_word[i + n] - np.uint64(prefixes.by_word[i] * np.uint64(power)))


@lean
def _count_level(
    prefixes: Prefixes,
    grams: NGrams,
    places: int,
    words: int,
    n: int,
    concatenated: bool,
    seen: Seen,
    stamp: np.uint64,
) -> int:
    """Count the n-grams at the places: how many places still hold one."""
    power = _power(n)
    mask = mask_for(places)
    kept = 0
    for k in range(places):
        i = grams.places[k]
        if i + n > words:
            break
        h = _hash_ngram(prefixes, i, n, power, concatenated)
        grams.slots[k] = see(seen, stamp, mask, h, i)
        kept += 1
    return kept


@lean
def _top_chars(prefixes: Prefixes, grams: NGrams, places: int, words: int, n: int, seen: Seen) -> int:
    """Chars of the most frequent n-gram times its count, the earliest of equals.

    datatrove joins words with a space and takes an n-gram that occurs once where none occurs twice.
    """
    best, most = np.int64(-1), np.int64(1)
    for k in range(places):
        slot = np.int64(grams.slots[k])
        if times(seen, slot) > most:
            best, most = slot, times(seen, slot)
    if best < 0:
        return 0 if words < n else int(prefixes.chars[n] + n - 1)
    i = seen.first[best]
    return int(most * (prefixes.chars[i + n] - prefixes.chars[i] + n - 1))


@lean
def _duplicate_chars(prefixes: Prefixes, grams: NGrams, places: int, n: int, seen: Seen) -> int:
    """Chars of words in an n-gram that came before in the document, each word once.

    datatrove goes on after a repeated n-gram behind it, so n-grams that begin inside one are not looked at.
    """
    total = covered = 0
    for k in range(places):
        slot, i = np.int64(grams.slots[k]), grams.places[k]
        if times(seen, slot) < 2 or i < covered:
            continue
        if seen.first[slot] >= 0:
            seen.first[slot] = -1  # the first one looked at
            continue
        total += prefixes.chars[i + n] - prefixes.chars[i]
        covered = i + n
    return total


@lean
def _keep_repeated(grams: NGrams, places: int, seen: Seen) -> int:
    """The places whose n-gram occurs twice; how many."""
    kept = np.int64(0)
    for k in range(places):
        grams.places[kept] = grams.places[k]
        kept += np.int64(times(seen, np.int64(grams.slots[k])) > 1)
    return int(kept)


@lean
def repeated_ngrams(
    first: np.ndarray,
    hashes: np.ndarray,
    chars: np.ndarray,
    sizes: np.ndarray,
    prefixes: Prefixes,
    grams: NGrams,
    seen: Seen,
    result: np.ndarray,
) -> None:
    """Fill int64 [10, D]: row 0 chars of all words, row n - 1 chars of the top n-gram (n 2..4), of duplicates
    (5..10).
    """
    number = 0
    for doc in range(first.size - 1):
        begin, end = first[doc], first[doc + 1]
        words = end - begin
        _fill(prefixes, hashes, chars, sizes, begin, end)
        result[0, doc] = prefixes.chars[words]
        places = words
        for i in range(words):
            grams.places[i] = i
        for n in range(2, LARGEST + 1):
            number += 1
            concatenated = n > 4
            if concatenated:  # words cut otherwise may be the same text, whatever their shorter n-grams are
                places = words
                for i in range(words):
                    grams.places[i] = i
            stamp = stamp_of(number)
            places = _count_level(prefixes, grams, places, words, n, concatenated, seen, stamp)
            if n <= 4:
                result[n - 1, doc] = _top_chars(prefixes, grams, places, words, n, seen)
            else:
                result[n - 1, doc] = _duplicate_chars(prefixes, grams, places, n, seen)
            places = _keep_repeated(grams, places, seen)
