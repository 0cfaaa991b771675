"""JSON Lines into tables: every line is judged by itself, so how the stream was cut changes nothing.

A line that is not a record of the declared shape becomes one row of the quarantine table with its byte offset
in the decompressed stream; the others go on. Blank lines are no records. A byte order mark at the start and
carriage returns at line ends are white space.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from . import json_scan as scan
from . import json_strings as strings
from . import json_values as values
from .json_blocks import Block, too_large
from .records import RAW_BYTES, Problem, Shape, place_ids

_KIND_NAMES = ("nothing", "null", "string", "string", "integer", "number", "boolean", "array or object")

_BROKEN = {
    strings.BAD_JSON: ("bad_json", "not JSON from byte {} on"),
    strings.TOO_DEEP: ("bad_json", f"nested deeper than {scan.MAX_DEPTH} levels at byte {{}}"),
    strings.NOT_AN_OBJECT: ("not_an_object", "JSON, but not an object"),
    strings.INVALID_UTF8: ("invalid_utf8", "not UTF-8 at byte {}"),
    strings.LONE_SURROGATE: ("lone_surrogate", "half of a surrogate pair at byte {}"),
}


@dataclass(frozen=True)
class Scanned:
    """The spans of a block, R lines; letters and types as in `json_scan.scan`."""

    block: Block
    names: tuple[str, ...]
    lines: np.ndarray
    kind: np.ndarray
    span: np.ndarray
    error: np.ndarray
    where: np.ndarray

    def kinds(self, name: str) -> np.ndarray:
        kinds: np.ndarray = self.kind[self.names.index(name)]
        return kinds

    def strings(self, name: str, rows: np.ndarray) -> pa.Array:
        """large_string [n]: strings unescaped, other values as they stand in the file, null for null."""
        f = self.names.index(name)
        offsets, there = np.zeros(len(rows) + 1, np.int64), self.kind[f, rows] > values.NULL
        np.cumsum(self.span[f, rows, 2] * there, out=offsets[1:])
        # Of Arrow's pool: it has the memory of the last batch.
        out = np.frombuffer(pa.allocate_buffer(int(offsets[-1]) + values.ROOM), np.uint8)
        values.copy_strings(self.block.data, self.kind[f], self.span[f], rows, offsets, out)
        valid = None if there.all() else pa.py_buffer(np.packbits(there, bitorder="little"))
        buffers = [valid, pa.py_buffer(offsets), pa.py_buffer(out[: offsets[-1]])]
        return pa.Array.from_buffers(pa.large_string(), len(rows), buffers)

    def integers(self, name: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(int64 [n], bool [n] whether 64 bits are enough); 0 where the value is no integer."""
        f = self.names.index(name)
        out, fits = np.zeros(len(rows), np.int64), np.ones(len(rows), np.bool_)
        values.read_integers(self.block.data, self.kind[f], self.span[f], rows, out, fits)
        return out, fits

    def column(self, name: str, field: pa.Field, rows: np.ndarray) -> pa.Array:
        """The values of rows whose kinds fit the field's type."""
        f = self.names.index(name)
        if pa.types.is_large_string(field.type):
            return self.strings(name, rows)
        if pa.types.is_floating(field.type):
            return _floats(self.strings(name, rows))
        if pa.types.is_boolean(field.type):
            flags = self.block.data[self.span[f, rows, 0]] == ord("t")
            return pa.array(flags, mask=self.kind[f, rows] <= values.NULL)
        numbers, _ = self.integers(name, rows)
        return pa.array(numbers, mask=self.kind[f, rows] <= values.NULL)


def _floats(texts: pa.Array) -> pa.Array:
    """JSON numbers to float64; one that is out of range becomes an infinity, as in Python."""
    try:
        return pc.cast(texts, pa.float64())
    except pa.ArrowInvalid:
        return pa.array([None if text is None else float(text) for text in texts.to_pylist()], pa.float64())


def scan_block(block: Block, names: tuple[str, ...]) -> Scanned:
    """Find the values of `names` in each line of a block."""
    encoded = [name.encode() for name in names]
    first, flat = np.cumsum([0, *map(len, encoded)]), np.frombuffer(b"".join(encoded), np.uint8)
    kind = np.zeros((len(names), block.lines), np.uint8)
    span = np.zeros((len(names), block.lines, 3), np.int64)
    lines = np.zeros((block.lines, 2), np.int64)
    error, where = np.zeros(block.lines, np.uint8), np.zeros(block.lines, np.int64)
    skip = 3 if block.offset == 0 and block.data[:3].tobytes() == b"\xef\xbb\xbf" else 0
    scratch = np.empty(scan.MAX_DEPTH, np.uint8), np.empty(max(map(len, encoded), default=0), np.uint8)
    rows = scan.scan(block.data, block.stop, skip, flat, first, lines, kind, span, error, where, *scratch)
    return Scanned(block, names, lines[:rows], kind[:, :rows], span[:, :rows], error[:rows], where[:rows])


