"""Parquet row groups into tables of the declared shape.

A row group is read in small batches whose size depends on the file alone, so that a damaged page loses
the same rows whatever the batch size of the run. A row that is no record goes to quarantine with its number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .arrow_json import as_text, to_json
from .columns import is_id, is_text, kind_of_type
from .files import InputFile, open_footer, open_input
from .json_blocks import too_large
from .json_values import find_invalid_utf8
from .records import RAW_BYTES, Problem, Shape, place_ids

_READ_BYTES = 8 * 1024**2
_MOST_ROWS = 8192


@dataclass(frozen=True)
class _Column:
    """Values of one column with the declared type; `bad` bool [rows]: what does not fit, told by `detail`."""

    values: pa.Array
    bad: np.ndarray
    detail: str


def row_group_bytes(file: InputFile, options: Mapping[str, Any]) -> list[int]:
    """Bytes of each row group, uncompressed."""
    with open_footer(file, options) as handle:
        footer = pq.read_metadata(handle)
    return [footer.row_group(i).total_byte_size for i in range(footer.num_row_groups)]


def read_row_groups(
    url: str, options: Mapping[str, Any], start: int, stop: int, shape: Shape
) -> Iterator[tuple[pa.Table, list[Problem]]]:
    """The records of row groups `start` to `stop` (not included), and the rows that are none."""
    with open_input(url, options) as handle:
        file = pq.ParquetFile(handle, buffer_size=1024**2, page_checksum_verification=True)
        wanted = [shape.text, shape.id, *(name for name, _ in shape.extras)]
        there = set(file.schema_arrow.names)
        columns = [name for name in dict.fromkeys(wanted) if name in there]
        first = sum(file.metadata.row_group(i).num_rows for i in range(start))
        for number in range(start, stop):
            yield from _read_row_group(file, number, first, columns, shape)
            first += file.metadata.row_group(number).num_rows


def _read_row_group(
    file: pq.ParquetFile, number: int, first: int, columns: list[str], shape: Shape
) -> Iterator[tuple[pa.Table, list[Problem]]]:
    rows = file.metadata.row_group(number).num_rows
    bytes_a_row = file.metadata.row_group(number).total_byte_size // max(rows, 1) + 1
    step = max(1, min(_MOST_ROWS, _READ_BYTES // bytes_a_row))
    done = 0
    try:
        if not columns:
            yield _rows(pa.table({"": pa.nulls(rows)}), first, shape)
            return
        batches = file.iter_batches(step, row_groups=[number], columns=columns, use_threads=False)
        for batch in batches:
            yield _rows(pa.Table.from_batches([batch]), first + done, shape)
            done += batch.num_rows
    except (OSError, pa.ArrowException) as error:
        if isinstance(error, OSError) and (type(error) is not OSError or error.errno):
            raise  # of the disk or the store, which may answer next time; Arrow's about damage are plain
        detail = f"row group {number}: {rows - done:,} of {rows:,} rows lost: {error}"
        problem = Problem(first + done, 0, "unreadable_row_group", detail, b"")
        yield shape.schema.empty_table(), [problem]


def _rows(table: pa.Table, first: int, shape: Shape) -> tuple[pa.Table, list[Problem]]:
    """The records of some rows and the rows that are none; `first`: the first row's number in the file."""
    raw, reasons = _text(table, shape)
    numbers = np.arange(table.num_rows) + first
    ids = _Column(place_ids(shape.file, numbers), np.zeros(len(numbers), np.bool_), "")
    if shape.id:
        ids = _id(table, shape.id)
        reasons.append(("missing_id", ids.bad, ids.detail))
    extras = [_extra(table, name, field.type) for name, field in shape.extras]
    reasons += [("wrong_schema", column.bad, column.detail) for column in extras]
    strings = [ids.values, raw, *(column.values for column in extras)]
    for values, name in zip(
        strings, [shape.id, shape.text, *(name for name, _ in shape.extras)], strict=True
    ):
        if pa.types.is_large_string(values.type):
            reasons.append(("invalid_utf8", invalid_utf8(values), f"column {name}: not UTF-8"))
    verdict = np.zeros(table.num_rows, np.int64)
    for place, (_, mask, _) in enumerate(reasons, 1):
        verdict[(verdict == 0) & mask] = place
    problems = [
        _problem(raw, int(row), first, reasons[verdict[row] - 1], shape) for row in np.flatnonzero(verdict)
    ]
    sources = pa.repeat(pa.scalar(shape.source, pa.large_string()), table.num_rows)
    columns = [ids.values, sources, raw, *(column.values for column in extras)]
    records = pa.table(columns, schema=shape.schema)
    return (records.filter(pa.array(verdict == 0)) if problems else records), problems


