"""Lines and paragraphs of documents, as byte ranges."""

from __future__ import annotations

import numpy as np

from .byte_masks import below, bits_in, lowest, masks
from .kernel import inline, lean

_marks = masks((((0, 0x0A, 0x0A),),), (((0, 0x80, 0xBF),),))  # line feeds, bytes that continue a character


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
def count_points(data: np.ndarray, p: int, end: int) -> int:
    """Code points of data[p:end]: bytes that continue no character."""
    points = max(end - p, 0)
    while p < end:
        points -= bits_in(np.uint64(_marks(data, p)[1] & below(end - p)))
        p += 64
    return int(points)


@lean
def find_lines(
    data: np.ndarray, offsets: np.ndarray, first: np.ndarray, spans: tuple[np.ndarray, ...]
) -> int:
    """The lines of all documents, how many; more than `spans` (start, end, chars) has room for are not written."""
    start, end, chars, _ = spans
    i = 0
    for document in range(len(offsets) - 1):
        first[document] = i
        p, stop = offsets[document], offsets[document + 1]
        begin, points = p, 0
        while p < stop:
            newlines, continued = _marks(data, p)
            inside = below(stop - p)
            newlines, characters = np.uint64(newlines & inside), np.uint64(inside & ~continued)
            while newlines:
                at = lowest(newlines)
                before = below(at)
                if i < len(start):
                    start[i], end[i] = begin, p + at
                    chars[i] = points + bits_in(np.uint64(characters & before))
                i += 1
                newlines = np.uint64(newlines & (newlines - np.uint64(1)))
                characters = np.uint64(characters & ~before)
                characters = np.uint64(characters & (characters - np.uint64(1)))
                begin, points = p + at + 1, 0
            points += bits_in(characters)
            p += 64
        if i < len(start):
            start[i], end[i], chars[i] = begin, stop, points
        i += 1
    first[len(offsets) - 1] = i
    return i


@lean
def join_paragraphs(
    data: np.ndarray,
    offsets: np.ndarray,
    lines: tuple[np.ndarray, ...],
    first: np.ndarray,
    spans: tuple[np.ndarray, ...],
) -> int:
    """The paragraphs of all documents, made of their lines (first, start, end, chars); how many.

    White space at both ends of a document is left out; a run of empty lines parts two paragraphs.
    """
    line_first, line_start, line_end, line_chars = lines
    start, end, chars, _ = spans
    i = 0
    for document in range(len(offsets) - 1):
        first[document] = i
        a, b = _strip(data, offsets[document], offsets[document + 1])
        start[i], end[i], chars[i] = a, a, 0
        parted = False
        for k in range(line_first[document], line_first[document + 1]):
            begin, stop = max(line_start[k], a), min(line_end[k], b)
            if line_end[k] < a or begin >= b:
                continue
            if begin == stop:
                parted = True
                continue
            points = (
                line_chars[k]
                - count_points(data, line_start[k], begin)
                - count_points(data, stop, line_end[k])
            )
            if parted:
                i += 1
                start[i], chars[i] = begin, 0
            elif start[i] < end[i]:
                points += 1  # the newline between
            end[i], chars[i] = stop, chars[i] + points
            parted = False
        i += 1
    first[len(offsets) - 1] = i
    return i
