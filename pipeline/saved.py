"""The saved index of a run: what a later crawl is deduplicated against, without any text.

<output>/index/index.json and <output>/index/shard-00000.parquet. One row for every document that survived
deduplication (in the corpus or not), partitioned by id hash and ordered by it:

| column             | type          | meaning                                             |
|--------------------|---------------|-----------------------------------------------------|
| id, source         | large_string  |                                                     |
| id_lo, id_hi       | uint64        | 128-bit hash of (source, id)                        |
| exact_lo, exact_hi | uint64        | 128-bit hash of the text, white space collapsed     |
| quality            | float64       |                                                     |
| length, priority   | int64, int32  |                                                     |
| bands              | list<uint64>  | MinHash band hashes, null without a signature       |
| signature          | list<uint32>  | MinHash signature, null likewise                    |
| shingles           | list<uint64>  | the sorted distinct shingle ids, for the exact test |

A document that was removed is not in it: whatever equals it, or is similar to it and not to its survivor, is
judged as it would have been in one run over both, by its similarity to survivors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from malmoi.operators.exact import ID_SCHEME, TEXT_SCHEME
from malmoi.operators.minhash import MinHash

from .errors import ChangedError, MalmoiError, RecipeError
from .shards import open_parquet
from .storage import Folder, is_local

FILE = "index/index.json"
FORMAT = 1
NUMBERS = ("id_lo", "id_hi", "exact_lo", "exact_hi", "quality", "length", "priority")


@dataclass(frozen=True)
class Shard:
    name: str
    bytes: int
    hash: str
    rows: int


@dataclass(frozen=True)
class Index:
    """`place`: as the recipe names it; `schemes`: of id, exact, minhash; `hash`: of all the content."""

    place: str
    folder: Folder
    run: str
    schemes: dict[str, str | None]
    shards: tuple[Shard, ...]
    hash: str

    @property
    def documents(self) -> int:
        return sum(shard.rows for shard in self.shards)


def schema(minhash: MinHash | None) -> pa.Schema:
    """Of the shards; without the last three columns where fuzzy deduplication is off."""
    fields = [("id", pa.large_string()), ("source", pa.large_string())]
    fields += [(name, pa.uint64()) for name in NUMBERS[:4]]
    fields += [("quality", pa.float64()), ("length", pa.int64()), ("priority", pa.int32())]
    if minhash is not None:
        fields.append(("bands", pa.list_(pa.uint64(), minhash.bands)))
        fields.append(("signature", pa.list_(pa.uint32(), minhash.num_perm)))
        fields.append(("shingles", pa.large_list(pa.uint64())))
    return pa.schema(fields)


def schemes_of(minhash: MinHash | None) -> dict[str, str | None]:
    """What two runs must have in common to be compared."""
    return {"id": ID_SCHEME, "exact": TEXT_SCHEME, "minhash": minhash.scheme if minhash else None}


def open_index(place: str, base: str, minhash: MinHash | None, options: Mapping[str, Any]) -> Index:
    """The index at `place`: a run's folder, or its folder `index`; relative to `base`.

    RecipeError where there is none, or where it was made with another scheme.
    """
    url = place if not is_local(place) or place.startswith("/") else f"{base}/{place}"
    url = url.rstrip("/")
    if url.endswith("/index"):
        url = url.removesuffix("/index")
    folder = Folder(url, options)
    try:
        content = json.loads(folder.read_bytes(FILE))
        if content["format"] != FORMAT:
            raise RecipeError(
                f"dedup.against: {place}: format {content['format']}; this malmoi reads format {FORMAT}"
            )
        shards = tuple(Shard(**shard) for shard in content["shards"])
        index = Index(place, folder, content["run"], content["schemes"], shards, content["hash"])
    except FileNotFoundError as error:
        raise RecipeError(
            f"dedup.against: {place}: no saved index there ({folder.join(FILE)}); run the earlier recipe with "
            "dedup.save_index=true"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise RecipeError(f"dedup.against: {folder.join(FILE)}: not an index ({error!r})") from error
    for kind, want in schemes_of(minhash).items():
        found = index.schemes.get(kind)
        if want is not None and found != want:
            raise RecipeError(
                f"dedup.against: {place}: made with another {kind} scheme, so nothing in it can be compared: it has "
                f"{found or 'none'}, this recipe {want}; use the same dedup.fuzzy settings, or make the index anew"
            )
    for shard in index.shards:
        if not folder.exists(shard.name) or folder.size(shard.name) != shard.bytes:
            raise ChangedError(
                f"dedup.against: {folder.join(shard.name)}: missing, or not the {shard.bytes:,} bytes that it had"
            )
    return index


def read_saved(folder: Folder, name: str, columns: list[str]) -> pa.Table:
    """Columns of one shard."""
    with open_parquet(folder, name) as file:
        missing = [column for column in columns if column not in file.schema_arrow.names]
        if missing:
            raise MalmoiError(f"{folder.join(name)}: no column {', '.join(missing)}")
        return file.read(columns)


def write_shard(folder: Folder, name: str, table: pa.Table) -> None:
    """Write one shard; rows as they are."""
    with folder.create(name) as sink:
        pq.write_table(
            table,
            sink,
            row_group_size=4096,
            compression="zstd",
            compression_level=1,
            use_dictionary=["source"],
            write_statistics=False,
            data_page_version="2.0",
        )


def write_index_file(
    folder: Folder, run: str, minhash: MinHash | None, shards: tuple[Shard, ...], digest: str
) -> None:
    """index.json, the last file of an index."""
    rows = [{"name": s.name, "bytes": s.bytes, "hash": s.hash, "rows": s.rows} for s in shards]
    content = {
        "format": FORMAT, "run": run, "schemes": schemes_of(minhash), "hash": digest, "shards": rows,
    }  # fmt: skip
    folder.write_bytes(FILE, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())
