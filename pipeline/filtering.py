"""Stage `filter`: one job per part of the input. Read, run the steps, split kept from dropped, write keys.

Writes stages/filter/<part>.{kept,quarantine,keys}.parquet and dropped/<part>.rules.parquet. The `keys` file
holds, for every kept document in the same order, all that deduplication and mixing need, so that no later
shuffle moves text:

| column             | type                 | meaning                                             |
|--------------------|----------------------|-----------------------------------------------------|
| id_lo, id_hi       | uint64               | 128-bit hash of (source, id)                        |
| exact_lo, exact_hi | uint64               | 128-bit hash of the text, white space collapsed     |
| bands              | list<uint64>[K]      | MinHash band hashes, null without a signature       |
| quality            | float64              | the recipe's quality column, 0.0 where none         |
| length             | int64                | code points                                         |
| priority           | int32                | of the source                                       |
| group              | large_string         | value of the mixture's column                       |
| source, language   | large_string         |                                                     |
| text_bytes, tokens | int64                | tokens = -1 where not counted                       |
"""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from malmoi.operators.analysis import analyse, forget, restrict
from malmoi.operators.contract import DROP, LANGUAGE, TEXT, Operator, with_columns
from malmoi.operators.exact import id_hash, text_hash
from malmoi.operators.minhash import MinHash

from .dropped import with_evidence
from .errors import MalmoiError
from .parquet_out import RowGroupWriter
from .poison import Poison, without
from .recipe import Run, Source
from .records import QUARANTINE, Batch
from .shards import fit, part_file
from .sources import Part, read_part
from .spread import Spread
from .storage import Folder
from .written import FileRecord, hash_file, part_name

STAGE = "filter"
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
_TALLIES = (
    "dropped",
    "dropped_bytes",
    "quarantine_reasons",
    "quarantine_sources",
    "languages_read",
    "sources_read",
)


@dataclass(frozen=True)
class KeySpec:
    """What goes into the keys file besides the hashes."""

    minhash: MinHash | None
    exact: bool
    group: str
    quality: str | None

    @property
    def schema(self) -> pa.Schema:
        bands = [("bands", pa.list_(pa.uint64(), self.minhash.bands))] if self.minhash else []
        return pa.schema(
            [
                *((name, pa.uint64()) for name in ("id_lo", "id_hi", "exact_lo", "exact_hi")),
                *bands,
                ("quality", pa.float64()),
                ("length", pa.int64()),
                ("priority", pa.int32()),
                *((name, pa.large_string()) for name in ("group", "source", "language")),
                ("text_bytes", pa.int64()),
                ("tokens", pa.int64()),
            ]
        )


@dataclass(frozen=True)
class FilterPart:
    """The payload of one filter job."""

    part: Part
    source: Source
    base: str
    source_extras: pa.Schema
    extras: pa.Schema
    steps: tuple[Operator, ...]
    keys: KeySpec
    run: Run
    max_record_bytes: int
    poison: tuple[Poison, ...] = ()


def documents_schema(extras: pa.Schema, steps: tuple[Operator, ...]) -> pa.Schema:
    """The columns of kept and dropped documents."""
    fields = [pa.field(name, pa.large_string()) for name in ("id", "source", TEXT)]
    fields += list(extras)
    for step in steps:
        fields += [
            field for field in step.adds if field.name not in {f.name for f in fields} and field.name != DROP
        ]
    return pa.schema([*fields, pa.field(DROP, pa.large_string())])


def apply_steps(table: pa.Table, steps: tuple[Operator, ...]) -> pa.Table:
    """All steps on one batch, with a `drop` column at the end; rows stay."""
    for step in steps:
        table = _apply(step, table)
    if DROP not in table.column_names:
        table = with_columns(table, [(DROP, pa.nulls(table.num_rows, pa.large_string()))])
    return table


