"""What every reader gives: tables of records of one declared shape, and a table of those that have none."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

RAW_BYTES = 4096

QUARANTINE = pa.schema(
    [
        ("source", pa.large_string()),
        ("file", pa.large_string()),
        ("offset", pa.int64()),
        ("length", pa.int64()),
        ("reason", pa.large_string()),
        ("detail", pa.large_string()),
        ("raw", pa.large_binary()),
    ]
)


@dataclass(frozen=True)
class Problem:
    """A record that does not go on. `reason` lacks its `quarantine.`; `raw`: the first 4096 bytes at most."""

    offset: int
    length: int
    reason: str
    detail: str
    raw: bytes


@dataclass(frozen=True)
class Shape:
    """What to take from a record: `text` and `id` ("" = none) by their names in the file, `extras` as
    (name in the file, Arrow field) in the order of the table."""

    source: str
    file: str
    text: str
    id: str
    extras: tuple[tuple[str, pa.Field], ...]
    max_record_bytes: int

    @property
    def schema(self) -> pa.Schema:
        text = [pa.field(name, pa.large_string()) for name in ("id", "source", "text")]
        return pa.schema([*text, *(field for _, field in self.extras)])


@dataclass(frozen=True)
class Batch:
    """`table`: id, source, text and the extras, all as declared; `quarantine`: rows of QUARANTINE."""

    table: pa.Table
    quarantine: pa.Table


def empty_batch(shape: Shape) -> Batch:
    return Batch(shape.schema.empty_table(), QUARANTINE.empty_table())


def place_ids(file: str, offsets: np.ndarray) -> pa.Array:
    """large_string [n] `<file>#<offset>`: the id of a record that has none of its own.

    It names the place of the record in its file (byte offset in the decompressed stream, or row number in
    Parquet), so it needs no count of earlier records and is the same however the file is split.
    """
    numbers = pa.array(offsets, pa.int64()).cast(pa.large_string())
    return pc.utf8_replace_slice(numbers, 0, 0, f"{file}#")


@cache
def _no_problems() -> pa.Table:  # to make it brings pandas in
    return QUARANTINE.empty_table()


def quarantine_table(problems: list[Problem], shape: Shape) -> pa.Table:
    if not problems:
        return _no_problems()
    columns = {
        "source": [shape.source] * len(problems),
        "file": [shape.file] * len(problems),
        "offset": [problem.offset for problem in problems],
        "length": [problem.length for problem in problems],
        "reason": [f"quarantine.{problem.reason}" for problem in problems],
        "detail": [problem.detail for problem in problems],
        "raw": [problem.raw for problem in problems],
    }
    return pa.table(columns, schema=QUARANTINE)
