"""Parquet whose bytes depend on the rows alone, not on the batches in which they arrive."""

from __future__ import annotations

from types import TracebackType
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

GROUP_ROWS = 4096
GROUP_TEXT_BYTES = 32 * 1024**2

_FEW_VALUES = ("source", "drop", "reason", "language", "group", "duplicate_source", "license", "lang_hint")


class RowGroupWriter:
    """Collects rows and writes row groups of at most `GROUP_ROWS` rows and about `GROUP_TEXT_BYTES` of text.

    A group is closed by the row that fills it, so the cut depends on the rows before it only.
    """

    def __init__(self, sink: BinaryIO, schema: pa.Schema, *, compression_level: int = 1) -> None:
        self.schema = schema
        self.rows = 0
        self._pending: list[pa.Table] = []
        self._pending_rows = 0
        self._pending_bytes = 0
        few = [name for name in schema.names if name in _FEW_VALUES]
        self._writer = pq.ParquetWriter(
            sink,
            schema,
            compression="zstd",
            compression_level=compression_level,
            use_dictionary=few or False,
            write_statistics=["id"] if "id" in schema.names else False,
            data_page_version="2.0",
        )

    def __enter__(self) -> RowGroupWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._writer.close()

    def write(self, table: pa.Table) -> None:
        """Append rows; the table must have the writer's columns (order and exact types are made to fit)."""
        if not table.schema.equals(self.schema):
            table = table.select(self.schema.names).cast(self.schema)
        sizes = _text_sizes(table)
        position = 0
        while position < table.num_rows:
            room = GROUP_ROWS - self._pending_rows
            filled = np.cumsum(sizes[position : position + room]) + self._pending_bytes
            over = int(np.searchsorted(filled, GROUP_TEXT_BYTES, side="left"))
            take = min(over + 1, len(filled))
            self._pending.append(table.slice(position, take))
            self._pending_rows += take
            self._pending_bytes = int(filled[take - 1])
            self.rows += take
            position += take
            if self._pending_rows == GROUP_ROWS or self._pending_bytes >= GROUP_TEXT_BYTES:
                self._flush()

    def _flush(self) -> None:
        if self._pending_rows:
            self._writer.write_table(
                pa.concat_tables(self._pending).combine_chunks(), row_group_size=GROUP_ROWS
            )
        self._pending, self._pending_rows, self._pending_bytes = [], 0, 0


def _text_sizes(table: pa.Table) -> np.ndarray:
    name = "text" if "text" in table.column_names else "raw" if "raw" in table.column_names else None
    if name is None:
        return np.zeros(table.num_rows, dtype=np.int64)
    lengths = pc.fill_null(pc.binary_length(table.column(name)), 0)
    return np.asarray(lengths.to_numpy(), dtype=np.int64)
