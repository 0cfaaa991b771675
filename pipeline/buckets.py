"""Bucket files: rows of a fixed width set aside by partition, so that one range read gives a partition's rows.

    8 bytes "malmoib1" | partitions uint64 | first row of each partition, and the end, uint64 [partitions + 1] | rows

All little-endian. One job writes one such file, a later job reads its partition out of the files of all of
them: this is how deduplication shuffles, on a disk or an object store, restartable file by file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise

import numpy as np

from .errors import MalmoiError
from .storage import Folder, file_system, in_parallel
from .written import FileRecord, hash_file

MAGIC = b"malmoib1"
HEAD_BYTES = 32 * 1024
"""Of the index of a remote file, that are read to save a request."""


def write_buckets(
    folder: Folder, name: str, partition: np.ndarray, rows: np.ndarray, partitions: int
) -> FileRecord:
    """Write `rows` [n, any dtype] by `partition` (integers [n]); rows of a partition keep their order."""
    order = np.argsort(partition.astype(np.uint32), kind="stable")
    counts = np.bincount(partition.astype(np.int64), minlength=partitions)
    return write_sorted(folder, name, counts, rows[order])


def write_sorted(folder: Folder, name: str, counts: np.ndarray, rows: np.ndarray) -> FileRecord:
    """Write `rows`, the first `counts[0]` of which are of partition 0, and so on."""
    if int(counts.sum()) != len(rows):
        raise ValueError(f"{name}: want {counts.sum()} rows, got {len(rows)}")
    with folder.create(name) as sink:
        sink.write(_head(counts))
        sink.write(np.ascontiguousarray(rows).view(np.uint8).data)
    return hash_file(folder, name)


def _head(counts: np.ndarray) -> bytes:
    """What stands before the rows; `counts`: of each partition."""
    return MAGIC + np.concatenate([[len(counts), 0], np.cumsum(counts)]).astype("<u8").tobytes()


def _ends(data: bytes) -> np.ndarray:
    """int64 [partitions + 1]: the first row of each partition, and the end, in a whole file."""
    return np.frombuffer(data, "<u8", int(np.frombuffer(data, "<u8", 1, 8)[0]) + 1, 16).astype(np.int64)


def read_range(folder: Folder, name: str, start: int, stop: int) -> bytes:
    """The bytes [start, stop) of a file, in one request where it is remote."""
    with _ranges(folder, name) as read:
        return read(start, stop)


@contextmanager
def _ranges(folder: Folder, name: str) -> Iterator[Callable[[int, int], bytes]]:
    """What reads the bytes [start, stop) of a file, which is opened once."""
    path = folder.local_path(name)
    if path is None:
        fs, remote = file_system(folder.join(name), folder.options)
        yield lambda start, stop: bytes(fs.cat_file(remote, start=start, end=stop)) if stop > start else b""
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        yield partial(_pread, handle)
    finally:
        os.close(handle)


def _pread(handle: int, start: int, stop: int) -> bytes:
    data = b""
    while len(data) < stop - start:  # a read gives at most 2 GiB
        more = os.pread(handle, stop - start - len(data), start + len(data))
        if not more:
            break
        data = data + more if data else more
    return data


def read_bucket(folder: Folder, name: str, partition: int, dtype: np.dtype) -> np.ndarray:
    """The rows of one partition; MalmoiError where the file is not whole."""
    return read_span(folder, name, partition, 1, dtype)[0]


def read_span(folder: Folder, name: str, first: int, count: int, dtype: np.dtype) -> list[np.ndarray]:
    """The rows of each of `count` partitions from `first` on; MalmoiError where the file is not whole."""
    place, index_bytes = 16 + 8 * first, 8 * (count + 1)
    try:
        with _ranges(folder, name) as read:
            # One request more, and not the places of all partitions before this one.
            apart = folder.is_local or place > HEAD_BYTES
            head = read(0, 16) + read(place, place + index_bytes) if apart else read(0, place + index_bytes)
            if len(head) != (16 if apart else place) + index_bytes:
                raise MalmoiError(f"{folder.join(name)}: not a bucket file of partition {first}")
            [partitions] = np.frombuffer(head[8:16], "<u8").tolist()
            if head[:8] != MAGIC or not first + count <= partitions:
                raise MalmoiError(f"{folder.join(name)}: not a bucket file of partition {first}")
            data = 8 + 8 * (partitions + 2)
            ends = np.frombuffer(head[-index_bytes:], "<u8").astype(np.int64)
            start, stop = (data + int(row) * dtype.itemsize for row in (ends[0], ends[-1]))
            rows = np.frombuffer(read(start, stop), dtype)
        if len(rows) * dtype.itemsize != stop - start:
            raise MalmoiError(f"{folder.join(name)}: ends early")
    except (FileNotFoundError, ValueError) as error:
        raise MalmoiError(
            f"{folder.join(name)}: cannot be read ({error}); run the same command again"
        ) from error
    return [rows[i:j] for i, j in pairwise((ends - ends[0]).tolist())]


def merge_files(folder: Folder, names: Sequence[str], merged: str) -> FileRecord:
    """Several bucket files as one: its buckets are those of partition 0 in each of the files, in their order, then
    those of partition 1, and so on. The files are in memory, all of them."""
    data = in_parallel(folder, folder.read_bytes, names)
    ends = [_ends(one) for one in data]
    rows = [memoryview(one)[16 + 8 * len(end) :] for one, end in zip(data, ends, strict=True)]
    width = [len(one) // max(int(end[-1]), 1) for one, end in zip(rows, ends, strict=True)]
    counts = np.stack([np.diff(one) for one in ends], axis=1)
    with folder.create(merged) as sink:
        sink.write(_head(counts.reshape(-1)))
        for partition, file in zip(*(places.tolist() for places in np.nonzero(counts)), strict=True):
            first, last = (ends[file][partition : partition + 2] * width[file]).tolist()
            sink.write(rows[file][first:last])
    return hash_file(folder, merged)


def read_whole(folder: Folder, name: str, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """(rows of each partition, int64 [partitions]; all rows) of a file that a job of this run wrote."""
    data = folder.read_bytes(name)
    ends = _ends(data)
    return np.diff(ends), np.frombuffer(data, dtype, int(ends[-1]), 16 + 8 * len(ends))


def read_buckets(folder: Folder, names: Sequence[str], partition: int, dtype: np.dtype) -> list[np.ndarray]:
    """The rows of one partition in each of the files, in the files' order."""
    return in_parallel(folder, lambda name: read_bucket(folder, name, partition, dtype), names)


def joined(pieces: Sequence[np.ndarray], dtype: np.dtype) -> np.ndarray:
    """The pieces behind each other, in one array of `dtype`."""
    return np.concatenate([np.empty(0, dtype), *pieces])


def of_key(keys: np.ndarray, partitions: int) -> np.ndarray:
    """The partition of 64-bit hashes, int64: by their upper half."""
    return np.asarray(((keys >> np.uint64(32)) * np.uint64(partitions)) >> np.uint64(32), dtype=np.int64)


def of_document(documents: np.ndarray, partitions: int) -> np.ndarray:
    """The partition of ordinals, int64: by a multiplicative hash, as neighbours are often alike in size."""
    with np.errstate(over="ignore"):
        return of_key(documents.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15), partitions)
