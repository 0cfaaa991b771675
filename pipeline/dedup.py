"""Deduplication of a run: exact copies from the keys, near-duplicates by jobs over partitions of their bands.

The process that leads the run holds some 90 bytes a document at most (hashes, rank, verdict) and the pairs at or above
the threshold; bands, candidates, signatures and shingle sets stay in the jobs of `shuffle`. Where the pairs are
more than `MAX_EDGES`, it holds the verdicts only, and `clusters` settles them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from malmoi.operators.survivors import compose, exact_groups, rank

from .buckets import joined, read_buckets
from .bundles import bundle, bundles
from .clusters import FOUND, settle, survivors_apart
from .engine import Counts, Job, run_jobs
from .errors import MalmoiError
from .keys import Coded, Keys, coded
from .layout import NO_RANK, STAGE, Layout, Piece, Saved, Step
from .saved import NUMBERS, Index, read_saved
from .shuffle import (
    EDGE,
    band_group,
    compare_partition,
    fetch_group,
    near_files,
    nearest,
    pair_partition,
    unique_partition,
    write_open,
)

if TYPE_CHECKING:
    from .run import Session

MAX_ROUNDS = 64
MAX_EDGES = 50_000_000
"""Pairs at or above the threshold that one process settles: 24 bytes each, some five times that while it sorts."""
ROWS_PER_PARTITION = 2_000_000
TEXT_PER_PARTITION = 256 * 1024**2
DOCUMENTS_PER_GROUP = 100_000
TEXT_PER_GROUP = 512 * 1024**2
"""Of a group that one job fetches: it holds the n-grams of those that are in pairs, some two times their text."""
KEEP_BEST = "keep_best"


@dataclass(frozen=True)
class People:
    """All documents, those of this run first, then those of earlier indexes, one array each.

    `age`: 0 for the oldest index, the run itself last; `active`: takes part; `rank`: uint32, NO_RANK where not.
    """

    new: int
    first: tuple[int, ...]
    saved: tuple[Saved, ...]
    age: np.ndarray
    active: np.ndarray
    rank: np.ndarray
    exact: tuple[np.ndarray, np.ndarray]

    @property
    def total(self) -> int:
        return len(self.age)


@dataclass(frozen=True)
class Found:
    """The verdicts of deduplication, one array over all documents each: survivor (int64, -1: stays), similarity
    float32, kind int8 (STAYS, EXACT, FUZZY). `counts`: for the record; `nearest`: EDGE, pairs nearest the
    threshold; `left`: pairs that the rounds did not reach."""

    people: People
    survivor: np.ndarray
    similarity: np.ndarray
    kind: np.ndarray
    counts: dict[str, Any]
    nearest: np.ndarray
    left: int


def gather_people(session: Session, keys: Keys, twice: np.ndarray, indexes: tuple[Index, ...]) -> People:
    """The documents of the run (but for those of an id that was there before) and of the indexes, ranked."""
    dedup, new = session.plan.recipe.dedup, keys.num_docs
    first, saved, ages = list(keys.first.tolist()), [], [np.full(new, len(indexes), dtype=np.int8)]
    numbers = {name: [keys.numbers[name]] for name in NUMBERS}
    ours, sources = keys.names["source"], []
    for place, index in enumerate(indexes):
        for shard in index.shards:
            table = read_saved(index.folder, shard.name, [*NUMBERS, "source"])
            saved.append(Saved(index.folder, shard.name))
            first.append(first[-1] + table.num_rows)
            ages.append(np.full(table.num_rows, place, dtype=np.int8))
            for name in NUMBERS:
                numbers[name].append(table.column(name).to_numpy())
            sources.append(table.column("source").combine_chunks().dictionary_encode())
    codes = _with_those_of(ours, sources) if sources else ours.codes
    whole = {name: _whole(pieces) for name, pieces in numbers.items()}
    age = _whole(ages)
    if len(age) >= NO_RANK:
        raise MalmoiError(f"dedup: {len(age):,} documents, and {NO_RANK:,} and more have no 32-bit ordinal")
    active = np.concatenate([~twice, np.full(len(age) - new, True)])
    there = slice(None) if active.all() else np.flatnonzero(active)
    ordering = ("id_lo", "id_hi", *dedup.prefer)
    places = rank({name: whole[name][there] for name in ordering}, codes[there], dedup.prefer)
    if indexes and dedup.policy != KEEP_BEST:
        order = np.lexsort((places, age[there]))
        places = np.empty(len(order), dtype=np.int64)
        places[order] = np.arange(len(order))
    ranks = np.full(len(age), NO_RANK, dtype=np.uint32)
    ranks[there] = places
    return People(new, tuple(first), tuple(saved), age, active, ranks, (whole["exact_lo"], whole["exact_hi"]))


def _with_those_of(ours: Coded, sources: list[pa.DictionaryArray]) -> np.ndarray:
    """Codes of this run's sources and of those of the indexes behind them, by one list of names."""
    own = pa.DictionaryArray.from_arrays(pa.array(ours.codes), pa.array(ours.names, pa.large_string()))
    return coded([own, *sources]).codes


