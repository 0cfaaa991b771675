"""Numba kernels that turn the spans found by `json_scan` into values, and check UTF-8.

A block is uint8 and ends in a newline, which no well-formed value contains: so a look ahead stops there.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from malmoi.operators.byte_masks import WIDTH, below, copy_block, lowest, masks
from malmoi.operators.kernel import inline, lean

ROOM = 2 * WIDTH

# What a value is (uint8 [F, R]).
ABSENT, NULL, PLAIN, ESCAPED, INTEGER, NUMBER, BOOLEAN, NESTED = range(8)

# What a letter after a backslash stands for; 0 where it is no such letter.
SIMPLE_ESCAPES = np.zeros(256, np.uint8)
SIMPLE_ESCAPES[list(b'"\\/bfnrt')] = list(b'"\\/\b\f\n\r\t')

_backslash = masks((((0, 92, 92),),))


@inline
def utf8(data: Any, i: int) -> int:
    """Bytes of the well-formed sequence that starts with the lead byte at `i`, else 0; stops at a newline."""
    c = data[i]
    d = data[i + 1]
    if c < 0xC2 or c > 0xF4 or d < 0x80 or d > 0xBF:
        return 0
    if c < 0xE0:
        return 2
    if (
        (c == 0xE0 and d < 0xA0)
        or (c == 0xED and d > 0x9F)
        or (c == 0xF0 and d < 0x90)
        or (c == 0xF4 and d > 0x8F)
    ):
        return 0
    if data[i + 2] & 0xC0 != 0x80:
        return 0
    if c < 0xF0:
        return 3
    return 4 if data[i + 3] & 0xC0 == 0x80 else 0


@lean
def hex4(data: Any, i: int) -> int:
    """The value of four hexadecimal digits, or -1; stops at a newline."""
    value = 0
    for k in range(4):
        c = data[i + k]
        if 48 <= c <= 57:
            value = value * 16 + (c - 48)
        elif 65 <= c <= 70:
            value = value * 16 + (c - 55)
        elif 97 <= c <= 102:
            value = value * 16 + (c - 87)
        else:
            return -1
    return value


@lean
def _put(out: Any, o: int, code: int) -> int:
    """Write a code point as UTF-8 at `o` and return the position after it."""
    if code < 0x80:
        out[o] = code
        return o + 1
    if code < 0x800:
        out[o] = 0xC0 | (code >> 6)
    elif code < 0x10000:
        out[o] = 0xE0 | (code >> 12)
        o += 1
        out[o] = 0x80 | ((code >> 6) & 0x3F)
    else:
        out[o] = 0xF0 | (code >> 18)
        out[o + 1] = 0x80 | ((code >> 12) & 0x3F)
        o += 2
        out[o] = 0x80 | ((code >> 6) & 0x3F)
    out[o + 1] = 0x80 | (code & 0x3F)
    return o + 2


@lean
def _unescape_one(data: Any, i: int, out: Any, o: int) -> tuple[int, int]:
    """Write what the escape at `i` stands for at `o`: the positions behind both."""
    e = data[i + 1]
    if e != 117:
        out[o] = SIMPLE_ESCAPES[e]
        return i + 2, o + 1
    code = hex4(data, i + 2)
    i += 6
    if 0xD800 <= code <= 0xDBFF:
        code = 0x10000 + ((code - 0xD800) << 10) + (hex4(data, i + 2) - 0xDC00)
        i += 6
    return i, _put(out, o, code)


@lean
def unescape(data: Any, i: Any, stop: int, out: Any, o: Any) -> None:
    """Write the string between `i` and `stop` unescaped at `out[o:]`; it was checked before."""
    while i < stop:
        if data[i] == 92:
            i, o = _unescape_one(data, i, out, o)
        else:
            out[o] = data[i]
            i, o = i + 1, o + 1


@lean
def _copy(data: Any, i: Any, stop: int, escaped: bool, out: Any, o: Any) -> None:
    """As `unescape`, or without `escaped` as it is, 64 bytes at a time; what is in `out` behind it is lost."""
    while i < stop and i + ROOM <= len(data) and o + ROOM <= len(out):
        after = i + min(stop - i, WIDTH)
        bits = np.uint64(_backslash(data, i)[0] & below(after - i)) if escaped else np.uint64(0)
        begin = i
        while bits:
            at = begin + lowest(bits)
            copy_block(out, o, data, i)
            i, o = _unescape_one(data, at, out, o + at - i)
            bits = np.uint64(bits & ~below(i - begin))
        if i < after:
            copy_block(out, o, data, i)
            i, o = after, o + after - i
    if escaped:
        unescape(data, i, stop, out, o)
    else:
        for k in range(stop - i):
            out[o + k] = data[i + k]


@lean
def copy_strings(data: Any, kind: Any, span: Any, rows: Any, offsets: Any, out: Any) -> None:
    """Write the values of `rows` one after the other into `out`, strings unescaped, all else as it stands.

    kind uint8 [R]; span int64 [R, 3]; rows int64 [n]; offsets int64 [n+1] (where each goes); out uint8, with `ROOM`
    bytes behind the last one.
    """
    for k in range(len(rows)):
        r = rows[k]
        if kind[r] >= PLAIN:
            _copy(data, span[r, 0], span[r, 1], kind[r] == ESCAPED, out, offsets[k])


@lean
def read_integers(data: Any, kind: Any, span: Any, rows: Any, out: Any, fits: Any) -> None:
    """Integer literals of `rows` into out int64 [n]; fits bool [n] is False where 64 bits are too few."""
    for k in range(len(rows)):
        r = rows[k]
        if kind[r] != INTEGER:
            continue
        i = span[r, 0]
        minus = data[i] == 45
        value = np.uint64(0)
        fits[k] = span[r, 1] - i <= 20
        for j in range(i + (1 if minus else 0), span[r, 1]):
            digit = np.uint64(data[j] - 48)
            if value > np.uint64(922337203685477580):
                fits[k] = False
            value = np.uint64(value * np.uint64(10) + digit)
        limit = np.uint64(9223372036854775808) if minus else np.uint64(9223372036854775807)
        if value > limit:
            fits[k] = False
        out[k] = np.int64(-np.int64(value)) if minus else np.int64(value)


@lean
def find_invalid_utf8(data: Any, offsets: Any, invalid: Any) -> None:
    """invalid bool [n]: whether the bytes offsets[k]:offsets[k+1] of `data` are not well-formed UTF-8.

    data uint8 must go on for at least one byte after the last value.
    """
    for k in range(len(offsets) - 1):
        i = offsets[k]
        stop = offsets[k + 1]
        while i < stop:
            if data[i] < 0x80:
                i += 1
                continue
            step = utf8(data, i) if i + 4 <= len(data) or i + 1 < len(data) else 0
            if step == 0 or i + step > stop:
                invalid[k] = True
                break
            i += step
