"""UAX #29 default word boundaries over UTF-8, in one pass.

`segment` writes the bounds of the segments that have a kind asked for among their code points (letter, number,
punctuation or symbol, white space). Rules WB1 to WB999 with the Unicode version of the table; no tailoring. Bytes
that are not UTF-8 are taken one by one and never read past the document.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from .kernel import inline, lean
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
    OTHER,
    PICTOGRAPH,
    REGIONAL,
    SINGLE_QUOTE,
    SPACE,
    SYMBOL,
    WHITE,
    ZWJ,
    properties,
)
from .word_runs import plain_words

KINDS = LETTER | NUMBER | SYMBOL | WHITE
CASED = 0x80
"""Beside the kinds: a capital of ASCII, a letter outside it that is neither Hangul nor Chinese or Japanese, or
one of the signs around the Roman numerals and the circled letters, some of which have a lower case too."""


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


@inline
def _run(
    data: np.ndarray, p: int, end: int, last: int, kinds: int, points: int, tables: tuple[np.ndarray, ...]
) -> tuple[int, int, int, int, int]:
    """Letters and digits that always join: (position behind them, last class, the one before, kinds, points).

    ASCII, Hangul syllables of the lead bytes EB and EC, and two-byte letters; the rest is left to the rules.
    """
    index, blocks, ascii_kind = tables
    before = -1
    while p < end:
        b = data[p]
        kind = int(ascii_kind[b])
        if kind:
            p += 1
        elif b == 0xEB or b == 0xEC:
            if p + 3 > end:
                break
            kind = LETTER
            p += 3
        elif 0xC3 <= b < 0xE0 and p + 2 <= end:
            point = ((b & 0x1F) << 6) | (data[p + 1] & 0x3F)
            entry = int(blocks[index[point >> 8], point & 255])
            if entry >> 8 != ALETTER:
                break
            kind = (entry & 0xFF) | CASED
            p += 2
        else:
            break
        kinds |= kind
        points += 1
        before, last = last, NUMERIC if kind == NUMBER else ALETTER
    return p, last, before, kinds, points


@inline
def _case_of(kind: int, point: int) -> int:
    """CASED for a letter, a Roman numeral or a circled letter that may be a capital."""
    small = 0x5A < point < 0x80 or 0x3000 <= point < 0xA000 or 0xAC00 <= point < 0xD7A4
    return CASED if (kind & LETTER and not small) or 0x2160 <= point < 0x24D0 else 0


@inline
def _emit(
    i: int, kinds: int, any_of: int, begin: int, stop: int, points: int, spans: tuple[np.ndarray, ...]
) -> int:
    """Write the segment if it has a bit of `any_of`; how many there are then."""
    start, end, chars, flags = spans
    if not kinds & any_of:
        return i
    if i < len(start):
        start[i], end[i], chars[i] = begin, stop, points
        kind = kinds & KINDS
        flags[i] = (kind & 3) | (4 if kind == SYMBOL else 0) | (8 if kinds & CASED else 0)
    return i + 1


@inline
def _continues(
    state: tuple[int, int, int, int],
    c: int,
    kind: int,
    data: np.ndarray,
    after: int,
    end: int,
    index: np.ndarray,
    blocks: np.ndarray,
) -> bool:
    """Whether a code point of class `c` goes on with the segment; WB3 to WB16. `state`: see `segment`."""
    before, effective, raw, regional = state
    if raw == CR or raw == LF or raw == NEWLINE or c == CR or c == LF or c == NEWLINE:
        return bool(raw == CR and c == LF)
    if (raw == ZWJ and kind & PICTOGRAPH) or (raw == SPACE and c == SPACE) or _ignored(c):
        return True
    if c == REGIONAL:
        return bool(effective == REGIONAL and (regional & 1) == 1)
    following = -1
    if _is_mid_letter(c) or _is_mid_num(c) or c == DOUBLE_QUOTE:
        following = _next_class(data, after, end, index, blocks)
    return _joins(before, effective, c, following)


@lean
def _by_rules(
    data: np.ndarray,
    p: int,
    end: int,
    tables: tuple[np.ndarray, ...],
    any_of: int,
    plain: bool,
    i: int,
    spans: tuple[np.ndarray, ...],
) -> tuple[int, int]:
    """Segments from `p` on; with `plain` only up to the next line feed or first space. As `plain_words`."""
    index, blocks, _ = tables
    begin, start, kinds, points = p, p, 0, 0
    before, effective, raw, regional = -1, -1, -1, 0
    while p < end:
        if plain and p > begin and (data[p] == 0x0A or (data[p] == 0x20 and raw != SPACE)):
            break
        if (effective == ALETTER or effective == NUMERIC) and raw == effective:
            q = p
            p, effective, earlier, kinds, points = _run(data, p, end, effective, kinds, points, tables)
            before, raw = earlier if p > q else before, effective
            if p >= end:
                break
            if plain and (data[p] == 0x20 or data[p] == 0x0A):
                break
        point, after = decode_safely(data, p, end)
        entry = int(blocks[index[point >> 8], point & 255])
        c, kind = entry >> 8, entry & 0xFF
        state = (before, effective, raw, regional)
        join = raw >= 0 and _continues(state, c, kind, data, after, end, index, blocks)
        if not join:
            if raw >= 0:
                if plain and c == OTHER and (data[p] < 0x80 or 0xE3 <= data[p] < 0xEA):
                    break
                i = _emit(i, kinds, any_of, start, p, points, spans)
            start, kinds, points = p, 0, 0
        kinds |= (kind & KINDS) | _case_of(kind, point)
        points += 1
        if not (_ignored(c) and raw >= 0 and not (raw == CR or raw == LF or raw == NEWLINE)):
            before, effective = effective, c
            regional = regional + 1 if c == REGIONAL else 0
        raw, p = c, after
    if raw >= 0:
        i = _emit(i, kinds, any_of, start, p, points, spans)
    return p, i


@lean
def segment(
    data: np.ndarray,
    offsets: np.ndarray,
    tables: tuple[np.ndarray, ...],
    any_of: int,
    first: np.ndarray,
    spans: tuple[np.ndarray, ...],
) -> int:
    """Segments with a bit of `any_of`: how many; more than `spans` has room for are counted, not written.

    tables: see `tables_of`; first: int64 [documents + 1]; spans: those of analysis.py.
    """
    i = 0
    plain = any_of == LETTER | NUMBER
    for document in range(len(offsets) - 1):
        first[document] = i
        p, end = offsets[document], offsets[document + 1]
        while p < end:
            if plain:
                p, i = plain_words(data, p, end, i, spans)
            if p < end:
                p, i = _by_rules(data, p, end, tables, any_of, plain, i, spans)
    first[len(offsets) - 1] = i
    return i


@cache
def tables_of() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The tables of `properties()`, and uint8 [256]: the kind of an ASCII letter (with CASED) or digit, else 0."""
    ascii_kind = np.zeros(256, np.uint8)
    ascii_kind[0x30:0x3A] = NUMBER
    ascii_kind[0x41:0x5B] = LETTER | CASED
    ascii_kind[0x61:0x7B] = LETTER
    return (*properties(), ascii_kind)