def _apply(step: Operator, table: pa.Table) -> pa.Table:
    """One step; what it breaks of the contract is said with its name, so that a user's operator can be mended."""
    try:
        done = step(table)
    except MemoryError:
        raise
    except Exception as error:
        place = (
            f"{table.column('id')[0].as_py()!r} and {table.num_rows - 1:,} more" if table.num_rows else "none"
        )
        raise MalmoiError(
            f"step {step.name}: {type(error).__name__}: {error} (documents: {place})"
        ) from error
    there = set(done.column_names)
    lost = [name for name in (*table.column_names, *step.adds.names) if name not in there]
    if done.num_rows != table.num_rows or lost:
        rows = f"got {table.num_rows:,} rows and returned {done.num_rows:,}"
        raise MalmoiError(
            f"step {step.name}: {rows}; missing columns: {', '.join(lost) or 'none'}. An operator returns the rows "
            "that it got, with the columns of `adds`; see docs/own_operator.md"
        )
    return done


def align(table: pa.Table, extras: pa.Schema) -> pa.Table:
    """Give a source's table the extra columns of all sources: absent ones null, types unified."""
    columns = [(name, table.column(name)) for name in ("id", "source", TEXT)]
    there = set(table.column_names)
    for field in extras:
        if field.name not in there:
            values = pa.nulls(table.num_rows, field.type)
        else:
            values = table.column(field.name)
            # The nearest double of a large integer will do where another source's column holds fractions.
            widened = pa.types.is_integer(values.type) and pa.types.is_floating(field.type)
            values = values.cast(field.type, safe=not widened)
        columns.append((field.name, values))
    return pa.table(dict(columns))


def _text_column(table: pa.Table, name: str) -> pa.Array:
    if name not in table.column_names:
        return pa.array(np.full(table.num_rows, ""), pa.large_string())
    return pc.fill_null(table.column(name).cast(pa.large_string()), "")


def key_table(kept: pa.Table, spec: KeySpec, priority: int) -> pa.Table:
    """The keys of kept documents."""
    rows = kept.num_rows
    id_lo, id_hi = id_hash(kept.column("source"), kept.column("id"))
    exact_lo, exact_hi = text_hash(kept.column(TEXT))
    columns: dict[str, Any] = {"id_lo": id_lo, "id_hi": id_hi, "exact_lo": exact_lo, "exact_hi": exact_hi}
    if spec.minhash is not None:
        columns["bands"] = spec.minhash(kept).column("bands")
    quality = np.zeros(rows)
    if spec.quality is not None:
        quality = np.nan_to_num(kept.column(spec.quality).to_numpy().astype(np.float64), nan=-np.inf)
    tokens = kept.column("num_tokens") if "num_tokens" in kept.column_names else pa.array(np.full(rows, -1))
    columns |= {
        "quality": quality,
        "length": analyse(kept).num_chars,
        "priority": np.full(rows, priority, dtype=np.int32),
        "group": _text_column(kept, spec.group),
        "source": kept.column("source"),
        "language": _text_column(kept, LANGUAGE),
        "text_bytes": pc.binary_length(kept.column(TEXT)),
        "tokens": tokens,
    }
    return pa.table(columns).cast(spec.schema) if rows else spec.schema.empty_table()


class _Outputs:
    """The four files of one part, open together and committed together."""

    def __init__(
        self, folder: Folder, part: int, documents: pa.Schema, keys: pa.Schema, stack: ExitStack
    ) -> None:
        self.dropped = with_evidence(documents)
        schemas = {"kept": documents, "dropped": self.dropped, "quarantine": QUARANTINE, "keys": keys}
        self.names = {kind: part_file(part, kind) for kind in schemas}
        self.writers = {
            kind: stack.enter_context(
                RowGroupWriter(stack.enter_context(folder.create(self.names[kind])), schema)
            )
            for kind, schema in schemas.items()
        }


