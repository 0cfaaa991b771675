"""What a code point is to the hashes of deduplication: part of a word, white space or neither.

The classes and the simple lower-case mapping are part of the published hash schemes, so they come from a
table that the package carries and never from the Python that runs it.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from .kernel import inline
from .unicode_tables import EXTEND, LETTER, NUMBER, WHITE, lower_case, properties

OTHER, WORD, SINGLE, MARK, SPACE = 0, 1, 2, 3, 4

NO_SPACES = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x2E80, 0x2FDF),  # Han radicals
    (0x3005, 0x30FF),  # Han signs, Hiragana, Katakana
    (0x31F0, 0x31FF),  # Katakana extensions
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xA9E0, 0xA9FF),  # Myanmar extensions
    (0xAA60, 0xAA7F),
    (0xF900, 0xFAFF),  # Han compatibility
    (0xFF66, 0xFF9F),  # Katakana, half width
    (0x1AFF0, 0x1B16F),  # Kana extensions
    (0x20000, 0x3FFFF),  # Han
)
"""Ranges whose letters and numbers are words of their own, being written without spaces."""


@cache
def code_points() -> tuple[np.ndarray, np.ndarray]:
    """(class uint8 [0x110000], simple lower case int32 [0x110000]) of every code point.

    WORD: letters, numbers and the underscore; SINGLE: those of `NO_SPACES`; MARK: continues a word that has
    begun (word break class Extend, no letter and no symbol); SPACE: the property White_Space.
    """
    index, blocks = properties()
    known = blocks[index].reshape(-1)
    kind = known & 0xFF
    letters = (kind & (LETTER | NUMBER)) != 0
    letters[ord("_")] = True
    alone = np.zeros(len(known), dtype=bool)
    for first, last in NO_SPACES:
        alone[first : last + 1] = True
    classes = np.zeros(len(known), dtype=np.uint8)
    classes[((known >> 8) == EXTEND) & (kind == 0)] = MARK
    classes[(kind & WHITE) != 0] = SPACE
    classes[letters] = np.where(alone[letters], SINGLE, WORD)
    lower = np.arange(len(known), dtype=np.int32)
    lower[: len(lower_case())] = lower_case()
    return classes, lower


@inline
def encode(point: int, out: np.ndarray, w: int) -> int:
    """Write the code point as UTF-8 at byte `w`; the position after it."""
    if point < 0x80:
        out[w] = point
        return w + 1
    if point < 0x800:
        out[w] = 0xC0 | (point >> 6)
        out[w + 1] = 0x80 | (point & 0x3F)
        return w + 2
    if point < 0x10000:
        out[w] = 0xE0 | (point >> 12)
        out[w + 1] = 0x80 | ((point >> 6) & 0x3F)
        out[w + 2] = 0x80 | (point & 0x3F)
        return w + 3
    out[w] = 0xF0 | (point >> 18)
    out[w + 1] = 0x80 | ((point >> 12) & 0x3F)
    out[w + 2] = 0x80 | ((point >> 6) & 0x3F)
    out[w + 3] = 0x80 | (point & 0x3F)
    return w + 4
