"""Tables as JSON lines: UTF-8, no ASCII escapes, one object a line, without a Python loop over documents.

Strings are escaped by a compiled kernel, numbers are formatted by Arrow (shortest form that reads back the
same; a float always has a point or an exponent, so that every shard has the same types), and Arrow joins the
pieces. NaN and infinities become null, dates and decimals strings, bytes base64. Only nested columns (lists,
structs, maps) go through Python's json, value by value.
"""

from __future__ import annotations

import base64
import json
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import zstandard

from malmoi.operators.kernel import kernel, lean

SLICE_ROWS = 4096
SLICE_BYTES = 16 * 1024**2

# What a byte below 0x80 becomes in a JSON string: 0 = itself, 1 = \u00XX, else the letter after a backslash.
_ESCAPES = np.zeros(256, dtype=np.uint8)
_ESCAPES[:32] = 1
for _byte, _letter in zip(b'"\\\b\f\n\r\t', b'"\\bfnrt', strict=True):
    _ESCAPES[_byte] = _letter
_HEX = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)


@kernel
def _quoted_sizes(
    data: np.ndarray, offsets: np.ndarray, valid: np.ndarray, escapes: np.ndarray
) -> np.ndarray:
    """int64 [rows + 1]: where the quoted form of each row begins; a null row takes 4 bytes."""
    starts = np.zeros(len(offsets), dtype=np.int64)
    for row in range(len(offsets) - 1):
        size = 4
        if valid[row]:
            size = 2 + offsets[row + 1] - offsets[row]
            for i in range(offsets[row], offsets[row + 1]):
                code = escapes[data[i]]
                size += 0 if code == 0 else 5 if code == 1 else 1
        starts[row + 1] = starts[row] + size
    return starts


@lean
def _quote(
    data: np.ndarray,
    offsets: np.ndarray,
    valid: np.ndarray,
    escapes: np.ndarray,
    digits: np.ndarray,
    starts: np.ndarray,
    out: np.ndarray,
) -> None:
    for row in range(len(offsets) - 1):
        at = starts[row]
        if not valid[row]:
            out[at], out[at + 1], out[at + 2], out[at + 3] = 110, 117, 108, 108  # null
            continue
        out[at] = 34
        at += 1
        for i in range(offsets[row], offsets[row + 1]):
            code = escapes[data[i]]
            if code == 0:
                out[at] = data[i]
                at += 1
            elif code == 1:
                out[at], out[at + 1], out[at + 2], out[at + 3] = 92, 117, 48, 48
                out[at + 4], out[at + 5] = digits[data[i] >> 4], digits[data[i] & 15]
                at += 6
            else:
                out[at], out[at + 1] = 92, code
                at += 2
        out[at] = 34


def quote(strings: pa.Array) -> pa.Array:
    """large_string [rows]: each string as a JSON string, null as `null`; no nulls in the result."""
    strings = strings.cast(pa.large_string())
    rows = len(strings)
    if rows == 0:
        return pa.array([], pa.large_string())
    _, raw_offsets, raw = strings.buffers()
    offsets = np.frombuffer(raw_offsets, dtype=np.int64, count=rows + 1, offset=strings.offset * 8)
    data = np.frombuffer(raw, dtype=np.uint8) if raw is not None and raw.size else np.zeros(1, dtype=np.uint8)
    valid = np.asarray(pc.is_valid(strings).to_numpy(zero_copy_only=False))
    starts = _quoted_sizes(data, offsets, valid, _ESCAPES)
    out = np.empty(int(starts[-1]), dtype=np.uint8)
    _quote(data, offsets, valid, _ESCAPES, _HEX, starts, out)
    return pa.Array.from_buffers(pa.large_string(), rows, [None, pa.py_buffer(starts), pa.py_buffer(out)])


def _floats(values: pa.Array) -> pa.Array:
    finite = pc.if_else(pc.is_finite(values), values, pa.scalar(None, values.type))
    shown = finite.cast(pa.large_string())
    whole = pc.match_substring_regex(shown, r"^-?[0-9]+$")
    return pc.if_else(whole, pc.binary_join_element_wise(shown, _string(".0"), _string("")), shown)


def _string(value: str) -> pa.Scalar:
    return pa.scalar(value, pa.large_string())


def _plain(value: Any) -> str:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def _values(values: pa.Array) -> pa.Array:
    """large_string [rows] of JSON values; null where `null` belongs, or spelled out."""
    kind = values.type
    if pa.types.is_dictionary(kind):
        return _values(values.dictionary_decode())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return quote(values)
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        return values.cast(pa.large_string())
    if pa.types.is_floating(kind):
        return _floats(values.cast(pa.float32()) if pa.types.is_float16(kind) else values)
    if pa.types.is_temporal(kind) or pa.types.is_decimal(kind):
        return quote(pc.cast(values, pa.large_string()))
    if pa.types.is_null(kind):
        return pa.nulls(len(values), pa.large_string())
    shown = [json.dumps(value, ensure_ascii=False, default=_plain) for value in values.to_pylist()]
    return pa.array(shown, pa.large_string())


def json_lines(table: pa.Table) -> pa.Array:
    """large_string [rows]: each row as a JSON object with all columns in order, ending with a newline."""
    pieces: list[Any] = []
    lead = "{"
    for name in table.column_names:
        pieces.append(_string(f"{lead}{json.dumps(name, ensure_ascii=False)}:"))
        pieces.append(pc.fill_null(_values(table.column(name).combine_chunks()), "null"))
        lead = ","
    pieces.append(_string("}\n" if table.num_columns else "{}\n"))
    return pc.binary_join_element_wise(*pieces, _string(""))


class JsonLinesWriter:
    """Writes tables as one zstd frame of JSON lines with a content checksum."""

    def __init__(self, sink: BinaryIO, *, compression_level: int = 3) -> None:
        compressor = zstandard.ZstdCompressor(level=compression_level, write_checksum=True)
        self._stream: Any = compressor.stream_writer(sink, closefd=False)

    def __enter__(self) -> JsonLinesWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.close()

    def write(self, table: pa.Table) -> None:
        """Append rows, in slices that keep the memory bounded."""
        if not table.num_rows:
            return
        rows = max(1, min(SLICE_ROWS, table.num_rows * SLICE_BYTES // max(table.nbytes, 1)))
        for start in range(0, table.num_rows, rows):
            lines = json_lines(table.slice(start, rows))
            _, offsets, data = lines.buffers()
            ends = np.frombuffer(offsets, dtype=np.int64, count=len(lines) + 1, offset=lines.offset * 8)
            self._stream.write(memoryview(data)[ends[0] : ends[-1]])
