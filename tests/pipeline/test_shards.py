"""The write stage on small parts made by hand: shuffled, in order, repeated, dropped, quarantined."""

import io
import json
import pickle
import struct

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.pipeline import scatter as scatter_module
from malmoi.pipeline import shards
from malmoi.pipeline.errors import MalmoiError
from malmoi.pipeline.gather import gather
from malmoi.pipeline.recipe import Write
from malmoi.pipeline.scatter import ORDER, key_order, order_key, shard_of
from malmoi.pipeline.shards import PartSize, corpus_schema, part_file, plan_shards, read_copies
from malmoi.pipeline.split import split
from malmoi.pipeline.storage import Folder

TEXTS = [
    "",
    "A plain sentence.",
    'It said "no"\\\n\tand\x00 left\r\n',
    "우리말 모음을 말모이라 한다.",
    "漢字かな 한글 mixed",
    "😀🎉👩‍👩‍👧",
    "\u1112\u1161\u11ab\u1100\u1173\u11af",  # NFD Hangul
    "line separator \u2028 inside",
]
DOCUMENTS = pa.schema(
    [
        *((name, pa.large_string()) for name in ("id", "source", "text", "url")),
        ("stars", pa.int64()),
        ("language", pa.large_string()),
        ("language.score", pa.float64()),
        ("gopher_quality.words", pa.float64()),
        ("drop", pa.large_string()),
    ]
)
QUARANTINE = pa.schema(
    [
        *((name, pa.large_string()) for name in ("source", "file")),
        *((name, pa.int64()) for name in ("offset", "length")),
        *((name, pa.large_string()) for name in ("reason", "detail")),
        ("raw", pa.large_binary()),
    ]
)
REASON = {0: None, -1: "exact_dedup.duplicate", -2: "quarantine.duplicate_id", -3: "mixture.not_chosen"}


def documents(part, rows, drop=None):
    ids = [f"{part}/{i}" for i in range(rows)]
    return pa.table(
        {
            "id": ids,
            "source": ["web" if i % 2 else "책" for i in range(rows)],
            "text": [TEXTS[(i + part) % len(TEXTS)] * (1 + i % 5) for i in range(rows)],
            "url": [None if i % 3 else f"https://example.org/{i}" for i in range(rows)],
            "stars": [None if i % 4 else i for i in range(rows)],
            "language": ["ko" if i % 2 else None for i in range(rows)],
            "language.score": [float(i % 2) for i in range(rows)],
            "gopher_quality.words": [float("nan") if i % 2 else 3.0 for i in range(rows)],
            "drop": [drop] * rows,
        },
        schema=DOCUMENTS,
    )


def write_part(folder, part, copies, group_rows=3):
    """`copies`: of each kept document; negative numbers are the reasons of REASON."""
    kept = documents(part, len(copies))
    low, high = (
        [xxhash.xxh64_intdigest(f"{r['source']}\0{r['id']}".encode(), seed=seed) for r in kept.to_pylist()]
        for seed in (0, 1)
    )
    files = {
        "kept": kept,
        "quarantine": pa.table(
            [["web"], ["a.jsonl"], [7], [3], ["read.json"], ["not JSON"], [b"{]\xff"]], schema=QUARANTINE
        ),
        "keys": pa.table(
            {
                "id_lo": pa.array(low, pa.uint64()),
                "id_hi": pa.array(high, pa.uint64()),
                "text_bytes": pa.array([len(text.encode()) for text in kept["text"].to_pylist()], pa.int64()),
            }
        ),
        "verdict": pa.table(
            {
                "copies": pa.array([max(c, 0) for c in copies], pa.int32()),
                "reason": pa.array([REASON[min(c, 0)] for c in copies], pa.large_string()),
                "duplicate_of": pa.array(["0/1" if c == -1 else None for c in copies], pa.large_string()),
                "duplicate_source": pa.array(["web" if c == -1 else None for c in copies], pa.large_string()),
                "similarity": pa.array([1.0 if c == -1 else None for c in copies], pa.float32()),
            }
        ),
    }
    for kind, table in files.items():
        with folder.create(part_file(part, kind)) as sink:
            pq.write_table(table, sink, row_group_size=group_rows)
    return kept


def measured(folder, part):
    copies = read_copies(folder, part)
    return PartSize(part, len(copies.row), int(copies.text_bytes.sum()))


