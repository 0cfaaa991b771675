"""Cut a stream of bytes into blocks of whole lines, with bounded memory whatever the lines are."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain

import numpy as np

from malmoi.operators.byte_masks import count_newlines

from .errors import TornError
from .records import RAW_BYTES, Problem


@dataclass(frozen=True)
class Block:
    """Whole lines: data uint8, ending in a newline; `lines`: their number; offset of data[0] in the stream.

    Lines that begin at data[stop] or later belong to another part.
    """

    data: np.ndarray
    lines: int
    offset: int
    stop: int


def blocks(
    pieces: Iterator[bytes], start: int, stop: int | None, block_bytes: int, max_record_bytes: int
) -> Iterator[Block | Problem]:
    """Cut a stream into blocks of whole lines.

    `pieces` begins at byte 0, or at byte `start - 1` where start > 0. Given are the lines whose first byte
    lies in [start, stop). A line longer than `max_record_bytes` is measured, never held; a torn stream gives
    the whole lines before the tear and one Problem at the line that is cut.
    """
    end = sys.maxsize if stop is None else stop
    base = 0
    if start:
        base, pieces = _next_line(pieces, start - 1, end)
    for event in _cut(pieces, base, end, block_bytes, max_record_bytes):
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
    pieces: Iterator[bytes], base: int, stop: int, block_bytes: int, limit: int
) -> Iterator[Block | Problem]:
    """Blocks and overlong lines; `base`: offset of the first line. Near `stop` a block may be short."""
    held: list[bytes] = []
    size, whole = 0, False
    head, skipped, torn = b"", -1, ""
    try:
        for piece in pieces:
            if skipped >= 0:
                cut = piece.find(b"\n")
                if cut < 0:
                    skipped += len(piece)
                    continue
                yield too_large(base, skipped + cut, head, limit)
                base, skipped, piece = base + skipped + cut + 1, -1, piece[cut + 1 :]
            held.append(piece)
            size += len(piece)
            whole = whole or b"\n" in piece
            if whole and (size >= block_bytes or base + size >= stop):
                data = b"".join(held)
                cut = data.rfind(b"\n") + 1
                held, size, whole = [data[cut:]], len(data) - cut, False  # freed before others take memory
                yield _block(data, cut, base)
                base += cut
            if not whole and size > max(limit, RAW_BYTES):  # shorter ones are measured with the others
                first = held[: RAW_BYTES + 2]  # not all: they may take the most that is allowed
                head, skipped = b"".join(piece[:RAW_BYTES] for piece in first)[:RAW_BYTES], size
                held, size = [], 0
    except TornError as error:
        torn = str(error)
    yield from _rest(b"".join(held), base, skipped, head, limit, torn)


def too_large(offset: int, length: int, head: bytes, limit: int) -> Problem:
    detail = f"{length:,} bytes, more than max_record_bytes={limit:,}"
    return Problem(offset, length, "record_too_large", detail, head[:RAW_BYTES])


def _rest(
    data: bytes, base: int, skipped: int, head: bytes, limit: int, torn: str
) -> Iterator[Block | Problem]:
    """What the end of the stream leaves: lines, a line without a newline, an overlong line, a tear."""
    cut = data.rfind(b"\n") + 1
    if data and not torn and cut < len(data):
        data, cut = data + b"\n", len(data) + 1
    if cut:
        yield _block(data, cut, base)
    if torn:
        length = skipped if skipped >= 0 else len(data) - cut
        raw = head if skipped >= 0 else data[cut : cut + RAW_BYTES]
        detail = f"{torn}; after {base + cut + length:,} decompressed bytes"
        yield Problem(base + cut, length, f"torn_{torn.split(':', 1)[0]}", detail, raw)
    elif skipped >= 0:
        yield too_large(base, skipped, head, limit)


def _block(data: bytes, cut: int, base: int) -> Block:
    lines = np.frombuffer(data, np.uint8, cut)
    return Block(lines, count_newlines(lines), base, cut)
