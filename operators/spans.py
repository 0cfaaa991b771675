"""Lines and paragraphs of documents, as byte ranges."""

from __future__ import annotations

import numpy as np

from .kernel import inline, lean

_NEWLINE = 0x0A


@inline
def _space_at(data: np.ndarray, p: int, end: int) -> int:
    """Bytes of the white space character at `p` (as `str.isspace` has it), else 0."""
    b = data[p]
    if b == 0x20 or 0x09 <= b <= 0x0D or 0x1C <= b <= 0x1F:
        return 1
    if b == 0xC2 and p + 1 < end and (data[p + 1] == 0x85 or data[p + 1] == 0xA0):
        return 2
    if p + 2 < end and (b == 0xE1 or b == 0xE2 or b == 0xE3):
        point = ((b & 0x0F) << 12) | ((data[p + 1] & 0x3F) << 6) | (data[p + 2] & 0x3F)
        if point == 0x1680 or 0x2000 <= point <= 0x200A or point == 0x3000:
            return 3
        if point == 0x2028 or point == 0x2029 or point == 0x202F or point == 0x205F:
            return 3
    return 0


@inline
def _strip(data: np.ndarray, start: int, end: int) -> tuple[int, int]:
    """The range without white space at both ends."""
    while start < end:
        width = _space_at(data, start, end)
        if width == 0:
            break
        start += width
    while end > start:
        last = end - 1
        while last > start and (data[last] & 0xC0) == 0x80:
            last -= 1
        if _space_at(data, last, end) == 0:
            break
        end = last
    return start, end


@lean
def count_lines(data: np.ndarray, offsets: np.ndarray, first: np.ndarray) -> None:
    total = 0
    for document in range(len(offsets) - 1):
        total += 1
        for p in range(offsets[document], offsets[document + 1]):
            total += data[p] == _NEWLINE
        first[document + 1] = total


@lean
def fill_lines(
    data: np.ndarray, offsets: np.ndarray, start: np.ndarray, end: np.ndarray, chars: np.ndarray
) -> None:
    i = 0
    for document in range(len(offsets) - 1):
        start[i], points = offsets[document], 0
        for p in range(offsets[document], offsets[document + 1]):
            if data[p] == _NEWLINE:
                end[i], chars[i] = p, points
                i += 1
                start[i], points = p + 1, 0
            else:
                points += (data[p] & 0xC0) != 0x80
        end[i], chars[i] = offsets[document + 1], points
        i += 1


@lean
def count_paragraphs(data: np.ndarray, offsets: np.ndarray, first: np.ndarray) -> None:
    total = 0
    for document in range(len(offsets) - 1):
        p, end = _strip(data, offsets[document], offsets[document + 1])
        total += 1
        run = 0
        while p < end:
            run = run + 1 if data[p] == _NEWLINE else 0
            total += run == 2
            p += 1
        first[document + 1] = total


@lean
def fill_paragraphs(
    data: np.ndarray, offsets: np.ndarray, start: np.ndarray, end: np.ndarray, chars: np.ndarray
) -> None:
    i = 0
    for document in range(len(offsets) - 1):
        p, stop = _strip(data, offsets[document], offsets[document + 1])
        start[i], points = p, 0
        while p < stop:
            if data[p] == _NEWLINE and p + 1 < stop and data[p + 1] == _NEWLINE:
                end[i], chars[i] = p, points
                while p < stop and data[p] == _NEWLINE:
                    p += 1
                i += 1
                start[i], points = p, 0
            else:
                points += (data[p] & 0xC0) != 0x80
                p += 1
        end[i], chars[i] = stop, points
        i += 1