def read_block(block: Block, shape: Shape) -> tuple[pa.Table, list[Problem]]:
    """The records of a block as a table of `shape.schema`, and the lines that are none."""
    wanted = [shape.text, *([shape.id] if shape.id else []), *(name for name, _ in shape.extras)]
    scanned = scan_block(block, tuple(dict.fromkeys(wanted)))
    verdict, faults = _judge(scanned, shape)
    rows = np.flatnonzero(verdict == 0)
    if shape.id:
        ids = scanned.strings(shape.id, rows)
    else:
        ids = place_ids(shape.file, scanned.lines[rows, 0] + block.offset)
    sources = pa.repeat(pa.scalar(shape.source, pa.large_string()), len(rows))
    extras = [scanned.column(name, field, rows) for name, field in shape.extras]
    table = pa.table([ids, sources, scanned.strings(shape.text, rows), *extras], schema=shape.schema)
    problems = [
        _problem(scanned, int(row), *faults[verdict[row] - 1](int(row)))
        for row in np.flatnonzero(verdict > 0)
    ]
    return table, problems


def _problem(scanned: Scanned, row: int, reason: str, detail: str) -> Problem:
    start, end = map(int, scanned.lines[row])
    raw = scanned.block.data[start : min(end, start + RAW_BYTES)].tobytes()
    return Problem(start + scanned.block.offset, end - start, reason, detail, raw)


_Explain = Callable[[int], tuple[str, str]]


def _judge(scanned: Scanned, shape: Shape) -> tuple[np.ndarray, list[_Explain]]:
    """int64 [R]: 0 = a record, -1 = blank, else 1 + the fault; a fault tells (reason, detail) of a row."""
    text = scanned.kinds(shape.text)
    lengths = scanned.lines[:, 1] - scanned.lines[:, 0]
    limit = shape.max_record_bytes

    def large(row: int) -> tuple[str, str]:
        return "record_too_large", too_large(0, int(lengths[row]), b"", limit).detail

    def broken(row: int) -> tuple[str, str]:
        reason, detail = _BROKEN[int(scanned.error[row])]
        return reason, detail.format(int(scanned.where[row] - scanned.lines[row, 0]))

    def missing(row: int) -> tuple[str, str]:
        return "missing_text", f"column {shape.text}: {_KIND_NAMES[text[row]]}"

    def odd(row: int) -> tuple[str, str]:
        return "text_not_string", f"column {shape.text}: expected string, got {_KIND_NAMES[text[row]]}"

    is_string = (text == values.PLAIN) | (text == values.ESCAPED)
    masks: list[tuple[np.ndarray, _Explain]] = [
        (lengths > limit, large),
        (scanned.error > strings.BLANK, broken),
        (text <= values.NULL, missing),
        (~is_string, odd),
    ]
    if shape.id:
        masks.append(_judge_id(scanned, shape.id))
    masks += [_judge_extra(scanned, name, field.type) for name, field in shape.extras]
    verdict = np.where(scanned.error == strings.BLANK, -1, 0)
    verdict[lengths > limit] = 0
    for number, (mask, _) in enumerate(masks, 1):
        verdict[(verdict == 0) & mask] = number
    return verdict, [explain for _, explain in masks]


def _judge_id(scanned: Scanned, name: str) -> tuple[np.ndarray, _Explain]:
    """An id is a string that is not empty, or a number as it stands in the file."""
    kind = scanned.kinds(name)
    size = scanned.span[scanned.names.index(name), :, 2]
    fits = (kind >= values.PLAIN) & (kind <= values.NUMBER) & (size > 0)

    def explain(row: int) -> tuple[str, str]:
        got = "an empty string" if kind[row] == values.PLAIN else _KIND_NAMES[kind[row]]
        return "missing_id", f"column {name}: expected a string or a number, got {got}"

    return ~fits, explain


def _judge_extra(scanned: Scanned, name: str, kind_of_column: pa.DataType) -> tuple[np.ndarray, _Explain]:
    kind = scanned.kinds(name)
    fits = kind <= values.NULL
    if pa.types.is_large_string(kind_of_column):
        fits = np.ones(len(kind), np.bool_)
    elif pa.types.is_floating(kind_of_column):
        fits = fits | (kind == values.INTEGER) | (kind == values.NUMBER)
    elif pa.types.is_boolean(kind_of_column):
        fits = fits | (kind == values.BOOLEAN)
    else:
        _, enough = scanned.integers(name, np.arange(len(kind)))
        fits = fits | ((kind == values.INTEGER) & enough)

    def explain(row: int) -> tuple[str, str]:
        got = _KIND_NAMES[kind[row]]
        if got == "integer" and pa.types.is_integer(kind_of_column):
            got = "an integer beyond 64 bits"
        mend = "all its values as strings would fit"
        return "wrong_schema", f"column {name}: expected {kind_of_column}, got {got}; {mend}"

    return ~fits, explain
