"""Function words by language, and how many different ones a document holds.

English: the eight of Gopher (Rae et al. 2021, A1.1). Korean: a word here is an eojeol, which carries its
particles and endings as suffixes ("-는" stands for every longer eojeol that ends so), so bare morphemes
would match nothing; the list is the frequent particles and endings, and function eojeol that stand alone.
At most 63 per language.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from .byte_masks import bits_in
from .hashing import word64
from .kernel import inline, lean

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
LONGEST_WORD = 16  # bytes that make a key
_SUFFIXES = (3, 6)  # bytes: one or two syllables
_SIZE_BITS = 10
_SUFFIX = 0xFF << 56  # no text has such a byte
_TAIL = 0x9E3779B97F4A7C15


class StopTable(NamedTuple):
    """By language [L]. keys, bits uint64 [L, 1024]: of a word or suffix (see `_word_key`), and 1 << its place in the
    list; where nothing is, no bit. factors uint64 [L]: a key is at `key * factor >> 54`. all uint64 [L]: the bits of
    all. longest int64 [L]: bytes of the longest word, 0 without a list; has_suffixes bool [L].
    """

    keys: np.ndarray
    bits: np.ndarray
    factors: np.ndarray
    all: np.ndarray
    longest: np.ndarray
    has_suffixes: np.ndarray


def _key_of(entry: str) -> int:
    text = entry.removeprefix("-").encode()
    key = int.from_bytes(text[:8], "little")
    if entry.startswith("-"):
        if len(text) not in _SUFFIXES:
            raise ValueError(f"{entry}: want a suffix of {_SUFFIXES} bytes, got {len(text)}")
        return key | _SUFFIX
    if not 0 < len(text) <= LONGEST_WORD:
        raise ValueError(f"{entry}: want a word of at most {LONGEST_WORD} bytes, got {len(text)}")
    return (key + int.from_bytes(text[-8:], "little") * _TAIL) % 2**64 if len(text) > 8 else key


def _place_keys(keys: list[int]) -> tuple[int, list[int]]:
    """A factor by which no two keys are at the same place, and the places."""
    for odd in range(1, 1 << 20, 2):
        factor = odd * _TAIL % 2**64
        places = [(key * factor % 2**64) >> (64 - _SIZE_BITS) for key in keys]
        if len(set(places)) == len(keys):
            return factor, places
    raise ValueError(f"no table of {1 << _SIZE_BITS} places for {len(keys)} words")


@lru_cache(maxsize=64)  # of as many batches as differ in their languages
def stop_table(languages: tuple[str, ...]) -> StopTable:
    """The table for documents whose language is given as an index into `languages`."""
    count = len(languages)
    keys, bits = np.zeros((2, count, 1 << _SIZE_BITS), np.uint64)
    factors, longest, every = (
        np.zeros(count, np.uint64),
        np.zeros(count, np.int64),
        np.zeros(count, np.uint64),
    )
    for place, language in enumerate(languages):
        entries = STOP_WORDS.get(language, ())
        if len(entries) > 63:
            raise ValueError(f"{language}: want at most 63 stop words, got {len(entries)}")
        found = [_key_of(entry) for entry in entries]
        factors[place], slots = _place_keys(found)
        for bit, (slot, key) in enumerate(zip(slots, found, strict=True)):
            keys[place, slot], bits[place, slot] = key, 1 << bit
        every[place] = (1 << len(entries)) - 1
        longest[place] = max((len(entry.encode()) for entry in entries), default=0)
    suffixes = [any(entry.startswith("-") for entry in STOP_WORDS.get(name, ())) for name in languages]
    return StopTable(keys, bits, factors, every, longest, np.array(suffixes, np.bool_))


@lean
def _few(data: np.ndarray, p: int, size: int) -> np.uint64:
    x = np.uint64(0)
    for k in range(size):
        x |= np.uint64(data[np.uint64(p + k)]) << np.uint64(8 * k)
    return x


@inline
def _eight(data: np.ndarray, p: int, size: int) -> np.uint64:
    """The `size` bytes from `p` on, 1 to 8."""
    unused = np.uint64(64 - 8 * size)
    if p + 8 > len(data):
        return _few(data, p, size)
    return np.uint64(np.uint64(word64(data, p) << unused) >> unused)


@inline
def _lowered(x: np.uint64) -> np.uint64:
    """Eight bytes with capitals of ASCII as small letters."""
    low = np.uint64(x & np.uint64(0x7F7F7F7F7F7F7F7F))
    from_a = np.uint64(low + np.uint64(0x3F3F3F3F3F3F3F3F))
    behind_z = np.uint64(low + np.uint64(0x2525252525252525))
    capitals = np.uint64((from_a ^ behind_z) & ~x & np.uint64(0x8080808080808080))
    return np.uint64(x | (capitals >> np.uint64(2)))


@inline
def _last_eight(data: np.ndarray, b: int) -> np.uint64:
    """The last eight bytes before `b`; what there is of them, the last one highest."""
    if b >= 8:
        return np.uint64(word64(data, b - 8))
    return np.uint64(_eight(data, 0, max(b, 1)) << np.uint64(64 - 8 * max(b, 1)))


@inline
def _word_key(data: np.ndarray, a: int, b: int, longest: int, lower: bool) -> np.uint64:
    """The first eight bytes, and the last eight times a number where there are more; 0 of no word and a longer one."""
    key = _eight(data, a, max(min(b - a, 8), 1))
    if lower:
        key = _lowered(key)
    if longest > 8:
        last = _last_eight(data, b)
        last = np.uint64((_lowered(last) if lower else last) * np.uint64(_TAIL))
        key = np.uint64(key + (last if b - a > 8 else np.uint64(0)))
    return key if a < b <= a + longest else np.uint64(0)


@inline
def _suffix_keys(data: np.ndarray, a: int, b: int) -> tuple[np.uint64, np.uint64]:
    """Of the last three and six bytes; 0 where the word is no longer than that."""
    last = _last_eight(data, b)
    key = np.uint64((last >> np.uint64(40)) | np.uint64(_SUFFIX))
    longer = np.uint64((last >> np.uint64(16)) | np.uint64(_SUFFIX))
    return (key if b - a > 3 else np.uint64(0)), (longer if b - a > 6 else np.uint64(0))


@inline
def _bit_of(stops: StopTable, code: int, key: np.uint64) -> np.uint64:
    slot = np.uint64(np.uint64(key * stops.factors[code]) >> np.uint64(64 - _SIZE_BITS))
    # By a shift: whether a word is one is a matter of chance, and a branch costs more than all the rest.
    other = np.uint64(stops.keys[code, slot] != key)
    return np.uint64(stops.bits[code, slot] >> np.uint64(other * np.uint64(63)))


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
        longest, has_suffixes = stops.longest[code], stops.has_suffixes[code]
        if longest == 0:
            continue
        found, all_of_them = np.uint64(0), stops.all[code]
        for w in range(first[doc], first[doc + 1]):
            a, b = start[w], end[w]
            found |= _bit_of(stops, code, _word_key(data, a, b, longest, lower))
            if has_suffixes:
                key, longer = _suffix_keys(data, a, b)
                found |= _bit_of(stops, code, key) | _bit_of(stops, code, longer)
            if found == all_of_them:
                break
        counts[doc] = bits_in(found)


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
