"""The keys of all kept documents of a run as arrays: what deduplication and mixing work on.

A document is a dense ordinal here: the offset of its part plus its row. Its id is looked up at the end. One process
holds these arrays, so they are as narrow as their values allow, and a column with one value takes no memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa

from .errors import MalmoiError
from .shards import open_parquet, part_file
from .storage import READERS, Folder, in_parallel

NUMBERS = ("id_lo", "id_hi", "exact_lo", "exact_hi", "quality", "length", "priority", "text_bytes", "tokens")
NAMES = ("group", "source", "language")
_BLOCK = 1 << 18


@dataclass(frozen=True)
class Coded:
    """A text column as codes: int8, int16 or int32 [n] into `names`, which are sorted."""

    codes: np.ndarray
    names: tuple[str, ...]


@dataclass(frozen=True)
class Keys:
    """`first`: int64 [parts + 1] ordinals of the parts' first documents; `numbers`: one array [n] a column, integers
    of 32 bits where all fit into these: what may exceed them (a sum, a product) is to be asked for in 64."""

    first: np.ndarray
    numbers: dict[str, np.ndarray]
    names: dict[str, Coded]

    @property
    def num_docs(self) -> int:
        return int(self.first[-1])

    def part_of(self, ordinals: np.ndarray) -> np.ndarray:
        """int64: the part in which each ordinal lies."""
        return np.searchsorted(self.first, ordinals, side="right") - 1

    def text_of_parts(self, copies: np.ndarray | None = None) -> list[int]:
        """Bytes of text of each part, a document as often as `copies` [n] says."""
        sizes, total = self.numbers["text_bytes"], []
        for start, end in pairwise(self.first.tolist()):
            own = sizes[start:end].astype(np.int64)
            total.append(int(own.sum() if copies is None else (own * copies[start:end]).sum()))
        return total


def blocks(count: int) -> Iterator[slice]:
    """Slices of some documents each, for what would else make arrays of all beside those that are there."""
    return (slice(start, min(start + _BLOCK, count)) for start in range(0, count, _BLOCK))


def add_by(sums: np.ndarray, codes: np.ndarray, weights: np.ndarray) -> None:
    """Add each weight to the sum of its code. Integers stay exact, which they would not as weights of `bincount`."""
    if len(sums) == 1:
        sums += weights.sum()
    else:
        np.add.at(sums, codes, weights)


class Filling:
    """An array of `count` values that come piece by piece: one value as long as all are the same, integers of as few
    bits as hold them."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.values = np.zeros(0, dtype=np.int8)

    def put(self, start: int, piece: np.ndarray) -> None:
        """`piece` [m] from `start` on; pieces come in order and leave nothing out."""
        if not len(piece):
            self.values = self.values if self._count else piece
            return
        if not len(self.values):
            self.values = np.broadcast_to(piece[:1].astype(_narrow(piece)), self._count)
        kind = np.result_type(self.values.dtype, _narrow(piece))
        constant = self.values.strides == (0,)
        if constant and bool((piece == self.values[0]).all()):
            return
        if constant or kind != self.values.dtype:
            values = np.empty(self._count, dtype=kind)
            values[:start] = self.values[:start]
            self.values = values
        self.values[start : start + len(piece)] = piece


def _narrow(piece: np.ndarray) -> np.dtype:
    """Of hashes (unsigned) and fractions as it is."""
    if piece.dtype.kind != "i":
        return piece.dtype
    low, high = int(piece.min()), int(piece.max())
    for kind in (np.int8, np.int16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return np.dtype(kind)
    return piece.dtype


class _Names:
    """A text column while it is read: codes in the order in which names come, sorted at the end."""

    def __init__(self, count: int) -> None:
        self._codes = Filling(count)
        self._place: dict[str, int] = {}

    def put(self, start: int, piece: pa.DictionaryArray) -> None:
        names = piece.dictionary.to_pylist()
        own = np.array([self._place.setdefault(name, len(self._place)) for name in names], dtype=np.int32)
        if len(piece):
            self._codes.put(start, own[piece.indices.to_numpy(zero_copy_only=False)])

    def coded(self) -> Coded:
        names, codes = sorted(self._place), self._codes.values
        rank = np.empty(len(names), dtype=codes.dtype)
        rank[[self._place[name] for name in names]] = np.arange(len(names))
        if codes.flags.writeable:  # else all have the one name that there is
            for block in blocks(len(codes)):
                codes[block] = rank[codes[block]]
        return Coded(codes, tuple(names))


def coded(pieces: Sequence[pa.DictionaryArray]) -> Coded:
    """Of columns behind each other."""
    found, start = _Names(sum(map(len, pieces))), 0
    for piece in pieces:
        found.put(start, piece)
        start += len(piece)
    return found.coded()


def load_keys(folder: Folder, documents: Sequence[int]) -> Keys:
    """Read the keys files of all parts, in the parts' order, without the bands. `documents`: how many each part has;
    MalmoiError where a file has another number."""
    first = np.concatenate([[0], np.cumsum(np.asarray(documents, dtype=np.int64))]).astype(np.int64)
    numbers = {name: Filling(int(first[-1])) for name in NUMBERS}
    names = {name: _Names(int(first[-1])) for name in NAMES}

    def read(index: int) -> tuple[list[np.ndarray], list[pa.DictionaryArray]]:
        with open_parquet(folder, part_file(index, "keys")) as file:
            table = file.read([*NUMBERS, *NAMES])
        if table.num_rows != documents[index]:
            place = folder.join(part_file(index, "keys"))
            raise MalmoiError(f"{place}: {table.num_rows:,} rows, want {documents[index]:,}")
        coded = [table.column(name).combine_chunks().dictionary_encode() for name in NAMES]
        return [table.column(name).to_numpy() for name in NUMBERS], coded

    at_once = 1 if folder.is_local else READERS  # as they were read, the keys take twice as much
    for begin in range(0, len(documents), at_once):
        some = range(begin, min(begin + at_once, len(documents)))
        for part, (of_numbers, of_names) in zip(some, in_parallel(folder, read, some), strict=True):
            for column, values in zip(numbers.values(), of_numbers, strict=True):
                column.put(int(first[part]), values)
            for texts, codes in zip(names.values(), of_names, strict=True):
                texts.put(int(first[part]), codes)
    return Keys(
        first,
        {name: column.values for name, column in numbers.items()},
        {name: texts.coded() for name, texts in names.items()},
    )
