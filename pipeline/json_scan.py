"""Numba kernels that read one JSON object a line: where each wanted value lies, checked byte by byte.

Every line is judged by itself (RFC 8259 grammar, UTF-8 of RFC 3629, no lone surrogate escapes), so the
verdict does not depend on how the stream was cut into blocks. Values are spans of the block; strings are
unescaped into Arrow buffers by a second kernel. NaN, Infinity and -Infinity are taken as numbers, because
Python's `json` writes them. Of a repeated key the last value counts, as in Python's `json`.

Letters: R lines, F wanted names.
"""

from __future__ import annotations

from typing import Any

from malmoi.operators.kernel import inline, lean

from .json_strings import BAD_JSON, BLANK, GOOD, NOT_AN_OBJECT, TOO_DEEP, scan_string
from .json_values import (
    ABSENT,
    BOOLEAN,
    ESCAPED,
    INTEGER,
    NESTED,
    NULL,
    NUMBER,
    PLAIN,
    unescape,
)

MAX_DEPTH = 512


@lean
def _digits(data: Any, i: int) -> int:
    while 48 <= data[i] <= 57:
        i += 1
    return i


@lean
def _matches(data: Any, i: int, word: bytes) -> bool:
    k = 0
    while k < len(word) and data[i + k] == word[k]:
        k += 1
    return k == len(word)


@lean
def _scalar(data: Any, i: int) -> tuple[int, int]:
    """(end, kind) of a number or literal at `i`; kind ABSENT if there is none."""
    c = data[i]
    if c == 110 and _matches(data, i, b"null"):
        return i + 4, NULL
    if c == 116 and _matches(data, i, b"true"):
        return i + 4, BOOLEAN
    if c == 102 and _matches(data, i, b"false"):
        return i + 5, BOOLEAN
    if c == 78 and _matches(data, i, b"NaN"):
        return i + 3, NUMBER
    if c == 45:
        i += 1
    if data[i] == 73 and _matches(data, i, b"Infinity"):
        return i + 8, NUMBER
    return _number(data, i)


@lean
def _number(data: Any, i: int) -> tuple[int, int]:
    """As `_scalar`, after the sign."""
    if data[i] == 48:
        end = i + 1
    else:
        end = _digits(data, i)
        if end == i:
            return i, ABSENT
    kind = INTEGER
    if data[end] == 46:
        i = end + 1
        end = _digits(data, i)
        if end == i:
            return i, ABSENT
        kind = NUMBER
    if data[end] == 101 or data[end] == 69:
        i = end + 1
        if data[i] == 43 or data[i] == 45:
            i += 1
        end = _digits(data, i)
        if end == i:
            return i, ABSENT
        kind = NUMBER
    return end, kind


@inline
def _space(data: Any, i: int) -> int:
    while data[i] == 32 or data[i] == 9 or data[i] == 13:
        i += 1
    return i


@lean
def _key(data: Any, i: int) -> tuple[int, int]:
    """From the quote of a key to the first byte of its value: (position, error)."""
    if data[i] != 34:
        return i, BAD_JSON
    i, _, error = scan_string(data, i + 1)
    if error != GOOD:
        return i, error
    i = _space(data, i + 1)
    if data[i] != 58:
        return i, BAD_JSON
    return _space(data, i + 1), GOOD


@lean
def _nested(data: Any, i: int, stack: Any) -> tuple[int, int]:
    """Check the array or object at `i`: (position after it, error). `stack`: uint8 [MAX_DEPTH] scratch."""
    depth = 0
    while True:
        c = data[i]
        opened = c == 123 or c == 91
        if opened:
            if depth == MAX_DEPTH:
                return i, TOO_DEEP
            stack[depth] = c
            depth += 1
            i = _space(data, i + 1)
        elif c == 34:
            i, _, error = scan_string(data, i + 1)
            if error != GOOD:
                return i, error
            i += 1
        else:
            i, kind = _scalar(data, i)
            if kind == ABSENT:
                return i, BAD_JSON
        if not opened or data[i] == stack[depth - 1] + 2:  # "]" is "[" + 2, "}" is "{" + 2
            if not opened:
                i = _space(data, i)
            while depth and data[i] == stack[depth - 1] + 2:
                depth -= 1
                i += 1
                if depth == 0:
                    return i, GOOD
                i = _space(data, i)
            if data[i] != 44:
                return i, BAD_JSON
            i = _space(data, i + 1)
        if stack[depth - 1] == 123:
            i, error = _key(data, i)
            if error != GOOD:
                return i, error


