"""Chosen columns of JSON Lines and Parquet files as strings: what the stage `tokenize` reads.

Every value comes as large_string: a string as it is, a list or an object as JSON, null and absent as null. A
record that cannot be read is a `Problem` with its place, as everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from malmoi.operators.config import did_you_mean

from .arrow_json import as_text, to_json
from .columns import is_text, kind_of_type
from .compression import CHUNK, chunks, from_byte
from .errors import ChangedError, SourceError
from .files import InputFile, find_files, open_input
from .json_blocks import Block, blocks
from .json_strings import BLANK
from .jsonl import scan_block
from .parquet_in import invalid_utf8
from .recipe import Source
from .records import RAW_BYTES, Problem

_BLOCK_BYTES = 2 * 1024**2
_BATCH_ROWS = 1024
_SHOWN_LINES = 64

NAME = "examples"


@dataclass(frozen=True)
class Examples:
    """`table`: the columns asked for, large_string; `problems`: records that could not be read."""

    table: pa.Table
    problems: list[Problem]


def examples_source(paths: Iterable[str], options: Mapping[str, Any] | None = None) -> Source:
    return Source(name=NAME, path=tuple(paths), storage_options=dict(options or {}))


def find_examples(paths: Iterable[str], options: Mapping[str, Any] | None = None) -> list[InputFile]:
    """Files of files, folders and globs, by relative path; SourceError where one matches nothing."""
    return [file for file in find_files(examples_source(paths, options), ".") if file.size]


def read_examples(
    file: InputFile,
    columns: Sequence[str],
    *,
    start: int = 0,
    stop: int = -1,
    options: Mapping[str, Any] | None = None,
    max_record_bytes: int = 128 * 1024**2,
) -> Iterator[Examples]:
    """The records of a file, or of a range of it: bytes of JSON Lines, row groups of Parquet; -1 is the end.

    ChangedError where the file has gone, SourceError where it cannot be read.
    """
    try:
        with open_input(file.url, dict(options or {})) as handle:
            if file.format == "parquet":
                yield from _parquet(handle, columns, start, stop)
                return
            pieces = from_byte(handle, file.compression, max(start - 1, 0))
            end = None if stop < 0 else stop
            for event in blocks(pieces, start, end, _BLOCK_BYTES, max_record_bytes):
                if isinstance(event, Block):
                    yield _lines(event, columns)
                else:
                    yield Examples(_schema(columns).empty_table(), [event])
    except FileNotFoundError as error:
        raise ChangedError(f"{file.url}: vanished") from error
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"{file.url}: cannot be read ({error})") from error


def check_columns(files: Sequence[InputFile], wanted: Sequence[str], options: Mapping[str, Any]) -> None:
    """SourceError where the first file that has records lacks a column (JSON Lines: its first 64 lines do)."""
    for file in files:
        if there := _names(file, options):
            break
    else:
        return
    for name in wanted:
        if name not in there:
            raise SourceError(f"{file.url}: no column {name!r}{did_you_mean(name, there)}")


def _names(file: InputFile, options: Mapping[str, Any]) -> list[str]:
    try:
        with open_input(file.url, dict(options)) as handle:
            if file.format == "parquet":
                return list(pq.read_schema(handle).names)
            head = next(iter(chunks(handle, file.compression, CHUNK)), b"")
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"{file.url}: cannot be read ({error})") from error
    names: dict[str, None] = {}
    for line in head.removeprefix(b"\xef\xbb\xbf").splitlines()[:_SHOWN_LINES]:
        with suppress(ValueError, RecursionError):
            record = json.loads(line)
            names |= dict.fromkeys(record if isinstance(record, dict) else ())
    return list(names)


def _schema(columns: Sequence[str]) -> pa.Schema:
    return pa.schema([(name, pa.large_string()) for name in columns])


def _lines(block: Block, columns: Sequence[str]) -> Examples:
    scanned = scan_block(block, tuple(columns))
    rows = np.flatnonzero(scanned.error == 0)
    table = pa.table([scanned.strings(name, rows) for name in columns], schema=_schema(columns))
    problems = []
    for row in np.flatnonzero((scanned.error != 0) & (scanned.error != BLANK)).tolist():
        begin, end = map(int, scanned.lines[row])
        raw = block.data[begin : min(end, begin + RAW_BYTES)].tobytes()
        detail = f"not a record, from byte {int(scanned.where[row]) - begin} on"
        problems.append(Problem(begin + block.offset, end - begin, "bad_json", detail, raw))
    return Examples(table, problems)


def _parquet(handle: Any, columns: Sequence[str], start: int, stop: int) -> Iterator[Examples]:
    file = pq.ParquetFile(handle)
    groups = list(range(start, file.num_row_groups if stop < 0 else stop))
    names = [name for name in columns if name in file.schema_arrow.names]
    row = sum(file.metadata.row_group(i).num_rows for i in range(start))
    for batch in file.iter_batches(_BATCH_ROWS, row_groups=groups, columns=names, use_threads=False):
        values = [
            _strings(batch.column(name)) if name in names else pa.nulls(batch.num_rows, pa.large_string())
            for name in columns
        ]
        bad = np.zeros(batch.num_rows, np.bool_)
        for column in values:
            bad |= invalid_utf8(column)
        table = pa.table(values, schema=_schema(columns))
        problems = [
            Problem(row + i, 0, "invalid_utf8", "not UTF-8", b"") for i in np.flatnonzero(bad).tolist()
        ]
        yield Examples(table.filter(pa.array(~bad)) if problems else table, problems)
        row += batch.num_rows


def _strings(values: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if is_text(values.type):
        wide = values.cast(pa.large_binary())  # the bytes are checked afterwards
        return pa.Array.from_buffers(pa.large_string(), len(wide), wide.buffers(), offset=wide.offset)
    if kind_of_type(values.type) == "json":
        return pc.if_else(pc.is_valid(values), to_json(values), pa.scalar(None, pa.large_string()))
    return as_text(values).cast(pa.large_string())
