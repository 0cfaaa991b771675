"""Diversity of the documents before (kept by the rules) and after (the corpus), gathered job by job.

Each job sketches the word n-grams of its documents and keeps a sample of their text: the documents with the
smallest id hashes up to `SAMPLE_BYTES`, so that the sample of the whole is a sample of the jobs' samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from malmoi.operators.analysis import analyse
from malmoi.operators.diversity import (
    NgramSketch,
    effective_number,
    merge,
    sample_rows,
    sketch_from_text,
    sketch_ngrams,
    zstd_ratio,
)
from malmoi.operators.exact import id_hash

from .engine import Counts
from .keys import Coded, Keys, add_by, blocks
from .storage import READERS, Folder, in_parallel
from .written import FileRecord, hash_file

SAMPLE_BYTES = 1024**2
_LOOSE_BYTES = 4 * SAMPLE_BYTES
NGRAM = 3
_SCHEMA = pa.schema([("hash", pa.uint64()), ("text", pa.large_string())])


class Spread:
    """Collects over the batches of one job; the result does not depend on how rows come in batches."""

    def __init__(self) -> None:
        self.sample = _SCHEMA.empty_table()  # and documents that later ones may have put out of it
        self.limit = np.uint64(2**64 - 1)  # no document with a larger hash can be in it
        self.sketch: NgramSketch | None = None

    def add(self, table: pa.Table) -> None:
        """Documents with `id`, `source`, `text`."""
        sketch = sketch_ngrams(*analyse(table).lower_words, NGRAM)
        self.sketch = merge([self.sketch, sketch]) if self.sketch else sketch
        hashes, _ = id_hash(table.column("source"), table.column("id"))
        rows = np.flatnonzero(hashes <= self.limit)
        hashes, text = hashes[rows], table.column("text")
        chosen = sample_rows(hashes, pc.binary_length(text).to_numpy()[rows], SAMPLE_BYTES)
        more = pa.table([hashes[chosen], text.take(pa.array(rows[chosen]))], schema=_SCHEMA)
        self.sample = pa.concat_tables([self.sample, more])
        rows, full = _chosen(self.sample)
        if full:
            self.limit = self.sample.column("hash").to_numpy()[rows[-1]]
        if self.sample.nbytes > _LOOSE_BYTES:
            self.sample = self.sample.take(pa.array(rows)).combine_chunks()

    def write(self, folder: Folder, name: str) -> FileRecord:
        """Write the sample; the sketch travels in the job's `counts`."""
        with folder.create(name) as sink:
            pq.write_table(
                _smallest(self.sample), sink, compression="zstd", use_dictionary=False, write_statistics=False
            )
        return hash_file(folder, name)

    @property
    def counts(self) -> dict[str, str]:
        """For the job's counts: the sketch, and the smallest hash of the sample, "" where it is empty."""
        hashes = self.sample.column("hash").to_numpy()
        return {"ngrams": self._ngrams, "smallest": _hex(int(hashes.min())) if len(hashes) else ""}

    @property
    def _ngrams(self) -> str:
        empty = sketch_ngrams(np.zeros(1, np.int64), np.zeros(0, np.uint64), NGRAM)
        return (self.sketch or empty).to_text()


def _chosen(sample: pa.Table) -> tuple[np.ndarray, bool]:
    """The rows that stay, by hash, and whether there is no room for more."""
    sizes = pc.binary_length(sample.column("text")).to_numpy()
    rows = sample_rows(sample.column("hash").to_numpy(), sizes, SAMPLE_BYTES)
    return rows, bool(sizes[rows].sum() >= SAMPLE_BYTES)


def _smallest(sample: pa.Table) -> pa.Table:
    return sample.take(pa.array(_chosen(sample)[0])).combine_chunks()


@dataclass
class Sketches:
    """The sketches of a stage's jobs, merged as these end: each is some 9 KB of a job's counts."""

    whole: NgramSketch | None = None

    def take(self, counts: Counts) -> Counts:
        """The counts without their sketch."""
        if counts.get("ngrams"):
            more = sketch_from_text(counts["ngrams"])
            self.whole = merge([self.whole, more]) if self.whole else more
        return {key: value for key, value in counts.items() if key != "ngrams"}


def text_figures(folder: Folder, counts: list[Counts], sketches: Sketches) -> dict[str, float | None]:
    """zstd ratio of the sample and the share of distinct n-grams, over all jobs that have a `sample`."""
    ratio = zstd_ratio(_sample_of_all(folder, counts).column("text").to_pylist())
    share = sketches.whole.share if sketches.whole else float("nan")
    return {"zstd_ratio": _number(ratio), f"distinct_{NGRAM}-grams": _number(share)}


def _sample_of_all(folder: Folder, counts: list[Counts]) -> pa.Table:
    """The sample of the jobs' samples. Those with the smallest hashes are read first, until there is no room for the
    smallest hash of the next one: as many files as the sample has documents at most, however many there are."""
    files = sorted(
        (one.get("smallest", ""), name)
        for one in counts
        for name, _, _ in one["files"]
        if name.endswith(".sample.parquet")
    )
    sample, limit = _SCHEMA.empty_table(), ""

    def read(name: str) -> pa.Table:
        with folder.open(name) as stream:
            return pq.read_table(stream)

    for start in range(0, len(files), READERS):
        some = [name for smallest, name in files[start : start + READERS] if not limit or smallest <= limit]
        if not some:
            break
        sample = pa.concat_tables([sample, *in_parallel(folder, read, some)])
        rows, full = _chosen(sample)
        sample = sample.take(pa.array(rows)).combine_chunks()
        limit = _hex(sample.column("hash")[-1].as_py()) if full else ""
    return sample


def _hex(value: int) -> str:
    return f"{value:016x}"


def group_figures(keys: Keys, copies: np.ndarray | None = None) -> dict[str, float | None]:
    """Effective number of sources and languages by bytes of text; `copies`: int [documents], None: each once."""
    found = {}
    for kind, label in (("source", "effective_sources"), ("language", "effective_languages")):
        coded: Coded = keys.names[kind]
        if coded.names in ((), ("",)):
            continue
        totals = np.zeros(len(coded.names))
        for block in blocks(keys.num_docs):
            sizes = keys.numbers["text_bytes"][block].astype(np.int64)
            add_by(totals, coded.codes[block], sizes if copies is None else sizes * copies[block])
        found[label] = _number(effective_number(totals))
    return found


def _number(value: float) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None
