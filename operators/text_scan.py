"""Scans of raw UTF-8 that the quality rules share: lines with their first and last characters, symbols,
phrases.

Legend: D documents. All positions are bytes. White space, line breaks and terminal punctuation are those of
the table in datatrove_tables.py (Python's `str.isspace` and `str.splitlines`, datatrove's
`TERMINAL_PUNCTUATION`).
"""

from __future__ import annotations

import numpy as np

from .byte_masks import below, bits_in, lowest, masks
from .datatrove_tables import LINE_BREAK, SPACE, TERMINAL, Kinds, class_of, decode
from .kernel import lean

BULLETS = "•-*·‣●○■□▪▫◦・∙"
CLOSERS = "\"'’”»›」』）)]}〉》】〕＂＇］｝｣"


def code_points(text: str) -> np.ndarray:
    """uint32 code points of the characters."""
    return np.array([ord(c) for c in text], np.uint32)


@lean
def back(data: np.ndarray, start: int, end: int) -> int:
    """Start of the character that ends before `end`, of text that is not empty and begins at `start`."""
    end -= 1
    while end > start and (data[end] & 0xC0) == 0x80:
        end -= 1
    return end


@lean
def strip(data: np.ndarray, start: int, end: int, rules: Kinds) -> tuple[int, int]:
    """[start, end) without white space at either end."""
    while start < end:
        cp, length = decode(data, start, end)
        if not class_of(rules, cp) & SPACE:
            break
        start = min(start + length, end)
    while start < end:
        place = back(data, start, end)
        cp, _ = decode(data, place, end)
        if not class_of(rules, cp) & SPACE:
            break
        end = place
    return start, end


@lean
def next_line(data: np.ndarray, start: int, end: int, rules: Kinds, newline_only: bool) -> tuple[int, int]:
    """End of the line that begins at `start`, and the start of the next one (after `\\n` or as
    `str.splitlines`).
    """
    p = start
    while p < end:
        b = data[p]
        if b == 10:
            return p, p + 1
        if newline_only or (b >= 32 and b < 0xC2):
            p += 1
            continue
        cp, length = decode(data, p, end)
        if class_of(rules, cp) & LINE_BREAK:
            after = p + length
            return p, after + 1 if b == 13 and after < end and data[after] == 10 else after
        p += length
    return end, end


@lean
def _is_one_of(cp: np.uint32, chars: np.ndarray) -> bool:
    for c in chars:  # noqa: SIM110 (numba compiles no generator)
        if c == cp:
            return True
    return False


@lean
def ends_with_ellipsis(data: np.ndarray, start: int, end: int) -> bool:
    """The last character is an ellipsis, or the last three are full stops."""
    if end - start < 3:
        return False
    if data[end - 1] == 46:
        return bool(data[end - 2] == 46 and data[end - 3] == 46)
    return bool(data[end - 3] == 0xE2 and data[end - 2] == 0x80 and data[end - 1] == 0xA6)


@lean
def strip_closers(data: np.ndarray, start: int, end: int, closers: np.ndarray) -> int:
    """The end without closing quotes and brackets."""
    while start < end:
        place = back(data, start, end)
        cp, _ = decode(data, place, end)
        if cp == 46 or 0x61 <= cp <= 0x7A or 0xAC00 <= cp <= 0xD7A3 or not _is_one_of(cp, closers):
            break
        end = place
    return end


@lean
def skip_closers(data: np.ndarray, p: int, end: int, closers: np.ndarray) -> int:
    """The place behind closing quotes and brackets."""
    while p < end:
        cp, length = decode(data, p, end)
        if cp <= 32 or cp == 46 or 0x61 <= cp <= 0x7A or not _is_one_of(cp, closers):
            break
        p += length
    return p


@lean
def is_terminal(data: np.ndarray, start: int, end: int, rules: Kinds) -> bool:
    """The last character is terminal punctuation."""
    if start >= end:
        return False
    cp, _ = decode(data, back(data, start, end), end)
    return bool(class_of(rules, cp) & TERMINAL != 0)


@lean
def is_terminated(text: np.ndarray, a: int, b: int, closers: np.ndarray, rules: Kinds) -> bool:
    """C4: the line ends in . ? ! or a quotation mark, not in three full stops.

    With `closers` (native) any script's terminal punctuation counts, also before closing quotes and brackets.
    """
    if a == b or ends_with_ellipsis(text, a, b):
        return False
    last = text[b - 1]
    if last == 46 or last == 63 or last == 33 or last == 34 or last == 39:
        return True
    if closers.size == 0:
        return False
    cp, _ = decode(text, back(text, a, b), b)
    if cp == 0x201D or cp == 0x2019 or cp == 0x300D or cp == 0x300F:
        return True
    return is_terminal(text, a, strip_closers(text, a, b, closers), rules)


