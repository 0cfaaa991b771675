"""Prefixes, suffixes and infixes of a chunk of English, as spaCy 3.8 splits them off (its
`lang/punctuation.py`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .datatrove_tables import (
    ALPHA,
    CURRENCY,
    DOT_BEFORE,
    ICON,
    LOWER,
    PREFIX,
    QUOTE,
    SUFFIX,
    UPPER,
    Rules,
    find_key,
    hash_bytes,
)
from .kernel import lean


class Chunk(NamedTuple):
    """Scratch for one chunk: code points `cp` uint32, byte positions `at` int64, classes `cls` uint32,
    suffix lengths.
    """

    cp: np.ndarray
    at: np.ndarray
    cls: np.ndarray
    suffix: np.ndarray


def new_chunk(capacity: int) -> Chunk:
    return Chunk(
        np.empty(capacity, np.uint32),
        np.empty(capacity, np.int64),
        np.empty(capacity, np.uint32),
        np.empty(capacity, np.int32),
    )


@lean
def _digit(c: int) -> bool:
    return 48 <= c <= 57


@lean
def find_prefix(chunk: Chunk, a: int, b: int) -> int:
    c = chunk.cp[a]
    if chunk.cls[a] & PREFIX:
        return 1
    if c == 43:
        return 0 if a + 1 < b and _digit(chunk.cp[a + 1]) else 1
    if c == 46:
        end = a
        while end < b and chunk.cp[end] == 46:
            end += 1
        return end - a if end - a > 1 else 0
    if (c == 65 or c == 67) and a + 1 < b and chunk.cp[a + 1] == 36:
        return 2
    if c == 85 and a + 2 < b and chunk.cp[a + 1] == 83 and chunk.cp[a + 2] == 36:
        return 3
    return 0


@lean
def _after_digit(data: np.ndarray, chunk: Chunk, a: int, b: int, rules: Rules) -> int:
    """Longest unit, currency or plus at the end of [a, b) that follows a digit; the leftmost match is the
    longest.
    """
    for start in range(max(a + 1, b - 5), b):
        if not _digit(chunk.cp[start - 1]):
            continue
        if start == b - 1 and (chunk.cp[start] == 43 or chunk.cls[start] & CURRENCY):
            return 1
        if find_key(rules.unit_keys, rules.unit_used, 0, hash_bytes(data, chunk.at[start], chunk.at[b])) >= 0:
            return b - start
    return 0


@lean
def find_suffix(data: np.ndarray, chunk: Chunk, a: int, b: int, rules: Rules) -> int:
    if a >= b:
        return 0
    cp, cls = chunk.cp, chunk.cls
    last = cp[b - 1]
    best = 1 if cls[b - 1] & SUFFIX else 0
    if b - a > 1:
        before = cp[b - 2]
        if (last == 115 or last == 83) and (before == 39 or before == 0x2019):
            return 2
        if last == 46:
            start = b
            while start > a and cp[start - 1] == 46:
                start -= 1
            if b - start > 1:
                return b - start
            if (
                cls[b - 2] & DOT_BEFORE
                or (b - a > 2 and cls[b - 2] & UPPER and cls[b - 3] & UPPER)
                or (b - a > 2 and cp[b - 3] == 0xB0 and (before in (70, 102, 67, 99, 75, 107)))
            ):
                best = 1
        elif last == 0x2026 and before == 0x2026:
            return 2
        best = max(best, _after_digit(data, chunk, a, b, rules))
    return best


@lean
def _hyphen(chunk: Chunk, i: int, b: int) -> int:
    """Length of the hyphen that begins at `i` and is followed by a letter, else 0."""
    c = chunk.cp[i]
    longest = 3 if c == 45 else 2 if c == 0x2014 else 1 if c == 0x2013 or c == 126 else 0
    for length in range(1, longest + 1):
        if i + length >= b:
            return 0
        if chunk.cls[i + length] & ALPHA:
            return length
        if chunk.cp[i + length] != c:
            return 0
    return 0


@lean
def find_infix(chunk: Chunk, i: int, a: int, b: int) -> int:
    """Length of the infix that begins at character `i` of [a, b), 0 where none does."""
    cp, cls = chunk.cp, chunk.cls
    c = cp[i]
    if c == 46 and i + 1 < b and cp[i + 1] == 46:
        end = i
        while end < b and cp[end] == 46:
            end += 1
        return end - i
    if c == 0x2026 or cls[i] & ICON:
        return 1
    if i == a or i + 1 >= b:
        return 0
    before, after = cls[i - 1], cls[i + 1]
    if c == 46:
        return 1 if before & (LOWER | QUOTE) and after & (UPPER | QUOTE) else 0
    digit = _digit(cp[i - 1])
    if digit and (c == 43 or c == 45 or c == 42 or c == 94) and (_digit(cp[i + 1]) or cp[i + 1] == 45):
        return 1
    if c == 44:
        return 1 if before & ALPHA and after & ALPHA else 0
    if before & ALPHA or digit:
        if c == 58 or c == 60 or c == 62 or c == 61 or c == 47:
            return 1 if after & ALPHA else 0
        return _hyphen(chunk, i, b)
    return 0
