"""Bucket files put together before very many jobs read from them.

Each of a thousand readers takes its bucket out of each of a thousand files: a million small ranges, two requests each
in a store. Where they are so many and so small, some jobs read files whole and write them as one in which the rows
of a bucket lie behind each other, file by file; a reader asks for these at once and gets the same pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from .batches import files_merged
from .buckets import merge_files, read_bucket, read_span
from .layout import Layout
from .storage import Folder, in_parallel

Made: TypeAlias = tuple[int, str, str]
"""Round, step and kind of the files that a step wrote."""


@dataclass(frozen=True)
class Bundle:
    """The payload of a job: the files of `kinds` that these jobs (`sources`) of a step wrote are made one a kind.
    `size`: how many files the largest of the bundles holds; `index`: of this bundle."""

    layout: Layout
    round: int
    step: str
    kinds: tuple[str, ...]
    sources: tuple[int, ...]
    size: int
    index: int

    @property
    def name(self) -> str:
        return self.layout.name(self.round, _bundled(self.step, self.kinds[0], self.size), self.index)


def _bundled(step: str, kind: str, size: int) -> str:
    return f"{step}-{kind}-by-{size}"


def _key(made: Made) -> str:
    return "{:02d} {} {}".format(*made)


def bundles(
    layout: Layout,
    round_: int,
    step: str,
    kinds: tuple[str, ...],
    files: Sequence[int],
    readers: int,
    size: int,
) -> tuple[Layout, list[Bundle]]:
    """The jobs to run before `readers` jobs read what the jobs `files` of a step wrote, `size` bytes in all; none
    where they may as well read it as it is. And the layout by which they find it."""
    together = files_merged(len(files), readers, size)
    if together == 1:
        return layout, []
    spans = range(0, len(files), together)
    works = [
        Bundle(layout, round_, step, kinds, tuple(files[i : i + together]), together, i // together)
        for i in spans
    ]
    known = {_key((round_, step, kind)): together for kind in kinds}
    return replace(layout, bundled={**layout.bundled, **known}), works


def bundle(folder: Folder, work: Bundle) -> dict[str, Any]:
    """The job: one file a kind."""
    layout = work.layout
    made = [
        merge_files(
            folder,
            [layout.file(work.round, work.step, source, kind) for source in work.sources],
            layout.file(work.round, _bundled(work.step, kind, work.size), work.index, kind),
        )
        for kind in work.kinds
    ]
    return {"moved": sum(size for _, size, _ in made), "files": made}


def inputs(
    folder: Folder,
    layout: Layout,
    made: Made,
    sources: Sequence[int],
    bucket: int,
    dtype: np.dtype,
    keep: Callable[[np.ndarray], np.ndarray] = lambda rows: rows,
) -> list[np.ndarray]:
    """The rows of a bucket in the file of each of `sources`, in their order; of each what `keep` leaves of it."""
    round_, step, kind = made
    size = layout.bundled.get(_key(made), 1)
    if size == 1:
        return in_parallel(
            folder,
            lambda source: keep(read_bucket(folder, layout.file(round_, step, source, kind), bucket, dtype)),
            sources,
        )

    def span(index: int) -> list[np.ndarray]:
        name = layout.file(round_, _bundled(step, kind, size), index, kind)
        count = min(size, len(sources) - index * size)
        return [keep(rows) for rows in read_span(folder, name, bucket * count, count, dtype)]

    found = in_parallel(folder, span, range(-(-len(sources) // size)))
    return [rows for rows_of in found for rows in rows_of]
