"""Candidate pairs: documents that share a band, from rows of (band hash, document ordinal).

A pair of documents is one uint64, the smaller ordinal in the upper 32 bits and the larger in the lower, so
that sets of pairs are sorted arrays. The band's index is mixed into its hash (`MinHash.bands`), so rows of
all bands may lie together; a partition of the rows by band hash gives the same pairs part by part.

All pairs of a bucket would be quadratic in its size: a boilerplate page that occurs 100,000 times has
5 billion. A bucket of more than `max_bucket` documents therefore gives stars: its best-ranked documents in
turn, each paired with all that rank below, until there are as many pairs as `max_bucket` documents have.
Whatever is not similar to such a centre comes up again in the next round (`malmoi.operators.survivors`).
"""

from __future__ import annotations

import numpy as np

from .kernel import inline, kernel

NO_PAIRS = np.empty(0, dtype=np.uint64)
MAX_DOCUMENTS = 1 << 32


def pack(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """uint64 [pairs] of two int64 [pairs] of ordinals below 2^32, in either order."""
    low = np.minimum(left, right).astype(np.uint64)
    pairs: np.ndarray = (low << np.uint64(32)) | np.maximum(left, right).astype(np.uint64)
    return pairs


def unpack(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The smaller and the larger ordinal of every pair, int64 [pairs] each."""
    return (pairs >> np.uint64(32)).astype(np.int64), (pairs & np.uint64(0xFFFFFFFF)).astype(np.int64)


def band_rows(bands: np.ndarray, documents: np.ndarray, max_alone: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """The rows of all bands whose bucket has more than `max_alone` documents, ordered by band hash.

    `bands`: uint64 [documents, bands] of the documents that have a signature; `documents`: their ordinals
    int64 [documents]. Returns (band hash uint64 [rows], ordinal int64 [rows]). One band is sorted at a time:
    the memory above the result is about 24 bytes a document.
    """
    if len(bands) != len(documents):
        raise ValueError(f"want a band row per document, got bands={len(bands)}, documents={len(documents)}")
    keys, owners = [NO_PAIRS], [np.empty(0, dtype=np.int64)]
    for band in range(bands.shape[1]):
        rows = shared_rows(np.ascontiguousarray(bands[:, band]), documents, max_alone)
        keys.append(rows[0])
        owners.append(rows[1])
    return np.concatenate(keys), np.concatenate(owners)


def shared_rows(keys: np.ndarray, documents: np.ndarray, max_alone: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """The rows in buckets of more than `max_alone` rows, ordered by key: (uint64 [rows], int64 [rows])."""
    order = np.argsort(keys)
    ordered = keys[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=ordered[:1] + np.uint64(1)))
    sizes = np.diff(starts, append=len(ordered))
    keep = np.repeat(sizes > max_alone, sizes)
    return ordered[keep], documents[order[keep]].astype(np.int64)


def candidates(
    keys: np.ndarray,
    documents: np.ndarray,
    rank: np.ndarray,
    *,
    max_bucket: int = 64,
    verified: np.ndarray = NO_PAIRS,
) -> np.ndarray:
    """The pairs to verify next: uint64 [pairs], sorted and unique, none of them in `verified`.

    `keys`: uint64 [rows] band hashes in any order, all rows of a band hash among them; `documents`: int64
    [rows] ordinals; `rank`: int64 [all documents], 0 is the best and no two are equal; `verified`: sorted
    uint64 pairs that are known already. The result depends on ranks and buckets only, never on the order
    of the rows. It is empty only when every pair of every bucket is in `verified`.
    """
    if len(rank) > MAX_DOCUMENTS:
        raise ValueError(f"want at most {MAX_DOCUMENTS} documents, got {len(rank)}")
    keys, documents = shared_rows(keys, documents)
    order = by_bucket(keys, rank[documents])
    done = np.zeros(len(keys), dtype=bool)
    nothing = np.zeros(0, dtype=bool)
    return bucket_pairs(keys[order], documents[order], done, nothing, verified, max_bucket)


def by_bucket(keys: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """int64 [rows]: the order of rows by key (uint64), and by rank (of the row's document) within a key."""
    first = np.argsort(ranks)
    return np.asarray(first[np.argsort(keys[first], kind="stable")])


def bucket_pairs(
    keys: np.ndarray,
    documents: np.ndarray,
    done: np.ndarray,
    returned: np.ndarray,
    verified: np.ndarray,
    max_bucket: int,
    settled: int = MAX_DOCUMENTS,
) -> np.ndarray:
    """As `candidates`, of rows in the order of `by_bucket` that are kept from round to round.

    `done`: bool [rows], set here where the row's document has been a centre of its bucket; a centre meets in a
    later round those documents only that took no part in an earlier one and do now: `returned`, bool [rows], or
    empty where there are none. `verified`: sorted uint64. Documents from the ordinal `settled` on
    make no pairs with each other.
    """
    if max_bucket < 2:
        raise ValueError(f"want max_bucket >= 2, got max_bucket={max_bucket}")
    budget = max_bucket * (max_bucket - 1) // 2
    room = np.empty(_room(keys, budget), dtype=np.uint64)
    back = returned if len(returned) else np.zeros(len(documents), dtype=bool)
    found: np.ndarray = room[: _pairs(keys, documents, done, back, budget, verified, settled, room)]
    return distinct(found)


def by_hash(keys: np.ndarray, ties: np.ndarray) -> np.ndarray:
    """int64 [rows]: their order by hash, those of equal hashes by `ties`, then by row. As `np.lexsort`, which takes
    some times as long; it is asked only where two hashes are equal, as good as never."""
    order = np.argsort(keys)
    ordered = keys[order]
    equal = bool((ordered[1:] == ordered[:-1]).any())
    return np.lexsort((ties, keys)) if equal else np.asarray(order)


def distinct(values: np.ndarray) -> np.ndarray:
    """The distinct integers, rising, of an array or list. As `np.unique`, which goes through a hash table: of four
    million numbers that takes 3 s, and this 0.06."""
    found: np.ndarray = np.sort(values)
    first = np.ones(len(found), dtype=bool)
    np.not_equal(found[1:], found[:-1], out=first[1:])
    unique: np.ndarray = found[first]
    return unique


def large_rows(keys: np.ndarray, max_bucket: int) -> np.ndarray:
    """bool [rows]: the row's bucket has more than `max_bucket` rows; rows of a key lie together."""
    starts = np.flatnonzero(np.diff(keys, prepend=keys[:1] + np.uint64(1)))
    sizes = np.diff(starts, append=len(keys))
    return np.repeat(sizes > max_bucket, sizes)


@inline
def _bucket_end(keys: np.ndarray, start: int) -> int:
    end = start + 1
    while end < len(keys) and keys[end] == keys[start]:
        end += 1
    return end


@inline
def _contains(pairs: np.ndarray, pair: np.uint64) -> bool:
    low, high = 0, len(pairs)
    while low < high:
        middle = (low + high) >> 1
        if pairs[middle] < pair:
            low = middle + 1
        else:
            high = middle
    return low < len(pairs) and pairs[low] == pair


@inline
def _pack(a: np.int64, b: np.int64) -> np.uint64:
    return np.uint64((np.uint64(min(a, b)) << np.uint64(32)) | np.uint64(max(a, b)))


@kernel
def _room(keys: np.ndarray, budget: int) -> int:
    """The most pairs that `_pairs` can write: a started centre is finished, so the budget and one more."""
    total, start = 0, 0
    while start < len(keys):
        end = _bucket_end(keys, start)
        size = end - start
        total += min(size * (size - 1) // 2, budget + size)
        start = end
    return total


@kernel
def _pairs(
    keys: np.ndarray,
    documents: np.ndarray,
    done: np.ndarray,
    returned: np.ndarray,
    budget: int,
    verified: np.ndarray,
    settled: int,
    out: np.ndarray,
) -> int:
    total, start = 0, 0
    while start < len(keys):
        end = _bucket_end(keys, start)
        first, back = total, 0
        for row in range(start, end):
            back += returned[row]
        # Centres in rank order; what a centre has been compared with already costs no budget.
        for centre in range(start, end):
            if total > first and total - first >= budget:
                break
            if done[centre] and back == 0:
                continue
            for row in range(centre + 1, end):
                if done[centre] and not (returned[row] or returned[centre]):
                    continue
                if documents[centre] >= settled and documents[row] >= settled:
                    continue
                pair = _pack(documents[centre], documents[row])
                if len(verified) == 0 or not _contains(verified, pair):
                    out[total] = pair
                    total += 1
            done[centre] = True
        start = end
    return total
