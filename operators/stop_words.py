"""Function words by language, and how many different ones a document holds.

English: the eight of Gopher (Rae et al. 2021, A1.1). Korean: a word here is an eojeol, which carries its
particles and endings as suffixes ("-는" stands for every longer eojeol that ends so), so bare morphemes
would match nothing; the list is the frequent particles and endings, and function eojeol that stand alone.
At most 64 per language.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from .datatrove_tables import BASE, find_key, hash_bytes, table_of, text_hash
from .kernel import lean

STOP_WORDS: dict[str, tuple[str, ...]] = {
    "en": ("the", "be", "to", "of", "and", "that", "have", "with"),
    "ko": (
        *("-은", "-는", "-이", "-가", "-을", "-를", "-의", "-에", "-로", "-와", "-과", "-도", "-만"),
        *("-에서", "-으로", "-까지", "-부터", "-에게", "-보다", "-처럼", "-한테"),
        *("-다", "-고", "-요", "-한", "-하는", "-지만", "-면", "-서", "-게", "-지"),
        *(
            "그",
            "이",
            "수",
            "것",
            "및",
            "등",
            "또는",
            "또",
            "더",
            "그리고",
            "하지만",
            "그러나",
            "있는",
            "같은",
            "때",
        ),
    ),
}
SALT = 0xD6E8FEB86659FD93  # no multiple of BASE: a word of one language would be another's
LONGEST_SUFFIX = 6  # bytes: two syllables
LONGEST_WORD = max(len(entry.encode()) for entries in STOP_WORDS.values() for entry in entries)


class StopTable(NamedTuple):
    """Hash of a word or suffix, mixed with the place of its language -> its bit, -1 where a slot is empty.

    By language: has_list, has_suffixes bool [L]; begins bool [L, LONGEST_WORD + 1, 32]: whether a word of so many
    bytes and this first byte (its low five bits: letters in any case) is listed.
    """

    word_keys: np.ndarray
    word_bits: np.ndarray
    suffix_keys: np.ndarray
    suffix_bits: np.ndarray
    has_list: np.ndarray
    has_suffixes: np.ndarray
    begins: np.ndarray


def _salt(key: int, place: int) -> int:
    return (key + place * SALT) & (2**64 - 1)


@lru_cache(maxsize=64)  # of as many batches as differ in their languages
def stop_table(languages: tuple[str, ...]) -> StopTable:
    """The table for documents whose language is given as an index into `languages`."""
    words: dict[int, int] = {}
    suffixes: dict[int, int] = {}
    for place, language in enumerate(languages):
        for bit, entry in enumerate(STOP_WORDS.get(language, ())):
            found = suffixes if entry.startswith("-") else words
            found[_salt(text_hash(entry.removeprefix("-")), place)] = bit
    has_list = np.array([language in STOP_WORDS for language in languages], np.bool_)
    has_suffixes = np.zeros(len(languages), np.bool_)
    begins = np.zeros((len(languages), LONGEST_WORD + 1, 32), np.bool_)
    for place, language in enumerate(languages):
        for entry in STOP_WORDS.get(language, ()):
            has_suffixes[place] |= entry.startswith("-")
            begins[place, len(entry.encode()), entry.encode()[0] & 31] = True
    tables = (*table_of(words, -1, np.int8), *table_of(suffixes, -1, np.int8))
    return StopTable(*tables, has_list, has_suffixes, begins)


@lean
def _lowered_hash(data: np.ndarray, start: int, end: int) -> np.uint64:
    """`hash_bytes` of the word with ASCII letters in lower case."""
    h = np.uint64(0)
    for i in range(start, end):
        b = np.uint64(data[i])
        if 65 <= b <= 90:
            b = np.uint64(b + np.uint64(32))
        h = np.uint64(np.uint64(h * BASE) + b + np.uint64(1))
    return h


@lean
def _count(
    data: np.ndarray,
    first: np.ndarray,
    start: np.ndarray,
    end: np.ndarray,
    lower: bool,
    codes: np.ndarray,
    stops: StopTable,
    counts: np.ndarray,
) -> None:
    for doc in range(first.size - 1):
        code = codes[doc]
        if not stops.has_list[code]:
            continue
        salt = np.uint64(np.uint64(code) * np.uint64(SALT))
        found = np.uint64(0)
        for w in range(first[doc], first[doc + 1]):
            a, b = start[w], end[w]
            if b - a <= LONGEST_WORD and stops.begins[code, b - a, data[a] & 31]:
                h = _lowered_hash(data, a, b) if lower else hash_bytes(data, a, b)
                slot = find_key(stops.word_keys, stops.word_bits, -1, np.uint64(h + salt))
                if slot >= 0:
                    found |= np.uint64(1) << np.uint64(stops.word_bits[slot])
            if stops.has_suffixes[code]:
                for length in range(3, LONGEST_SUFFIX + 1, 3):
                    if b - a > length:
                        h = np.uint64(hash_bytes(data, b - length, b) + salt)
                        slot = find_key(stops.suffix_keys, stops.suffix_bits, -1, h)
                        if slot >= 0:
                            found |= np.uint64(1) << np.uint64(stops.suffix_bits[slot])
        total = 0
        while found:
            found &= np.uint64(found - np.uint64(1))
            total += 1
        counts[doc] = total


def count_stop_words(
    data: np.ndarray,
    first: np.ndarray,
    start: np.ndarray,
    end: np.ndarray,
    lower: bool,
    codes: np.ndarray,
    stops: StopTable,
) -> np.ndarray:
    """float64 [documents]: different stop words of the document's language; NaN where the language has no
    list.

    `codes` int32 [documents]: the document's language as an index into the table's languages.
    """
    counts = np.full(first.size - 1, np.nan)
    _count(data, first, start, end, lower, codes, stops, counts)
    return counts
