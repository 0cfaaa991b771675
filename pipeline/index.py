"""Writes the saved index of a run (see `saved`): two stages of jobs, by part and then by shard of the id hash."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from malmoi.operators.jaccard import sketches
from malmoi.operators.minhash import MinHash

from .batches import files_merged, merge_batches, read_batches, write_batches
from .buckets import of_key
from .engine import Counts, Job
from .keys import Keys
from .saved import FILE, NUMBERS, Shard, schema, write_index_file, write_shard
from .shards import open_parquet, part_file, read_rows
from .storage import Folder
from .written import hash_file, part_name

if TYPE_CHECKING:
    from .run import Session

STAGE = "verify"
SHARD_DOCUMENTS = 50_000
SHARD_TEXT = 256 * 1024**2
"""Bytes of text of the documents of a shard: their n-grams take some two times as much."""
_RUN_BYTES = 64 * 1024**2
_CHUNK = 4096
_TEXT = pa.schema([(name, pa.large_string()) for name in ("id", "source", "text")])


@dataclass(frozen=True)
class IndexWork:
    """`number`: of the part, of the group or of the shard; `merged`: parts whose rows lie in one file (a group)."""

    number: int
    parts: int
    shards: int
    minhash: MinHash | None
    merged: int = 1

    def set_aside(self, part: int) -> str:
        return f"stages/{STAGE}/index-{part_name(part)}-of-{self.shards}.batches"

    def merged_name(self, group: int) -> str:
        return f"stages/{STAGE}/index-of-{self.merged}-{group:05d}-of-{self.shards}.batches"

    @property
    def groups(self) -> range:
        return range(-(-self.parts // self.merged))

    @property
    def shard(self) -> str:
        return f"index/shard-{self.number:05d}.parquet"


def save_index(session: Session, keys: Keys) -> list[list[Any]]:
    """Write the index; [name, bytes, hash, rows] of each of its files."""
    plan, folder = session.plan, session.folder
    parts, minhash = plan.num_parts, plan.keys.minhash
    text = int(keys.numbers["text_bytes"].sum(dtype=np.int64))
    num = max(1, -(-keys.num_docs // SHARD_DOCUMENTS), -(-text // SHARD_TEXT))
    works = [IndexWork(part, parts, num, minhash) for part in range(parts)]
    aside = _run(session, [Job(STAGE, f"index-{part_name(w.number)}-of-{num}", _set_aside, w) for w in works])
    size = sum(one["files"][0][1] for one in aside)
    work = IndexWork(0, parts, num, minhash, files_merged(parts, num, size))
    if work.merged > 1:
        works = [replace(work, number=group) for group in work.groups]
        _run(session, [Job(STAGE, f"index-of-{w.merged}-{w.number:05d}-of-{num}", _merge, w) for w in works])
    works = [replace(work, number=shard) for shard in range(num)]
    counts = _run(session, [Job(STAGE, f"index-shard-{w.number:05d}-of-{num}", _collect, w) for w in works])
    shards = tuple(_shard(one) for one in counts)
    digest = str(xxhash.xxh3_128_hexdigest("\n".join(shard.hash for shard in shards).encode()))
    write_index_file(folder, plan.recipe.name, minhash, shards, digest)
    files = [[shard.name, shard.bytes, shard.hash, shard.rows] for shard in shards]
    return [*files, [*hash_file(folder, FILE), sum(shard.rows for shard in shards)]]


def _shard(counts: Counts) -> Shard:
    name, size, digest = counts["files"][0]
    return Shard(name, size, digest, counts["rows"])


def _run(session: Session, jobs: list[Job]) -> list[Counts]:
    return session.run(STAGE, jobs, shown=False)


def _set_aside(folder: Folder, work: IndexWork) -> dict[str, Any]:
    """The survivors of a part by shard."""
    with open_parquet(folder, part_file(work.number, "verdict")) as file:
        reason = file.read(["reason"]).column("reason")
    stays = pc.or_kleene(pc.is_null(reason), pc.equal(reason, "mixture.not_chosen"))
    rows = pc.indices_nonzero(stays).to_numpy().astype(np.int64)
    with open_parquet(folder, part_file(work.number, "keys")) as file:
        columns = [*NUMBERS, *(["bands"] if work.minhash else [])]
        keys = file.read(columns).take(pa.array(rows))
    name = work.set_aside(work.number)
    files = write_batches(folder, name, work.shards, _runs(_rows(folder, work, keys, rows), work.shards))
    return {"rows": len(rows), "files": files}


def _rows(folder: Folder, work: IndexWork, keys: pa.Table, rows: np.ndarray) -> Iterator[pa.Table]:
    """Rows of the index, a few at a time."""
    wanted = schema(work.minhash)
    for start in range(0, len(rows), _CHUNK):
        text = read_rows(folder, work.number, rows[start : start + _CHUNK], _TEXT)
        table = keys.slice(start, _CHUNK)
        for name in ("id", "source"):
            table = table.append_column(name, text.column(name))
        if work.minhash is not None:
            table = _sketched(table, text, work.minhash)
        yield table.select(wanted.names).cast(wanted)


def _runs(tables: Iterable[pa.Table], shards: int) -> Iterator[tuple[np.ndarray, pa.Table]]:
    """The rows in runs of about `_RUN_BYTES`, each by shard."""
    held: list[pa.Table] = []
    for table in chain(tables, [None]):
        if table is not None:
            held.append(table)
        if held and (table is None or sum(one.nbytes for one in held) >= _RUN_BYTES):
            run = pa.concat_tables(held).combine_chunks()
            shard = of_key(run.column("id_hi").to_numpy(), shards)
            order = np.argsort(shard, kind="stable")
            yield shard[order], run.take(pa.array(order))
            held = []


def _sketched(table: pa.Table, text: pa.Table, minhash: MinHash) -> pa.Table:
    signatures, offsets, values = sketches(text, minhash)
    none = pa.array(np.diff(offsets) == 0)
    signature = pa.FixedSizeListArray.from_arrays(
        pa.array(signatures.reshape(-1)), minhash.num_perm, mask=none
    )
    sets = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values))
    return table.append_column("signature", signature).append_column("shingles", sets)


def _merge(folder: Folder, work: IndexWork) -> dict[str, Any]:
    """The files of a group of parts as one."""
    parts = range(work.parts)[work.number * work.merged : (work.number + 1) * work.merged]
    names = [work.set_aside(part) for part in parts]
    return {"files": merge_batches(folder, names, work.merged_name(work.number))}


def _collect(folder: Folder, work: IndexWork) -> dict[str, Any]:
    """One shard, from the files of all parts, by id hash."""
    names = [work.set_aside(part) for part in range(work.parts)]
    if work.merged > 1:
        names = [work.merged_name(group) for group in work.groups]
    table = read_batches(folder, names, work.number, schema(work.minhash)).combine_chunks()
    order = np.lexsort((table.column("id_lo").to_numpy(), table.column("id_hi").to_numpy()))
    write_shard(folder, work.shard, table.take(pa.array(order)))
    return {"rows": table.num_rows, "files": [hash_file(folder, work.shard)]}
