"""From rows of the reader to the micro batches of a step, the same rows whatever the number of workers."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .attention import boundaries, document_starts, positions
from .losses import IGNORE, shifted_labels
from .reader import PackedReader


@dataclass(frozen=True)
class Batch:
    """input_ids: int64 [B, S]; target: int64 [B, S], what each position has to predict (IGNORE: nothing);
    position_ids: int64 [B, S] and bounds: int32 [K] (`boundaries`) where documents do not see each other, else None."""

    input_ids: Tensor
    target: Tensor
    position_ids: Tensor | None
    bounds: Tensor | None

    def to(self, device: torch.device) -> Batch:
        moved = [
            None if x is None else x.to(device, non_blocking=True)
            for x in (self.input_ids, self.target, self.position_ids, self.bounds)
        ]
        assert moved[0] is not None
        assert moved[1] is not None
        return Batch(moved[0], moved[1], moved[2], moved[3])


@dataclass(frozen=True)
class Split:
    """How `rows` of a step fall to `world` workers: each has `each` of them (the last ones may have fewer, filled
    up with rows that count nothing) in `micro` batches of at most `size` rows.

    Where the rows do not divide evenly, every worker reads all of a step and takes its own.
    """

    rows: int
    world: int
    rank: int
    each: int
    size: int

    @staticmethod
    def of(rows: int, per_device: int, rank: int, world: int) -> Split:
        each = math.ceil(rows / world)
        return Split(rows, world, rank, each, math.ceil(each / math.ceil(each / per_device)))

    @property
    def even(self) -> bool:
        return self.rows % self.world == 0

    @property
    def micro(self) -> int:
        return math.ceil(self.each / self.size)


def make_batch(
    input_ids: np.ndarray[Any, Any],
    labels: np.ndarray[Any, Any] | None,
    doc_starts: list[Any],
    separate: bool,
) -> Batch:
    """A batch on the CPU. `separate`: documents of a row do not see each other, and no token predicts the first
    one of the next document."""
    ids = torch.from_numpy(input_ids.astype(np.int64))
    wanted = None if labels is None else torch.from_numpy(labels.astype(np.int64))
    if not separate:
        return Batch(ids, shifted_labels(ids, wanted, None), None, None)
    starts = document_starts(doc_starts, ids.shape[1])
    return Batch(ids, shifted_labels(ids, wanted, starts), positions(starts), boundaries(starts))


class Steps:
    """The micro batches of each step for one worker.

    A reader is opened for (rank, world, rows of a worker and step) where rows divide evenly, else for (0, 1, all
    rows of a step).
    """

    def __init__(self, reader: PackedReader, split: Split, *, separate: bool) -> None:
        self.reader, self.split, self.separate = reader, split, separate
        self.source = iter(reader)

    def seek(self, samples: int) -> None:
        """Go on after so many samples of all workers."""
        self.close()
        self.reader.seek(samples)
        self.source = iter(self.reader)

    def close(self) -> None:
        """End the thread that reads ahead."""
        if isinstance(self.source, Generator):
            self.source.close()

    def next(self) -> list[Batch]:
        """Micro batches of `split.size` rows; rows that fill up have zeros and nothing to predict."""
        got = next(self.source)
        ids, labels, starts = got.input_ids, got.labels, list(got.doc_starts)
        split = self.split
        if not split.even:
            mine = slice(split.rank * split.each, (split.rank + 1) * split.each)
            ids, starts = ids[mine], starts[mine]
            labels = None if labels is None else labels[mine]
        whole = split.micro * split.size
        absent = whole - len(ids)
        if absent:
            labels = ids if labels is None else labels
            ids = np.concatenate([ids, np.zeros((absent, ids.shape[1]), ids.dtype)])
            empty = np.full((absent, labels.shape[1]), IGNORE, labels.dtype)
            labels = np.concatenate([labels, empty])
            starts += [np.zeros(1, np.int32)] * absent
        parts = [slice(begin, begin + split.size) for begin in range(0, whole, split.size)]
        return [
            make_batch(ids[x], None if labels is None else labels[x], starts[x], self.separate) for x in parts
        ]