def planned(folder, parts, seed=0, **write):
    schema = corpus_schema(DOCUMENTS, ["url", "stars"])
    return plan_shards([measured(folder, part) for part in parts], Write(**write), seed, schema)


def run(folder, parts, seed=0, **write):
    plan = planned(folder, parts, seed, **write)
    for part in parts:
        split(folder, (plan, part))
    return plan, [gather(folder, (plan, shard)) for shard in range(plan.num_shards)]


def read_corpus(folder, plan):
    rows = []
    for shard in range(plan.num_shards):
        data = folder.read_bytes(plan.shard_name(shard))
        if plan.format == "parquet":
            rows.append(pq.read_table(io.BytesIO(data)).to_pylist())
        else:
            # The object reader, as other readers use it: one frame only.
            text = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)).read().decode()
            rows.append([json.loads(line) for line in text.split("\n")[:-1]])
    return rows


def expected_rows(kept, copies):
    wanted = []
    for row, count in zip(kept.to_pylist(), copies, strict=True):
        del row["drop"], row["gopher_quality.words"]
        wanted += [{**row, "epoch": epoch} for epoch in range(max(count, 0))]
    return wanted


COPIES = {0: [1, 0, 2, -1, -2, 1, 3, -3] * 3, 1: [], 2: [1] * 7 + [2]}
COPIES[0] = [-3 if c == 0 else c for c in COPIES[0]]


@pytest.fixture
def parts(tmp_path):
    folder = Folder(str(tmp_path))
    kept = {part: write_part(folder, part, copies) for part, copies in COPIES.items()}
    wanted = [row for part, table in kept.items() for row in expected_rows(table, COPIES[part])]
    return folder, wanted


@pytest.mark.parametrize("format", ["parquet", "jsonl.zst"])
def test_in_order(parts, format):
    folder, wanted = parts
    plan, counts = run(folder, COPIES, shuffle=False, shard_bytes=1024, format=format)
    rows = read_corpus(folder, plan)
    assert [row for shard in rows for row in shard] == wanted
    assert plan.num_shards == 2
    assert [shard["text_bytes"] for shard in counts] == pytest.approx([plan.text_bytes / 2] * 2, abs=250)
    assert sum(shard["documents"] for shard in counts) == sum(row["epoch"] == 0 for row in wanted)
    assert list(rows[0][0]) == [
        *("id", "source", "text", "language", "language.score", "url", "stars", "epoch"),
    ]


@pytest.mark.parametrize("format", ["parquet", "jsonl.zst"])
def test_shuffled(parts, format, monkeypatch):
    folder, wanted = parts
    plan, counts = run(folder, COPIES, shuffle=True, shard_bytes=1024, format=format)
    rows = read_corpus(folder, plan)

    def key(row):
        low, high = (
            xxhash.xxh64_intdigest(f"{row['source']}\0{row['id']}".encode(), seed=seed) for seed in (0, 1)
        )
        return xxhash.xxh64_intdigest(struct.pack("<QQqQ", low, high, row["epoch"], 0))

    assert [row for shard in rows for row in shard] == sorted(wanted, key=key)
    assert [key(row) * plan.num_shards >> 64 for shard in rows for row in shard] == [
        shard for shard, found in enumerate(rows) for _ in found
    ]
    assert [len(shard) for shard in rows] == [shard["kept"] for shard in counts]
    # Small runs, another size of row group in the parts, and parts told in another order change no byte.
    files = [count["files"] for count in counts]
    monkeypatch.setattr(scatter_module, "RUN_BYTES", 50)
    for part, copies in COPIES.items():
        write_part(folder, part, copies, group_rows=5)
    again_plan, again = run(folder, [2, 0, 1], shuffle=True, shard_bytes=1024, format=format)
    assert again_plan == plan
    assert [count["files"] for count in again] == files


