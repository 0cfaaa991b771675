"""Documents of any length into rows of one length.

`concat` for pretraining: documents one after the other, cut wherever a row ends; every row is full. `best_fit`
for examples that must stay whole: best-fit decreasing (Johnson 1974), each example in the row with the least
room that holds it; the rest of a row is padding.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .kernel import kernel

IGNORE = -100  # the label that torch's cross_entropy leaves out

Ints = NDArray[np.int32]
Offsets = NDArray[np.int64]


def _no_tokens() -> Ints:
    return np.zeros(0, np.int32)


@dataclass(frozen=True)
class Rows:
    """input_ids: int32 [R, S]; labels: int32 [R, S], or None where every token counts; starts: int32, where
    the documents of a row begin, the first at 0; those of row r are starts[first[r]:first[r + 1]], first
    int64 [R + 1]. tokens: places that are no padding.
    """

    input_ids: Ints
    labels: Ints | None
    starts: Ints
    first: Offsets
    tokens: int

    @property
    def fill(self) -> float:
        """Share of the places that hold a token; 1.0 where there is no row."""
        return self.tokens / self.input_ids.size if self.input_ids.size else 1.0


@dataclass(frozen=True)
class Carry:
    """What is left of a stream after its last full row: ids int32 [< S]; starts: int32, places in it."""

    ids: Ints = field(default_factory=_no_tokens)
    starts: Ints = field(default_factory=_no_tokens)


def concat(
    ids: Ints, offsets: Offsets, seq_len: int, carry: Carry, *, before: int | None, after: int | None
) -> tuple[Rows, Carry]:
    """Full rows of `carry` and the documents after it, and what is left.

    before, after: the ids put around each document (bos, eos), None for none. Calls one after the other give
    the same rows however the documents are cut into calls.
    """
    lead, tail = int(before is not None), int(after is not None)
    lengths = np.diff(offsets) + lead + tail
    begin = len(carry.ids) + np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    stream = np.empty(int(begin[-1]), np.int32)
    stream[: len(carry.ids)] = carry.ids
    if before is not None:
        stream[begin[:-1]] = before
    if after is not None:
        stream[begin[1:] - 1] = after
    _scatter(ids, offsets, begin[:-1] + lead, stream)
    starts = np.concatenate([carry.starts.astype(np.int64), begin[:-1][lengths > 0]])
    rows = len(stream) // seq_len
    cut = rows * seq_len
    left = Carry(stream[cut:].copy(), (starts[starts >= cut] - cut).astype(np.int32))
    places = np.union1d(starts[starts < cut], np.arange(rows, dtype=np.int64) * seq_len)
    first = np.searchsorted(places, np.arange(rows + 1, dtype=np.int64) * seq_len)
    body = stream[:cut].reshape(rows, seq_len)
    return Rows(body, None, (places % seq_len).astype(np.int32), first, cut), left


def pad(carry: Carry, seq_len: int, pad_id: int) -> Rows:
    """The last row, filled up; no row where nothing is left. Labels are IGNORE in the padding."""
    rows = int(len(carry.ids) > 0)
    ids = np.full((rows, seq_len), pad_id, np.int32)
    labels = np.full((rows, seq_len), IGNORE, np.int32)
    ids[:, : len(carry.ids)] = carry.ids
    labels[:, : len(carry.ids)] = carry.ids
    starts = np.union1d(carry.starts, [0]).astype(np.int32) if rows else _no_tokens()
    return Rows(ids, labels, starts, np.array([0, len(starts)][: rows + 1], np.int64), len(carry.ids))


def best_fit(
    ids: Ints, labels: Ints, offsets: Offsets, seq_len: int, pad_id: int, *, pack: bool = True
) -> Rows:
    """Rows of whole examples; `pack=False` gives each its own row.

    Every example must have 1 to `seq_len` tokens (ValueError). Within a row longer ones come first; rows are
    in the order of their first examples in the input, so that the last rows, which training may hold out, are
    no shorter than others. O(n log seq_len).
    """
    lengths = np.diff(offsets)
    if len(lengths) and not 1 <= lengths.min() <= lengths.max() <= seq_len:
        raise ValueError(f"examples of {lengths.min():,} to {lengths.max():,} tokens, want 1 to {seq_len:,}")
    order = np.argsort(-lengths, kind="stable") if pack else np.arange(len(lengths))
    row = np.arange(len(lengths))
    place = np.zeros(len(lengths), np.int64)
    if pack:
        _best_fit(lengths[order], seq_len, row, place)
        row = np.argsort(np.argsort(order[place == 0]))[row]  # a row is opened by the example at its place 0
    rows = int(row.max(initial=-1)) + 1
    sequence = np.lexsort((place, row))  # by row, then by place
    picked, row, place = order[sequence], row[sequence], place[sequence]
    flat_ids = np.full(rows * seq_len, pad_id, np.int32)
    flat_labels = np.full(rows * seq_len, IGNORE, np.int32)
    target = np.empty(len(lengths), np.int64)
    target[picked] = row * seq_len + place
    _scatter(ids, offsets, target, flat_ids)
    _scatter(labels, offsets, target, flat_labels)
    shape = (rows, seq_len)
    first = np.searchsorted(row, np.arange(rows + 1))
    return Rows(
        flat_ids.reshape(shape), flat_labels.reshape(shape), place.astype(np.int32), first, int(lengths.sum())
    )


def _scatter(values: Ints, offsets: Offsets, target: Offsets, out: Ints) -> None:
    """Write values[offsets[i]:offsets[i + 1]] to `out` from target[i] on, for every i."""
    _copy_runs(values, np.ascontiguousarray(offsets), np.ascontiguousarray(target), out)


@kernel
def _copy_runs(
    values: NDArray[np.int32], offsets: NDArray[np.int64], target: NDArray[np.int64], out: NDArray[np.int32]
) -> None:
    for i in range(len(offsets) - 1):
        shift = target[i] - offsets[i]
        for k in range(offsets[i], offsets[i + 1]):
            out[k + shift] = values[k]


@kernel
def _best_fit(
    lengths: NDArray[np.int64], size: int, row: NDArray[np.int64], place: NDArray[np.int64]
) -> None:
    """Rows and places of examples whose lengths fall. `tree`: how many open rows there are by room, summed
    over powers of two, so that the least room that is enough is found by walking it; rows of the same room
    are taken last in, first out."""
    leaves = 1
    while leaves < size + 1:
        leaves *= 2
    tree = np.zeros(2 * leaves, np.int64)
    head = np.full(size + 1, -1, np.int64)
    below = np.full(len(lengths), -1, np.int64)
    opened = 0
    for i in range(len(lengths)):
        length = lengths[i]
        node = leaves + length
        if tree[node] == 0:
            while node > 1 and (node % 2 == 1 or tree[node + 1] == 0):
                node //= 2
            if node > 1:
                node += 1
                while node < leaves:
                    node = 2 * node if tree[2 * node] > 0 else 2 * node + 1
        if node > 1:
            room = node - leaves
            chosen = head[room]
            head[room] = below[chosen]
            while node >= 1:
                tree[node] -= 1
                node //= 2
        else:
            room, chosen = size, opened
            opened += 1
        row[i], place[i] = chosen, size - room
        left = room - length
        if left > 0:
            below[chosen] = head[left]
            head[left] = chosen
            node = leaves + left
            while node >= 1:
                tree[node] += 1
                node //= 2
