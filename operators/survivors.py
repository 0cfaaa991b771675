"""Which copy stays: a stated total order, and one survivor for every group of verified duplicates.

A fuzzy duplicate is removed only for a survivor that it is itself similar to. Documents are tried from the
best-ranked to the worst: one that has a verified pair with a better-ranked survivor goes, and names the
best-ranked such survivor; any other stays. That is the greedy maximal independent set in rank order, so a
survivor is never removed, no two survivors are a verified pair, and no chain of small differences drags in
what is unlike the survivor. Connected components, the usual choice, promise none of this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .candidates import NO_PAIRS, band_rows, bucket_pairs, by_bucket, by_hash, large_rows, shared_rows, unpack
from .kernel import kernel

STAYS, EXACT, FUZZY = 0, 1, 2
PREFER = ("quality", "length", "priority")
_AT_ONCE = 1 << 20  # documents whose hashes are sorted together

Verify = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(left int64 [pairs], right int64 [pairs]) -> similarity float64 [pairs]."""


@dataclass(frozen=True)
class Survivors:
    """What became of every document, and how it was found.

    `duplicate_of`: int64 [documents], the ordinal of the survivor, -1 where the document stays;
    `similarity`: float32 [documents], to that survivor, NaN where the document stays; `kind`: int8
    [documents], 0 stays, 1 exact copy, 2 fuzzy duplicate. `verified` and `removed` count per round the
    pairs compared and the documents out after it; `left` is how many pairs a further round would have
    compared, 0 unless the rounds were used up.
    """

    duplicate_of: np.ndarray
    similarity: np.ndarray
    kind: np.ndarray
    verified: tuple[int, ...] = ()
    removed: tuple[int, ...] = ()
    left: int = 0

    @property
    def rounds(self) -> int:
        return len(self.verified)


def rank(numbers: Mapping[str, np.ndarray], source: np.ndarray, prefer: Sequence[str] = PREFER) -> np.ndarray:
    """The place of every document in the total order, int64 [documents], 0 is the best; no two are equal.

    `numbers`: the columns of `prefer` and `id_hi`, `id_lo` (uint64), one array [documents] each; `source`:
    int [documents], the place of the document's source among the sorted names. The columns of `prefer` in
    turn, larger first, NaN last; then source, `id_hi`, `id_lo`, smaller first; documents that agree in all
    of it keep their order. Raises ValueError for a column that is not among "quality", "length", "priority".
    """
    for name in prefer:
        if name not in PREFER:
            raise ValueError(f"prefer: want some of {', '.join(PREFER)}, got {name!r}")
    order = by_hash(numbers["id_hi"], numbers["id_lo"])
    falling = [numbers[name] for name in prefer]
    for values in (source, *reversed(falling)):
        if _differ(values):  # what all have in common orders nothing
            key = values if values is source else _descending(values)
            order = order[np.argsort(key[order], kind="stable")]
    places = np.empty(len(order), dtype=np.int64)
    for start in range(0, len(order), _AT_ONCE):
        some = order[start : start + _AT_ONCE]
        places[some] = np.arange(start, start + len(some))
    return places


def _differ(values: np.ndarray) -> bool:
    return len(values) > 0 and not bool((values == values[0]).all())


