"""Which pairs of earlier rounds a partition of bands has to know: those in which its large buckets may meet again.

Earlier pairs lie by documents, large buckets by band. So each partition of bands tells once which documents are in its
large buckets, and each partition of pairs sends its own pairs, when they are made, to the partitions of one of
their documents: what is read grows with the pairs, not with pairs times partitions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from malmoi.operators.candidates import distinct, unpack

from .buckets import joined, of_document, read_bucket, read_buckets, write_buckets
from .storage import Folder, in_parallel
from .written import FileRecord

PAIR = np.dtype("<u8")
DOCUMENT = np.dtype("<u4")


def write_large(folder: Folder, name: str, documents: np.ndarray, partitions: int) -> FileRecord:
    """The documents of a partition's large buckets, by partition of pairs."""
    documents = distinct(documents).astype(DOCUMENT)
    return write_buckets(folder, name, of_document(documents, partitions), documents, partitions)


def write_known(
    folder: Folder, name: str, pairs: np.ndarray, large: dict[int, str], index: int, partitions: int
) -> FileRecord:
    """The pairs of partition `index`, for each of the partitions with large buckets that have its document of a pair.

    `large`: the files of `write_large` by partition.
    """
    found = read_buckets(folder, list(large.values()), index, DOCUMENT)
    documents, places = joined(found, DOCUMENT), np.repeat(list(large), [len(one) for one in found])
    order = np.argsort(documents, kind="stable")
    documents, places = documents[order], places[order]
    left, right = unpack(pairs)
    own = np.where(of_document(left, partitions) == index, left, right)
    first, end = (np.searchsorted(documents, own, side=side) for side in ("left", "right"))
    counts = end - first
    which = np.repeat(first - np.cumsum(counts) + counts, counts) + np.arange(int(counts.sum()))
    return write_buckets(folder, name, places[which], np.repeat(pairs, counts).astype(PAIR), partitions)


def read_known(folder: Folder, names: Sequence[str], index: int, documents: np.ndarray) -> np.ndarray:
    """The pairs both of whose documents are among `documents`, sorted."""
    known = distinct(documents)

    def among(some: np.ndarray) -> np.ndarray:
        if not len(known):
            return np.zeros(len(some), dtype=bool)
        found: np.ndarray = known[np.minimum(np.searchsorted(known, some), len(known) - 1)] == some
        return found

    def read(name: str) -> np.ndarray:
        pairs = read_bucket(folder, name, index, PAIR)
        left, right = unpack(pairs)
        kept: np.ndarray = pairs[among(left) & among(right)]
        return kept

    return np.sort(joined(in_parallel(folder, read, names), PAIR))
