"""Cut a stream of bytes into blocks of whole lines, with bounded memory whatever the lines are."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain

import numpy as np

from malmoi.operators.byte_masks import newlines

from .errors import TornError
from .records import RAW_BYTES, Problem

_ROOM = 4 * 1024**2  # of this size on, NumPy asks for large pages


@dataclass(frozen=True)
class Block:
    """Whole lines: data uint8, ending in a newline; `lines`: their number; offset of data[0] in the stream.

    Lines that begin at data[stop] or later belong to another part. `data` is good until the next block is asked for.
    """

    data: np.ndarray
    lines: int
    offset: int
    stop: int


def blocks(
    pieces: Iterator[bytes],
    start: int,
    stop: int | None,
    block_bytes: int,
    max_record_bytes: int,
    block_lines: int = sys.maxsize,
) -> Iterator[Block | Problem]:
    """Cut a stream into blocks of whole lines.

    `pieces` begins at byte 0, or at byte `start - 1` where start > 0. Given are the lines whose first byte
    lies in [start, stop), in blocks of about `block_bytes` and at most `block_lines` lines. A line longer than
    `max_record_bytes` is measured, never held; a torn stream gives the whole lines before the tear and one
    Problem at the line that is cut.
    """
    end = sys.maxsize if stop is None else stop
    base = 0
    if start:
        base, pieces = _next_line(pieces, start - 1, end)
    for event in _cut(pieces, base, end, (block_bytes, block_lines), max_record_bytes):
        if event.offset >= end:
            return
        if isinstance(event, Block):
            yield Block(event.data, event.lines, event.offset, min(end - event.offset, len(event.data)))
            if event.offset + len(event.data) >= end:
                return
        else:
            yield event


def _next_line(pieces: Iterator[bytes], base: int, end: int) -> tuple[int, Iterator[bytes]]:
    """Drop the bytes up to the first newline: the offset of the line after it, and what follows.

    Nothing follows where that line begins at `end` or later, or where the stream is torn before: the cut line is
    one of the part before.
    """
    with suppress(TornError):
        for piece in pieces:
            cut = piece.find(b"\n") + 1
            if cut:
                return base + cut, chain([piece[cut:]], pieces)
            base += len(piece)
            if base >= end:
                break
    return base, iter(())


def _cut(
    pieces: Iterator[bytes], base: int, stop: int, most: tuple[int, int], limit: int
) -> Iterator[Block | Problem]:
    """Blocks and overlong lines; `base`: offset of the first line; `most`: bytes and lines of a block."""
    room = np.empty(0, np.uint8)
    size = cut = lines = 0  # bytes held, bytes of the whole lines among them, how many lines these are
    head, skipped, torn = b"", -1, ""
    try:
        for piece in pieces:
            if skipped >= 0:
                end = piece.find(b"\n")
                if end < 0:
                    skipped += len(piece)
                    continue
                yield too_large(base, skipped + end, head, limit)
                base, skipped, piece = base + skipped + end + 1, -1, piece[end + 1 :]
            room = _put(room, size, piece)
            seen, size = size, size + len(piece)
            first = 0  # where the next block begins
            while True:
                more, after = newlines(room, seen, size, most[1] - lines)
                if more:
                    cut, lines = after, lines + more
                if cut > first and base + cut - first >= stop:
                    yield _block(room[first:cut], lines, base)
                    return
                if cut == first or (size - first < most[0] and lines < most[1]):
                    break
                yield _block(room[first:cut], lines, base)
                base, first, seen, lines = base + cut - first, cut, cut, 0
            if first:
                room[: size - first] = room[first:size]
                size, cut = size - first, cut - first
            if not cut and size > max(limit, RAW_BYTES):  # shorter ones are measured with the others
                head, skipped = room[:RAW_BYTES].tobytes(), size
                room, size = np.empty(0, np.uint8), 0  # the old one may take the most that is allowed
    except TornError as error:
        torn = str(error)
    yield from _rest(room, (size, cut, lines), base, skipped, head, limit, torn)


def _put(room: np.ndarray, size: int, piece: bytes) -> np.ndarray:
    """`room` with `piece` at `size`, or a larger one."""
    end = size + len(piece)
    if end > len(room):
        old, room = room, np.empty(max(2 * end, _ROOM if size else 0), np.uint8)
        room[:size] = old[:size]
    room[size:end] = np.frombuffer(piece, np.uint8)
    return room


def too_large(offset: int, length: int, head: bytes, limit: int) -> Problem:
    detail = f"{length:,} bytes, more than max_record_bytes={limit:,}"
    return Problem(offset, length, "record_too_large", detail, head[:RAW_BYTES])


def _rest(
    room: np.ndarray,
    held: tuple[int, int, int],
    base: int,
    skipped: int,
    head: bytes,
    limit: int,
    torn: str,
) -> Iterator[Block | Problem]:
    """What the end of the stream leaves: lines, a line without a newline, an overlong line, a tear."""
    size, cut, lines = held
    if cut < size and not torn:
        room = _put(room, size, b"\n")
        size = cut = size + 1
        lines += 1
    if cut:
        yield _block(room[:cut], lines, base)
    if torn:
        length = skipped if skipped >= 0 else size - cut
        raw = head if skipped >= 0 else room[cut : min(size, cut + RAW_BYTES)].tobytes()
        detail = f"{torn}; after {base + cut + length:,} decompressed bytes"
        yield Problem(base + cut, length, f"torn_{torn.split(':', 1)[0]}", detail, raw)
    elif skipped >= 0:
        yield too_large(base, skipped, head, limit)


def _block(data: np.ndarray, lines: int, base: int) -> Block:
    data.flags.writeable = False  # for arrays that can be written to, kernels would be compiled once more
    return Block(data, lines, base, len(data))