def _descending(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "f":
        return -np.where(np.isnan(values), -np.inf, values)
    return np.asarray(~values)  # negation without an overflow at the smallest value


def exact_groups(
    lo: np.ndarray, hi: np.ndarray, rank: np.ndarray | None = None, active: np.ndarray | None = None
) -> np.ndarray:
    """`duplicate_of` int64 [documents] by equal 128-bit hashes: -1 for the best-ranked of every group.

    `lo`, `hi`: uint64 [documents]; `rank`: integers [documents], None: the first of a group is the best; `active`:
    bool [documents], those that take part (None: all). Memory above the result: about 2 bytes a document and 100 for
    each of a million of them.
    """
    duplicate_of = np.full(len(lo), -1, dtype=np.int64)
    bits = min(max(len(lo) - 1, 0) // _AT_ONCE, 255).bit_length()
    part = (lo >> np.uint64(64 - bits)).astype(np.uint8) if bits else np.zeros(len(lo), dtype=np.uint8)
    for number in range(1 << bits):
        chosen = part == number
        documents = np.flatnonzero(chosen if active is None else chosen & active)
        _exact_groups(lo[documents], hi, rank, documents, duplicate_of)
    return duplicate_of


def _exact_groups(
    lo: np.ndarray, hi: np.ndarray, rank: np.ndarray | None, documents: np.ndarray, duplicate_of: np.ndarray
) -> None:
    """Of `documents` (int64, rising) and their `lo`; the other arrays are those of all."""
    keys, documents = shared_rows(lo, documents)
    order = np.lexsort((documents if rank is None else rank[documents], hi[documents], keys))
    keys, documents = keys[order], documents[order]
    same = (keys[1:] == keys[:-1]) & (hi[documents[1:]] == hi[documents[:-1]])
    starts = np.flatnonzero(np.concatenate([np.ones(min(len(keys), 1), dtype=bool), ~same]))
    sizes = np.diff(starts, append=len(keys))
    best = np.repeat(documents[starts], sizes)
    duplicate_of[documents] = np.where(best == documents, -1, best)


def survivors(
    num_docs: int,
    left: np.ndarray,
    right: np.ndarray,
    similarity: np.ndarray,
    rank: np.ndarray,
    threshold: float,
) -> tuple[np.ndarray, np.ndarray]:
    """The greedy maximal independent set in rank order: (duplicate_of int64, similarity float32) [num_docs].

    `left`, `right`: int64 [pairs] of verified pairs in any order; `similarity`: float64 [pairs]; `rank`:
    int64 [num_docs]. Pairs below `threshold` count for nothing. -1 and NaN where the document stays; else
    the best-ranked survivor that it forms a pair with, and the similarity of that very pair.
    """
    near = similarity >= threshold
    left, right, similarity = left[near], right[near], similarity[near]
    left_is_better = rank[left] < rank[right]
    better = np.where(left_is_better, left, right)
    worse = np.where(left_is_better, right, left)
    order = np.lexsort((rank[better], rank[worse]))
    duplicate_of = np.full(num_docs, -1, dtype=np.int64)
    found = np.full(num_docs, np.nan, dtype=np.float32)
    _settle(better[order], worse[order], similarity[order], duplicate_of, found)
    return duplicate_of, found


@kernel
def _settle(
    better: np.ndarray,
    worse: np.ndarray,
    similarity: np.ndarray,
    duplicate_of: np.ndarray,
    found: np.ndarray,
) -> None:
    # Ordered by the rank of `worse`, then of `better`: every better document is settled before it is asked.
    for pair in range(len(worse)):
        if duplicate_of[worse[pair]] < 0 and duplicate_of[better[pair]] < 0:
            duplicate_of[worse[pair]] = better[pair]
            found[worse[pair]] = similarity[pair]


def resolve(
    keys: np.ndarray,
    documents: np.ndarray,
    rank: np.ndarray,
    verify: Verify,
    *,
    threshold: float,
    max_bucket: int = 64,
    max_rounds: int = 16,
) -> Survivors:
    """Fuzzy duplicates in rounds: candidates among survivors, verify, survivors anew, until none is left.

    `keys`, `documents`: the band rows (uint64, int64) [rows] as `band_rows` gives them; `rank`: int64 [all
    documents]; `verify` gives the exact similarity of pairs. A pair is verified once. Survivors are worked
    out anew from all verified pairs in every round, so a document whose survivor goes is free again.
    Documents that are in no row stay.
    """
    verified, near = NO_PAIRS, NO_PAIRS
    near_similarity = np.empty(0, dtype=np.float64)
    duplicate_of, similarity = survivors(len(rank), *unpack(near), near_similarity, rank, threshold)
    keys, documents = shared_rows(keys, documents)
    order = by_bucket(keys, rank[documents])
    keys, documents = keys[order], documents[order]
    done, away = np.zeros(len(keys), dtype=bool), np.zeros(len(rank), dtype=bool)
    pairs = bucket_pairs(keys, documents, done, away[documents], verified, max_bucket)
    # All pairs of a small bucket are among these; later rounds have to look at the large ones only.
    large = large_rows(keys, max_bucket)
    keys, documents, done = keys[large], documents[large], done[large]
    counts: list[int] = []
    removed: list[int] = []
    while len(pairs) and len(counts) < max_rounds:
        left, right = unpack(pairs)
        measured = np.asarray(verify(left, right), dtype=np.float64)
        if len(measured) != len(pairs):
            raise ValueError(f"verify: want {len(pairs)} similarities, got {len(measured)}")
        verified = np.sort(np.concatenate([verified, pairs]))
        new = measured >= threshold
        if new.any():
            near = np.concatenate([near, pairs[new]])
            near_similarity = np.concatenate([near_similarity, measured[new]])
            duplicate_of, similarity = survivors(len(rank), *unpack(near), near_similarity, rank, threshold)
        counts.append(len(pairs))
        removed.append(int(np.count_nonzero(duplicate_of >= 0)))
        away |= duplicate_of >= 0
        rows = np.flatnonzero(duplicate_of[documents] < 0)
        now = done[rows]
        pairs = bucket_pairs(keys[rows], documents[rows], now, away[documents[rows]], verified, max_bucket)
        done[rows] = now
    kind = np.where(duplicate_of < 0, STAYS, FUZZY).astype(np.int8)
    return Survivors(duplicate_of, similarity, kind, tuple(counts), tuple(removed), len(pairs))


def decide(
    rank: np.ndarray,
    verify: Verify,
    *,
    exact: tuple[np.ndarray, np.ndarray] | None,
    bands: np.ndarray | None,
    signed: np.ndarray | None = None,
    threshold: float = 0.8,
    max_bucket: int = 64,
    max_rounds: int = 16,
) -> Survivors:
    """Exact copies, then fuzzy duplicates among those that stay, as one verdict for every document.

    `exact`: (lo, hi) uint64 [documents], None to leave exact copies alone; `bands`: uint64 [documents,
    bands], None to leave fuzzy ones alone; `signed`: bool [documents], False where a document has no
    signature (all have one where it is None). `verify` is called with ordinals of documents that stayed in
    the exact step. An exact copy of a document that is removed as fuzzy points to the final survivor, with
    the similarity of that document, as a fuzzy duplicate itself.
    """
    total = len(rank)
    copy_of = np.full(total, -1, dtype=np.int64) if exact is None else exact_groups(*exact, rank)
    result = Survivors(
        copy_of.copy(),
        np.where(copy_of < 0, np.nan, 1.0).astype(np.float32),
        np.where(copy_of < 0, STAYS, EXACT).astype(np.int8),
    )
    if bands is None:
        return result
    chosen = copy_of < 0 if signed is None else (copy_of < 0) & signed
    keys, documents = band_rows(bands[chosen], np.flatnonzero(chosen))
    fuzzy = resolve(
        keys, documents, rank, verify, threshold=threshold, max_bucket=max_bucket, max_rounds=max_rounds
    )
    final = compose(copy_of, fuzzy.duplicate_of, fuzzy.similarity)
    return Survivors(*final, fuzzy.verified, fuzzy.removed, fuzzy.left)


def compose(
    copy_of: np.ndarray, duplicate_of: np.ndarray, similarity: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Exact and fuzzy verdicts as one: (duplicate_of int64, similarity float32, kind int8) [documents].

    `copy_of`: int64 [documents] of `exact_groups`; `duplicate_of`, `similarity`: of `survivors` among those
    that stay there, and the arrays into which the result is written. Every final survivor stays in both.
    """
    kind = (duplicate_of >= 0).astype(np.int8) * np.int8(FUZZY)
    copies = np.flatnonzero(copy_of >= 0)
    best = copy_of[copies]
    fuzzy = kind[best] == FUZZY
    duplicate_of[copies] = np.where(fuzzy, duplicate_of[best], best)
    similarity[copies] = np.where(fuzzy, similarity[best], np.float32(1.0))
    kind[copies] = np.where(fuzzy, FUZZY, EXACT)
    return duplicate_of, similarity, kind
