"""The keys of all kept documents of a run as arrays: what deduplication and mixing work on.

A document is a dense ordinal here: the offset of its part plus its row. Its id is looked up at the end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from .shards import open_parquet, part_file
from .storage import Folder, in_parallel

NUMBERS = ("id_lo", "id_hi", "exact_lo", "exact_hi", "quality", "length", "priority", "text_bytes", "tokens")
NAMES = ("group", "source", "language")


@dataclass(frozen=True)
class Coded:
    """A text column as codes: int32 [n] into `names`, which are sorted."""

    codes: np.ndarray
    names: tuple[str, ...]


@dataclass(frozen=True)
class Keys:
    """`first`: int64 [parts + 1] ordinals of the parts' first documents; `numbers`: one array [n] a column."""

    first: np.ndarray
    numbers: dict[str, np.ndarray]
    names: dict[str, Coded]

    @property
    def num_docs(self) -> int:
        return int(self.first[-1])

    def part_of(self, ordinals: np.ndarray) -> np.ndarray:
        """int64: the part in which each ordinal lies."""
        return np.searchsorted(self.first, ordinals, side="right") - 1


def coded(pieces: list[pa.DictionaryArray]) -> Coded:
    """Of the parts' columns behind each other."""
    names = sorted({name for piece in pieces for name in piece.dictionary.to_pylist()})
    place = {name: code for code, name in enumerate(names)}
    # A list, not an array of fixed width: one long name would make every name as long.
    codes = [np.zeros(0, dtype=np.int32)]
    for piece in pieces:
        own = np.array([place[name] for name in piece.dictionary.to_pylist()], dtype=np.int32)
        indices = piece.indices.to_numpy(zero_copy_only=False)
        codes.append(own[indices] if len(own) else indices.astype(np.int32))
    return Coded(np.concatenate(codes), tuple(names))


def load_keys(folder: Folder, num_parts: int) -> Keys:
    """Read the keys files of all parts, in the parts' order, without the bands."""
    sizes: list[int] = []
    numbers: dict[str, list[np.ndarray]] = {name: [] for name in NUMBERS}
    names: dict[str, list[pa.DictionaryArray]] = {name: [] for name in NAMES}

    def read(index: int) -> tuple[list[np.ndarray], list[pa.DictionaryArray]]:
        with open_parquet(folder, part_file(index, "keys")) as file:
            table = file.read([*NUMBERS, *NAMES])
        coded = [table.column(name).combine_chunks().dictionary_encode() for name in NAMES]
        return [table.column(name).to_numpy() for name in NUMBERS], coded

    for of_numbers, of_names in in_parallel(folder, read, range(num_parts)):
        sizes.append(len(of_numbers[0]))
        for name, values in zip(NUMBERS, of_numbers, strict=True):
            numbers[name].append(values)
        for name, codes in zip(NAMES, of_names, strict=True):
            names[name].append(codes)
    return Keys(
        first=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        numbers={name: np.concatenate(pieces) for name, pieces in numbers.items()},
        names={name: coded(pieces) for name, pieces in names.items()},
    )
