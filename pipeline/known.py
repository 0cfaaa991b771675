"""Which pairs of earlier rounds a partition of bands has to know: those in which its large buckets may meet again.

Earlier pairs lie by documents, large buckets by band. So each partition of bands tells once which documents are in its
large buckets, and each partition of pairs sends its own pairs, when they are made, to the partitions of one of
their documents: what is read grows with the pairs, not with pairs times partitions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from malmoi.operators.candidates import distinct, unpack

from .buckets import joined, of_document, write_buckets
from .storage import Folder
from .written import FileRecord

PAIR = np.dtype("<u8")
DOCUMENT = np.dtype("<u4")


def write_large(folder: Folder, name: str, documents: np.ndarray, partitions: int) -> FileRecord:
    """The documents of a partition's large buckets, by partition of pairs."""
    documents = distinct(documents).astype(DOCUMENT)
    return write_buckets(folder, name, of_document(documents, partitions), documents, partitions)


def write_known(
    folder: Folder, name: str, pairs: np.ndarray, large: Mapping[int, np.ndarray], index: int, partitions: int
) -> FileRecord:
    """The pairs of partition `index`, for each of the partitions with large buckets that have its document of a pair.

    `large`: the rows of partition `index` in the file of `write_large` of each partition.
    """
    found = list(large.values())
    documents, places = joined(found, DOCUMENT), np.repeat(list(large), [len(one) for one in found])
    order = np.argsort(documents, kind="stable")
    documents, places = documents[order], places[order]
    left, right = unpack(pairs)
    own = np.where(of_document(left, partitions) == index, left, right)
    first, end = (np.searchsorted(documents, own, side=side) for side in ("left", "right"))
    counts = end - first
    which = np.repeat(first - np.cumsum(counts) + counts, counts) + np.arange(int(counts.sum()))
    return write_buckets(folder, name, places[which], np.repeat(pairs, counts).astype(PAIR), partitions)


def both_among(documents: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """What leaves of pairs those both of whose documents are among `documents`."""
    known = distinct(documents)

    def among(some: np.ndarray) -> np.ndarray:
        if not len(known):
            return np.zeros(len(some), dtype=bool)
        found: np.ndarray = known[np.minimum(np.searchsorted(known, some), len(known) - 1)] == some
        return found

    def keep(pairs: np.ndarray) -> np.ndarray:
        left, right = unpack(pairs)
        kept: np.ndarray = pairs[among(left) & among(right)]
        return kept

    return keep
