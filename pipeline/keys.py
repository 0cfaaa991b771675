"""The keys of all kept documents of a run as arrays: what deduplication and mixing work on.

A document is a dense ordinal here: the offset of its part plus its row. Its id is looked up at the end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .storage import Folder
from .written import part_name

NUMBERS = ("id_lo", "id_hi", "exact_lo", "exact_hi", "quality", "length", "priority", "text_bytes", "tokens")
NAMES = ("group", "source", "language")


@dataclass(frozen=True)
class Coded:
    """A text column as codes: int32 [n] into `names`, which are sorted."""

    codes: np.ndarray
    names: tuple[str, ...]


@dataclass(frozen=True)
class Keys:
    """`first`: int64 [parts + 1] ordinals of the parts' first documents; `numbers`: one array [n] a column;
    `bands`: uint64 [n, K] with `has_bands` bool [n], or None where fuzzy deduplication is off."""

    first: np.ndarray
    numbers: dict[str, np.ndarray]
    names: dict[str, Coded]
    bands: np.ndarray | None
    has_bands: np.ndarray

    @property
    def num_docs(self) -> int:
        return int(self.first[-1])

    def part_of(self, ordinals: np.ndarray) -> np.ndarray:
        """int64: the part in which each ordinal lies."""
        return np.searchsorted(self.first, ordinals, side="right") - 1


def _bands(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    column = table.column("bands").combine_chunks()
    bands = column.type.list_size
    there = column.is_valid().to_numpy(zero_copy_only=False)
    values = np.zeros((len(column), bands), dtype=np.uint64)
    values[there] = column.flatten().to_numpy().reshape(-1, bands)
    return values, there


def _coded(column: pa.ChunkedArray) -> Coded:
    encoded = column.combine_chunks().dictionary_encode()
    names: list[str] = encoded.dictionary.to_pylist()
    # A list, not an array of fixed width: one long name would make every name as long.
    order = np.array(sorted(range(len(names)), key=names.__getitem__), dtype=np.int64)
    place = np.empty(len(names), dtype=np.int32)
    place[order] = np.arange(len(names), dtype=np.int32)
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    return Coded(
        place[codes] if len(names) else codes.astype(np.int32), tuple(names[i] for i in order.tolist())
    )


def load_keys(folder: Folder, num_parts: int) -> Keys:
    """Read the keys files of all parts, in the parts' order."""
    tables = []
    for index in range(num_parts):
        with folder.open(f"stages/filter/{part_name(index)}.keys.parquet") as stream:
            tables.append(pq.read_table(stream))
    first = np.concatenate([[0], np.cumsum([table.num_rows for table in tables])]).astype(np.int64)
    table = pa.concat_tables(tables)
    bands: np.ndarray | None = None
    has_bands = np.zeros(table.num_rows, dtype=bool)
    if "bands" in table.column_names:
        bands, has_bands = _bands(table)
    return Keys(
        first=first,
        numbers={name: table.column(name).to_numpy() for name in NUMBERS},
        names={name: _coded(table.column(name)) for name in NAMES},
        bands=bands,
        has_bands=has_bands,
    )
