"""Rows of small files: Parquet, and JSON Lines plain, .gz or .zst. Nothing is skipped: a bad line is an error."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any, BinaryIO

import pyarrow.parquet as pq
import xxhash
import zstandard

from malmoi.pipeline.errors import SourceError
from malmoi.pipeline.storage import Folder

_LINES = (".jsonl", ".ndjson", ".json")
_BLOCK = 8 * 1024**2


def _open(path: str) -> BinaryIO:
    folder, _, name = path.rpartition("/")
    try:
        return Folder(folder or ("/" if path.startswith("/") else ".")).open(name)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise SourceError(f"{path}: {error.strerror or error}") from error


def file_hash(path: str) -> str:
    """xxh3_128 of the content, hex."""
    state = xxhash.xxh3_128()
    with closing(_open(path)) as stream:
        while block := stream.read(_BLOCK):
            state.update(block)
    return state.hexdigest()


def read_rows(path: str, columns: Sequence[str] | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, row): `place` is `file:line` or `file:row`, counted from 1, for messages.

    `columns`: of a Parquet file only these, where it has them. SourceError: not there, another kind of file,
    a line that is no JSON object, a stream that is damaged.
    """
    if path.endswith(".parquet"):
        yield from _parquet(path, columns)
        return
    plain = path.removesuffix(".gz").removesuffix(".zst")
    if not plain.endswith(_LINES):
        raise SourceError(f"{path}: want .parquet or .jsonl, the latter also with .gz or .zst")
    with closing(_open(path)) as raw:
        stream: Any = raw
        if path.endswith(".gz"):
            stream = gzip.GzipFile(fileobj=raw)
        number = 0
        try:
            if path.endswith(".zst"):
                stream = io.BytesIO(b"".join(_frames(raw)))
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield f"{path}:{number}", _object(line, f"{path}:{number}")
        except (OSError, EOFError, zstandard.ZstdError) as error:
            raise SourceError(f"{path}: damaged after line {number} ({error})") from error


def _frames(raw: BinaryIO) -> Iterator[bytes]:
    """What the frames of a zstd file hold. EOFError where the last one is cut off."""
    decoder: Any = None
    while block := raw.read(_BLOCK):
        while block:
            decoder = decoder or zstandard.ZstdDecompressor().decompressobj()
            yield decoder.decompress(block)
            block = decoder.unused_data if decoder.eof else b""
            decoder = None if decoder.eof else decoder
    if decoder is not None:
        raise EOFError("the last zstd frame is cut off")


def _object(line: bytes, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise SourceError(f"{place}: not JSON ({error})") from error
    if not isinstance(row, dict):
        raise SourceError(f"{place}: want a JSON object, got {type(row).__name__}")
    return row


def _parquet(path: str, columns: Sequence[str] | None) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        with closing(_open(path)) as raw, pq.ParquetFile(raw) as file:
            names = [x for x in file.schema_arrow.names if columns is None or x in columns]
            number = 0
            for batch in file.iter_batches(batch_size=1024, columns=names):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}:{number}", row
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: not a Parquet file that can be read ({error})") from error