def _whole(pieces: list[np.ndarray]) -> np.ndarray:
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def deduplicate(session: Session, keys: Keys, people: People, tag: str = "") -> Found:
    """Survivors over all documents; `tag`: begins the names of all files on the way."""
    dedup, minhash = session.plan.recipe.dedup, session.plan.keys.minhash
    if dedup.exact.enabled:
        copy_of = exact_groups(*people.exact, people.rank, people.active)
    else:
        copy_of = np.full(people.total, -1, dtype=np.int64)
    found, left, counts, near = np.empty(0, FOUND), 0, {}, np.empty(0, EDGE)
    if minhash is not None:
        ranks = np.where(copy_of < 0, people.rank, np.uint32(NO_RANK)).astype("<u4", copy=False)
        pieces = _groups(keys, people)
        layout = replace(_layout(session, keys, people, ranks != NO_RANK, pieces), tag=tag)
        session.folder.write_bytes(layout.ranks, ranks.view(np.uint8).data)
        rounds = _Rounds(session, layout, pieces, people, ranks, copy_of < 0)
        found, left = rounds.run()
        counts, near = rounds.counts(left), rounds.nearest
    survivor = np.full(people.total, -1, dtype=np.int64)
    similarity = np.full(people.total, np.nan, dtype=np.float32)
    survivor[found["document"]], similarity[found["document"]] = found["survivor"], found["similarity"]
    return Found(people, *compose(copy_of, survivor, similarity), counts, near, left)


def _groups(keys: Keys, people: People) -> list[tuple[Piece, ...]]:
    """The pieces that one job works on each."""
    parts = len(keys.first) - 1
    files = [*range(parts), *people.saved]
    text_before = list(accumulate(keys.text_of_parts(), initial=0))
    text_before += [text_before[-1]] * len(people.saved)
    groups: list[tuple[Piece, ...]] = []
    begin = 0
    for end in range(1, len(people.first)):
        full = people.first[end] - people.first[begin] >= DOCUMENTS_PER_GROUP
        full |= text_before[end] - text_before[begin] >= TEXT_PER_GROUP
        if full or end in (parts, len(people.first) - 1):
            groups.append(
                tuple(Piece(files[i], people.first[i], people.first[i + 1]) for i in range(begin, end))
            )
            begin = end
    return groups


