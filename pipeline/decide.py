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

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from malmoi.operators.survivors import EXACT, FUZZY, Survivors, Verify, exact_groups, rank
from malmoi.operators.survivors import decide as choose_survivors

from .engine import Job, committed, execute
from .groups import group_counts
from .keys import Keys, load_keys
from .manifest import Book, Dedup, Loss
from .mixing import mix
from .parquet_out import RowGroupWriter
from .spread import group_figures
from .storage import Folder
from .verify import Verifier
from .written import hash_file, part_name

if TYPE_CHECKING:
    from .run import Session

STAGE = "decide"
# A bucket of more documents gives stars round its best ones, and what is left comes up again, so often.
MAX_BUCKET = 64
MAX_ROUNDS = 64
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


def decide(session: Session) -> dict[str, Any]:
    """Deduplicate, mix, write the verdicts; the counts come from the commit record where it is done."""
    job = Job(STAGE, "all", lambda folder, _: _decide(session, folder), None, session.plan.key)
    counts = committed(session.folder, job)
    return counts if counts is not None else execute(session.folder, job)


def _decide(session: Session, folder: Folder) -> dict[str, Any]:
    plan = session.plan
    keys = load_keys(folder, plan.num_parts)
    twice = exact_groups(keys.numbers["id_lo"], keys.numbers["id_hi"], np.arange(keys.num_docs)) >= 0
    found = _deduplicate(session, keys, np.flatnonzero(~twice))
    reason = np.zeros(keys.num_docs, dtype=np.int8)
    reason[twice] = _ID
    reason[found.kind == EXACT] = _EXACT
    reason[found.kind == FUZZY] = _FUZZY
    mixed = mix(plan.recipe.mixture, plan.recipe.seed, keys, np.flatnonzero(reason == 0))
    unique = reason == 0
    reason[unique & (mixed.copies == 0)] = _NOT_CHOSEN
    verdicts = Verdicts(reason, found.duplicate_of, found.similarity, mixed.copies)
    survivors = _survivor_ids(folder, keys, verdicts)
    names = [_write_part(folder, keys, verdicts, survivors, part) for part in range(plan.num_parts)]
    return {
        "books": [asdict(book) for book in _books(keys, verdicts)],
        "dedup": asdict(_dedup_summary(keys, verdicts, plan.recipe.dedup.alarm_share, found.left)),
        "rounds": {"verified": list(found.verified), "removed": list(found.removed), "left": found.left},
        "groups": group_counts(keys, unique, mixed.copies),
        "effective": {
            "before": group_figures(keys, np.ones(keys.num_docs, dtype=np.int64)),
            "after": group_figures(keys, mixed.copies.astype(np.int64)),
        },
        "targets": mixed.targets,
        "notes": list(mixed.notes),
        "files": [hash_file(folder, name) for name in names],
    }


def _deduplicate(session: Session, keys: Keys, active: np.ndarray) -> Survivors:
    """Survivors over all documents; those that are not `active` (int64 ordinals) take no part."""
    dedup, minhash = session.plan.recipe.dedup, session.plan.keys.minhash
    numbers = {name: values[active] for name, values in keys.numbers.items()}
    places = rank(numbers, keys.names["source"].codes[active], dedup.prefer)
    verify: Verify = _no_pairs
    if minhash is not None:
        verifier = Verifier(
            session.folder, keys, minhash, lambda jobs: session.run("verify", jobs, shown=False)
        )

        def verify_active(left: np.ndarray, right: np.ndarray) -> np.ndarray:
            return verifier(active[left], active[right])

        verify = verify_active

    result = choose_survivors(
        places,
        verify,
        exact=(numbers["exact_lo"], numbers["exact_hi"]) if dedup.exact.enabled else None,
        bands=keys.bands[active] if keys.bands is not None else None,
        signed=keys.has_bands[active],
        threshold=dedup.fuzzy.threshold,
        max_bucket=MAX_BUCKET,
        max_rounds=MAX_ROUNDS,
    )
    duplicate_of = np.full(keys.num_docs, -1, dtype=np.int64)
    duplicate_of[active] = np.where(result.duplicate_of < 0, -1, active[result.duplicate_of])
    similarity = np.full(keys.num_docs, np.nan, dtype=np.float32)
    similarity[active] = result.similarity
    kind = np.zeros(keys.num_docs, dtype=np.int8)
    kind[active] = result.kind
    return Survivors(duplicate_of, similarity, kind, result.verified, result.removed, result.left)


