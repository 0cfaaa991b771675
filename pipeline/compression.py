"""Decompress a stream piece by piece, with all bytes before a tear and in bounded memory.

gzip: any number of members (RFC 1952). zstd: any number of frames, skippable frames, windows up to 2 GiB
(`--long=31`). Neither library says by itself that a zstd stream was cut off, and a bomb may turn a kilobyte
into gigabytes; so zstd is fed block by block (RFC 8878, section 3.1.1.2: at most 128 KiB each, decompressed).
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, BinaryIO

import zstandard

from .errors import TornError
from .poison import alive

CHUNK = 1024**2
_GZIP_STEP = 256 * 1024
_ZSTD_MAGIC = 0xFD2FB528
_MAX_WINDOW = 2**31
_HEAD, _MOST_TIMES = 1024**2, 64
_SIGN_OF_LIFE_BYTES = 256 * 1024**2


def chunks(file: BinaryIO, compression: str, chunk_bytes: int = CHUNK) -> Iterator[bytes]:
    """The decompressed bytes of `file` from where it stands, in pieces of at most about `chunk_bytes`.

    `compression`: "", "gzip" or "zstd". Raises TornError after everything before the tear was given.
    """
    if compression == "gzip":
        return _gzip(file)
    if compression == "zstd":
        return _zstd(file)
    return iter(lambda: file.read(chunk_bytes), b"")


def from_byte(file: BinaryIO, compression: str, start: int, chunk_bytes: int = CHUNK) -> Iterator[bytes]:
    """As `chunks` of the whole file, from byte `start` of what it holds decompressed; a packed file has to be
    unpacked up to there. Nothing where it ends or is torn before: whoever reads what lies before reports it.
    """
    if not compression:
        file.seek(start)
    pieces = chunks(file, compression, chunk_bytes)
    left = start if compression else 0
    said = 0
    try:
        while left > 0:
            piece = next(pieces, b"")
            if not piece:
                return
            left -= len(piece)
            said += len(piece)
            if said >= _SIGN_OF_LIFE_BYTES:
                alive()
                said = 0
    except TornError:
        return
    if left < 0:
        yield piece[left:]
    yield from pieces


def text_bytes(file: BinaryIO, compression: str, size: int) -> int:
    """About how many bytes a packed file of `size` bytes holds, from its first mebibyte; `_MOST_TIMES` at most."""
    head = file.read(min(_HEAD, size))
    out = 0
    with suppress(TornError):
        for piece in chunks(io.BytesIO(head), compression):
            out += len(piece)
            if out > _MOST_TIMES * len(head):
                break
    return size * out // max(len(head), 1)


def _gzip(file: BinaryIO) -> Iterator[bytes]:
    """Members are inflated raw and checked here: zlib would drop the last bytes before a bad checksum."""
    data = b""

    def take(size: int) -> bytes:
        nonlocal data
        while len(data) < size:
            more = file.read(_GZIP_STEP)
            if not more:
                raise TornError("gzip: the file ends inside a member")
            data += more
        out, data = data[:size], data[size:]
        return out

    while data := data.lstrip(b"\0") or file.read(_GZIP_STEP):  # some writers pad with zeros
        if data[0] == 0:
            continue
        _gzip_header(take)
        member, checksum, size = zlib.decompressobj(wbits=-15), 0, 0
        while not member.eof:
            data = data or file.read(_GZIP_STEP)
            for out in _inflate(member, data):
                yield out
                checksum, size = zlib.crc32(out, checksum), size + len(out)
            data = member.unconsumed_tail
        data = member.unused_data
        if take(8) != struct.pack("<II", checksum, size & 0xFFFFFFFF):
            raise TornError("gzip: the checksum does not match")


def _inflate(member: Any, data: bytes) -> Iterator[bytes]:
    """One step of a member; `data` is empty at the end of the file."""
    before = member.copy()
    try:
        out = member.decompress(data, _GZIP_STEP)
    except zlib.error as error:
        yield from _until_error(before, data)
        raise TornError(f"gzip: {error}") from error
    if out:
        yield out
    elif not data:  # not even what zlib may still have held back
        raise TornError("gzip: the file ends inside a member")


def _gzip_header(take: Callable[[int], bytes]) -> None:
    """Skip the header of a member (RFC 1952, section 2.3)."""
    magic, method, flags = struct.unpack("<2sBB6x", take(10))
    if magic != b"\x1f\x8b" or method != 8:
        raise TornError("gzip: no member where one should begin (cut off, or other bytes follow)")
    if flags & 4:
        take(int.from_bytes(take(2), "little"))
    for flag in (8, 16):  # name, comment
        while flags & flag and take(1) != b"\0":
            pass
    if flags & 2:
        take(2)


def _until_error(member: Any, data: bytes) -> Iterator[bytes]:
    """What zlib can still give of `data` before the byte at which it fails: it throws that away itself."""
    step = _GZIP_STEP
    while step:
        trial = member.copy()
        try:
            out = trial.decompress(data, step)
        except zlib.error:
            step //= 2
            continue
        if not out:
            return
        yield out
        member, data = trial, trial.unconsumed_tail


def _zstd(file: BinaryIO) -> Iterator[bytes]:
    context = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
    while magic := file.read(4):
        number = int.from_bytes(magic, "little")
        if number & 0xFFFFFFF0 == 0x184D2A50:
            _skip(file, int.from_bytes(_need(file, 4), "little"))
        elif number != _ZSTD_MAGIC:
            raise TornError("zstd: no frame where one should begin (cut off, or other bytes follow)")
        else:
            yield from _frame(file, magic, context.decompressobj())


def _frame(file: BinaryIO, magic: bytes, frame: Any) -> Iterator[bytes]:
    """One frame after its magic number; the layout is RFC 8878, section 3.1.1."""
    descriptor = _need(file, 1)
    flags = descriptor[0]
    single = bool(flags & 0x20)
    content_size = (1 if single else 0, 2, 4, 8)[flags >> 6]
    rest = _need(file, (0 if single else 1) + (0, 1, 2, 4)[flags & 3] + content_size)
    _feed(frame, magic + descriptor + rest)
    last = False
    while not last:
        header = _need(file, 3)
        word = int.from_bytes(header, "little")
        last = bool(word & 1)
        size = 1 if word >> 1 & 3 == 1 else word >> 3
        if size > 128 * 1024:
            raise TornError("zstd: a block of impossible size")
        out = _feed(frame, header + _need(file, size))
        if out:
            yield out
    if flags & 4:
        _feed(frame, _need(file, 4))
    if not frame.eof:
        raise TornError("zstd: the frame does not end where its last block does")


def _feed(frame: Any, data: bytes) -> bytes:
    try:
        return bytes(frame.decompress(data))
    except zstandard.ZstdError as error:
        raise TornError(f"zstd: {str(error).removeprefix('zstd decompressor error: ')}") from error


def _need(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise TornError("zstd: the file ends inside a frame")
    return data


def _skip(file: BinaryIO, size: int) -> None:
    while size:
        size -= len(_need(file, min(size, CHUNK)))
