"""Survivors of more edges than one process should hold: components by stars, then each component by itself.

A survivor depends on its connected component alone, so components may be settled apart: the result is that of
`malmoi.operators.survivors.survivors` over all edges. The components are found in rounds of large-star and
small-star over partitions of the documents (see `malmoi.operators.components`), each round two stages of jobs,
until the edges are those of the round before; `MAX_STARS` rounds at most.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from malmoi.operators.candidates import distinct, unpack
from malmoi.operators.components import both_ways, labels, large_star, small_star
from malmoi.operators.survivors import survivors

from .buckets import joined, of_document, read_buckets, read_range, write_buckets, write_sorted
from .engine import Counts, Job
from .errors import MalmoiError
from .known import PAIR
from .layout import STAGE, Layout
from .shuffle import EDGE
from .storage import Folder

MAX_STARS = 60
BLOCK_DOCUMENTS = 16 * 1024**2
FOUND = np.dtype([("document", "<u4"), ("survivor", "<u4"), ("similarity", "<f4")])

Kind = Literal["link", "large", "small", "label", "settle"]


@dataclass(frozen=True)
class Star:
    """The payload of a job. `rounds`: of verification, so far; `step`: counts the stages of this call."""

    layout: Layout
    rounds: int
    step: int
    kind: Kind
    partition: int

    def file(self, step: int, kind: str, partition: int) -> str:
        return f"stages/{STAGE}/{self._name(step, kind, partition)}.edges"

    def _name(self, step: int, kind: str, partition: int) -> str:
        return self.layout.name(self.rounds, f"stars-{step:03d}-{kind}", partition)

    @property
    def name(self) -> str:
        return self._name(self.step, self.kind, self.partition)

    def all_of(self, step: int, kind: str) -> list[str]:
        return [self.file(step, kind, partition) for partition in range(self.layout.partitions)]


def star(folder: Folder, work: Star) -> dict[str, Any]:
    """One job of any kind; its file is partitioned by the first document of an edge, or by the label."""
    run = {"link": _link, "large": _star, "small": _star, "label": _label, "settle": _settle}[work.kind]
    return run(folder, work)


def _near(folder: Folder, work: Star) -> np.ndarray:
    """The edges that a partition of the comparison found."""
    layout = work.layout
    names = [layout.file(r, "compare", work.partition, "near") for r in range(work.rounds)]
    return joined(read_buckets(folder, names, 0, EDGE), EDGE)


def _write(folder: Folder, work: Star, edges: np.ndarray, counts: dict[str, Any]) -> dict[str, Any]:
    owner = of_document(edges >> np.uint64(32), work.layout.partitions)
    name = work.file(work.step, work.kind, work.partition)
    file = write_buckets(folder, name, owner, edges.astype(PAIR), work.layout.partitions)
    return {**counts, "edges": len(edges), "moved": edges.nbytes, "files": [file]}


def _link(folder: Folder, work: Star) -> dict[str, Any]:
    """The edges both ways, and beside them as they are, by their first document."""
    edges, partitions = _near(folder, work), work.layout.partitions
    name = work.file(work.step, "found", work.partition)
    found = write_buckets(
        folder, name, of_document(edges["pair"] >> np.uint64(32), partitions), edges, partitions
    )
    counts = _write(folder, work, both_ways(np.ascontiguousarray(edges["pair"])), {})
    return {**counts, "moved": counts["moved"] + edges.nbytes, "files": [*counts["files"], found]}


def _star(folder: Folder, work: Star) -> dict[str, Any]:
    before = {"large": "small" if work.step > 1 else "link", "small": "large"}[work.kind]
    edges = joined(read_buckets(folder, work.all_of(work.step - 1, before), work.partition, PAIR), PAIR)
    edges = distinct(edges)
    if work.kind == "large":
        # Equal sums of mixed edges, and equal numbers of them, over all partitions: equal sets.
        with np.errstate(over="ignore"):
            mixed = (edges ^ (edges >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0x94D049BB133111EB)
            total = int(np.bitwise_xor.reduce(mixed)) if len(mixed) else 0
        return _write(folder, work, large_star(edges), {"read_edges": len(edges), "mixed": str(total)})
    return _write(folder, work, both_ways(small_star(edges)), {})


def _label(folder: Folder, work: Star) -> dict[str, Any]:
    """The edges found by verification, partitioned by the label of their component."""
    before = "small" if work.step > 1 else "link"
    node, label = labels(
        joined(read_buckets(folder, work.all_of(work.step - 1, before), work.partition, PAIR), PAIR)
    )
    edges = joined(read_buckets(folder, work.all_of(0, "found"), work.partition, EDGE), EDGE)
    left = edges["pair"] >> np.uint64(32)
    owner = of_document(label[np.searchsorted(node, left)], work.layout.partitions)
    name = work.file(work.step, work.kind, work.partition)
    file = write_buckets(folder, name, owner, edges, work.layout.partitions)
    own = node[label < node]
    return {"edges": len(edges), "inner": len(own), "moved": edges.nbytes, "files": [file]}


def _settle(folder: Folder, work: Star) -> dict[str, Any]:
    """The survivors of whole components."""
    edges = joined(read_buckets(folder, work.all_of(work.step - 1, "label"), work.partition, EDGE), EDGE)
    found = settle(edges, partial(_ranks, folder, work.layout), work.layout.minhash.threshold)
    name = work.file(work.step, work.kind, work.partition)
    return {"removed": len(found), "files": [write_sorted(folder, name, np.array([len(found)]), found)]}


def _ranks(folder: Folder, layout: Layout, documents: np.ndarray) -> np.ndarray:
    """Of these documents (rising), from the file with those of all, which may be more than a worker has."""
    found = [np.empty(0, "<u4")]
    for start in range(0, layout.starts[-1], BLOCK_DOCUMENTS):
        end = min(start + BLOCK_DOCUMENTS, layout.starts[-1])
        low, high = np.searchsorted(documents, [start, end])
        if low < high:
            block = np.frombuffer(read_range(folder, layout.ranks, 4 * start, 4 * end), "<u4")
            found.append(block[documents[low:high] - start])
    return np.concatenate(found)


def settle(edges: np.ndarray, ranks_of: Callable[[np.ndarray], np.ndarray], threshold: float) -> np.ndarray:
    """The documents that go, with survivor and similarity: FOUND [removed], by document. `edges`: EDGE."""
    left, right = unpack(np.ascontiguousarray(edges["pair"]))
    documents = distinct(np.concatenate([left, right]))
    own_left, own_right = (np.searchsorted(documents, side) for side in (left, right))
    rank = ranks_of(documents).astype(np.int64)
    duplicate_of, similarity = survivors(
        len(documents), own_left, own_right, np.ascontiguousarray(edges["similarity"]), rank, threshold
    )
    gone = np.flatnonzero(duplicate_of >= 0)
    found = np.empty(len(gone), FOUND)
    found["document"], found["survivor"] = documents[gone], documents[duplicate_of[gone]]
    found["similarity"] = similarity[gone]
    return found


def survivors_apart(
    folder: Folder, layout: Layout, rounds: int, run: Callable[[list[Job]], list[Counts]]
) -> tuple[np.ndarray, int]:
    """(FOUND of all documents that go, rounds of large-star and small-star) of the edges of all rounds."""

    def stage(step: int, kind: Kind) -> list[Counts]:
        works = [Star(layout, rounds, step, kind, partition) for partition in range(layout.partitions)]
        return run([Job(STAGE, work.name, star, work) for work in works])

    stage(0, "link")
    before: tuple[int, int] | None = None
    for round_ in range(MAX_STARS):
        read = stage(2 * round_ + 1, "large")
        mixed = 0
        for one in read:
            mixed ^= int(one["mixed"])
        now = sum(one["read_edges"] for one in read), mixed
        if now == before:
            stage(2 * round_ + 1, "label")
            stage(2 * round_ + 2, "settle")
            last = Star(layout, rounds, 2 * round_ + 2, "settle", 0)
            pieces = read_buckets(folder, last.all_of(2 * round_ + 2, "settle"), 0, FOUND)
            return np.sort(joined(pieces, FOUND), order="document"), round_
        before = now
        stage(2 * round_ + 2, "small")
    raise MalmoiError(
        f"decide: clusters of duplicates were not found within {MAX_STARS} rounds; please report"
    )
