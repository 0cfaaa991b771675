"""Which of 64 bytes of UTF-8 are words, for the scripts where lead and second byte say it.

What is not in `PATTERNS` (capitals outside ASCII, combining marks, rare scripts) is looked at character by character.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .code_points import OTHER, SINGLE, WORD
from .lanes import INT64, Lanes, data_of, load

Range = tuple[int, int]
ANY: Range = (0x80, 0xBF)
ODD, EVEN = 1, 0

# What a character is, its lead bytes, second bytes, third bytes (None: it has two) and which of the second bytes.
# Letters are their own lower case; tests compare all of it with the tables of code_points.py.
PATTERNS: tuple[tuple[int, Range, Range, Range | None, int | None], ...] = (
    (WORD, (0xC3, 0xC3), (0x9F, 0xB6), None, None),  # sharp s to o with diaeresis
    (WORD, (0xC3, 0xC3), (0xB8, 0xBF), None, None),
    (
        WORD,
        (0xC4, 0xC4),
        (0x80, 0xAF),
        None,
        ODD,
    ),  # Latin Extended-A, in pairs of a capital and a small letter
    (WORD, (0xC4, 0xC4), (0xBA, 0xBE), None, EVEN),
    (WORD, (0xC5, 0xC5), (0x80, 0x88), None, EVEN),
    (WORD, (0xC5, 0xC5), (0x8A, 0xB7), None, ODD),
    (WORD, (0xC5, 0xC5), (0xBA, 0xBE), None, EVEN),
    (WORD, (0xCE, 0xCE), (0xAC, 0xBF), None, None),  # Greek
    (WORD, (0xCF, 0xCF), (0x80, 0x8E), None, None),
    (WORD, (0xD0, 0xD0), (0xB0, 0xBF), None, None),  # Cyrillic
    (WORD, (0xD1, 0xD1), (0x80, 0x9F), None, None),
    (WORD, (0xD7, 0xD7), (0x90, 0xAA), None, None),  # Hebrew
    (WORD, (0xD8, 0xD8), (0xA0, 0xBF), None, None),  # Arabic
    (WORD, (0xD9, 0xD9), (0x80, 0x8A), None, None),
    (SINGLE, (0xE3, 0xE3), (0x81, 0x81), (0x81, 0xBF), None),  # Hiragana
    (SINGLE, (0xE3, 0xE3), (0x82, 0x82), (0x80, 0x96), None),
    (SINGLE, (0xE3, 0xE3), (0x82, 0x82), (0xA1, 0xBF), None),  # Katakana
    (SINGLE, (0xE3, 0xE3), (0x83, 0x83), (0x80, 0xBA), None),
    (SINGLE, (0xE3, 0xE3), (0x83, 0x83), (0xBC, 0xBF), None),
    (SINGLE, (0xE4, 0xE4), (0xB8, 0xBF), ANY, None),  # Han
    (SINGLE, (0xE5, 0xE9), ANY, ANY, None),
    (OTHER, (0xC2, 0xC2), (0xA0, 0xA9), None, None),  # no-break space to the sign of copyright
    (OTHER, (0xC2, 0xC2), (0xAB, 0xB1), None, None),
    (OTHER, (0xC2, 0xC2), (0xB6, 0xB8), None, None),
    (OTHER, (0xC2, 0xC2), (0xBB, 0xBB), None, None),
    (OTHER, (0xE2, 0xE2), (0x80, 0x80), (0x90, 0xBF), None),  # dashes, quotation marks, ellipsis
    (OTHER, (0xE3, 0xE3), (0x80, 0x80), (0x80, 0x84), None),  # Chinese and Japanese punctuation
    (OTHER, (0xE3, 0xE3), (0x80, 0x80), (0x88, 0xA0), None),
    (OTHER, (0xEF, 0xEF), (0xBC, 0xBC), (0x81, 0x8F), None),  # full width
    (OTHER, (0xEF, 0xEF), (0xBC, 0xBC), (0x9A, 0xA0), None),
)
HANGUL: tuple[tuple[int, Range, Range, Range | None, int | None], ...] = (
    (WORD, (0xEA, 0xEA), (0xB0, 0xBF), ANY, None),
    (WORD, (0xEB, 0xEC), ANY, ANY, None),
    (WORD, (0xED, 0xED), (0x80, 0x9D), ANY, None),
)


def _within(bytes_: Lanes, limits: Range) -> Lanes:
    first, last = limits
    if first == last:
        return bytes_.compare("==", first)
    return (bytes_ - first).compare("<", last - first + 1)


def _matches(found: tuple[Lanes, ...], pattern: tuple[int, Range, Range, Range | None, int | None]) -> Lanes:
    _, *limits, parity = pattern
    match = found[0].compare("==", found[0])
    for bytes_, limit in zip(found, limits, strict=True):
        if limit is not None:
            match = match & _within(bytes_, limit)
    return match if parity is None else match & (found[1] & 1).compare("==", parity)


def _masks(builder: Any, data: Any, p: Any, whole: Any, patterns: Any) -> tuple[Lanes, Lanes, Lanes]:
    """uint64 of the 64 bytes from `p` on, the first one's bit the lowest: those in words, those with which a character
    begins that is a word, and those of all `patterns`; `whole`: where characters may begin. Reads 66 bytes."""
    places = [builder.add(p, ir.Constant(INT64, k)) for k in range(3)]
    found = tuple(load(builder, data, place, 64) for place in places)
    none = found[0].compare("!=", found[0])
    begin = {(kind, size): none for kind in (WORD, SINGLE, OTHER) for size in (2, 3)}
    for pattern in patterns:
        key = pattern[0], 2 if pattern[3] is None else 3
        begin[key] = begin[key] | _matches(found, pattern)
    bits = {key: mask.cast(INT64) & Lanes(builder, whole) for key, mask in begin.items()}
    two, three = (bits[WORD, 2], bits[OTHER, 2]), (bits[WORD, 3] | bits[SINGLE, 3], bits[OTHER, 3])
    words, others = (a | (a << 1) | b | (b << 1) | (b << 2) for a, b in zip(two, three, strict=True))
    return words, bits[SINGLE, 3], words | others


def _finder(patterns: Any) -> Any:
    @intrinsic
    def masks(typing: Any, data: Any, p: Any, whole: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            start = data_of(context, builder, signature, values, 0)
            bits = [mask.value for mask in _masks(builder, start, values[1], values[2], patterns)]
            return context.make_tuple(builder, signature.return_type, bits)

        return types.UniTuple(types.uint64, 3)(data, types.int64, types.uint64), emit

    return masks


hangul_masks = _finder(HANGUL)
script_masks = _finder(PATTERNS)
"""In a kernel `script_masks(data, p, whole)`: see `_masks`."""
