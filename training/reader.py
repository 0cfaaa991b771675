"""Rows of tokens for training: seeded order, shared out by rank, exact and elastic resume; no Ray, no torch.

The order of an epoch depends on (rows, seed, epoch) alone: the row groups are shuffled, cut into windows of a
few groups, and the rows of a window are shuffled. Epochs follow each other without a gap. A step of `world`
workers takes the next world * batch_rows samples of that one order, worker `rank` its share of them. So the
number of samples seen is the whole state: a run may go on with other numbers of workers and rows, and
every row comes exactly once an epoch.
"""

from __future__ import annotations

import queue
import threading
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from malmoi.pipeline.errors import ChangedError, MalmoiError
from malmoi.pipeline.storage import Folder
from malmoi.pipeline.token_manifest import GROUP_ROWS, TokenManifest, read_token_manifest

Ints = NDArray[np.int32]

ORDER = "malmoi-order-v1"  # raised when the same seed gives another order
_WINDOW_BYTES = 64 * 1024**2
_MAX_WINDOW = 64
_TICK = 0.2  # seconds after which a waiting prefetch thread looks whether it is still wanted


@dataclass(frozen=True)
class Batch:
    """input_ids: int32 [B, S]; labels: int32 [B, S], -100 where nothing is learned, None for plain text (every
    token is); doc_starts: for each row int32 [D], where its documents begin, the first one at 0."""

    input_ids: Ints
    labels: Ints | None
    doc_starts: list[Ints]

    def torch(self) -> dict[str, Any]:
        """As torch tensors, int64 (`labels` equal to `input_ids` for plain text)."""
        import torch

        labels = self.input_ids if self.labels is None else self.labels
        tensors = {"input_ids": self.input_ids, "labels": labels}
        return {name: torch.from_numpy(x.astype(np.int64)) for name, x in tensors.items()}


@dataclass(frozen=True)
class Group:
    """Rows [start, stop) of row group `index` of shard `shard`."""

    shard: int
    index: int
    start: int
    stop: int


@dataclass(frozen=True)
class Window:
    """Groups that are shuffled together; `first`: samples of the epoch before them."""

    groups: tuple[Group, ...]
    first: int
    rows: int


