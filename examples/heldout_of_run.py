"""Held-out text of a run: python examples/heldout_of_run.py RUN OUT.parquet

Documents that passed every rule and deduplication, but were not chosen for the mixture: as good as the corpus, and not
in it. A run that chose all of them has none; then keep a source out of the recipe instead.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

COLUMNS = ["id", "source", "text", "language"]


def not_chosen(run: Path) -> pa.Table:
    files = sorted((run / "dropped").glob("*.parquet"))
    tables = [pq.read_table(file, columns=[*COLUMNS, "drop"]) for file in files]
    dropped = pa.concat_tables(tables)
    return dropped.filter(pc.equal(dropped["drop"], "mixture.not_chosen")).select(COLUMNS)


def main() -> None:
    run, out = Path(sys.argv[1]), Path(sys.argv[2])
    found = not_chosen(run)
    if not found.num_rows:
        raise SystemExit(f"{run}: every document was chosen")
    out.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(found, out)
    print(f"{out}: {found.num_rows} documents, {pc.sum(pc.binary_length(found['text'])).as_py():,} bytes")


if __name__ == "__main__":
    main()
