"""Stage `write`, the shards: collects the rows of one shard, puts them in order, writes the file."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from malmoi.operators.analysis import forget

from .batches import take_rows
from .json_lines import JsonLinesWriter
from .parquet_out import GROUP_ROWS, RowGroupWriter
from .scatter import scattered_rows
from .shards import EPOCH, ShardPlan, read_copies, take_copies
from .spread import Spread
from .storage import Folder
from .written import hash_file

TAKE_BYTES = 16 * 1024**2  # the words of a group take several times its text


def gather(folder: Folder, work: tuple[ShardPlan, int]) -> dict[str, Any]:
    """Write one shard: of what `scatter` set aside for it, or (not shuffled) straight from the parts.

    Counts: read = kept = rows, documents (rows of epoch 0), text_bytes, tokens (None where not counted).
    """
    plan, shard = work
    name = plan.shard_name(shard)
    spread, counts = Spread(), _Counts()
    with (
        folder.create(name) as sink,
        _corpus_writer(sink, plan) as writer,
        ThreadPoolExecutor(1) as beside,  # often there are more CPUs than shards
    ):
        seen: Future[None] | None = None
        for table, order in (scattered_rows if plan.shuffle else _rows_in_order)(folder, plan, shard):
            chunks = table.to_batches()
            for some in _groups(table, order):
                rows = take_rows(chunks, some)
                if seen is not None:
                    seen.result()
                seen = beside.submit(_see, spread, rows)
                writer.write(rows)
                counts.add(rows)
            del table, chunks  # before the next slice is read
        if seen is not None:
            seen.result()
    sample = spread.write(folder, f"stages/write/shard-{shard:05d}.sample.parquet")
    return {**counts.told(), **spread.counts, "files": [hash_file(folder, name), sample]}


def _see(spread: Spread, rows: pa.Table) -> None:
    spread.add(rows)
    forget()  # else the words of this group stay in memory beside those of the next


def _groups(table: pa.Table, order: np.ndarray) -> Iterator[np.ndarray]:
    """`order` in pieces of at most GROUP_ROWS rows and TAKE_BYTES of text, of one row where it has more."""
    sizes = pc.fill_null(pc.binary_length(table.column("text")), 0).to_numpy().astype(np.int64)
    ends = np.cumsum(sizes[order])
    start, before = 0, 0
    while start < len(order):
        fits = int(np.searchsorted(ends, before + TAKE_BYTES, side="right"))
        end = max(start + 1, min(fits, start + GROUP_ROWS))
        yield order[start:end]
        start, before = end, int(ends[end - 1])


def _rows_in_order(folder: Folder, plan: ShardPlan, shard: int) -> Iterator[tuple[pa.Table, np.ndarray]]:
    """The rows whose text begins in this shard's range of bytes, by (part, row, epoch)."""
    tables = [plan.schema.empty_table()]
    for part, start in zip(plan.parts, plan.starts, strict=True):
        copies = read_copies(folder, part)
        begins = start + np.cumsum(copies.text_bytes) - copies.text_bytes
        here = np.flatnonzero(plan.shard_at(begins) == shard)
        tables.append(take_copies(folder, plan, part, copies, here))
    table = pa.concat_tables(tables)
    yield table, np.arange(table.num_rows)


@contextmanager
def _corpus_writer(sink: BinaryIO, plan: ShardPlan) -> Iterator[RowGroupWriter | JsonLinesWriter]:
    if plan.format == "parquet":
        with RowGroupWriter(sink, plan.schema, compression_level=plan.compression_level) as parquet:
            yield parquet
    else:
        with JsonLinesWriter(sink, compression_level=plan.compression_level) as lines:
            yield lines


@dataclass
class _Counts:
    """Of the rows of a shard."""

    rows: int = 0
    documents: int = 0
    text_bytes: int = 0
    tokens: int | None = None

    def add(self, rows: pa.Table) -> None:
        self.rows += rows.num_rows
        self.documents += pc.sum(pc.equal(rows.column(EPOCH), 0)).as_py() or 0
        self.text_bytes += pc.sum(pc.binary_length(rows.column("text"))).as_py() or 0
        counted = pc.sum(rows.column("num_tokens")).as_py() if "num_tokens" in rows.column_names else None
        if counted is not None:
            self.tokens = (self.tokens or 0) + counted

    def told(self) -> dict[str, Any]:
        return {
            "read": self.rows,
            "kept": self.rows,
            "dropped": {},
            "quarantined": 0,
            "documents": self.documents,
            "text_bytes": self.text_bytes,
            "tokens": self.tokens,
        }
