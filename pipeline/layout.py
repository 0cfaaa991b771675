"""What the jobs of deduplication know of each other: groups, partitions, the names of files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from malmoi.operators.minhash import MinHash

from .storage import Folder

STAGE = "verify"
NO_RANK = 0xFFFFFFFF


@dataclass(frozen=True)
class Saved:
    """A shard of the saved index of an earlier run."""

    folder: Folder
    name: str


@dataclass(frozen=True)
class Piece:
    """Documents of one file, from the ordinal `first` to `end`: a part of this run, or a shard of a saved index."""

    file: int | Saved
    first: int
    end: int


@dataclass(frozen=True)
class Layout:
    """What all jobs know; it travels with each, so nothing in it is as long as the run has parts. `starts`: ordinals of
    the first document of each group of pieces, and the end; one job works on a group. `settled`: documents from this
    ordinal on are not compared with each other, as their runs have judged them; `tag`: begins the names of all
    files; `bundled`: how many files of a step and kind were put together, where it is not one (`bundles`)."""

    starts: tuple[int, ...]
    partitions: int
    minhash: MinHash
    measure: Literal["jaccard", "containment"]
    settled: int = NO_RANK
    tag: str = ""
    bundled: Mapping[str, int] = field(default_factory=dict)

    @property
    def groups(self) -> range:
        return range(len(self.starts) - 1)

    @property
    def ranks(self) -> str:
        """The file with the rank of every document, uint32; NO_RANK where it takes no part."""
        return f"stages/{STAGE}/{self.tag}ranks.u32"

    def open_file(self, round_: int) -> str:
        """Bits of the documents that take part in a round, then of those that are back in it."""
        return f"stages/{STAGE}/{self.tag}r{round_:02d}-open.bits"

    def group_of(self, documents: np.ndarray) -> np.ndarray:
        """int64: the group in which each ordinal lies."""
        return np.asarray(np.searchsorted(np.array(self.starts[:-1]), documents, side="right") - 1)

    def name(self, round_: int, step: str, index: int) -> str:
        """The name of a job; the number of partitions is in it, so that another number shares nothing."""
        return f"{self.tag}r{round_:02d}-{step}-{index:05d}-of-{self.partitions:05d}"

    def file(self, round_: int, step: str, index: int, kind: str) -> str:
        return f"stages/{STAGE}/{self.name(round_, step, index)}.{kind}"


@dataclass(frozen=True)
class Step:
    """The payload of a job: its round and its group or partition; `large`: the partitions with large buckets;
    `pieces`: those of the group."""

    layout: Layout
    round: int
    index: int
    large: tuple[int, ...] = ()
    pieces: tuple[Piece, ...] = ()
