"""What deduplication removed, read back from dropped/: the pairs that are shown, whatever the number of all."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .local_ray import usable_cpus
from .shards import open_parquet, part_file, read_rows, rows_of
from .storage import Folder, in_parallel

DECIDED = ".decided.parquet"
DUPLICATES = ("exact_dedup.", "fuzzy_dedup.")
_EVIDENCE = ("id", "source", "drop", "duplicate_of", "duplicate_source", "similarity")
_LEAST_SIMILAR = [("similarity", "ascending"), ("source", "ascending"), ("id", "ascending")]
_TEXT = pa.schema([("text", pa.large_string())])
_FILES = 256
"""That are looked at before all but the rows wanted are forgotten."""


def least_similar(folder: Folder, names: Sequence[str], limit: int) -> pa.Table:
    """The first `limit` removed duplicates in these files of dropped/, the least similar first: id, source, text, drop,
    duplicate_of, duplicate_source, similarity. Only the text of these is read."""
    shown: pa.Table | None = None
    for start in range(0, len(names), _FILES):
        read = partial(_removed, folder, names)
        some = in_parallel(folder, read, range(start, min(start + _FILES, len(names))), local=usable_cpus())
        every = pa.concat_tables([*([] if shown is None else [shown]), *some])
        shown = every.take(pc.sort_indices(every, _LEAST_SIMILAR)[:limit])
    if shown is None:
        return pa.table(
            {name: pa.array([], pa.large_string()) for name in (*_EVIDENCE[:2], "text", *_EVIDENCE[2:])}
        )
    files, rows = (shown.column(name).to_numpy() for name in ("file", "row"))
    texts: list[str | None] = [None] * len(files)
    for file in np.unique(files).tolist():
        places = np.flatnonzero(files == file)
        places = places[np.argsort(rows[places])]
        found = rows_of(folder, names[file], rows[places], _TEXT).column("text").to_pylist()
        for place, text in zip(places.tolist(), found, strict=True):
            texts[place] = text
    text = pa.array(texts, pa.large_string())
    return shown.drop_columns(["file", "row"]).add_column(2, "text", text)


def _removed(folder: Folder, names: Sequence[str], number: int) -> pa.Table:
    """The duplicates in one file, with its number and their rows."""
    with open_parquet(folder, names[number]) as file:
        table = file.read(list(_EVIDENCE))
    kinds = [pc.starts_with(table.column("drop"), kind) for kind in DUPLICATES]
    rows = pc.indices_nonzero(pc.or_kleene(*kinds)).cast(pa.int64())
    table = table.select(_EVIDENCE).take(rows)
    return table.append_column("file", pa.array(np.full(len(rows), number))).append_column("row", rows)


def texts_of(folder: Folder, parts: int, keys: set[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Text of kept documents by (source, id). All parts' ids are read, until each is found."""
    ids = pa.array(sorted({id for _, id in keys}), pa.large_string())
    found: dict[tuple[str, str], str] = {}

    def read(part: int) -> dict[tuple[str, str], str]:
        with open_parquet(folder, part_file(part, "kept")) as file:
            table = file.read(["id", "source"])
        rows = pc.indices_nonzero(pc.is_in(table.column("id"), value_set=ids)).to_numpy().astype(np.int64)
        named = table.take(pa.array(rows))
        texts = read_rows(folder, part, rows, _TEXT).column("text") if len(rows) else []
        pairs = zip(named.column("source").to_pylist(), named.column("id").to_pylist(), strict=True)
        return {key: text.as_py() for key, text in zip(pairs, texts, strict=True) if key in keys}

    for start in range(0, parts, _FILES):
        if len(found) == len(keys):
            break
        for some in in_parallel(folder, read, range(start, min(start + _FILES, parts)), local=usable_cpus()):
            found |= some
    return found
