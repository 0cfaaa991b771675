"""Stage `write`, the plan: how the corpus is cut into shards, and which rows a part gives to them.

| file                               | made by                 | holds                                      |
|------------------------------------|-------------------------|--------------------------------------------|
| corpus/shard-00000-of-00004.*      | `gather.gather`         | the corpus; 3 copies are 3 rows            |
| stages/scatter/part-00000.batches  | `split.split`           | rows on their way, only where shuffled     |
| dropped/part-00000.rules.parquet   | `filtering.filter_part` | what a rule dropped, why, all its signals  |
| dropped/part-00000.decided.parquet | `split.split`           | duplicates and what the mixture left out   |
| quarantine/part-00000.parquet      | `split.split`           | malformed records, documents of equal id   |

Shards are cut by UTF-8 bytes of text before compression, so their number is known before a document is
moved: with `shuffle` by a hash of (source, id, epoch, seed), else by (part, row, epoch). The bytes of a
shard depend on its rows alone. All functions that take `(folder, payload)` are jobs: they write their own
files and return plain counts. A shuffled shard is put in order slice by slice, and a job holds the text of one, about
three times; of a shard that is not shuffled, or one of very many, it holds the whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .errors import MalmoiError
from .recipe import Write
from .storage import Folder

LEADING = ("id", "source", "text", "language", "language.score", "num_tokens")
EPOCH = "epoch"
SLICE_BYTES = 32 * 1024**2
MOST_SLICES = 1024
"""Of the whole corpus: a run of 64 MiB that a part sets aside would be torn into pieces of less than 64 KiB."""


@dataclass(frozen=True)
class PartSize:
    """What one part gives to the corpus: rows and bytes of text, each counted once per copy."""

    part: int
    rows: int
    text_bytes: int


def slices_of(shard_bytes: int, num_shards: int) -> int:
    """Ranges of order keys that each of so many shards of so much text is cut into."""
    return max(1, min(-(-shard_bytes // SLICE_BYTES), MOST_SLICES // num_shards))


@dataclass(frozen=True)
class ShardPlan:
    """How the corpus is cut. `parts`: those that give rows; `starts[i]`: bytes of text before `parts[i]`, of use
    where it is not shuffled; `merged`: parts whose rows lie in one file on their way (`scatter`)."""

    rows: int
    text_bytes: int
    num_shards: int
    shard_bytes: int
    shuffle: bool
    seed: int
    format: Literal["parquet", "jsonl.zst"]
    compression_level: int
    schema: pa.Schema
    parts: Sequence[int]
    starts: tuple[int, ...]
    merged: int = 1

    def each(self) -> Iterator[ShardPlan]:
        """For the job of each shard: with the parts that it reads, as a list of all would travel with each job."""
        if self.shuffle:
            yield from [self] * self.num_shards
            return
        ends = np.array([*self.starts[1:], self.text_bytes])
        first, last = self.shard_at(np.array(self.starts)), self.shard_at(ends)  # both rise
        shards = np.arange(self.num_shards)
        begins, stops = np.searchsorted(last, shards), np.searchsorted(first, shards, side="right")
        for begin, stop in zip(begins.tolist(), stops.tolist(), strict=True):
            yield replace(self, parts=self.parts[begin:stop], starts=self.starts[begin:stop])

    @property
    def documents(self) -> pa.Schema:
        """The columns of the corpus but for the epoch, which documents do not have."""
        return pa.schema([field for field in self.schema if field.name != EPOCH])

    @property
    def groups(self) -> int:
        """Files that rows of the corpus lie in on their way."""
        return -(-len(self.parts) // self.merged)

    @property
    def slices(self) -> int:
        """Ranges of order keys that a shard is cut into."""
        return slices_of(self.shard_bytes, self.num_shards)

    def shard_name(self, shard: int) -> str:
        return f"corpus/shard-{shard:05d}-of-{self.num_shards:05d}.{self.format}"

    def shard_at(self, position: np.ndarray) -> np.ndarray:
        """int64: the shard of rows whose text begins at these bytes of the unshuffled corpus."""
        return np.asarray(np.minimum(position // self.shard_bytes, self.num_shards - 1))


@dataclass(frozen=True)
class Copies:
    """The rows that one part gives to the corpus, by (row, epoch).

    row: int64 [C] row in the part's kept file, rising; epoch: int32 [C]; text_bytes: int64 [C];
    id_lo, id_hi: uint64 [C].
    """

    row: np.ndarray
    epoch: np.ndarray
    text_bytes: np.ndarray
    id_lo: np.ndarray
    id_hi: np.ndarray


def part_file(part: int, kind: str) -> str:
    """Of stage `filter`: kept, keys, quarantine, and dropped, which is where it stays; of `decide`: verdict."""
    if kind == "dropped":
        return f"dropped/part-{part:05d}.rules.parquet"
    stage = "decide" if kind == "verdict" else "filter"
    return f"stages/{stage}/part-{part:05d}.{kind}.parquet"


@contextmanager
def open_parquet(folder: Folder, name: str) -> Iterator[pq.ParquetFile]:
    """A Parquet file of the run for reading; an absent or damaged one is named."""
    try:
        path = folder.local_path(name)
        with (
            pa.OSFile(path) if path else folder.open(name, exact=True) as stream,
            pq.ParquetFile(
                stream, pre_buffer=path is None
            ) as file,  # remote: neighbouring columns in one request
        ):
            yield file
    except (FileNotFoundError, pa.ArrowInvalid) as error:
        raise MalmoiError(
            f"{folder.join(name)}: cannot be read ({error}); run the same command again"
        ) from error


def read_copies(folder: Folder, part: int) -> Copies:
    """The rows of a part that are written, repeated by their number of copies."""
    with open_parquet(folder, part_file(part, "verdict")) as file:
        verdict = file.read(["copies"])
    return copies_of(verdict, read_keys(folder, part), part)


def read_keys(folder: Folder, part: int) -> pa.Table:
    """`id_lo`, `id_hi` and `text_bytes` of the kept documents of a part."""
    with open_parquet(folder, part_file(part, "keys")) as file:
        return file.read(["id_lo", "id_hi", "text_bytes"])


def copies_of(verdict: pa.Table, keys: pa.Table, part: int) -> Copies:
    """The rows that a part gives to the corpus, by its verdicts and `read_keys`."""
    copies = verdict.column("copies").to_numpy().astype(np.int64)
    if len(copies) != keys.num_rows:
        raise MalmoiError(
            f"write/part-{part:05d}: {len(copies):,} verdicts for {keys.num_rows:,} kept documents"
        )
    row = np.repeat(np.arange(len(copies)), copies)
    before = np.repeat(np.cumsum(copies) - copies, copies)
    columns = [keys.column(name).to_numpy()[row] for name in ("text_bytes", "id_lo", "id_hi")]
    return Copies(row, (np.arange(len(row)) - before).astype(np.int32), *columns)


def corpus_schema(documents: pa.Schema, extras: Iterable[str], *, signals: bool = False) -> pa.Schema:
    """The columns of the corpus: id, source, text, language, its score, num_tokens, the extras, epoch.

    `documents`: the columns of kept documents; `extras`: the input's own among them. The other columns are
    signals: they stay in stages/filter, and go into the corpus only with `signals=True`.
    """
    wanted = [name for name in LEADING if name in documents.names]
    extra = set(extras)
    rest = [name for name in documents.names if name not in {*wanted, "drop", EPOCH}]
    names = wanted + [name for name in rest if name in extra]
    names += [name for name in rest if name not in extra] if signals else []
    fields = [pa.field(name, documents.field(name).type) for name in names]
    return pa.schema([*fields, pa.field(EPOCH, pa.int32())])


def plan_shards(parts: Sequence[PartSize], write: Write, seed: int, schema: pa.Schema) -> ShardPlan:
    """Cut the corpus into equal shares of at most `shard_bytes` of text (about, where shuffled).

    `schema`: from `corpus_schema`. A corpus without a document is one shard without a row.
    """
    parts = sorted(parts, key=lambda part: part.part)
    total = sum(part.text_bytes for part in parts)
    rows = sum(part.rows for part in parts)
    num_shards = max(1, min(-(-total // write.shard_bytes), rows))
    numbers = [part.part for part in parts]
    starts = np.cumsum([0, *(part.text_bytes for part in parts)])[:-1]
    return ShardPlan(
        rows=rows,
        text_bytes=total,
        num_shards=num_shards,
        shard_bytes=max(1, -(-total // num_shards)),
        shuffle=write.shuffle,
        seed=seed,
        format=write.format,
        compression_level=write.compression_level,
        schema=schema,
        parts=range(len(parts)) if numbers == list(range(len(parts))) else tuple(numbers),
        starts=() if write.shuffle else tuple(int(start) for start in starts),
    )


def read_rows(folder: Folder, part: int, rows: np.ndarray, schema: pa.Schema) -> pa.Table:
    """The kept documents of a part at `rows`, see `rows_of`."""
    return rows_of(folder, part_file(part, "kept"), rows, schema)


def rows_of(folder: Folder, name: str, rows: np.ndarray, schema: pa.Schema) -> pa.Table:
    """The rows at `rows` (int64, rising, distinct) of a file; only the row groups that hold one are read.

    Columns of `schema` that the file lacks are null.
    """
    tables = []
    with open_parquet(folder, name) as file:
        there = set(file.schema_arrow.names)
        names = [name for name in schema.names if name in there]
        start = 0
        for group in range(file.num_row_groups):
            stop = start + file.metadata.row_group(group).num_rows
            low, high = np.searchsorted(rows, [start, stop])
            if low < high:
                tables.append(
                    file.read_row_group(group, columns=names).take(pa.array(rows[low:high] - start))
                )
            start = stop
    if len(rows) and rows[-1] >= start:
        raise MalmoiError(f"{folder.join(name)}: row {rows[-1]:,} wanted, {start:,} rows there")
    return fit(pa.concat_tables(tables) if tables else schema.empty_table(), schema)


def fit(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with exactly the columns of `schema`, in one chunk each."""
    columns, there = [], set(table.column_names)
    for field in schema:
        if field.name not in there:
            columns.append(pa.nulls(table.num_rows, field.type))
            continue
        column = table.column(field.name)
        try:
            column = column if column.type == field.type else column.cast(field.type)
            columns.append(column.chunk(0) if column.num_chunks == 1 else column.combine_chunks())
        except pa.ArrowInvalid as error:
            raise MalmoiError(f"column {field.name!r}: not {field.type} in every source ({error})") from error
    return pa.table(columns, schema=schema)


def take_copies(folder: Folder, plan: ShardPlan, part: int, copies: Copies, chosen: np.ndarray) -> pa.Table:
    """The rows at `chosen` (positions in `copies`, any order), with their epoch."""
    rows, where = np.unique(copies.row[chosen], return_inverse=True)
    table = read_rows(folder, part, rows, plan.documents).take(pa.array(where))
    return table.append_column(EPOCH, pa.array(copies.epoch[chosen], pa.int32())).combine_chunks()
