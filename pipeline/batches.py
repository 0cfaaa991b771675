"""Rows set aside by bucket as Arrow record batches, so that a reader takes those of its bucket by range reads.

`<name>` is zstd frames behind each other, each an Arrow IPC message with rows of one bucket; `<name>.index` is a
bucket file (`buckets`) with the byte ranges of the frames by bucket. A reader asks for two ranges of the index and
for its frames: with a thousand files and a thousand readers each file is opened a million times, and nothing that
grows with the number of buckets may be decoded then. A frame a batch, as Arrow's own compression begins anew with
each column: on batches of 10 KB that took eight times as long.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import zstandard

from .buckets import read_buckets, read_range, write_sorted
from .errors import MalmoiError
from .storage import Folder, in_parallel
from .written import FileRecord, hash_file

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


def _index(name: str) -> str:
    return f"{name}.index"


def read_batches(folder: Folder, names: Sequence[str], bucket: int, schema: pa.Schema) -> pa.Table:
    """The rows of a bucket in all of the files, in the files' order, each's in the order of writing."""
    found = read_buckets(folder, [_index(name) for name in names], bucket, RANGE)
    wanted = [(name, *span) for name, ranges in zip(names, found, strict=True) for span in ranges.tolist()]
    frames = in_parallel(folder, lambda one: read_range(folder, *one), wanted)
    unpack = zstandard.ZstdDecompressor().decompress
    batches = []
    for (name, _, _), frame in zip(wanted, frames, strict=True):
        try:
            batches.append(pa.ipc.read_record_batch(pa.py_buffer(unpack(frame)), schema))
        except (zstandard.ZstdError, pa.ArrowInvalid) as error:
            raise MalmoiError(
                f"{folder.join(name)}: cannot be read ({error}); run the same command again"
            ) from error
    return pa.Table.from_batches(batches, schema)
