"""Stage `write`, the rest: what is not in the corpus, with the reason, part by part.

dropped/<part>.rules.parquet holds the documents that a rule dropped and is written by the stage that judges them,
dropped/<part>.decided.parquet those that deduplication or the mixture left out. Both have the columns of
stages/filter (every signal) with `drop`, and

| column           | type         | meaning                                                  |
|------------------|--------------|----------------------------------------------------------|
| duplicate_of     | large_string | id of the document that stays, null where not a duplicate|
| duplicate_source | large_string | its source                                               |
| similarity       | float32      | verified similarity to it                                |

quarantine/<part>.parquet holds the malformed records, then the documents whose id is not unique: `raw` is
the whole document as a JSON object (all columns), `offset` is -1.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .errors import MalmoiError
from .json_lines import json_lines
from .parquet_out import RowGroupWriter
from .shards import fit, open_parquet, part_file
from .storage import Folder
from .written import hash_file

EVIDENCE = pa.schema(
    [
        ("duplicate_of", pa.large_string()),
        ("duplicate_source", pa.large_string()),
        ("similarity", pa.float32()),
    ]
)
_QUARANTINE = "quarantine."


def write_dropped(folder: Folder, part: int) -> dict[str, Any]:
    """Write dropped/ and quarantine/ of one part.

    Counts: of the documents that the rules kept: read, kept (in the corpus), dropped by reason, quarantined,
    text_bytes (read), kept_bytes; of the two files: dropped_rows, quarantine_rows.
    """
    names = [f"dropped/part-{part:05d}.decided.parquet", f"quarantine/part-{part:05d}.parquet"]
    with ExitStack() as stack:
        enter = stack.enter_context
        kept, bad, verdicts = (
            enter(open_parquet(folder, part_file(part, kind))) for kind in ("kept", "quarantine", "verdict")
        )
        verdict = _checked(verdicts.read(), kept, part)
        schema = with_evidence(kept.schema_arrow)
        out = enter(_writer(folder, names[0], schema))
        aside = enter(_writer(folder, names[1], bad.schema_arrow))
        for table in _groups(bad):
            aside.write(table)
        start = 0
        for table in _groups(kept):
            judged = _judged(table, verdict.slice(start, table.num_rows))
            is_bad = pc.starts_with(judged.column("drop"), _QUARANTINE)
            if pc.any(is_bad).as_py():
                aside.write(_as_quarantine(judged.filter(is_bad), table.column_names, bad.schema_arrow))
                judged = judged.filter(pc.invert(is_bad))
            out.write(fit(judged, schema))
            start += table.num_rows
        rows = {"dropped_rows": out.rows, "quarantine_rows": aside.rows}
    counts = _counts(folder, part, verdict)
    return {**counts, **rows, "files": [hash_file(folder, name) for name in names]}


def with_evidence(documents: pa.Schema) -> pa.Schema:
    """The columns of what is dropped."""
    fields = [field for field in documents if field.name not in EVIDENCE.names]
    return pa.schema([*fields, *EVIDENCE])


@contextmanager
def _writer(folder: Folder, name: str, schema: pa.Schema) -> Iterator[RowGroupWriter]:
    with folder.create(name) as sink, RowGroupWriter(sink, schema) as writer:
        yield writer


def _groups(file: pq.ParquetFile) -> Iterator[pa.Table]:
    for group in range(file.num_row_groups):
        yield file.read_row_group(group)


def _checked(verdict: pa.Table, kept: pq.ParquetFile, part: int) -> pa.Table:
    """The verdicts, one a kept document; a document is either in the corpus or has a reason."""
    where = f"write/part-{part:05d}"
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


def _judged(table: pa.Table, verdict: pa.Table) -> pa.Table:
    """The documents that are not in the corpus, with reason and evidence."""
    columns = {name: table.column(name) for name in table.column_names if name not in EVIDENCE.names}
    columns |= {"drop": verdict.column("reason")} | {name: verdict.column(name) for name in EVIDENCE.names}
    return pa.table(columns).filter(pc.equal(verdict.column("copies"), 0))


def _as_quarantine(table: pa.Table, names: list[str], schema: pa.Schema) -> pa.Table:
    """Documents as rows of the quarantine."""
    record = table.select([name for name in names if name != "drop"])
    raw = pc.utf8_rtrim(json_lines(record), "\n").cast(pa.large_binary())
    text = pa.large_string()
    id_ = pc.fill_null(table.column("id").cast(text), "")
    detail = pc.binary_join_element_wise(
        pa.scalar("id ", text), id_, pa.scalar(" is not unique", text), pa.scalar("", text)
    )
    columns = {
        "source": table.column("source"),
        "file": pa.nulls(table.num_rows, text),
        "offset": np.full(table.num_rows, -1),
        "length": pc.binary_length(raw),
        "reason": table.column("drop"),
        "detail": detail,
        "raw": raw,
    }
    return fit(pa.table(columns), schema)


def _counts(folder: Folder, part: int, verdict: pa.Table) -> dict[str, Any]:
    with open_parquet(folder, part_file(part, "keys")) as file:
        text_bytes = file.read(["text_bytes"]).column("text_bytes").to_numpy()
    stays = verdict.column("copies").to_numpy() > 0
    reasons = pc.value_counts(verdict.column("reason").drop_null()).to_pylist()
    found = {row["values"]: row["counts"] for row in sorted(reasons, key=lambda row: str(row["values"]))}
    bad = {name: count for name, count in found.items() if name.startswith(_QUARANTINE)}
    return {
        "read": verdict.num_rows,
        "kept": int(stays.sum()),
        "dropped": {name: count for name, count in found.items() if name not in bad},
        "quarantined": sum(bad.values()),
        "quarantine_reasons": bad,
        "text_bytes": int(text_bytes.sum()),
        "kept_bytes": int(text_bytes[stays].sum()),
    }
