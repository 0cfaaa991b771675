"""Verification of candidate pairs: the shingle sets of the documents concerned, computed part by part.

Only documents that are in a candidate pair are read again; the sets travel through files of the run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from malmoi.operators.jaccard import jaccard, shingle_sets
from malmoi.operators.minhash import MinHash

from .engine import Counts, Job
from .keys import Keys
from .storage import Folder
from .written import hash_file, part_name

STAGE = "verify"


@dataclass(frozen=True)
class ShinglePart:
    """The payload of one job: rows int64 (sorted) of a part whose shingle sets are wanted."""

    part: int
    rows: np.ndarray
    minhash: MinHash
    name: str


def shingle_part(folder: Folder, work: ShinglePart) -> dict[str, Any]:
    """Write the sorted distinct shingle ids of the wanted rows as an Arrow list column."""
    name = f"stages/{STAGE}/{work.name}.arrow"
    kept = f"stages/filter/{part_name(work.part)}.kept.parquet"
    schema = pa.schema([("shingles", pa.large_list(pa.uint64()))])
    with folder.open(kept) as stream, folder.create(name) as sink, pa.ipc.new_file(sink, schema) as writer:
        file = pq.ParquetFile(stream)
        first = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            low, high = np.searchsorted(work.rows, [first, first + rows])
            if low < high:
                wanted = pa.array(work.rows[low:high] - first)
                text = file.read_row_group(group, columns=["text"]).take(wanted)
                offsets, values = shingle_sets(text, work.minhash)
                sets = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values))
                writer.write_batch(pa.record_batch([sets], schema=schema))
            first += rows
    return {"read": len(work.rows), "kept": len(work.rows), "files": [hash_file(folder, name)]}


def _load(folder: Folder, name: str) -> tuple[np.ndarray, np.ndarray]:
    with folder.open(f"stages/{STAGE}/{name}.arrow") as stream:
        column = pa.ipc.open_file(stream).read_all().column("shingles").combine_chunks()
    if not len(column):
        return np.zeros(1, dtype=np.int64), np.zeros(0, dtype=np.uint64)
    lengths = pc.list_value_length(column).to_numpy()
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), column.flatten().to_numpy()


class Verifier:
    """Callable on candidate pairs; keeps the shingle sets of documents that it has seen.

    `run_jobs` is the engine's runner for this run: jobs in, counts out.
    """

    def __init__(
        self, folder: Folder, keys: Keys, minhash: MinHash, run_jobs: Callable[[list[Job]], list[Counts]]
    ) -> None:
        self.folder, self.keys, self.minhash, self.run_jobs = folder, keys, minhash, run_jobs
        self.round = 0
        self.place = np.full(keys.num_docs, -1, dtype=np.int64)
        self.offsets = np.zeros(1, dtype=np.int64)
        self.values = np.zeros(0, dtype=np.uint64)

    def __call__(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Exact Jaccard similarity float64 [P] of the shingle sets of the pairs of ordinals."""
        if not len(left):
            return np.zeros(0, dtype=np.float64)
        wanted = np.unique(np.concatenate([left, right]).astype(np.int64))
        wanted = wanted[self.place[wanted] < 0]
        if len(wanted):
            self._fetch(wanted)
        return jaccard(self.offsets, self.values, self.place[left], self.place[right])

    def _fetch(self, wanted: np.ndarray) -> None:
        parts = self.keys.part_of(wanted)
        jobs = []
        for part in np.unique(parts).tolist():
            rows = wanted[parts == part] - self.keys.first[part]
            name = f"round-{self.round:02d}-{part_name(part)}"
            jobs.append(Job(STAGE, name, shingle_part, ShinglePart(part, rows, self.minhash, name)))
        self.round += 1
        self.run_jobs(jobs)
        offsets, values = [self.offsets], [self.values]
        for job in jobs:
            more_offsets, more_values = _load(self.folder, job.name)
            offsets.append(more_offsets[1:] + offsets[-1][-1])
            values.append(more_values)
        self.place[wanted] = np.arange(len(wanted)) + len(self.offsets) - 1
        self.offsets, self.values = np.concatenate(offsets), np.concatenate(values)