@pytest.mark.parametrize("most", [1, 7, 1024])
@pytest.mark.parametrize("slice_bytes", [1, 100, 512])
def test_slices_change_no_byte(parts, monkeypatch, slice_bytes, most):
    folder, _ = parts

    def bytes_of(plan, counts):
        return [folder.read_bytes(plan.shard_name(i)) for i in range(plan.num_shards)], counts

    whole, counts = run(folder, COPIES, shuffle=True, shard_bytes=1024)
    assert (whole.num_shards, whole.slices) == (2, 1)
    before = bytes_of(whole, counts)
    monkeypatch.setattr(shards, "SLICE_BYTES", slice_bytes)
    monkeypatch.setattr(shards, "MOST_SLICES", most)
    plan, counts = run(folder, COPIES, shuffle=True, shard_bytes=1024)
    assert plan.slices == max(1, min(-(-plan.shard_bytes // slice_bytes), most // 2))
    assert bytes_of(plan, counts) == before


def test_seed_changes_the_order(parts):
    folder, wanted = parts
    orders = []
    for seed in (0, 1, -1):
        plan, _ = run(folder, COPIES, seed=seed)
        [rows] = read_corpus(folder, plan)
        orders.append([(row["id"], row["epoch"]) for row in rows])
    assert len({tuple(order) for order in orders}) == 3
    assert all(sorted(order) == sorted((row["id"], row["epoch"]) for row in wanted) for order in orders)


@pytest.mark.parametrize("shuffle", [True, False])
def test_remote_folder_gives_the_same_shards(parts, shuffle):
    local, _ = parts
    remote = Folder(f"memory://test-shards-{shuffle}/run")
    for part, copies in COPIES.items():
        write_part(remote, part, copies)
    found = [run(folder, COPIES, shuffle=shuffle, shard_bytes=1024) for folder in (local, remote)]
    assert found[0] == found[1]
    plan = found[0][0]
    assert split(remote, (plan, 0)) == split(local, (plan, 0))


def test_files_are_what_the_counts_say(parts):
    folder, _ = parts
    _, [counts] = run(folder, COPIES)
    [(name, size, digest), *_] = counts["files"]
    data = folder.read_bytes(name)
    assert (name, size) == ("corpus/shard-00000-of-00001.parquet", len(data))
    assert digest == xxhash.xxh3_128_hexdigest(data)
    schema = pq.read_schema(io.BytesIO(data))
    assert schema.metadata is None
    assert schema.field("text").type == pa.large_string()


@pytest.mark.parametrize("format", ["parquet", "jsonl.zst"])
@pytest.mark.parametrize("shuffle", [True, False])
def test_empty_corpus(tmp_path, format, shuffle):
    folder = Folder(str(tmp_path))
    write_part(folder, 0, [-1, -3])
    plan, [counts] = run(folder, [0], format=format, shuffle=shuffle)
    assert read_corpus(folder, plan) == [[]]
    assert counts["kept"] == counts["text_bytes"] == 0
    plan, _ = run(folder, [], format=format, shuffle=shuffle)
    assert read_corpus(folder, plan) == [[]]


def test_empty_texts_are_not_lost_in_order(tmp_path):
    folder = Folder(str(tmp_path))
    kept = [write_part(folder, part, [1]) for part in (1, 8, 16)]  # 8 and 16: the empty text
    plan, _ = run(folder, [1, 8, 16], shuffle=False)
    assert read_corpus(folder, plan) == [[row for table in kept for row in expected_rows(table, [1])]]


def test_tokens_and_signals(tmp_path):
    schema = pa.schema([*DOCUMENTS, ("num_tokens", pa.int64())])
    assert "gopher_quality.words" not in corpus_schema(schema, ["url"]).names
    assert corpus_schema(schema, ["url"], signals=True).names == [
        *("id", "source", "text", "language", "language.score", "num_tokens"),
        *("url", "stars", "gopher_quality.words", "epoch"),
    ]


def test_a_part_without_an_extra_column_and_one_of_another_type(tmp_path):
    folder = Folder(str(tmp_path))
    write_part(folder, 0, [1])
    table = pq.read_table(folder.join(part_file(0, "kept"))).drop_columns(["url"])
    stars = pa.array(["not a number"], pa.large_string())
    pq.write_table(table, folder.join(part_file(0, "kept")))
    plan, _ = run(folder, [0])
    assert read_corpus(folder, plan)[0][0]["url"] is None
    position = table.schema.get_field_index("stars")
    pq.write_table(table.set_column(position, "stars", stars), folder.join(part_file(0, "kept")))
    with pytest.raises(MalmoiError, match=r"column 'stars': not int64"):
        run(folder, [0])


def test_verdicts_that_do_not_fit(tmp_path):
    folder = Folder(str(tmp_path))
    write_part(folder, 0, [1, 1, -1])
    work = (planned(folder, [0]), 0)
    verdict = pq.read_table(folder.join(part_file(0, "verdict")))
    pq.write_table(verdict.slice(1), folder.join(part_file(0, "verdict")))
    with pytest.raises(MalmoiError, match="2 verdicts for 3 kept"):
        read_copies(folder, 0)
    with pytest.raises(MalmoiError, match="2 verdicts for 3 kept"):
        split(folder, work)
    copies = pa.array([0, 1, 0], pa.int32())
    pq.write_table(verdict.set_column(0, "copies", copies), folder.join(part_file(0, "verdict")))
    with pytest.raises(MalmoiError, match=r"part-00000: row 0: want .* got {'copies': 0, 'reason': None}"):
        split(folder, work)
    folder.remove(part_file(0, "kept"))
    with pytest.raises(MalmoiError, match=r"kept.parquet: cannot be read"):
        split(folder, work)


def test_dropped_and_quarantine(parts):
    folder, _ = parts
    counts = split(folder, (planned(folder, [0]), 0))
    assert counts["dropped"] == {"exact_dedup.duplicate": 3, "mixture.not_chosen": 6}
    assert (counts["read"], counts["kept"], counts["quarantined"]) == (24, 12, 3)
    dropped = pq.read_table(folder.join("dropped/part-00000.decided.parquet"))
    assert dropped.num_rows == counts["dropped_rows"] == 9
    assert dropped.column_names == [*DOCUMENTS.names, "duplicate_of", "duplicate_source", "similarity"]
    rows = dropped.to_pylist()
    duplicate = next(row for row in rows if row["drop"] == "exact_dedup.duplicate")
    assert (duplicate["id"], duplicate["duplicate_of"], duplicate["similarity"]) == ("0/3", "0/1", 1.0)
    bad = pq.read_table(folder.join("quarantine/part-00000.parquet"))
    assert bad.schema == QUARANTINE
    assert bad.num_rows == counts["quarantine_rows"] == 1 + 3
    assert bad.to_pylist()[0]["raw"] == b"{]\xff"
    last = bad.to_pylist()[1]
    record = json.loads(last["raw"])
    assert (last["reason"], last["offset"], last["detail"]) == (
        *("quarantine.duplicate_id", -1, "id 0/4 is not unique"),
    )
    assert last["length"] == len(last["raw"])
    original = documents(0, 5).to_pylist()[4]
    assert {name: record[name] for name in ("id", "text", "url", "stars")} == {
        name: original[name] for name in ("id", "text", "url", "stars")
    }
    assert split(folder, (planned(folder, [1]), 1))["read"] == 0
    for name in ("dropped/part-0000{}.decided.parquet", "quarantine/part-0000{}.parquet"):
        empty, full = (pq.read_schema(folder.join(name.format(part))) for part in (1, 0))
        assert empty == full


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 2**64 - 1)] * 2, st.integers(0, 99)), max_size=20), st.integers())
def test_order_key_is_xxh64(rows, seed):
    low, high, epoch = (np.array([row[i] for row in rows], dtype=np.uint64) for i in range(3))
    wanted = [xxhash.xxh64_intdigest(struct.pack("<QQQQ", *row, seed % 2**64)) for row in rows]
    keys = order_key(low, high, epoch.astype(np.int32), seed)
    assert keys.tolist() == wanted
    assert shard_of(keys, 7).tolist() == [key * 7 >> 64 for key in wanted]


def test_equal_keys_are_ordered_by_source_id_epoch():
    table = pa.table(
        {
            "id": pa.array(["b", "a", "a", "a"], pa.large_string()),
            "source": pa.array(["x", "y", "x", "x"], pa.large_string()),
            "epoch": pa.array([0, 0, 1, 0], pa.int32()),
            ORDER: pa.array([5, 5, 5, 5], pa.uint64()),
        }
    )
    assert key_order(table).tolist() == [3, 2, 0, 1]


@pytest.mark.parametrize("shuffle", [True, False])
def test_what_travels_with_a_job_does_not_grow_with_the_parts(shuffle):
    sizes = []
    for parts in (100, 5000):
        measured = [PartSize(part, 10, 1000) for part in range(parts)]
        write = Write(shard_bytes=5000, shuffle=shuffle)
        plan = plan_shards(measured, write, 0, corpus_schema(DOCUMENTS, []))
        sizes.append(max(len(pickle.dumps(own)) for own in plan.each()))
        read = {part for own in plan.each() for part in own.parts}
        assert read == set(range(parts))
    assert sizes[1] < sizes[0] + 50