def _layout(
    session: Session, keys: Keys, people: People, there: np.ndarray, groups: list[tuple[Piece, ...]]
) -> Layout:
    """`there`: bool, which documents take part; copies of others do not, and may be most."""
    plan, dedup = session.plan, session.plan.recipe.dedup
    minhash = plan.keys.minhash
    assert minhash is not None
    rows = int(there.sum()) * minhash.bands
    text = int(keys.numbers["text_bytes"].sum(where=there[: people.new], dtype=np.int64))
    auto = max(1, -(-rows // ROWS_PER_PARTITION), -(-text // TEXT_PER_PARTITION))
    return Layout(
        starts=(*(pieces[0].first for pieces in groups), people.total),
        partitions=dedup.partitions or auto,
        minhash=minhash,
        measure=dedup.fuzzy.measure,
        settled=people.total if dedup.policy == KEEP_BEST else people.new,
    )


@dataclass
class _Rounds:
    """The rounds of one run: what has been compared so far, and who goes by it. `pieces`: of each group."""

    session: Session
    layout: Layout
    pieces: list[tuple[Piece, ...]]
    people: People
    ranks: np.ndarray
    open: np.ndarray
    verified: list[int] = field(default_factory=list)
    removed: list[int] = field(default_factory=list)
    exact: int = 0
    moved: int = 0
    edges: int = 0
    stars: int = 0
    nearest: np.ndarray = field(default_factory=lambda: np.empty(0, EDGE))

    def jobs(self, jobs: list[Job]) -> list[Counts]:
        """Run the jobs of a step: here where there is one partition, else as those of a stage are run."""
        session = self.session
        if self.layout.partitions > 1:
            counts = session.run(STAGE, jobs, shown=False)
        else:
            session.still_ours()
            mine = [replace(job, plan=session.plan.key) for job in jobs]
            counts = run_jobs(
                session.folder, mine, engine="local", num_cpus=1, tick=lambda _: None, whole=False
            )
        self.moved += sum(one.get("moved", 0) for one in counts)
        return counts

    def step(
        self,
        round_: int,
        name: str,
        work: Callable[..., Counts],
        indexes: range | tuple[int, ...],
        large: tuple[int, ...] = (),
    ) -> list[Counts]:
        return self._step(name, work, [Step(self.layout, round_, i, large) for i in indexes])

    def group_step(self, round_: int, name: str, work: Callable[..., Counts]) -> list[Counts]:
        """A step whose jobs work on a group of pieces each."""
        steps = [Step(self.layout, round_, i, pieces=pieces) for i, pieces in enumerate(self.pieces)]
        return self._step(name, work, steps)

    def _step(self, name: str, work: Callable[..., Counts], steps: list[Step]) -> list[Counts]:
        return self.jobs([Job(STAGE, self.layout.name(x.round, name, x.index), work, x) for x in steps])

    def _bundle(
        self,
        round_: int,
        step: str,
        kinds: tuple[str, ...],
        made: Sequence[int],
        readers: int,
        counts: list[Counts],
    ) -> None:
        """Put the files of a step together where they are too many and too small for those who read them next."""
        ends = tuple(f".{kind}" for kind in kinds)
        size = sum(size for one in counts for name, size, _ in one["files"] if name.endswith(ends))
        self.layout, works = bundles(self.layout, round_, step, kinds, made, readers, size)
        if works:
            self.jobs([Job(STAGE, work.name, bundle, work) for work in works])

    def run(self) -> tuple[np.ndarray, int]:
        """All rounds: until no pair is left to compare, or MAX_ROUNDS. FOUND, and how many pairs are left."""
        layout, folder = self.layout, self.session.folder
        everything = range(layout.partitions)
        found = np.empty(0, FOUND)
        away = np.zeros(self.people.total, dtype=bool)
        groups, partitions = len(layout.groups), layout.partitions
        counts = self.group_step(0, "bands", band_group)
        self._bundle(0, "bands", ("rows",), layout.groups, partitions, counts)
        counts = self.step(0, "pairs", pair_partition, everything)
        left = sum(one["pairs"] for one in counts)
        large = tuple(p for p, one in enumerate(counts) if one["large"])
        round_ = 0
        self._bundle(0, "pairs", ("pairs",), everything, partitions, counts)
        self._bundle(0, "pairs", ("documents",), large, partitions, counts)
        while left and round_ < MAX_ROUNDS:
            unique = self.step(round_, "unique", unique_partition, everything, large)
            self._bundle(round_, "unique", ("documents",), everything, groups, unique)
            self._bundle(round_, "unique", ("known",), everything, len(large), unique)
            fetched = self.group_step(round_, "fetch", fetch_group)
            self._bundle(round_, "fetch", ("sets", "signatures", "ids"), layout.groups, partitions, fetched)
            compared = self.step(round_, "compare", compare_partition, everything)
            self.exact += sum(one["exact"] for one in compared)
            self.edges += sum(one["near"] for one in compared)
            self._keep_nearest(round_)
            round_ += 1
            self.verified.append(sum(one["pairs"] for one in unique))
            if sum(one["near"] for one in compared) or round_ == 1:
                found = self._survivors(round_)
            self.removed.append(len(found))
            gone = np.zeros(self.people.total, dtype=bool)
            gone[found["document"]] = True
            away |= gone
            left = 0
            if large:
                write_open(folder, layout.open_file(round_), self.open & ~gone, away & ~gone)
                counts = self.step(round_, "pairs", pair_partition, large)
                self._bundle(round_, "pairs", ("pairs",), large, partitions, counts)
                left = self._unique_pairs(round_, large) if round_ == MAX_ROUNDS else 0
                left = left or sum(one["pairs"] for one in counts)
        return found, left

    def _unique_pairs(self, round_: int, large: tuple[int, ...]) -> int:
        """What a further round would have compared."""
        counts = self.step(round_, "unique", unique_partition, range(self.layout.partitions), large)
        return sum(one["pairs"] for one in counts)

    def _keep_nearest(self, round_: int) -> None:
        layout = self.layout
        names = [layout.file(round_, "compare", p, "nearest") for p in range(layout.partitions)]
        pieces = read_buckets(self.session.folder, names, 0, EDGE)
        self.nearest = nearest(joined([self.nearest, *pieces], EDGE), layout.minhash.threshold)

    def _survivors(self, rounds: int) -> np.ndarray:
        """FOUND of all pairs so far: here where they fit, else component by component."""
        if self.edges > MAX_EDGES:
            found, self.stars = survivors_apart(self.session.folder, self.layout, rounds, self.jobs)
            return found
        names = near_files(self.layout, rounds)
        edges = joined(read_buckets(self.session.folder, names, 0, EDGE), EDGE)
        return settle(edges, self.ranks.__getitem__, self.layout.minhash.threshold)

    def counts(self, left: int) -> dict[str, Any]:
        """For the record."""
        return {
            "verified": self.verified,
            "removed": self.removed,
            "left": left,
            "compared_exactly": self.exact,
            "edges": self.edges,
            "star_rounds": self.stars,
            "partitions": self.layout.partitions,
            "shuffled_bytes": self.moved,
        }