def _no_pairs(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.zeros(len(left))


def _survivor_ids(folder: Folder, keys: Keys, verdicts: Verdicts) -> tuple[np.ndarray, pa.Table]:
    """Ordinals (sorted, int64) of all survivors of a duplicate, and their `id` and `source`."""
    ordinals = np.unique(verdicts.survivor[verdicts.survivor >= 0])
    parts = keys.part_of(ordinals)
    tables = [pa.table({"id": pa.array([], pa.large_string()), "source": pa.array([], pa.large_string())})]
    for part in np.unique(parts).tolist():
        with folder.open(f"stages/filter/{part_name(part)}.kept.parquet") as stream:
            ids = pq.read_table(stream, columns=["id", "source"])
        tables.append(ids.take(pa.array(ordinals[parts == part] - keys.first[part])))
    return ordinals, pa.concat_tables(tables)


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
            "duplicate_of": names.column("id").combine_chunks().take(place),
            "duplicate_source": names.column("source").combine_chunks().take(place),
            "similarity": pa.array(verdicts.similarity[here], mask=~gone),
        }
    )
    name = f"stages/{STAGE}/{part_name(part)}.verdict.parquet"
    with folder.create(name) as sink, RowGroupWriter(sink, SCHEMA) as writer:
        writer.write(table)
    return name


def _books(keys: Keys, verdicts: Verdicts) -> list[Book]:
    sizes = keys.numbers["text_bytes"]
    tally = np.bincount(verdicts.reason, minlength=len(REASONS)).tolist()
    unique = (verdicts.reason == 0) | (verdicts.reason == _NOT_CHOSEN)
    chosen = verdicts.reason == 0
    dropped = {REASONS[code]: tally[code] for code in (_EXACT, _FUZZY) if tally[code]}
    twice = {REASONS[_ID]: tally[_ID]} if tally[_ID] else {}
    not_chosen = {REASONS[_NOT_CHOSEN]: tally[_NOT_CHOSEN]} if tally[_NOT_CHOSEN] else {}
    kept_bytes, chosen_bytes = int(sizes[unique].sum()), int(sizes[chosen].sum())
    return [
        Book(
            stage="dedup",
            read=keys.num_docs,
            kept=int(unique.sum()),
            dropped=dropped,
            quarantined=tally[_ID],
            read_bytes=int(sizes.sum()),
            kept_bytes=kept_bytes,
            quarantine_reasons=twice,
        ),
        Book("mixture", int(unique.sum()), int(chosen.sum()), not_chosen, 0, kept_bytes, chosen_bytes),
    ]


def _dedup_summary(keys: Keys, verdicts: Verdicts, alarm_share: float, left: int) -> Dedup:
    removed = verdicts.survivor >= 0
    sizes = np.unique(verdicts.survivor[removed], return_counts=True)[1] + 1
    sources = keys.names["source"]
    entered = np.bincount(sources.codes[verdicts.reason != _ID], minlength=len(sources.names))
    exact, fuzzy = (
        np.bincount(sources.codes[verdicts.reason == code], minlength=len(sources.names))
        for code in (_EXACT, _FUZZY)
    )
    losses = tuple(
        Loss(name, int(entered[i]), int(exact[i]), int(fuzzy[i])) for i, name in enumerate(sources.names)
    )
    alarms = [
        f"alarm: {loss.source} lost {loss.exact + loss.fuzzy:,} of {loss.documents:,} documents to deduplication"
        for loss in losses
        if loss.exact + loss.fuzzy > alarm_share * loss.documents
    ]
    if left:
        alarms.append(
            f"alarm: {left:,} or more candidate pairs in buckets of over {MAX_BUCKET} documents were not compared "
            f"within {MAX_ROUNDS} rounds: near-duplicates may be left among pages of one template"
        )
    return Dedup(len(sizes), int(sizes.max(initial=0)), losses, tuple(alarms))
