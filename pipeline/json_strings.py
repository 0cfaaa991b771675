"""Numba kernels that scan one JSON string: where it ends, how many bytes it stands for, whether it is UTF-8."""

from __future__ import annotations

from typing import Any

import numpy as np

from malmoi.operators.byte_masks import below, bits_in, lowest, masks
from malmoi.operators.kernel import lean

from .json_values import SIMPLE_ESCAPES, hex4, utf8

# What a line is (uint8 [R]).
GOOD, BLANK, BAD_JSON, NOT_AN_OBJECT, INVALID_UTF8, LONE_SURROGATE, TOO_DEEP = range(7)


def _classes() -> np.ndarray:
    """0: stands for itself in a string; 1: quote or control; 2: backslash; 3: part of a UTF-8 sequence."""
    table = np.zeros(256, np.uint8)
    table[:32] = 1
    table[ord('"')] = 1
    table[ord("\\")] = 2
    table[128:] = 3
    return table


_CLASS = _classes()


@lean
def _escape(data: Any, i: int) -> tuple[int, int, int]:
    """(input bytes, output bytes, error) of the escape whose backslash is at `i`."""
    if SIMPLE_ESCAPES[data[i + 1]]:
        return 2, 1, GOOD
    if data[i + 1] != 117:
        return 0, 0, BAD_JSON
    code = hex4(data, i + 2)
    if code < 0:
        return 0, 0, BAD_JSON
    if code < 0x80:
        return 6, 1, GOOD
    if code < 0x800:
        return 6, 2, GOOD
    if code < 0xD800 or code > 0xDFFF:
        return 6, 3, GOOD
    if code < 0xDC00 and data[i + 6] == 92 and data[i + 7] == 117:
        low = hex4(data, i + 8)
        if 0xDC00 <= low <= 0xDFFF:
            return 12, 4, GOOD
    return 0, 0, LONE_SURROGATE


_ends = masks(
    (((0, 34, 34),), ((0, 0, 31),)), (((0, 92, 92),),), (((0, 0x80, 0xFF),),)
)  # quotes and controls
_simple = masks(tuple(((0, 92, 92), (1, code, code)) for code in b'"/bfnrt'))  # escapes of two bytes
_sequences = masks(
    (((0, 0x80, 0xBF),),),  # goes on with a character
    (((0, 0xC2, 0xF4),),),  # begins one of two bytes or more
    (((0, 0xE0, 0xF4),),),  # of three or four
    (((0, 0xF0, 0xF4),),),  # of four
    (
        ((0, 0xC0, 0xC1),),
        ((0, 0xF5, 0xFF),),
        ((0, 0xE0, 0xE0), (1, 0x00, 0x9F)),
        ((0, 0xED, 0xED), (1, 0xA0, 0xFF)),
        ((0, 0xF0, 0xF0), (1, 0x00, 0x8F)),
        ((0, 0xF4, 0xF4), (1, 0x90, 0xFF)),
    ),
)
_SHORT = 16  # bytes up to which it takes longer to look at 64


@lean
def scan_string(data: Any, i: int) -> tuple[int, int, int]:
    """Scan a string from just after its quote: (position of the closing quote, unescaped bytes, error).

    Where something is wrong `_string_by_bytes` tells what and where.
    """
    begin = i
    saved = 0
    while i < begin + _SHORT and _CLASS[data[i]] == 0:
        i += 1
    while True:
        ends, escape, high = _ends(data, i)
        size, wrong = 64, np.uint64(0)
        if high:
            more, lead, three, four, wrong = _sequences(data, i)
            # A character that goes on behind the 64 bytes is left to the next ones.
            late = np.uint64((lead & np.uint64(1 << 63)) | (three & np.uint64(3 << 62)))
            size = lowest(np.uint64(late | (four & np.uint64(7 << 61))))
            due = np.uint64((lead << np.uint64(1)) | (three << np.uint64(2)) | (four << np.uint64(3)))
            wrong = np.uint64(wrong | (more ^ due))
        special = np.uint64((ends | escape) & below(size))
        if escape and not escape & np.uint64(1 << 63) and escape == _simple(data, i)[0]:
            # None is part of another: the quotes and controls behind them end nothing (a control cannot be there).
            special = np.uint64(ends & ~(escape << np.uint64(1)) & below(size))
            saved += bits_in(np.uint64(escape & below(min(lowest(special), size))))
        step = size
        while special:
            s = lowest(special)
            c = data[i + s]
            if c == 34 and not wrong & below(s + 1):
                return i + s, i + s - begin - saved, GOOD
            taken = given = error = 0
            if c == 92:
                taken, given, error = _escape(data, i + s)
            if c != 92 or error != GOOD:
                return _string_by_bytes(data, begin)
            saved += taken - given
            special = np.uint64(special & ~below(s + taken))
            if s + taken >= size:
                size, step = s, s + taken
        if wrong & below(size + 1):  # with the one at which a character that is cut should go on
            return _string_by_bytes(data, begin)
        i += step


@lean
def _string_by_bytes(data: Any, i: Any) -> tuple[int, int, int]:
    """Scan a string from just after its quote: (position of the closing quote, unescaped bytes, error)."""
    saved = 0
    begin = i
    u = np.uint64(i)  # an unsigned index spares the check for a negative one, 20 % of the time
    one, two, three = np.uint64(1), np.uint64(2), np.uint64(3)
    while True:
        c = data[u]
        while _CLASS[c] == 0:
            u += one
            c = data[u]
        while 0xE1 <= c <= 0xEC and data[u + one] & 0xC0 == 0x80 and data[u + two] & 0xC0 == 0x80:
            u += three
            c = data[u]
        if _CLASS[c] == 0:
            continue
        i = np.int64(u)
        if c == 34:
            return i, i - begin - saved, GOOD
        if c >= 0x80:
            step = utf8(data, i)
            if step == 0:
                return i, 0, INVALID_UTF8
            u += np.uint64(step)
        elif c == 92:
            taken, given, error = _escape(data, i)
            if error != GOOD:
                return i, 0, error
            u += np.uint64(taken)
            saved += taken - given
        else:
            return i, 0, BAD_JSON
