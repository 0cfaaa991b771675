"""Stage `split`: what the verdicts say of the documents of a part, in one reading of their text.

Those of the corpus are set aside by shard (`scatter`, where it is shuffled), all others are written with their
reasons (`dropped`). A row group that has none of the others is not read where the corpus is not shuffled.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .dropped import QUARANTINED, Leaving, leaving
from .errors import MalmoiError
from .scatter import scatter
from .shards import ShardPlan, copies_of, fit, open_parquet, part_file, read_keys
from .storage import Folder
from .written import hash_file


def split(folder: Folder, work: tuple[ShardPlan, int]) -> dict[str, Any]:
    """Write dropped/ and quarantine/ of one part, and set the rest aside where the corpus is shuffled.

    Counts: of the documents that the rules kept: read, kept (in the corpus), dropped by reason, quarantined,
    text_bytes (read), kept_bytes; of the two files: dropped_rows, quarantine_rows.
    """
    plan, part = work
    with ExitStack() as stack:
        kept = stack.enter_context(open_parquet(folder, part_file(part, "kept")))
        with open_parquet(folder, part_file(part, "verdict")) as file:
            verdict = _checked(file.read(), kept, part)
        keys = read_keys(folder, part)
        copies = copies_of(verdict, keys, part)
        others = stack.enter_context(leaving(folder, part, kept.schema_arrow))
        staying = _staying(plan, kept, verdict, others)
        files = scatter(folder, plan, part, copies, staying) if plan.shuffle else [*staying]
    return {
        **_counts(verdict, keys),
        **others.rows,
        "files": [*(hash_file(folder, name) for name in others.names), *files],
    }


def _staying(plan: ShardPlan, kept: pq.ParquetFile, verdict: pa.Table, others: Leaving) -> Iterator[pa.Table]:
    """The documents of the corpus, a table for each row group that has some, in one copy, without their epoch; the
    others are written on the way. Nothing where the corpus is not shuffled."""
    schema = plan.documents
    there = set(kept.schema_arrow.names)  # made anew each time that it is asked for
    names = [name for name in schema.names if name in there]
    start = 0
    for group in range(kept.num_row_groups):
        rows = kept.metadata.row_group(group).num_rows
        here = verdict.slice(start, rows)
        stays = pc.greater(here.column("copies"), 0)
        count = pc.sum(stays).as_py() or 0
        start += rows
        if count == rows and not plan.shuffle:
            continue
        table = kept.read_row_group(group, columns=names if count == rows else None)
        if count < rows:
            others.write(table, here)
        if count and plan.shuffle:
            yield fit(table if count == rows else table.select(names).filter(stays), schema)


def _checked(verdict: pa.Table, kept: pq.ParquetFile, part: int) -> pa.Table:
    """The verdicts, one a kept document; a document is either in the corpus or has a reason."""
    where = f"split/part-{part:05d}"
    if verdict.num_rows != kept.metadata.num_rows:
        raise MalmoiError(
            f"{where}: {verdict.num_rows:,} verdicts for {kept.metadata.num_rows:,} kept documents"
        )
    out = verdict.column("copies").to_numpy() == 0
    reason = pc.is_valid(verdict.column("reason")).to_numpy()
    if np.any(out != reason):
        row = int(np.flatnonzero(out != reason)[0])
        found = verdict.select(["copies", "reason"]).slice(row, 1).to_pylist()[0]
        raise MalmoiError(
            f"{where}: row {row:,}: want no copies and a reason, or copies and none, got {found}"
        )
    return verdict


def _counts(verdict: pa.Table, keys: pa.Table) -> dict[str, Any]:
    text_bytes = keys.column("text_bytes").to_numpy()
    stays = verdict.column("copies").to_numpy() > 0
    reasons = pc.value_counts(verdict.column("reason").drop_null()).to_pylist()
    found = {row["values"]: row["counts"] for row in sorted(reasons, key=lambda row: str(row["values"]))}
    bad = {name: count for name, count in found.items() if name.startswith(QUARANTINED)}
    return {
        "read": verdict.num_rows,
        "kept": int(stays.sum()),
        "dropped": {name: count for name, count in found.items() if name not in bad},
        "quarantined": sum(bad.values()),
        "quarantine_reasons": bad,
        "text_bytes": int(text_bytes.sum()),
        "kept_bytes": int(text_bytes[stays].sum()),
    }
