"""Stage `decide`: which kept documents make the corpus, and how often. Works on keys; text only to verify.

Writes stages/decide/<part>.verdict.parquet, one row for every kept document in the same order:

| column           | type         | meaning                                                              |
|------------------|--------------|----------------------------------------------------------------------|
| copies           | int32        | times that it is in the corpus, 0 = not                              |
| reason           | large_string | null, `quarantine.duplicate_id`, `exact_dedup.duplicate`,            |
|                  |              | `fuzzy_dedup.duplicate` or `mixture.not_chosen`                      |
| duplicate_of     | large_string | id of the survivor                                                   |
| duplicate_source | large_string | its source                                                           |
| similarity       | float32      | verified similarity to it                                            |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from malmoi.operators.candidates import distinct, unpack
from malmoi.operators.survivors import EXACT, FUZZY, exact_groups

from .alarms import alarms, largest, losses, stop_on_alarm
from .dedup import Found, People, deduplicate, gather_people
from .engine import Job, committed, execute
from .groups import group_counts
from .index import save_index
from .keys import Keys, load_keys
from .local_ray import usable_cpus
from .manifest import Book, Dedup, Earlier
from .mixing import Mixed, mix
from .parquet_out import RowGroupWriter
from .saved import Index, read_saved
from .shards import open_parquet, part_file
from .spread import group_figures
from .storage import Folder, in_parallel
from .written import FileRecord, hash_file, part_name

if TYPE_CHECKING:
    from .run import Session

STAGE = "decide"
NEAREST = f"stages/{STAGE}/nearest.parquet"
EARLIER = f"stages/{STAGE}/earlier.parquet"
SCHEMA = pa.schema(
    [
        ("copies", pa.int32()),
        ("reason", pa.large_string()),
        ("duplicate_of", pa.large_string()),
        ("duplicate_source", pa.large_string()),
        ("similarity", pa.float32()),
    ]
)
REASONS = (
    "",
    "quarantine.duplicate_id",
    "exact_dedup.duplicate",
    "fuzzy_dedup.duplicate",
    "mixture.not_chosen",
)
_ID, _EXACT, _FUZZY, _NOT_CHOSEN = 1, 2, 3, 4


@dataclass(frozen=True)
class Verdicts:
    """Per document: index into REASONS int8 (0: none), survivor's ordinal int64 (-1: none), similarity float32,
    copies int32."""

    reason: np.ndarray
    survivor: np.ndarray
    similarity: np.ndarray
    copies: np.ndarray


def decide(session: Session, documents: Sequence[int]) -> dict[str, Any]:
    """Deduplicate, mix, write the verdicts; the counts come from the commit record where it is done.

    `documents`: how many each part has. AlarmError where a source or language lost too much and the recipe says
    `on_alarm: stop`.
    """
    job = Job(STAGE, "all", lambda folder, _: _decide(session, folder, documents), None, session.plan.key)
    counts = committed(session.folder, job)
    counts = counts if counts is not None and "parts" in counts else execute(session.folder, job)
    stop_on_alarm(session.folder, session.plan.recipe.dedup, counts)
    return counts


def _decide(session: Session, folder: Folder, documents: Sequence[int]) -> dict[str, Any]:
    plan, dedup = session.plan, session.plan.recipe.dedup
    keys = load_keys(folder, documents)
    twice = exact_groups(keys.numbers["id_lo"], keys.numbers["id_hi"]) >= 0
    reported = dedup.policy == "report_only"
    people = gather_people(session, keys, twice, () if reported else plan.against)
    found = deduplicate(session, keys, people)
    seen = found
    if reported and plan.against:
        seen = deduplicate(session, keys, gather_people(session, keys, twice, plan.against), "report-")
    verdicts, unique, mixed = _verdicts(session, keys, twice, found)
    names = Names(folder, keys, seen.people)
    survivors = names.of(verdicts.survivor[verdicts.survivor >= 0])

    def write(part: int) -> FileRecord:
        return hash_file(folder, _write_part(folder, keys, verdicts, survivors, part))

    # Mostly they wait for the disk; each holds columns of all documents.
    files = in_parallel(folder, write, range(plan.num_parts), local=usable_cpus())
    files.append(hash_file(folder, _write_nearest(folder, names, found)))
    if plan.against:
        files.append(hash_file(folder, _write_earlier(folder, names, seen)))
    saved = save_index(session, keys) if dedup.save_index else []
    return {
        "books": [asdict(book) for book in _books(keys, verdicts)],
        "dedup": asdict(_dedup_summary(session, keys, verdicts, found, seen)),
        "rounds": {"verified": [], "removed": [], "left": 0, **found.counts},
        "largest": largest(names, verdicts.survivor),
        "groups": group_counts(keys, unique, mixed.copies),
        "effective": {
            "before": group_figures(keys),
            "after": group_figures(keys, mixed.copies),
        },
        "targets": mixed.targets,
        "notes": list(mixed.notes),
        "index": saved,
        "parts": _part_sizes(keys, mixed.copies),
        "files": [*files, *(file[:3] for file in saved)],
    }


def _verdicts(
    session: Session, keys: Keys, twice: np.ndarray, found: Found
) -> tuple[Verdicts, np.ndarray, Mixed]:
    """The verdicts, which documents are unique (bool), and the mixture over these."""
    recipe, new = session.plan.recipe, keys.num_docs
    reason = np.zeros(new, dtype=np.int8)
    reason[twice] = _ID
    reason[found.kind[:new] == EXACT] = _EXACT
    reason[found.kind[:new] == FUZZY] = _FUZZY
    unique = reason == 0
    mixed = mix(recipe.mixture, recipe.seed, keys, unique)
    reason[unique & (mixed.copies == 0)] = _NOT_CHOSEN
    return Verdicts(reason, found.survivor[:new], found.similarity[:new], mixed.copies), unique, mixed


@dataclass(frozen=True)
class Names:
    """Looks up documents by ordinal, in the parts of this run and the shards of earlier indexes."""

    folder: Folder
    keys: Keys
    people: People

    def of(self, ordinals: np.ndarray) -> tuple[np.ndarray, pa.Table]:
        """The distinct ordinals (sorted, int64), and their `id` and `source`."""
        ordinals = distinct(ordinals)
        places = np.searchsorted(self.people.first, ordinals, side="right") - 1
        pieces, starts = np.unique(places, return_index=True)
        ends = np.append(starts, len(ordinals))[1:]
        tables = [
            pa.table({"id": pa.array([], pa.large_string()), "source": pa.array([], pa.large_string())})
        ]

        def rows_of(at: tuple[int, int, int]) -> pa.Table:
            piece, start, end = at
            return self._read(piece).take(pa.array(ordinals[start:end] - self.people.first[piece]))

        spans = list(zip(pieces.tolist(), starts, ends, strict=True))
        tables += in_parallel(self.folder, rows_of, spans, local=usable_cpus())
        return ordinals, pa.concat_tables(tables).combine_chunks()

    def _read(self, piece: int) -> pa.Table:
        parts = len(self.keys.first) - 1
        if piece >= parts:
            saved = self.people.saved[piece - parts]
            return read_saved(saved.folder, saved.name, ["id", "source"])
        with open_parquet(self.folder, part_file(piece, "kept")) as file:
            return file.read(["id", "source"])


def _write_part(
    folder: Folder, keys: Keys, verdicts: Verdicts, survivors: tuple[np.ndarray, pa.Table], part: int
) -> str:
    here = slice(int(keys.first[part]), int(keys.first[part + 1]))
    ordinals, names = survivors
    survivor = verdicts.survivor[here]
    gone = survivor >= 0
    place = pa.array(np.searchsorted(ordinals, survivor), mask=~gone)
    table = pa.table(
        {
            "copies": verdicts.copies[here],
            "reason": pa.array([None, *REASONS[1:]], pa.large_string()).take(pa.array(verdicts.reason[here])),
            "duplicate_of": names.column("id").take(place),
            "duplicate_source": names.column("source").take(place),
            "similarity": pa.array(verdicts.similarity[here], mask=~gone),
        }
    )
    name = f"stages/{STAGE}/{part_name(part)}.verdict.parquet"
    with folder.create(name) as sink, RowGroupWriter(sink, SCHEMA) as writer:
        writer.write(table)
    return name


def _part_sizes(keys: Keys, copies: np.ndarray) -> list[list[int]]:
    """Rows and bytes of text that each part gives to the corpus."""
    rows = [int(copies[start:end].sum()) for start, end in pairwise(keys.first.tolist())]
    return [list(pair) for pair in zip(rows, keys.text_of_parts(copies), strict=True)]


def _books(keys: Keys, verdicts: Verdicts) -> list[Book]:
    sizes = keys.numbers["text_bytes"]
    tally = [int(np.count_nonzero(verdicts.reason == code)) for code in range(len(REASONS))]
    unique = (verdicts.reason == 0) | (verdicts.reason == _NOT_CHOSEN)
    chosen = verdicts.reason == 0
    dropped = {REASONS[code]: tally[code] for code in (_EXACT, _FUZZY) if tally[code]}
    twice = {REASONS[_ID]: tally[_ID]} if tally[_ID] else {}
    not_chosen = {REASONS[_NOT_CHOSEN]: tally[_NOT_CHOSEN]} if tally[_NOT_CHOSEN] else {}
    kept_bytes, chosen_bytes = (int(sizes.sum(where=which, dtype=np.int64)) for which in (unique, chosen))
    return [
        Book(
            stage="dedup",
            read=keys.num_docs,
            kept=int(unique.sum()),
            dropped=dropped,
            quarantined=tally[_ID],
            read_bytes=int(sizes.sum(dtype=np.int64)),
            kept_bytes=kept_bytes,
            quarantine_reasons=twice,
        ),
        Book("mixture", int(unique.sum()), int(chosen.sum()), not_chosen, 0, kept_bytes, chosen_bytes),
    ]


def _dedup_summary(session: Session, keys: Keys, verdicts: Verdicts, found: Found, seen: Found) -> Dedup:
    """`seen`: the verdicts with the documents of earlier runs, where `found` is without."""
    dedup = session.plan.recipe.dedup
    removed = verdicts.survivor >= 0
    sizes = np.unique(verdicts.survivor[removed], return_counts=True)[1] + 1
    kinds = (verdicts.reason != _ID, verdicts.reason == _EXACT, verdicts.reason == _FUZZY)
    sources, languages = (losses(keys.names[name], *kinds) for name in ("source", "language"))
    return Dedup(
        len(sizes),
        int(sizes.max(initial=0)),
        sources,
        alarms(sources, languages, dedup.alarm_share, found.left),
        languages if keys.names["language"].names != ("",) else (),
        tuple(_earlier(index, age, seen) for age, index in enumerate(session.plan.against)),
    )


def _earlier(index: Index, age: int, seen: Found) -> Earlier:
    people = seen.people
    survivor = seen.survivor
    matched = survivor[: people.new][survivor[: people.new] >= people.new]
    superseded = (people.age == age) & (survivor >= 0) & (survivor < people.new)
    return Earlier(
        index.run,
        index.hash,
        index.documents,
        int(np.count_nonzero(people.age[matched] == age)),
        int(np.count_nonzero(superseded[people.new :])),
    )


def _write_nearest(folder: Folder, names: Names, found: Found) -> str:
    """The compared pairs nearest the threshold, for `malmoi duplicates`."""
    left, right = unpack(np.ascontiguousarray(found.nearest["pair"]))
    ours = (left < found.people.new) & (right < found.people.new)  # of others there is no text
    left, right, similarity = left[ours], right[ours], found.nearest["similarity"][ours]
    ordinals, table = names.of(np.concatenate([left, right]))
    columns: dict[str, Any] = {"similarity": similarity}
    for side, documents in (("a", left), ("b", right)):
        named = table.take(pa.array(np.searchsorted(ordinals, documents)))
        part = names.keys.part_of(documents)
        columns |= {
            f"{side}_id": named.column("id"),
            f"{side}_source": named.column("source"),
            f"{side}_part": part,
            f"{side}_row": documents - names.keys.first[part],
        }
    with folder.create(NEAREST) as sink:
        pq.write_table(pa.table(columns), sink)
    return NEAREST


def _write_earlier(folder: Folder, names: Names, seen: Found) -> str:
    """Pairs of a document of this run and one of an earlier run: which stays, by the policy."""
    new, survivor = seen.people.new, seen.survivor
    gone = np.flatnonzero((survivor >= 0) & ((survivor >= new) != (np.arange(len(survivor)) >= new)))
    ordinals, table = names.of(np.concatenate([gone, survivor[gone]]))
    columns: dict[str, Any] = {"is_new": gone < new, "similarity": seen.similarity[gone]}
    for prefix, documents in (("", gone), ("duplicate_", survivor[gone])):
        named = table.take(pa.array(np.searchsorted(ordinals, documents)))
        columns |= {f"{prefix}{'of' if prefix else 'id'}": named.column("id")}
        columns |= {f"{prefix}source": named.column("source")}
    with folder.create(EARLIER) as sink:
        pq.write_table(pa.table(columns), sink)
    return EARLIER