def _problem(
    raw: pa.Array, row: int, first: int, fault: tuple[str, np.ndarray, str], shape: Shape
) -> Problem:
    reason, _, detail = fault
    data = raw[row].cast(pa.large_binary()).as_py() or b""
    if reason == "record_too_large":
        return too_large(first + row, len(data), data, shape.max_record_bytes)
    return Problem(first + row, len(data), reason, detail, data[:RAW_BYTES])


def _combined(table: pa.Table, name: str) -> pa.Array:
    column = table.column(name).combine_chunks()
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _as_large_string(values: pa.Array) -> pa.Array:
    """Strings or bytes as large_string without looking at the bytes, which are checked afterwards."""
    wide = values.cast(pa.large_binary())
    return pa.Array.from_buffers(pa.large_string(), len(wide), wide.buffers(), offset=wide.offset)


def _text(table: pa.Table, shape: Shape) -> tuple[pa.Array, list[tuple[str, np.ndarray, str]]]:
    """The text as large_string, and (reason, bool [rows], detail) of what is none."""
    rows, name = table.num_rows, shape.text
    nothing = pa.nulls(rows, pa.large_string())
    if name not in table.column_names:
        return nothing, [("missing_text", np.ones(rows, np.bool_), f"column {name}: not in this file")]
    values = _combined(table, name)
    null = _mask(pc.is_null(values))
    missing = ("missing_text", null, f"column {name}: null")
    if not is_text(values.type):
        return nothing, [
            missing,
            ("text_not_string", ~null, f"column {name}: expected string, got {values.type}"),
        ]
    text = _as_large_string(values)
    large = _mask(pc.fill_null(pc.greater(pc.binary_length(text), shape.max_record_bytes), False))
    return text, [("record_too_large", large, ""), missing]


def _id(table: pa.Table, name: str) -> _Column:
    """An id is a string that is not empty, or a number."""
    rows = table.num_rows
    there = table.schema.get_field_index(name) >= 0
    values = _combined(table, name) if there else pa.nulls(rows)
    if is_text(values.type):
        ids = _as_large_string(values)
    elif is_id(values.type):
        ids = values.cast(pa.large_string())
    else:
        ids = pa.nulls(rows, pa.large_string())
    empty = _mask(pc.fill_null(pc.equal(pc.binary_length(ids), 0), True))
    return _Column(ids, empty, f"column {name}: null, empty or not an id ({values.type})")


def _extra(table: pa.Table, name: str, kind: pa.DataType) -> _Column:
    """A column as the declared type, large_string, int64, double or bool; one that is absent is null."""
    rows = table.num_rows
    good = np.zeros(rows, np.bool_)
    if table.schema.get_field_index(name) < 0:  # a list of all names would be made for each of them
        return _Column(pa.nulls(rows, kind), good, "")
    values = _combined(table, name)
    is_kind = kind_of_type(values.type)
    detail = f"column {name}: expected {kind}, got {values.type}"
    if pa.types.is_large_string(kind):
        if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
            return _Column(_as_large_string(values), good, "")
        if is_kind != "json":
            return _Column(as_text(values), good, "")
        shown = pc.if_else(pc.is_valid(values), to_json(values), pa.scalar(None, kind))
        return _Column(shown, good, "")
    declared = kind_of_type(kind)
    if is_kind not in ("null", declared) and (is_kind, declared) != ("int64", "float64"):
        return _Column(pa.nulls(rows, kind), _mask(pc.is_valid(values)), detail)
    return _Column(values.cast(kind, safe=False), good, "")


def _mask(values: pa.Array) -> np.ndarray:
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.bool_)


def invalid_utf8(strings: pa.Array) -> np.ndarray:
    """bool [n]: which values of a large_string array are not well-formed UTF-8; null is."""
    invalid = np.zeros(len(strings), np.bool_)
    try:
        strings.validate(full=True)
    except pa.ArrowInvalid:
        _, places, data = strings.buffers()
        offsets = np.frombuffer(places, np.int64)[strings.offset : strings.offset + len(strings) + 1]
        padded = np.append(np.frombuffer(data, np.uint8)[: offsets[-1]], np.uint8(10))
        find_invalid_utf8(padded, offsets, invalid)
    return invalid