@lean
def _value(data: Any, i: int, stack: Any) -> tuple[int, int, int, int, int, int]:
    """(position after, kind, begin, stop, unescaped bytes, error) of the value at `i`."""
    c = data[i]
    if c == 34:
        stop, size, error = scan_string(data, i + 1)
        kind = PLAIN if size == stop - i - 1 else ESCAPED
        return (stop + 1 if error == GOOD else stop), kind, i + 1, stop, size, error
    if c == 123 or c == 91:
        stop, error = _nested(data, i, stack)
        return stop, NESTED, i, stop, stop - i, error
    stop, kind = _scalar(data, i)
    return stop, kind, i, stop, stop - i, BAD_JSON if kind == ABSENT else GOOD


@lean
def _find(data: Any, begin: int, stop: int, names: Any, first: Any, guess: int) -> int:
    """The number of the wanted name that is spelt at `begin:stop`, or -1; `guess` is tried first."""
    wanted = len(first) - 1
    for k in range(wanted):
        f = (guess + k) % wanted
        n = first[f + 1] - first[f]
        if n != stop - begin:
            continue
        same = True
        for j in range(n):
            if data[begin + j] != names[first[f] + j]:
                same = False
                break
        if same:
            return f
    return -1


@lean
def _wanted(data: Any, begin: int, names: Any, first: Any, guess: int, room: Any) -> int:
    """As `_find`, for a key that begins at `begin` and may hold escapes. `room`: uint8, as the longest name."""
    stop, size, _ = scan_string(data, begin)
    if size == stop - begin:
        return _find(data, begin, stop, names, first, guess)
    if size > len(room):
        return -1
    unescape(data, begin, stop, room, 0)
    return _find(room, 0, size, names, first, guess)


@lean
def _line(
    data: Any, i: int, r: int, names: Any, first: Any, kind: Any, span: Any, stack: Any, room: Any
) -> tuple[int, int]:
    """Scan line `r` from its first byte that is not white space: (error, position)."""
    if data[i] != 123:
        i, _, _, _, _, error = _value(data, i, stack)
        if error == GOOD and data[_space(data, i)] == 10:
            error = NOT_AN_OBJECT
        return (error if error != GOOD else BAD_JSON), i
    i = _space(data, i + 1)
    guess = 0
    more = data[i] != 125
    if not more:
        i += 1
    while more:
        begin = i + 1
        i, error = _key(data, i)
        if error != GOOD:
            return error, i
        f = _wanted(data, begin, names, first, guess, room)
        i, what, begin, stop, size, error = _value(data, i, stack)
        if error != GOOD:
            return error, i
        if f >= 0:
            kind[f, r] = what
            span[f, r, 0] = begin
            span[f, r, 1] = stop
            span[f, r, 2] = size
            guess = f + 1
        i = _space(data, i)
        more = data[i] == 44
        if more:
            i = _space(data, i + 1)
        elif data[i] != 125:
            return BAD_JSON, i
        else:
            i += 1
    i = _space(data, i)
    return (GOOD if data[i] == 10 else BAD_JSON), i


@lean
def scan(
    data: Any,
    stop: int,
    skip: int,
    names: Any,
    first: Any,
    lines: Any,
    kind: Any,
    span: Any,
    error: Any,
    where: Any,
    stack: Any,
    room: Any,
) -> int:
    """Scan the lines of `data` that begin before `stop` and return how many they are, R.

    data uint8 [N], ending in a newline; skip: bytes to pass over at the start (a byte order mark); names
    uint8, first int64 [F+1]: the wanted names, one after the other. Filled in, with room for at least R:
    lines int64 [R, 2] (begin, end without the newline); kind uint8 [F, R]; span int64 [F, R, 3] (begin, stop,
    bytes once unescaped); error uint8 [R]; where int64 [R] (position in `data` at which the line broke).
    Scratch, uint8: stack [MAX_DEPTH]; room, as the longest name.
    """
    r = 0
    begin = 0
    while begin < stop and begin < len(data):
        i = _space(data, begin + (skip if begin == 0 else 0))
        if data[i] == 10:
            error[r] = BLANK
        else:
            error[r], i = _line(data, i, r, names, first, kind, span, stack, room)
        where[r] = i
        while data[i] != 10:
            i += 1
        lines[r, 0] = begin
        lines[r, 1] = i
        begin = i + 1
        r += 1
    return r
