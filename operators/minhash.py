"""MinHash signatures and their LSH bands.

Signatures are bit-identical to datasketch 2.0: `MinHash(num_perm, seed, hashfunc=..., scheme="affine32")`
with `malmoi.operators.shingles.hashfunc(ngram)`, updated with the document's shingles. Permutation k of a
shingle's 32-bit hash h is a_k * fmix32(h) + b_k mod 2^32, a_k odd.

Broder, "On the resemblance and containment of documents", 1997; default 14 bands of 8 rows of word 5-grams:
Penedo et al., "The FineWeb Datasets", 2024, section 3.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from .contract import TEXT, Kind, with_columns
from .hash_lanes import hash_runs
from .hashing import xxh64
from .kernel import lean
from .minima import minima
from .shingles import SCHEME, Ngram, shingle_runs

BANDS = "bands"


@dataclass(frozen=True)
class MinHash:
    """Adds `bands`: one 64-bit hash per LSH band, null for a document without words.

    `bands` * `rows` may be less than `num_perm` (the rest of the signature is then not used for bands), never
    more. `threshold` is the exact Jaccard similarity from which on a pair counts as duplicates; it does not
    change the bands, see `probability` for what they find.
    """

    ngram: Ngram = "word"
    ngram_size: int = 5
    num_perm: int = 112
    bands: int = 14
    rows: int = 8
    threshold: float = 0.8
    seed: int = 1

    name: ClassVar[str] = "minhash"
    version: ClassVar[int] = 1
    kind: ClassVar[Kind] = "signal"
    reference: ClassVar[str] = (
        "Broder 1997; FineWeb (Penedo et al. 2024) section 3.5; datasketch 2.0 affine32"
    )

    def __post_init__(self) -> None:
        if self.ngram not in ("word", "char"):
            raise ValueError(f"ngram: want word or char, got {self.ngram!r}")
        for name in ("ngram_size", "num_perm", "bands", "rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: want >= 1, got {getattr(self, name)}")
        if self.bands * self.rows > self.num_perm:
            raise ValueError(
                f"want bands * rows <= num_perm, got {self.bands} * {self.rows} = {self.bands * self.rows} "
                f"and num_perm={self.num_perm}"
            )
        if not 0.0 < self.threshold <= 1.0:
            raise ValueError(f"threshold: want 0 < threshold <= 1, got {self.threshold}")
        if not 0 <= self.seed < 1 << 32:
            raise ValueError(f"seed: want 0 <= seed < {1 << 32}, got {self.seed}")

    @property
    def needs(self) -> tuple[str, ...]:
        return (TEXT,)

    @property
    def adds(self) -> pa.Schema:
        return pa.schema([(BANDS, pa.list_(pa.uint64(), self.bands))])

    @property
    def scheme(self) -> str:
        """Name and version of everything that decides the bands; bands of different schemes never mix."""
        return (
            f"{SCHEME}/{self.ngram}-{self.ngram_size}/affine32-{self.num_perm}-seed-{self.seed}"
            f"/bands-{self.bands}x{self.rows}-xxh64-v1"
        )

    def probability(self, similarity: float | np.ndarray) -> np.ndarray:
        """Of two documents of this Jaccard similarity: the chance that they share a band, float64."""
        return 1.0 - (1.0 - np.asarray(similarity, dtype=np.float64) ** self.rows) ** self.bands

    def signatures(self, table: pa.Table) -> np.ndarray:
        """uint32 [rows, num_perm]; all 2^32 - 1 for a document without shingles, as in datasketch."""
        out = np.empty((table.num_rows, self.num_perm), dtype=np.uint32)
        for row, first, ids in shingle_runs(table, self.ngram, self.ngram_size):
            minima(first, ids, self.seed, out[row : row + len(first) - 1])
        return out

    def _signatures(self, first: np.ndarray, ids: np.ndarray) -> np.ndarray:
        out = np.empty((len(first) - 1, self.num_perm), dtype=np.uint32)
        minima(first, ids, self.seed, out)
        return out

    def band_hashes(self, signatures: np.ndarray) -> np.ndarray:
        """uint64 [rows, bands] of uint32 [rows, num_perm].

        Band k is xxh64 with seed k of its `rows` values, little-endian, that is of
        `signature[k * rows : (k + 1) * rows].astype("<u4").tobytes()`.
        """
        data = np.ascontiguousarray(signatures, dtype="<u4").view(np.uint8).reshape(-1)
        out = np.empty((len(signatures), self.bands), dtype=np.uint64)
        _band_hashes(data, 4 * self.num_perm, 4 * self.rows, np.empty(8, np.uint64), out)
        return out

    def __call__(self, table: pa.Table) -> pa.Table:
        out = np.empty((table.num_rows, self.bands), dtype=np.uint64)
        without = np.empty(table.num_rows, dtype=bool)
        # Run by run, so that signatures, which are larger than short documents, never leave the cache.
        for row, first, ids in shingle_runs(table, self.ngram, self.ngram_size):
            rows = slice(row, row + len(first) - 1)
            out[rows] = self.band_hashes(self._signatures(first, ids))
            np.equal(first[1:], first[:-1], out=without[rows])
        hashes = pa.array(out.reshape(-1))
        column = pa.FixedSizeListArray.from_arrays(hashes, self.bands, mask=pa.array(without))
        return with_columns(table, [(BANDS, column)])


@lean
def _band_hashes(data: np.ndarray, stride: int, width: int, eight: np.ndarray, out: np.ndarray) -> None:
    bands = out.shape[1]
    for document in range(out.shape[0]):
        start = document * stride
        if width & 7:
            for band in range(bands):
                out[document, band] = xxh64(data, start, start + width, np.uint64(band))
                start += width
            continue
        for band in range(0, bands, 8):
            more = min(bands - band, 8)
            hash_runs(data, start + band * width, width, more, band, eight)
            for k in range(more):
                out[document, band + k] = eight[k]