@lean
def ends_for_sure(data: np.ndarray, a: int, b: int) -> bool:
    """Whether what ends the line does not depend on a citation mark before it: a small letter, a digit, a Hangul
    syllable, a comma or one full stop at the end of another word than a mark."""
    last = data[b - 1]
    if 0x61 <= last <= 0x7A or 0x30 <= last <= 0x39 or last == 44:
        return True
    if last == 46 and b - a > 1:
        return bool(data[b - 2] != 46 and data[b - 2] != 93)
    return bool(b - a >= 3 and last >= 0x80 and 0xEB <= data[b - 3] <= 0xEC)


@lean
def _shape(data: np.ndarray, a: int, b: int, bullets: np.ndarray, counts: np.ndarray, doc: int) -> None:
    # No bullet is a letter or digit of ASCII or begins as most Hangul syllables do.
    letter = data[a] >= 0x30 and (data[a] < 0x80 or 0xEB <= data[a] <= 0xEC)
    counts[0, doc] += 1
    if not letter:
        cp, _ = decode(data, a, b)
        counts[1, doc] += _is_one_of(cp, bullets)
    counts[2, doc] += ends_with_ellipsis(data, a, b)


@lean
def line_shapes(
    data: np.ndarray, lines: tuple[np.ndarray, ...], bullets: np.ndarray, counts: np.ndarray
) -> None:
    """Fill int64 [3, D]: lines that are not blank, those that begin with a bullet, those that end in an ellipsis.

    `lines`: first, start and end of the lines, stripped.
    """
    first, start, end = lines
    for doc in range(first.size - 1):
        for i in range(first[doc], first[doc + 1]):
            if start[i] < end[i]:
                _shape(data, start[i], end[i], bullets, counts, doc)


@lean
def python_line_shapes(
    data: np.ndarray, offsets: np.ndarray, kinds: Kinds, bullets: np.ndarray, counts: np.ndarray
) -> None:
    """As `line_shapes`, of the lines of `str.splitlines`, blank ones too."""
    for doc in range(offsets.size - 1):
        start, end = offsets[doc], offsets[doc + 1]
        while start < end:
            stop, following = next_line(data, start, end, kinds, False)
            a, b = strip(data, start, stop, kinds)
            start = following
            if a < b:
                _shape(data, a, b, bullets, counts, doc)
            else:
                counts[0, doc] += 1


@lean
def strip_lines(data: np.ndarray, start: np.ndarray, end: np.ndarray, kinds: Kinds, out: np.ndarray) -> None:
    """Fill int64 [2, lines]: start and end of the lines without white space at both ends."""
    for i in range(len(start)):
        a, b = start[i], end[i]
        if a < b:
            first, last = data[a], data[b - 1]
            # Neither begins or ends a white space outside ASCII: most lines.
            if not (0x20 < first < 0x80 or first >= 0xE4) or not 0x20 < last < 0x80:
                a, b = strip(data, a, b, kinds)
        out[0, i], out[1, i] = a, b


_signs = masks(
    (((0, 0x23, 0x23),),),
    (((0, 0x2E, 0x2E), (1, 0x2E, 0x2E), (2, 0x2E, 0x2E)),),
    (((0, 0xE2, 0xE2), (1, 0x80, 0x80), (2, 0xA6, 0xA6)),),
)


@lean
def count_symbols(data: np.ndarray, offsets: np.ndarray, counts: np.ndarray) -> None:
    """Fill int64 [2, D]: number signs; ellipses (three full stops, not overlapping, or the one character)."""
    for doc in range(offsets.size - 1):
        hashes = ellipses = 0
        p, end = offsets[doc], offsets[doc + 1]
        after = p
        while p < end:
            signs, stops, marks = _signs(data, p)
            hashes += bits_in(np.uint64(signs & below(end - p)))
            whole = below(max(end - p - 2, 0))
            ellipses += bits_in(np.uint64(marks & whole))
            stops = np.uint64(stops & whole)
            while stops:
                at = p + lowest(stops)
                if at >= after:
                    ellipses += 1
                    after = at + 3
                stops = np.uint64(stops & (stops - np.uint64(1)))
            p += 64
        counts[0, doc], counts[1, doc] = hashes, ellipses
