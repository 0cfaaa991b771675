"""A global shuffle with bounded memory: each part sets its rows aside by shard, each shard collects them.

`scatter` writes stages/scatter/part-00000.batches, record batches with an index (`batches`). Its rows carry their
order key, a hash of (source, id, epoch, seed); the whole range of keys is cut evenly, so that a row's key gives its
shard and its slice of the shard, and the corpus as a whole is in the order of its keys. Text is moved in runs of
`RUN_BYTES`; a run is sorted by key and gives one record batch for each slice that it meets, so that a shard reads its
own batches and nothing else.

Arrow rather than Parquet: with thousands of shards a part is many small pieces, of which Parquet's footer would
outweigh the text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .batches import merge_batches, read_batches, take_rows, write_batches
from .recipe import Write
from .shards import EPOCH, Copies, ShardPlan, slices_of
from .storage import Folder
from .written import FileRecord

RUN_BYTES = 64 * 1024**2
ORDER = "order key"
SCHEME = "xxh64(id_lo, id_hi, epoch, seed as 4 little-endian 64-bit words)"

_P1, _P2, _P3, _P4, _P5 = (
    np.uint64(prime)
    for prime in (
        0x9E3779B185EBCA87,
        0xC2B2AE3D27D4EB4F,
        0x165667B19E3779F9,
        0x85EBCA77C2B2AE63,
        0x27D4EB2F165667C5,
    )
)


def _rotate(x: np.ndarray, bits: int) -> np.ndarray:
    return (x << np.uint64(bits)) | (x >> np.uint64(64 - bits))


def _round(lane: np.ndarray, word: np.ndarray) -> np.ndarray:
    return _rotate(lane + word * _P2, 31) * _P1


def order_key(id_lo: np.ndarray, id_hi: np.ndarray, epoch: np.ndarray, seed: int) -> np.ndarray:
    """uint64 [rows]: xxh64 (seed 0) of the 32 bytes id_lo, id_hi, epoch, seed, little-endian.

    id_lo, id_hi: uint64 [rows], the 128-bit hash of (source, id); epoch: integers [rows].
    """
    words = (
        id_lo.astype(np.uint64),
        id_hi.astype(np.uint64),
        epoch.astype(np.int64).view(np.uint64),
        np.full(len(id_lo), seed % 2**64, dtype=np.uint64),
    )
    with np.errstate(over="ignore"):
        seeds = (_P1 + _P2, _P2, np.uint64(0), np.uint64(0) - _P1)
        lanes = [_round(np.full(len(id_lo), s), word) for s, word in zip(seeds, words, strict=True)]
        key = _rotate(lanes[0], 1) + _rotate(lanes[1], 7) + _rotate(lanes[2], 12) + _rotate(lanes[3], 18)
        for lane in lanes:
            key = (key ^ _round(np.zeros_like(lane), lane)) * _P1 + _P4
        key = key + np.uint64(32)
        key = (key ^ (key >> np.uint64(33))) * _P2
        key = (key ^ (key >> np.uint64(29))) * _P3
        return np.asarray(key ^ (key >> np.uint64(32)))


def shard_of(key: np.ndarray, num_shards: int) -> np.ndarray:
    """int64 [rows]: the shard of each key; larger keys never lie in an earlier shard."""
    high = key >> np.uint64(32)
    return np.asarray((high * np.uint64(num_shards)) >> np.uint64(32), dtype=np.int64)


def held_bytes(write: Write, text_bytes: int) -> int:
    """Text that a job of a corpus of `text_bytes` has in order at one time: a run, a slice, or a whole shard."""
    shard = min(write.shard_bytes, text_bytes)
    slices = slices_of(shard, max(1, -(-text_bytes // write.shard_bytes)))
    return max(min(RUN_BYTES, text_bytes), shard // slices) if write.shuffle else shard


def scatter_name(part: int) -> str:
    return f"stages/scatter/part-{part:05d}.batches"


def merged_name(group: int, parts: int) -> str:
    return f"stages/scatter/of-{parts:05d}-{group:05d}.batches"


def merge(folder: Folder, work: tuple[ShardPlan, int]) -> dict[str, Any]:
    """Stage `merge`: the files of `plan.merged` parts as one."""
    plan, group = work
    parts = plan.parts[group * plan.merged : (group + 1) * plan.merged]
    return {
        "files": merge_batches(
            folder, [scatter_name(part) for part in parts], merged_name(group, plan.merged)
        )
    }


def _names(plan: ShardPlan) -> list[str]:
    """The files that the rows of all shards lie in."""
    if plan.merged == 1:
        return [scatter_name(part) for part in plan.parts]
    return [merged_name(group, plan.merged) for group in range(plan.groups)]


def _runs(key: np.ndarray, text_bytes: np.ndarray) -> list[np.ndarray]:
    """Positions of the rows, cut into runs of about RUN_BYTES of text, by key within each run."""
    run = (np.cumsum(text_bytes) - text_bytes) // RUN_BYTES
    starts = np.searchsorted(run, np.unique(run))
    pieces = np.split(np.arange(len(key)), starts[1:]) if len(key) else []
    return [piece[np.argsort(key[piece], kind="stable")] for piece in pieces]


def scatter(
    folder: Folder, plan: ShardPlan, part: int, copies: Copies, tables: Iterable[pa.Table]
) -> list[FileRecord]:
    """Set the rows of one part aside by slice. `tables`: its documents of the corpus in their order, each once."""
    key = order_key(copies.id_lo, copies.id_hi, copies.epoch, plan.seed)
    buckets = plan.num_shards * plan.slices
    bucket = shard_of(key, buckets)  # the shard, in finer steps
    place = np.cumsum(copies.epoch == 0) - 1  # which document each copy is of

    def rows() -> Iterator[tuple[np.ndarray, pa.Table]]:
        first = 0
        for chunks in _collected(tables):
            last = first + sum(chunk.num_rows for chunk in chunks)
            start, stop = np.searchsorted(place, [first, last]).tolist()
            for run in _runs(key[start:stop], copies.text_bytes[start:stop]):
                table = take_rows(chunks, place[start + run] - first)
                table = table.append_column(EPOCH, pa.array(copies.epoch[start + run]))
                yield bucket[start + run], table.append_column(ORDER, pa.array(key[start + run]))
            first = last

    return write_batches(folder, scatter_name(part), buckets, rows())


def _collected(tables: Iterable[pa.Table]) -> Iterator[list[pa.RecordBatch]]:
    """Tables together, up to about RUN_BYTES of text."""
    chunks: list[pa.RecordBatch] = []
    size = 0
    for table in tables:
        chunks += table.to_batches()
        size += pc.sum(pc.binary_length(table.column("text"))).as_py() or 0
        if size >= RUN_BYTES:
            yield chunks
            chunks, size = [], 0
    if chunks:
        yield chunks


def _with_order(plan: ShardPlan) -> pa.Schema:
    return plan.schema.append(pa.field(ORDER, pa.uint64()))


def scattered_rows(folder: Folder, plan: ShardPlan, shard: int) -> Iterator[tuple[pa.Table, np.ndarray]]:
    """The rows of one shard, slice by slice: in chunks, and the order (int64 [rows]) in which they are written."""
    names = _names(plan)
    for bucket in range(shard * plan.slices, (shard + 1) * plan.slices):
        table = read_batches(folder, names, bucket, _with_order(plan))
        yield table.drop_columns([ORDER]), key_order(table)


def key_order(table: pa.Table) -> np.ndarray:
    """int64 [rows]: by order key; rows of equal keys by (source, id, epoch)."""
    key = table.column(ORDER).to_numpy()
    order = np.argsort(key, kind="stable")
    if np.any(key[order][1:] == key[order][:-1]):
        by = [(name, "ascending") for name in (ORDER, "source", "id", EPOCH)]
        order = pa.compute.sort_indices(table, sort_keys=by).to_numpy().astype(np.int64)
    return order
