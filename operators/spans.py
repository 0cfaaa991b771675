"""Lines and paragraphs of documents, as byte ranges."""

from __future__ import annotations

import numpy as np

from .byte_masks import below, bits_in, lowest, masks
from .kernel import lean

_marks = masks((((0, 0x0A, 0x0A),),), (((0, 0x80, 0xBF),),))  # line feeds, bytes that continue a character


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
    stripped: np.ndarray,
    first: np.ndarray,
    spans: tuple[np.ndarray, ...],
) -> int:
    """The paragraphs of all documents, made of their lines (first, start, end, chars); how many.

    White space at both ends of a document is left out; a run of empty lines parts two paragraphs. `stripped` int64
    [2, lines]: start and end of the lines without white space.
    """
    line_first, line_start, line_end, line_chars = lines
    start, end, chars, _ = spans
    i = 0
    for document in range(len(offsets) - 1):
        first[document] = i
        low, high = line_first[document], line_first[document + 1]
        while low < high and stripped[0, low] == stripped[1, low]:
            low += 1
        while low < high and stripped[0, high - 1] == stripped[1, high - 1]:
            high -= 1
        a = b = offsets[document + 1]
        if low < high:
            a, b = stripped[0, low], stripped[1, high - 1]
        start[i], end[i], chars[i] = a, a, 0
        parted = False
        for k in range(low, high):
            begin, stop = max(line_start[k], a), min(line_end[k], b)
            if begin == stop:
                parted = True
                continue
            points = line_chars[k]
            if begin > line_start[k] or stop < line_end[k]:
                points = count_points(data, begin, stop)
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
