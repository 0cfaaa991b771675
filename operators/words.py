"""UAX #29 default word boundaries over UTF-8, in one pass.

`segment` marks the first byte of every segment with 0x80 | kinds, where kinds are the bits of all code points
of the segment (letter, number, punctuation or symbol, white space). Rules WB1 to WB999 with the Unicode version
of the table; no tailoring. Bytes that are not UTF-8 are taken one by one and never read past the document.
"""

from __future__ import annotations

import numpy as np

from .kernel import inline, kernel, lean
from .unicode_tables import (
    ALETTER,
    CR,
    DOUBLE_QUOTE,
    EXTEND,
    EXTEND_NUM_LET,
    FORMAT,
    HEBREW,
    KATAKANA,
    LETTER,
    LF,
    MID_LETTER,
    MID_NUM,
    MID_NUM_LET,
    NEWLINE,
    NUMBER,
    NUMERIC,
    PICTOGRAPH,
    REGIONAL,
    SINGLE_QUOTE,
    SPACE,
    SYMBOL,
    WHITE,
    ZWJ,
)

START = 0x80
KINDS = LETTER | NUMBER | SYMBOL | WHITE


@inline
def decode_safely(data: np.ndarray, p: int, end: int) -> tuple[int, int]:
    """The code point at byte `p` and the position after it; a byte that begins no whole one stands alone."""
    b = int(data[p])
    if b < 0xC0:
        return b, p + 1
    width = 2 if b < 0xE0 else (3 if b < 0xF0 else 4)
    if p + width > end or b >= 0xF8:
        return b, p + 1
    point = int(b & (0x7F >> width))
    for i in range(1, width):
        point = (point << 6) | (int(data[p + i]) & 0x3F)
    return int(min(point, 0x10FFFF)), p + width


@inline
def _is_ahl(c: int) -> bool:
    return c == ALETTER or c == HEBREW


@inline
def _is_mid_letter(c: int) -> bool:
    return c == MID_LETTER or c == MID_NUM_LET or c == SINGLE_QUOTE


@inline
def _is_mid_num(c: int) -> bool:
    return c == MID_NUM or c == MID_NUM_LET or c == SINGLE_QUOTE


@inline
def _ignored(c: int) -> bool:
    return c == EXTEND or c == FORMAT or c == ZWJ


@inline
def _next_class(data: np.ndarray, p: int, end: int, index: np.ndarray, blocks: np.ndarray) -> int:
    """Class of the first code point from `p` that WB4 does not skip; -1 at the end."""
    while p < end:
        point, p = decode_safely(data, p, end)
        c = int(blocks[index[point >> 8], point & 255] >> 8)
        if not _ignored(c):
            return c
    return -1


@lean
def _joins(before: int, p: int, c: int, after: int) -> bool:
    """WB5 to WB13b between the effective classes `p` and `c`, with the one before and the one after."""
    if _is_ahl(c):
        if _is_ahl(p) or p == NUMERIC or p == EXTEND_NUM_LET:
            return True
        if _is_mid_letter(p) and _is_ahl(before):
            return True
        return p == DOUBLE_QUOTE and before == HEBREW and c == HEBREW
    if c == NUMERIC:
        if _is_ahl(p) or p == NUMERIC or p == EXTEND_NUM_LET:
            return True
        return _is_mid_num(p) and before == NUMERIC
    if c == KATAKANA:
        return p == KATAKANA or p == EXTEND_NUM_LET
    if c == EXTEND_NUM_LET:
        return _is_ahl(p) or p == NUMERIC or p == KATAKANA or p == EXTEND_NUM_LET
    if p == HEBREW and (c == SINGLE_QUOTE or (c == DOUBLE_QUOTE and after == HEBREW)):
        return True
    if _is_ahl(p) and _is_mid_letter(c) and _is_ahl(after):
        return True
    return p == NUMERIC and _is_mid_num(c) and after == NUMERIC


@kernel
def segment(
    data: np.ndarray, offsets: np.ndarray, index: np.ndarray, blocks: np.ndarray, marks: np.ndarray
) -> None:
    """Mark the segments of all documents. data: uint8 [N]; offsets: int64 [B + 1]; marks: uint8 [N], zeros."""
    ascii_kind = np.zeros(256, np.uint8)
    ascii_kind[0x30:0x3A] = NUMBER
    ascii_kind[0x41:0x5B] = LETTER
    ascii_kind[0x61:0x7B] = LETTER
    for document in range(len(offsets) - 1):
        p, end = offsets[document], offsets[document + 1]
        start, kinds = p, 0
        before, effective, raw, regional = -1, -1, -1, 0
        while p < end:
            if (effective == ALETTER or effective == NUMERIC) and raw == effective:
                # Most text is runs of ASCII letters and digits, which always join.
                while p < end:
                    kind = int(ascii_kind[data[p]])
                    if kind == 0:
                        break
                    kinds |= kind
                    before, effective = effective, ALETTER if kind == LETTER else NUMERIC
                    p += 1
                raw = effective
                if p >= end:
                    break
            point, after = decode_safely(data, p, end)
            entry = int(blocks[index[point >> 8], point & 255])
            c, kind = entry >> 8, entry & 0xFF
            if raw < 0:
                join = False
            elif raw == CR or raw == LF or raw == NEWLINE or c == CR or c == LF or c == NEWLINE:
                join = raw == CR and c == LF
            elif (raw == ZWJ and kind & PICTOGRAPH) or (raw == SPACE and c == SPACE) or _ignored(c):
                join = True
            elif c == REGIONAL:
                join = effective == REGIONAL and (regional & 1) == 1
            else:
                following = -1
                if _is_mid_letter(c) or _is_mid_num(c) or c == DOUBLE_QUOTE:
                    following = _next_class(data, after, end, index, blocks)
                join = _joins(before, effective, c, following)
            if not join:
                if raw >= 0:
                    marks[start] = START | (kinds & KINDS)
                start, kinds = p, 0
            kinds |= kind
            if not (_ignored(c) and raw >= 0 and not (raw == CR or raw == LF or raw == NEWLINE)):
                before, effective = effective, c
                regional = regional + 1 if c == REGIONAL else 0
            raw = c
            p = after
        if raw >= 0:
            marks[start] = START | (kinds & KINDS)


@lean
def count_marked(marks: np.ndarray, offsets: np.ndarray, any_of: int, first: np.ndarray) -> None:
    """first[i + 1] = segments up to document i that have a bit of `any_of`."""
    total = 0
    for document in range(len(offsets) - 1):
        for p in range(offsets[document], offsets[document + 1]):
            total += (marks[p] & START) != 0 and (marks[p] & any_of) != 0
        first[document + 1] = total


@lean
def fill_marked(
    data: np.ndarray,
    marks: np.ndarray,
    offsets: np.ndarray,
    any_of: int,
    start: np.ndarray,
    end: np.ndarray,
    chars: np.ndarray,
    flags: np.ndarray,
) -> None:
    """Bounds, code points and flags (letter, number, symbols only) of the segments with a bit of `any_of`."""
    i = -1
    for document in range(len(offsets) - 1):
        open_, points = False, 0
        for p in range(offsets[document], offsets[document + 1]):
            if marks[p] & START:
                if open_:
                    end[i], chars[i] = p, points
                open_ = (marks[p] & any_of) != 0
                points = 0
                if open_:
                    i += 1
                    start[i] = p
                    kind = marks[p] & KINDS
                    flags[i] = (kind & 3) | (4 if kind == SYMBOL else 0)
            points += (data[p] & 0xC0) != 0x80
        if open_:
            end[i], chars[i] = offsets[document + 1], points