def _count(counts: dict[str, Any], batch: Batch, table: pa.Table, kept: pa.Table, dropped: pa.Table) -> None:
    read = table.num_rows + batch.quarantine.num_rows
    counts["read"] += read
    counts["kept"] += kept.num_rows
    counts["quarantined"] += batch.quarantine.num_rows
    counts["text_bytes"] += _text_bytes(batch.table)
    counts["kept_bytes"] += _text_bytes(kept)
    for name, key, column in (
        ("dropped", dropped, DROP),
        ("quarantine_reasons", batch.quarantine, "reason"),
        ("quarantine_sources", batch.quarantine, "source"),
        ("languages_read", table, LANGUAGE),
        ("sources_read", table, "source"),
    ):
        if column in key.column_names:
            counts[name].update(_tally(key.column(column)))
    if dropped.num_rows:
        by_reason = dropped.select([DROP]).append_column("b", pc.binary_length(dropped.column(TEXT)))
        for row in by_reason.group_by(DROP).aggregate([("b", "sum")]).to_pylist():
            counts["dropped_bytes"][row[DROP]] += row["b_sum"]


def _text_bytes(table: pa.Table) -> int:
    return int(pc.sum(pc.binary_length(table.column(TEXT))).as_py() or 0)


def _tally(column: pa.ChunkedArray) -> dict[str, int]:
    return {row["values"] or "": row["counts"] for row in pc.value_counts(column).to_pylist()}


@cache
def keep_memory() -> None:
    """From now on 128 MB that this process frees stay with it. By itself glibc gives back most of what a batch held,
    and the next one pays for the first touch of each page: up to a tenth of the stage's time."""
    with suppress(OSError, AttributeError, TypeError):  # another C library, which has no such setting
        set_option = ctypes.CDLL(None).mallopt
        set_option(_MMAP_THRESHOLD, 32 * 1024**2)  # the most that it takes
        set_option(_TRIM_THRESHOLD, 128 * 1024**2)


def filter_part(folder: Folder, work: FilterPart) -> dict[str, Any]:
    """Read one part, judge it, write its four files; the counts balance or the job fails."""
    keep_memory()
    counts: dict[str, Any] = {key: 0 for key in ("read", "kept", "quarantined", "text_bytes", "kept_bytes")}
    for key in _TALLIES:
        counts[key] = Counter()
    name = part_name(work.part.index)
    schema = documents_schema(work.extras, work.steps)
    spread = Spread()
    with ExitStack() as stack:
        outputs = _Outputs(folder, work.part.index, schema, work.keys.schema, stack)
        for batch in _batches(work):
            table = apply_steps(align(batch.table, work.extras), work.steps)
            is_kept = pc.is_null(table.column(DROP))
            kept, dropped = table.filter(is_kept), table.filter(pc.invert(is_kept))
            restrict(table, kept, is_kept)
            outputs.writers["kept"].write(kept)
            outputs.writers["dropped"].write(fit(dropped, outputs.dropped))
            outputs.writers["quarantine"].write(batch.quarantine)
            outputs.writers["keys"].write(key_table(kept, work.keys, work.source.priority))
            spread.add(kept)
            _count(counts, batch, table, kept, dropped)
            forget()  # else the words of this batch stay in memory beside those of the next
    files: list[FileRecord] = [hash_file(folder, outputs.names[kind]) for kind in sorted(outputs.names)]
    files.append(spread.write(folder, f"stages/{STAGE}/{name}.sample.parquet"))
    rows = outputs.writers["dropped"].rows
    return {**counts, "dropped_rows": rows, **spread.counts, "files": files}


def _batches(work: FilterPart) -> Iterator[Batch]:
    batches = read_part(
        work.part,
        work.source,
        work.source_extras,
        base=work.base,
        batch_rows=work.run.batch_rows,
        batch_bytes=work.run.batch_bytes,
        max_record_bytes=work.max_record_bytes,
    )
    return without(batches, work.poison)
