"""Tables of datatrove's English words as arrays that a numba kernel can take, and the hashes that index them.

A string is hashed as a polynomial over its UTF-8 bytes modulo 2**64 (`h = h * BASE + byte + 1`), so the
hash of a concatenation follows from the hashes of its parts. Tables are open addressing, indexed by the
mixed hash.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .kernel import lean

SPACE, ALPHA, LOWER, UPPER, PREFIX, SUFFIX, QUOTE, DOT_BEFORE, CURRENCY, ICON = (
    1 << bit for bit in range(10)
)
IS_ALPHA, SYMBOL, PUNCTUATION, SENTENCE_END, TERMINAL, WORD, DIGIT, HOST, LINE_BREAK, PLAIN = (
    1 << bit for bit in range(10, 20)
)  # PLAIN: no rule for prefixes, suffixes and infixes looks at it
MAX_SPECIAL_CHARS = 12
MAX_SEQUENCE = 12
BASE = np.uint64(0x9E3779B97F4A7C15)


class Kinds(NamedTuple):
    """Class bits of a code point in two stages: `block_index` uint16 [4352] and `blocks` uint32 [256 * n].

    What `class_of` needs of the `Rules`; a call with all of them puts eighty words on the stack.
    """

    block_index: np.ndarray
    blocks: np.ndarray


class Rules(NamedTuple):
    """`special_ends` bool [65536]: some special case has this first and this last byte (`first << 8 | last`).
    `special_keys` uint64, `special_rows` int32: hash of a special case -> its row, -1 where a slot is empty;
    row `r` has the pieces of `piece_chars[piece_first[r] : piece_first[r + 1]]` characters each.
    `sequence_keys`, `sequence_kinds` uint8: hash of a run of tokens -> bit 0: longer runs exist, bit 1: a
    special case spells so. `unit_keys`, `unit_used` uint8: units and currencies that split off after a digit.
    """

    kinds: Kinds
    special_ends: np.ndarray
    special_keys: np.ndarray
    special_rows: np.ndarray
    piece_first: np.ndarray
    piece_chars: np.ndarray
    sequence_starts: np.ndarray
    sequence_keys: np.ndarray
    sequence_kinds: np.ndarray
    unit_keys: np.ndarray
    unit_used: np.ndarray


@lean
def mix(h: np.uint64) -> np.uint64:
    """The finaliser of MurmurHash3, 64 bits."""
    h = np.uint64(np.uint64(h ^ (h >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD))
    h = np.uint64(np.uint64(h ^ (h >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53))
    return np.uint64(h ^ (h >> np.uint64(33)))


@lean
def hash_bytes(data: np.ndarray, start: int, end: int) -> np.uint64:
    h = np.uint64(0)
    for i in range(start, end):
        h = np.uint64(np.uint64(h * BASE) + np.uint64(data[i]) + np.uint64(1))
    return h


@lean
def find_key(keys: np.ndarray, used: np.ndarray, empty: int, h: np.uint64) -> np.int64:
    """The slot of hash `h`, or -1."""
    mask = np.uint64(keys.size - 1)
    slot = np.uint64(mix(h) & mask)
    while used[slot] != empty:
        if keys[slot] == h:
            return np.int64(slot)
        slot = np.uint64(np.uint64(slot + np.uint64(1)) & mask)
    return np.int64(-1)


@lean
def chain(h: np.uint64, token: np.uint64) -> np.uint64:
    """The hash of a run of tokens with one token more."""
    return mix(np.uint64(np.uint64(h * np.uint64(3)) + token))


def text_hash(text: str) -> int:
    """`hash_bytes` of the text in UTF-8."""
    data = np.frombuffer(text.encode(), dtype=np.uint8)
    return int(hash_bytes(data, 0, data.size))


def table_of(entries: dict[int, int], empty: int, dtype: type) -> tuple[np.ndarray, np.ndarray]:
    """Keys (uint64) and values of an open-addressing table for `find_key`; `empty` marks a free slot."""
    size = 1 << (4 * len(entries)).bit_length()
    keys: np.ndarray = np.zeros(size, np.uint64)
    values: np.ndarray = np.full(size, empty, dtype)
    for key, value in entries.items():
        slot = int(mix(np.uint64(key))) & (size - 1)
        while values[slot] != empty:
            slot = (slot + 1) & (size - 1)
        keys[slot], values[slot] = key, value
    return keys, values


def _sequence_kinds(sequences: list[str]) -> dict[int, int]:
    kinds: dict[int, int] = {}
    for sequence in sequences:
        tokens = sequence.split("\0")
        h = 0
        for place, token in enumerate(tokens):
            h = int(chain(np.uint64(h), np.uint64(text_hash(token))))
            kinds[h] = kinds.get(h, 0) | (2 if place == len(tokens) - 1 else 1)
    return kinds


@cache
def english_rules() -> Rules:
    """The tables, read once per process from datatrove_words.npz."""
    with np.load(Path(__file__).with_name("datatrove_words.npz")) as stored:
        pieces = [special.split("\0") for special in stored["specials"].tolist()]
        ends = np.zeros(65536, np.bool_)
        for row in pieces:
            special = "".join(row).encode()
            ends[special[0] << 8 | special[-1]] = True
        specials = {text_hash("".join(row)): place for place, row in enumerate(pieces)}
        units = {text_hash(unit): 1 for unit in stored["units"].tolist()}
        starts = np.zeros(4096, np.bool_)
        starts[[text_hash(sequence.split("\0")[0]) & 4095 for sequence in stored["sequences"].tolist()]] = (
            True
        )
        kinds = _sequence_kinds(stored["sequences"].tolist())
        return Rules(
            Kinds(stored["block_index"], stored["blocks"]),
            ends,
            *table_of(specials, -1, np.int32),
            np.cumsum([0, *(len(row) for row in pieces)]).astype(np.int32),
            np.array([len(piece) for row in pieces for piece in row], np.int32),
            starts,
            *table_of(kinds, 0, np.uint8),
            *table_of(units, 0, np.uint8),
        )


@lean
def decode(data: np.ndarray, at: int, end: int) -> tuple[np.uint32, int]:
    """Code point and its length in bytes; a byte that begins no character before `end` is a U+FFFD of its own."""
    b = np.uint32(data[at])
    if b < 0x80:
        return b, 1
    width = 2 if b < 0xE0 else (3 if b < 0xF0 else 4)
    if b < 0xC0 or b >= 0xF8 or at + width > end:
        return np.uint32(0xFFFD), 1
    cp, odd = b & np.uint32(0x7F >> width), np.uint32(0)
    for k in range(1, width):
        more = np.uint32(data[at + k]) ^ np.uint32(0x80)
        cp, odd = (cp << np.uint32(6)) | more, odd | more
    if odd & np.uint32(0xC0):
        return np.uint32(0xFFFD), 1
    return min(cp, np.uint32(0x10FFFF)), width


@lean
def class_of(kinds: Kinds, cp: np.uint32) -> np.uint32:
    return np.uint32(kinds.blocks[np.int64(kinds.block_index[cp >> 8]) * 256 + np.int64(cp & 255)])
