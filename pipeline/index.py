"""Writes the saved index of a run (see `saved`): two stages of jobs, by part and then by shard of the id hash."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from malmoi.operators.jaccard import sketches
from malmoi.operators.minhash import MinHash

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
_CHUNK = 4096
_TEXT = pa.schema([(name, pa.large_string()) for name in ("id", "source", "text")])


@dataclass(frozen=True)
class IndexWork:
    """`number`: of the part, or of the shard."""

    number: int
    parts: int
    shards: int
    minhash: MinHash | None

    def set_aside(self, part: int) -> str:
        return f"stages/{STAGE}/index-{part_name(part)}-of-{self.shards}.arrow"

    @property
    def shard(self) -> str:
        return f"index/shard-{self.number:05d}.parquet"


def save_index(session: Session, keys: Keys) -> list[list[Any]]:
    """Write the index; [name, bytes, hash, rows] of each of its files."""
    plan, folder = session.plan, session.folder
    parts, minhash = plan.num_parts, plan.keys.minhash
    num = max(1, -(-keys.num_docs // SHARD_DOCUMENTS))
    works = [IndexWork(part, parts, num, minhash) for part in range(parts)]
    _run(session, [Job(STAGE, f"index-{part_name(w.number)}-of-{num}", _set_aside, w) for w in works])
    works = [IndexWork(shard, parts, num, minhash) for shard in range(num)]
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
    """The survivors of a part, one record batch for each shard."""
    with open_parquet(folder, part_file(work.number, "verdict")) as file:
        reason = file.read(["reason"]).column("reason")
    stays = pc.or_kleene(pc.is_null(reason), pc.equal(reason, "mixture.not_chosen"))
    rows = pc.indices_nonzero(stays).to_numpy().astype(np.int64)
    names = schema(work.minhash).names
    with open_parquet(folder, part_file(work.number, "keys")) as file:
        columns = [*NUMBERS, *(["bands"] if work.minhash else [])]
        keys = file.read(columns).take(pa.array(rows))
    pieces = [schema(work.minhash).empty_table()]
    for start in range(0, len(rows), _CHUNK):
        text = read_rows(folder, work.number, rows[start : start + _CHUNK], _TEXT)
        table = keys.slice(start, _CHUNK)
        for name in ("id", "source"):
            table = table.append_column(name, text.column(name))
        if work.minhash is not None:
            table = _sketched(table, text, work.minhash)
        pieces.append(table.select(names).cast(schema(work.minhash)))
    table = pa.concat_tables(pieces).combine_chunks()
    shard = of_key(table.column("id_hi").to_numpy(), work.shards)
    name = work.set_aside(work.number)
    with folder.create(name) as sink, pa.ipc.new_file(sink, table.schema) as writer:
        for number in range(work.shards):
            chosen = table.take(pa.array(np.flatnonzero(shard == number))).combine_chunks()
            batches = chosen.to_batches() or [pa.RecordBatch.from_pylist([], schema=table.schema)]
            writer.write_batch(batches[0])
    return {"rows": table.num_rows, "files": [hash_file(folder, name)]}


def _sketched(table: pa.Table, text: pa.Table, minhash: MinHash) -> pa.Table:
    signatures, offsets, values = sketches(text, minhash)
    none = pa.array(np.diff(offsets) == 0)
    signature = pa.FixedSizeListArray.from_arrays(
        pa.array(signatures.reshape(-1)), minhash.num_perm, mask=none
    )
    sets = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values))
    return table.append_column("signature", signature).append_column("shingles", sets)


def _collect(folder: Folder, work: IndexWork) -> dict[str, Any]:
    """One shard, from the files of all parts, by id hash."""
    batches = []
    for part in range(work.parts):
        name = work.set_aside(part)
        path = folder.local_path(name)
        with pa.OSFile(path) if path else folder.open(name) as stream, pa.ipc.open_file(stream) as reader:
            batches.append(reader.get_batch(work.number))
    table = pa.Table.from_batches(batches).combine_chunks()
    order = np.lexsort((table.column("id_lo").to_numpy(), table.column("id_hi").to_numpy()))
    write_shard(folder, work.shard, table.take(pa.array(order)))
    return {"rows": table.num_rows, "files": [hash_file(folder, work.shard)]}
