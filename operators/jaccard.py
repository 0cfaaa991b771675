"""How alike two documents are: exactly, from their shingle sets, or estimated from their signatures.

A set is a run of sorted, unique 64-bit shingle ids (see `malmoi.operators.shingles`); many sets lie behind
each other in one array. Two different shingles share an id with probability 2^-64, so the figure is exact
for every practical purpose.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from .kernel import kernel
from .minhash import MinHash
from .shingles import shingle_ids


def shingle_sets(table: pa.Table, minhash: MinHash) -> tuple[np.ndarray, np.ndarray]:
    """The set of shingle ids of every row: (offsets int64 [rows + 1], ids uint64 [offsets[-1]]).

    The set of row i is `ids[offsets[i]:offsets[i + 1]]`, sorted and unique; it is empty for a document
    without a signature.
    """
    first, ids = shingle_ids(table, minhash.ngram, minhash.ngram_size)
    return unique_runs(first, ids)


def sketches(table: pa.Table, minhash: MinHash) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Signatures and shingle sets of the same shingles: (uint32 [rows, num_perm], and the two of `shingle_sets`)."""
    first, ids = shingle_ids(table, minhash.ngram, minhash.ngram_size)
    offsets, values = unique_runs(first, ids)
    return (
        minhash._signatures(offsets, values),
        offsets,
        values,
    )  # minima of a set, so repetition adds nothing


def unique_runs(first: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sort every run `ids[first[i]:first[i + 1]]` and drop what is twice in it; uint64 ids, int64 bounds."""
    offsets = np.zeros(len(first), dtype=np.int64)
    unique = np.empty(len(ids), dtype=np.uint64)
    total = _unique_runs(first, ids, offsets, unique)
    return offsets, unique[:total].copy()


def jaccard(offsets: np.ndarray, values: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """|A and B| / |A or B| of the sets `left[p]` and `right[p]`, float64 [pairs]; 0 where both are empty.

    `offsets`, `values` as `shingle_sets` gives them; `left`, `right`: int64 [pairs].
    Raises ValueError where the pairs differ in number or name a set that is not there.
    """
    both, sizes_left, sizes_right = _overlap(offsets, values, left, right)
    return np.asarray(both / np.maximum(sizes_left + sizes_right - both, 1))


def containment(offsets: np.ndarray, values: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """|A and B| / min(|A|, |B|), float64 [pairs]: how much of the smaller set is in the larger; 0 where one is
    empty. Arguments and errors as of `jaccard`."""
    both, sizes_left, sizes_right = _overlap(offsets, values, left, right)
    return np.asarray(both / np.maximum(np.minimum(sizes_left, sizes_right), 1))


def estimate(signatures: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The share of equal values in two MinHash signatures, float64 [pairs]: estimates the Jaccard similarity.

    `signatures`: uint32 [documents, permutations]; `left`, `right`: int64 [pairs] of rows in it.
    """
    if not len(left):
        return np.zeros(0, dtype=np.float64)
    return np.asarray(_equal(signatures, left.astype(np.int64), right.astype(np.int64)) / signatures.shape[1])


def estimate_floor(threshold: float, permutations: int, sigmas: float = 4.0) -> float:
    """The estimate below which a pair counts as below `threshold` without an exact comparison.

    Each of the signature's values agrees with the probability J, so the estimate of a pair at the threshold has
    the standard error sqrt(t (1 - t) / permutations); the floor lies `sigmas` of it below (0.8 and 112
    permutations: 0.649; one pair in 12,000 that is at 0.8 lies below it, of more alike ones fewer).
    """
    return threshold - sigmas * float(np.sqrt(threshold * (1.0 - threshold) / permutations))


def _overlap(
    offsets: np.ndarray, values: np.ndarray, left: np.ndarray, right: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(elements in both, elements of the left, of the right set), int64 [pairs] each."""
    if len(left) != len(right):
        raise ValueError(f"want as many left as right, got left={len(left)}, right={len(right)}")
    sets = len(offsets) - 1
    for side, numbers in (("left", left), ("right", right)):
        if len(numbers) and not (numbers.min() >= 0 and numbers.max() < sets):
            raise ValueError(f"{side}: want 0 <= set < {sets}, got min={numbers.min()}, max={numbers.max()}")
    sizes = np.diff(offsets)
    both = _both(offsets, values, left.astype(np.int64), right.astype(np.int64))
    return both, sizes[left], sizes[right]


@kernel
def _sort_hashes(ids: np.ndarray, out: np.ndarray) -> None:
    """Write `ids` sorted into `out`, in linear time because they are hashes, so spread evenly: scattered by
    their leading bits into about as many slots as there are ids, they lie almost in order for insertion."""
    size, bits = len(ids), 1
    while (1 << bits) < size and bits < 30:
        bits += 1
    shift = np.uint64(64 - bits)
    count = np.zeros((1 << bits) + 1, np.int64)
    for value in ids:
        count[np.int64(value >> shift) + 1] += 1
    for slot in range(1 << bits):
        count[slot + 1] += count[slot]
    for value in ids:
        place = np.int64(value >> shift)
        out[count[place]] = value
        count[place] += 1
    for i in range(1, size):
        value, j = out[i], i
        while j > 0 and out[j - 1] > value:
            out[j] = out[j - 1]
            j -= 1
        out[j] = value


@kernel
def _unique_runs(first: np.ndarray, ids: np.ndarray, offsets: np.ndarray, out: np.ndarray) -> int:
    place = 0
    for document in range(len(first) - 1):
        run = ids[first[document] : first[document + 1]]
        begin, end = place, place + len(run)
        _sort_hashes(run, out[begin:end])
        for i in range(begin, end):
            value = out[i]
            if place == begin or value != out[place - 1]:
                out[place] = value
                place += 1
        offsets[document + 1] = place
    return place


@kernel
def _both(offsets: np.ndarray, values: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    out = np.zeros(len(left), np.int64)
    for pair in range(len(left)):
        i, i_end = offsets[left[pair]], offsets[left[pair] + 1]
        j, j_end = offsets[right[pair]], offsets[right[pair] + 1]
        both = 0
        while i < i_end and j < j_end:
            a, b = values[i], values[j]
            both += a == b
            i += a <= b
            j += b <= a
        out[pair] = both
    return out


@kernel
def _equal(signatures: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    out = np.zeros(len(left), np.int64)
    for pair in range(len(left)):
        a, b, same = left[pair], right[pair], 0
        for k in range(signatures.shape[1]):
            same += signatures[a, k] == signatures[b, k]
        out[pair] = same
    return out
