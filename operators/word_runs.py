"""Words of plain stretches of text, 64 bytes at a time: the same that the rules in words.py find there.

Plain are ASCII, Hangul syllables and the letters of two bytes up to U+02AF and in U+0400 to U+047F: all letters
(ALetter), digits, or characters at which a word ends. A stretch with anything else in it is left to the rules,
from the white space before it on: behind a line feed, and at the first of several spaces, nothing that came before
matters.
"""

from __future__ import annotations

import numpy as np

from .byte_masks import below, bits_in, highest, lowest, masks
from .kernel import lean

_SPACE, _NEWLINE = ((0, 0x20, 0x20),), ((0, 0x0A, 0x0A),)
_CAPITAL = ((0, 0x41, 0x5A),)
_TWO = (
    ((0, 0xC3, 0xC3), (1, 0x80, 0x96)),  # neither the sign of multiplication nor that of division
    ((0, 0xC3, 0xC3), (1, 0x98, 0xB6)),
    ((0, 0xC3, 0xC3), (1, 0xB8, 0xBF)),
    ((0, 0xC4, 0xCA),),
    ((0, 0xD0, 0xD1),),
)
_HANGUL = (
    ((0, 0xEA, 0xEA), (1, 0xB0, 0xBF)),
    ((0, 0xEB, 0xEC),),
    ((0, 0xED, 0xED), (1, 0x80, 0x9D)),
    ((0, 0xED, 0xED), (1, 0x9E, 0x9E), (2, 0x80, 0xA3)),
)
_classes = masks(
    (_SPACE,),
    (_NEWLINE,),
    (_CAPITAL,),
    (_CAPITAL, ((0, 0x61, 0x7A),)),
    (((0, 0x30, 0x39),),),
    (((0, 0x5F, 0x5F),),),
    (((0, 0x27, 0x27),), ((0, 0x2E, 0x2E),), ((0, 0x3A, 0x3A),)),
    (((0, 0x27, 0x27),), ((0, 0x2E, 0x2E),), ((0, 0x2C, 0x2C),), ((0, 0x3B, 0x3B),)),
    (((0, 0x80, 0xFF),),),
)
_characters = masks(_TWO, _HANGUL, (((0, 0x80, 0xBF),),))


@lean
def plain_words(data: np.ndarray, p: int, end: int, i: int, spans: tuple[np.ndarray, ...]) -> tuple[int, int]:
    """Write the words from `p` on as the `i`th and following; (where the rules are needed or `end`, the next `i`).

    Before `p` there must be nothing that matters, and there is nothing before the place that is given.
    """
    start, stop, chars, flags = spans
    one, two = np.uint64(1), np.uint64(2)
    while p < end:
        space, newline, capital, letter, digit, line, mid_letter, mid_digit, high = _classes(data, p)
        inside = below(end - p)
        letter, digit = np.uint64(letter & inside), np.uint64(digit & inside)
        wide = more = np.uint64(0)
        if high:
            wide, hangul, more = _characters(data, p)
            more = np.uint64(more & inside)
            wide = np.uint64(wide & (more >> one))
            hangul = np.uint64(hangul & (more >> one) & (more >> two))
            letter = np.uint64(letter | wide | (wide << one) | hangul | (hangul << one) | (hangul << two))
        odd = np.uint64(high & inside & ~letter)
        breaks = np.uint64(((space & ~(space << one)) | newline) & inside & ~one)
        size = end - p
        if size > 64:  # the last word goes on behind them
            size = max(highest(breaks), 0)
            odd = np.uint64(odd & below(size))
        if odd:
            size = max(highest(np.uint64(breaks & below(lowest(odd)))), 0)
        word = np.uint64(mid_letter & (letter << one) & (letter >> one))
        word = np.uint64(word | (mid_digit & (digit << one) & (digit >> one)))
        word = np.uint64((word | letter | digit | line) & below(size))
        first, last = np.uint64(word & ~(word << one)), np.uint64(word & ~(word >> one))
        while first:
            a, b = lowest(first), lowest(last)
            bits = np.uint64((two << np.uint64(b)) - (one << np.uint64(a)))
            kind = np.int64((letter & bits) != 0) | (np.int64((digit & bits) != 0) << 1)
            if i < len(start):
                start[i], stop[i] = p + a, p + b + 1
                chars[i] = bits_in(np.uint64(bits & ~more))
                flags[i] = kind | (np.int64(((capital | wide) & bits) != 0) << 3)
            i += int(kind != 0)
            first, last = np.uint64(first & (first - one)), np.uint64(last & (last - one))
        p += size
        if odd or size == 0:
            break
    return p, i
