"""Stage `split`, the rest: what is not in the corpus, with the reason, part by part.

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
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .json_lines import json_lines
from .parquet_out import RowGroupWriter
from .shards import fit, open_parquet, part_file
from .storage import Folder

EVIDENCE = pa.schema(
    [
        ("duplicate_of", pa.large_string()),
        ("duplicate_source", pa.large_string()),
        ("similarity", pa.float32()),
    ]
)
QUARANTINED = "quarantine."


@contextmanager
def leaving(folder: Folder, part: int, documents: pa.Schema) -> Iterator[Leaving]:
    """The two files of a part, open, with the malformed records of stage `filter` in them; whole when this ends."""
    names = [f"dropped/part-{part:05d}.decided.parquet", f"quarantine/part-{part:05d}.parquet"]
    with ExitStack() as stack:
        dropped = stack.enter_context(_writer(folder, names[0], with_evidence(documents)))
        with open_parquet(folder, part_file(part, "quarantine")) as bad:
            quarantine = stack.enter_context(_writer(folder, names[1], bad.schema_arrow))
            for group in range(bad.num_row_groups):
                quarantine.write(bad.read_row_group(group))
        yield Leaving(names, dropped, quarantine)


@dataclass(frozen=True)
class Leaving:
    """Where the documents of a part go that are not in the corpus."""

    names: list[str]
    dropped: RowGroupWriter
    quarantine: RowGroupWriter

    def write(self, table: pa.Table, verdict: pa.Table) -> None:
        """Of these documents, those that the verdict leaves out, with reason and evidence."""
        columns = {name: table.column(name) for name in table.column_names if name not in EVIDENCE.names}
        columns |= {"drop": verdict.column("reason")} | {
            name: verdict.column(name) for name in EVIDENCE.names
        }
        judged = pa.table(columns).filter(pc.equal(verdict.column("copies"), 0))
        is_bad = pc.starts_with(judged.column("drop"), QUARANTINED)
        if pc.any(is_bad).as_py():
            bad = judged.filter(is_bad)
            self.quarantine.write(_as_quarantine(bad, table.column_names, self.quarantine.schema))
            judged = judged.filter(pc.invert(is_bad))
        self.dropped.write(fit(judged, self.dropped.schema))

    @property
    def rows(self) -> dict[str, int]:
        """How many have been written, as the counts of a job."""
        return {"dropped_rows": self.dropped.rows, "quarantine_rows": self.quarantine.rows}


def with_evidence(documents: pa.Schema) -> pa.Schema:
    """The columns of what is dropped."""
    fields = [field for field in documents if field.name not in EVIDENCE.names]
    return pa.schema([*fields, *EVIDENCE])


@contextmanager
def _writer(folder: Folder, name: str, schema: pa.Schema) -> Iterator[RowGroupWriter]:
    with folder.create(name) as sink, RowGroupWriter(sink, schema) as writer:
        yield writer


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
