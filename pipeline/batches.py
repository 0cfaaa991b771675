"""Rows set aside by bucket as Arrow record batches, so that a reader takes those of its bucket by range reads.

`<name>` is zstd frames behind each other, each an Arrow IPC message with rows of one bucket; `<name>.index` is a
bucket file (`buckets`) with the byte ranges of the frames by bucket. A reader asks for two ranges of the index and
for its frames: with a thousand files and a thousand readers each file is opened a million times, and nothing that
grows with the number of buckets may be decoded then. A frame a batch, as Arrow's own compression begins anew with
each column: on batches of 10 KB that took eight times as long.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import zstandard

from .buckets import read_buckets, read_range, read_whole, write_sorted
from .errors import MalmoiError
from .storage import READERS, Folder, in_parallel
from .written import FileRecord, hash_file

CHUNK_BYTES = 8 * 1024**2
MOST_PIECES, PIECE_BYTES = 1_000_000, 64 * 1024
"""Ranges that all readers read together, and their mean size, from which on files are merged before."""
MERGED_BYTES = 512 * 1024**2
"""Of a merged file, which one job holds."""
RANGE = np.dtype([("start", "<u8"), ("stop", "<u8")])


def write_batches(
    folder: Folder, name: str, buckets: int, runs: Iterable[tuple[np.ndarray, pa.Table]]
) -> list[FileRecord]:
    """Write runs of (bucket of each row, rising, int64 [rows]; the rows); each gives a batch for each bucket that
    it meets. Runs are taken one after the other, so memory is that of one of them."""
    pack = zstandard.ZstdCompressor(level=1).compress
    owners: list[np.ndarray] = [np.empty(0, np.int64)]
    ends = [0]
    with folder.create(name) as sink:
        for bucket, table in runs:
            met, starts = np.unique(bucket, return_index=True)
            owners.append(met)
            for start, stop in zip(starts, [*starts[1:], len(bucket)], strict=True):
                [batch] = table.slice(start, stop - start).combine_chunks().to_batches()
                frame = pack(batch.serialize())
                sink.write(frame)
                ends.append(ends[-1] + len(frame))
    owner = np.concatenate(owners)
    ranges = np.empty(len(owner), RANGE)
    ranges["start"], ranges["stop"] = ends[:-1], ends[1:]
    counts = np.bincount(owner, minlength=buckets)
    index = write_sorted(folder, _index(name), counts, ranges[np.argsort(owner, kind="stable")])
    return [hash_file(folder, name), index]


def files_merged(files: int, buckets: int, size: int) -> int:
    """How many of so many files with `size` bytes in all are to be made one before their buckets are read, 1 where none
    are: a range a file and a bucket is too many and too small where both are thousands."""
    if files * buckets < MOST_PIECES or size >= files * buckets * PIECE_BYTES:
        return 1
    return max(1, min(files, MERGED_BYTES * files // max(size, 1)))


def merge_batches(folder: Folder, names: Sequence[str], merged: str) -> list[FileRecord]:
    """Write the frames of several files as one file, those of a bucket behind each other and in the files' order.

    Nothing is unpacked; the files are in memory, all of them.
    """
    data = in_parallel(folder, folder.read_bytes, names)
    counts, ranges = zip(*(read_whole(folder, _index(name), RANGE) for name in names), strict=True)
    buckets = len(counts[0])
    owner = np.concatenate([np.repeat(np.arange(buckets), one) for one in counts])
    file = np.repeat(np.arange(len(names)), [len(one) for one in ranges])
    order = np.argsort(owner, kind="stable")
    every = np.concatenate(ranges)[order]
    ends = np.cumsum(every["stop"] - every["start"])
    moved = np.empty(len(every), RANGE)
    moved["start"], moved["stop"] = ends - (every["stop"] - every["start"]), ends
    views = [memoryview(one) for one in data]
    with folder.create(merged) as sink:
        for number, (start, stop) in zip(file[order].tolist(), every.tolist(), strict=True):
            sink.write(views[number][start:stop])
    index = write_sorted(folder, _index(merged), np.sum(counts, axis=0), moved)
    return [hash_file(folder, merged), index]


def _index(name: str) -> str:
    return f"{name}.index"


def read_batches(folder: Folder, names: Sequence[str], bucket: int, schema: pa.Schema) -> pa.Table:
    """The rows of a bucket in all of the files, in the files' order, each's in the order of writing.

    In chunks of about CHUNK_BYTES at least: a table in one piece would be in memory twice while it is made.
    """
    found = read_buckets(folder, [_index(name) for name in names], bucket, RANGE)
    wanted = [(name, *span) for name, ranges in zip(names, found, strict=True) for span in ranges.tolist()]
    chunks: list[pa.RecordBatch] = []
    small: list[pa.RecordBatch] = []
    size = 0
    for some in _at_once(wanted):
        for name, frame in _frames(folder, some):
            small.append(_unpacked(folder, name, frame, schema))
            size += small[-1].nbytes
            if size >= CHUNK_BYTES:
                chunks.append(_together(small))
                small, size = [], 0
    return pa.Table.from_batches([*chunks, _together(small)] if small else chunks, schema)


def _at_once(wanted: list[tuple[str, int, int]]) -> Iterator[list[tuple[str, int, int]]]:
    """Frames (name, start, stop) in pieces of about CHUNK_BYTES, and READERS at least."""
    some: list[tuple[str, int, int]] = []
    size = 0
    for one in wanted:
        some.append(one)
        size += one[2] - one[1]
        if size >= CHUNK_BYTES and len(some) >= READERS:
            yield some
            some, size = [], 0
    yield some


def _frames(folder: Folder, wanted: list[tuple[str, int, int]]) -> Iterator[tuple[str, memoryview]]:
    """The frames, each with its file; those that lie behind each other are read at once."""
    spans: list[list[tuple[str, int, int]]] = []
    for one in wanted:
        if spans and spans[-1][-1][0] == one[0] and spans[-1][-1][2] == one[1]:
            spans[-1].append(one)
        else:
            spans.append([one])
    read = in_parallel(folder, lambda span: read_range(folder, span[0][0], span[0][1], span[-1][2]), spans)
    for span, data in zip(spans, read, strict=True):
        view, first = memoryview(data), span[0][1]
        for name, start, stop in span:
            yield name, view[start - first : stop - first]


def _unpacked(folder: Folder, name: str, frame: memoryview, schema: pa.Schema) -> pa.RecordBatch:
    try:
        message = zstandard.ZstdDecompressor().decompress(frame)
        return pa.ipc.read_record_batch(pa.py_buffer(message), schema)
    except (zstandard.ZstdError, pa.ArrowInvalid) as error:
        raise MalmoiError(
            f"{folder.join(name)}: cannot be read ({error}); run the same command again"
        ) from error


def _together(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)


def take_rows(chunks: Sequence[pa.RecordBatch], rows: np.ndarray) -> pa.Table:
    """The rows (int64, any order, also repeated) of a table given by its chunks, in one piece.

    Chunk by chunk and then in order: `pa.Table.take` on a table of 20 chunks takes ten times as long.
    """
    starts = np.cumsum([0, *(chunk.num_rows for chunk in chunks)])
    chunk = np.searchsorted(starts, rows, side="right") - 1
    grouped = np.argsort(chunk, kind="stable")
    ends = np.searchsorted(chunk[grouped], np.arange(len(chunks) + 1))
    pieces = [
        chunks[i].take(pa.array(rows[grouped[ends[i] : ends[i + 1]]] - starts[i]))
        for i in np.flatnonzero(np.diff(ends)).tolist()
    ]
    if len(pieces) == 1:
        return pa.Table.from_batches(pieces)
    place = np.empty(len(rows), np.int64)
    place[grouped] = np.arange(len(rows))
    return pa.table(_together(pieces).take(pa.array(place)))