class PackedReader:
    """Iterates `Batch`es of a folder that `malmoi tokenize` wrote; see the module for the order.

    rows: rows of an epoch, those in [first_row, last_row) of all in file order (a held-out part is left out
    so); epochs: None is endless. The last step of the last epoch may have fewer rows than batch_rows, or none
    for some ranks; all ranks have the same number of batches. window: row groups that are shuffled together
    (default: 64 MiB of tokens); it decides the order. prefetch: batches made ahead by a thread, 0 for none.

    ChangedError: a shard is missing or has another size, or a state is of other rows or another seed.
    Memory: two windows and the batches ahead. Every rank reads every window and takes its share of it.
    """

    def __init__(
        self,
        url: str,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        batch_rows: int = 8,
        *,
        epochs: int | None = None,
        first_row: int = 0,
        last_row: int | None = None,
        window: int | None = None,
        prefetch: int = 2,
        shuffle: bool = True,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if not 0 <= rank < world:
            raise ValueError(f"want 0 <= rank < world, got rank={rank}, world={world}")
        if batch_rows < 1 or prefetch < 0 or (window is not None and window < 1):
            raise ValueError(
                f"want batch_rows >= 1, window >= 1 and prefetch >= 0, got {batch_rows}, {window}, {prefetch}"
            )
        self.folder = Folder(url, dict(options or {}))
        self.manifest: TokenManifest = read_token_manifest(url, options)
        self.manifest.verify(self.folder)
        self.seed, self.rank, self.world, self.batch_rows = seed, rank, world, batch_rows
        self.epochs, self.prefetch, self.shuffle = epochs, prefetch, shuffle
        total = self.manifest.rows
        last_row = total if last_row is None else last_row
        if not 0 <= first_row < last_row <= total:
            raise MalmoiError(
                f"{self.folder.url}: want rows in 0 <= first < last <= {total:,}, got {first_row:,} to {last_row:,}"
            )
        self.range = (first_row, last_row)
        self.rows = last_row - first_row
        columns = 2 if self.manifest.kind == "sft" else 1
        group_bytes = GROUP_ROWS * self.manifest.seq_len * 4 * columns
        self.window = window or min(max(_WINDOW_BYTES // group_bytes, 1), _MAX_WINDOW)
        self.samples_seen = 0
        self._groups = _groups(self.manifest, first_row, last_row)
        self._plans: dict[int, list[Window]] = {}
        self._loaded: dict[tuple[int, int], Batch] = {}

    @property
    def order(self) -> dict[str, Any]:
        """What decides the order beside the number of samples seen."""
        return {
            "order": ORDER,
            "tokens_hash": self.manifest.tokens_hash,
            "seed": self.seed,
            "window": self.window,
            "shuffle": self.shuffle,
            "rows": list(self.range),
        }

    def state_dict(self) -> dict[str, Any]:
        """JSON values; the same on every rank."""
        return {"samples_seen": self.samples_seen, **self.order}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a reader was, also one of another rank, world or batch_rows."""
        for name, now in self.order.items():
            if state.get(name) != now:
                raise ChangedError(
                    f"{self.folder.url}: cannot go on: {name} was {state.get(name)!r} and is {now!r}"
                )
        self.seek(int(state["samples_seen"]))

    def seek(self, samples_seen: int) -> None:
        """The next iterator begins after this many samples of all workers; one that runs is not moved."""
        if samples_seen < 0:
            raise ValueError(f"want samples_seen >= 0, got {samples_seen}")
        self.samples_seen = samples_seen

    def __iter__(self) -> Iterator[Batch]:
        """Batches from `samples_seen` on, which is the number of samples up to the batch handed out last."""
        steps = self._steps(self.samples_seen)
        for after, batch in _ahead(steps, self.prefetch) if self.prefetch else steps:
            self.samples_seen = after
            yield batch

    def _steps(self, seen: int) -> Iterator[tuple[int, Batch]]:
        last = None if self.epochs is None else self.epochs * self.rows
        while last is None or seen < last:
            step = self.batch_rows * self.world
            if last is not None:
                step = min(step, last - seen)
            begin, stop = (seen + step * part // self.world for part in (self.rank, self.rank + 1))
            yield seen + step, self._take(begin, stop)
            seen += step

    def _take(self, begin: int, stop: int) -> Batch:
        """The samples [begin, stop) of the endless order."""
        pieces: list[Batch] = []
        while begin < stop or not pieces:
            epoch, place = divmod(begin, self.rows)
            plan = self._plan(epoch)
            number = bisect_right(plan, place, key=lambda window: window.first) - 1
            window = plan[number]
            low = place - window.first
            high = min(low + stop - begin, window.rows)
            pieces.append(_slice(self._load(epoch, number), low, high))
            begin += high - low
        if len(pieces) == 1:
            return pieces[0]
        labels = [piece.labels for piece in pieces if piece.labels is not None]
        return Batch(
            np.concatenate([piece.input_ids for piece in pieces]),
            np.concatenate(labels) if labels else None,
            [starts for piece in pieces for starts in piece.doc_starts],
        )

    def _plan(self, epoch: int) -> list[Window]:
        """The windows of an epoch; the last two epochs' are kept."""
        if epoch not in self._plans:
            order = permutation(len(self._groups), self.seed, epoch) if self.shuffle else None
            groups = self._groups if order is None else [self._groups[i] for i in order]
            windows, first = [], 0
            for at in range(0, len(groups), self.window):
                chosen = tuple(groups[at : at + self.window])
                rows = sum(group.stop - group.start for group in chosen)
                windows.append(Window(chosen, first, rows))
                first += rows
            self._plans = {key: x for key, x in self._plans.items() if abs(key - epoch) == 1}
            self._plans[epoch] = windows
        return self._plans[epoch]

    def _load(self, epoch: int, number: int) -> Batch:
        """The rows of a window in their order; the last two windows are kept."""
        key = (epoch, number)
        if key not in self._loaded:
            window = self._plan(epoch)[number]
            table = pa.concat_tables(self._read(window.groups))
            if self.shuffle:
                table = table.take(pa.array(permutation(window.rows, self.seed, epoch, number + 1)))
            while len(self._loaded) > 1:
                del self._loaded[next(iter(self._loaded))]
            self._loaded[key] = to_batch(table)
        return self._loaded[key]

    def _read(self, groups: tuple[Group, ...]) -> list[pa.Table]:
        """A table for each group, in the order given; each shard is opened once."""
        tables: dict[Group, pa.Table] = {}
        for shard in sorted({group.shard for group in groups}):
            name = self.manifest.shards[shard].path
            try:
                with self.folder.open(name) as stream, pq.ParquetFile(stream) as file:
                    for group in groups:
                        if group.shard == shard:
                            table = file.read_row_group(group.index)
                            tables[group] = table.slice(group.start, group.stop - group.start)
            except (OSError, pa.ArrowException) as error:
                raise ChangedError(
                    f"{self.folder.join(name)}: cannot be read ({error}); was it changed?"
                ) from error
        return [tables[group] for group in groups]


def permutation(count: int, seed: int, *stream: int) -> NDArray[np.int64]:
    """int64 [count]: an order of 0..count-1 by splitmix64 of (place, seed, stream).

    No generator of NumPy, whose streams may change with its version.
    """
    state = np.uint64(0)
    for part in (seed, *stream):
        state = _mix(np.array([(int(state) ^ part) % 2**64], np.uint64))[0]
    return np.argsort(_mix(np.arange(count, dtype=np.uint64) ^ state), kind="stable")


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64 (Steele, Lea, Flood 2014), one step of each value."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _groups(manifest: TokenManifest, first_row: int, last_row: int) -> list[Group]:
    """The row groups that hold a row of [first_row, last_row), cut to it."""
    groups, before = [], 0
    for number, shard in enumerate(manifest.shards):
        for index, start in enumerate(range(0, shard.rows, GROUP_ROWS)):
            rows = min(GROUP_ROWS, shard.rows - start)
            low = max(first_row - before - start, 0)
            high = min(last_row - before - start, rows)
            if low < high:
                groups.append(Group(number, index, low, high))
        before += shard.rows
    return groups


def to_batch(table: pa.Table) -> Batch:
    """All rows of a table with input_ids, doc_starts and perhaps labels."""

    def wide(name: str) -> Ints:
        values = table.column(name).combine_chunks().flatten().to_numpy()
        return np.asarray(values, dtype=np.int32).reshape(table.num_rows, -1)

    starts = table.column("doc_starts").combine_chunks()
    ends = np.cumsum(starts.value_lengths().to_numpy(zero_copy_only=False))[:-1]
    split = np.split(starts.flatten().to_numpy().astype(np.int32), ends)
    return Batch(wide("input_ids"), wide("labels") if "labels" in table.column_names else None, split)


def _slice(batch: Batch, low: int, high: int) -> Batch:
    labels = None if batch.labels is None else batch.labels[low:high]
    return Batch(batch.input_ids[low:high], labels, batch.doc_starts[low:high])


def _ahead(steps: Iterator[tuple[int, Batch]], count: int) -> Iterator[tuple[int, Batch]]:
    """The same, made by a thread that is `count` batches ahead; it ends with this iterator."""
    ready: queue.Queue[tuple[int, Batch] | BaseException | None] = queue.Queue(count)
    stopped = threading.Event()

    def put(item: tuple[int, Batch] | BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=_TICK)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in steps:
                if not put(item):
                    return
            put(None)
        except BaseException as error:  # raised again where the batch would be used
            put(error)

    thread = threading.Thread(target=work, name="malmoi-reader", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()
