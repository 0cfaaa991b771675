"""Reading and writing on S3, against a real S3 server on the loopback interface."""

from __future__ import annotations

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from malmoi.pipeline.batches import read_batches, write_batches
from malmoi.pipeline.errors import ChangedError, SourceError, StorageError
from malmoi.pipeline.recipe import Source
from malmoi.pipeline.shards import part_file, read_rows
from malmoi.pipeline.sources import find_files, infer_extras, read_part, split_parts
from malmoi.pipeline.storage import Folder

pytest.importorskip("s3fs")

RECORDS = [{"text": f"{i} 말모이 " * (i % 50), "n": i} for i in range(2000)]
LINES = b"".join(json.dumps(record).encode() + b"\n" for record in RECORDS)


@pytest.fixture(scope="module")
def options(s3):
    """fsspec options of a running server with the bucket `corpus`."""
    import s3fs

    fs = s3fs.S3FileSystem(**s3)
    fs.mkdir("corpus")
    table = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(RECORDS), table, row_group_size=300)
    fs.pipe("corpus/in/a.jsonl", LINES)
    fs.pipe("corpus/in/b.jsonl.zst", zstandard.compress(LINES))
    fs.pipe("corpus/in/deep/c.parquet", table.getvalue())
    fs.pipe("corpus/in/_SUCCESS", b"")
    return s3


def made(options, *paths):
    return Source(name="web", path=paths, storage_options=options)


ALL = ["a.jsonl", "b.jsonl.zst", "deep/c.parquet"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("s3://corpus/in", ALL),
        ("s3://corpus/in/", ALL),
        ("s3://corpus/in/**/*.*", ALL),
        ("s3://corpus/in/*.zst", ["b.jsonl.zst"]),
        ("s3://corpus/in/deep/c.parquet", ["c.parquet"]),
    ],
)
def test_find(options, path, expected):
    files = find_files(made(options, path), "/")
    assert [file.relpath for file in files] == expected
    assert all(file.url.startswith("s3://corpus/in/") for file in files)
    assert all(file.fingerprint.startswith("etag-") for file in files)


@pytest.mark.parametrize("part_bytes", [10_000, 10**9])
def test_read(options, part_bytes):
    source = made(options, "s3://corpus/in")
    files = find_files(source, "/")
    extras = infer_extras(source, files)
    parts = split_parts(source, files, part_bytes)
    assert (len(parts) > 5) == (part_bytes == 10_000)
    batches = [batch for part in parts for batch in read_part(part, source, extras)]
    assert sum(batch.quarantine.num_rows for batch in batches) == 0
    rows = pa.concat_tables([batch.table for batch in batches])
    assert rows["text"].to_pylist() == [record["text"] for record in RECORDS] * 3
    assert rows["n"].to_pylist() == list(range(2000)) * 3


def test_missing(options):
    with pytest.raises(SourceError, match=r"s3://corpus/inn: nothing there; did you mean in in"):
        find_files(made(options, "s3://corpus/inn"), "/")


def test_unreachable():
    options = {"key": "x", "secret": "x", "client_kwargs": {"endpoint_url": "http://127.0.0.1:1"}}
    options["config_kwargs"] = {"retries": {"max_attempts": 0}, "connect_timeout": 1}
    with pytest.raises(SourceError, match=r"web: s3://corpus/in: cannot be read"):
        find_files(made(options, "s3://corpus/in"), "/")


def test_changed(options):
    folder = Folder("s3://corpus/change", options)
    folder.write_bytes("a.jsonl", LINES)
    source = made(options, "s3://corpus/change")
    part = split_parts(source, find_files(source, "/"), 10**9)[0]
    folder.write_bytes("a.jsonl", LINES.swapcase())
    with pytest.raises(ChangedError, match="has changed"):
        list(read_part(part, source, pa.schema([])))
    folder.remove("a.jsonl")
    with pytest.raises(ChangedError, match="is gone"):
        list(read_part(part, source, pa.schema([])))


@pytest.mark.parametrize("size", [0, 10, 6 * 1024**2])
def test_folder(options, size):
    folder = Folder(f"s3://corpus/run-{size}", options)
    data = b"x" * size
    with folder.create("stages/a.bin") as file:
        file.write(data)
        assert not folder.exists("stages/a.bin")
    assert folder.read_bytes("stages/a.bin") == data
    assert folder.size("stages/a.bin") == size
    assert folder.list("stages") == ["stages/a.bin"]
    assert folder.list() == []
    with folder.open("stages/a.bin") as file:
        file.seek(size // 2)
        assert len(file.read()) == size - size // 2
    folder.remove("stages/a.bin")
    assert not folder.exists("stages/a.bin")
    assert folder.clean_temps() == 0


@pytest.mark.parametrize("size", [10, 60 * 1024**2])
def test_a_failed_upload_leaves_the_old_object(options, size):
    """The larger one has begun a multipart upload when it fails."""
    folder = Folder("s3://corpus/failed", options)
    folder.write_bytes("x", b"old")
    with pytest.raises(KeyboardInterrupt), folder.create("x") as file:  # noqa: PT012
        file.write(b"n" * size)
        raise KeyboardInterrupt
    assert folder.read_bytes("x") == b"old"
    assert folder.list() == ["x"]


def test_parquet_through_a_folder(options):
    folder = Folder("s3://corpus/parquet", options)
    table = pa.Table.from_pylist(RECORDS)
    with folder.create("x.parquet") as file:
        pq.write_table(table, file)
    with folder.open("x.parquet") as file:
        assert pq.read_table(file).equals(table)


def test_no_bucket(options):
    with pytest.raises(StorageError, match=r"s3://nosuchbucket/x/a: cannot be written .*bucket"):
        Folder("s3://nosuchbucket/x", options).write_bytes("a", b"1")


@pytest.fixture
def requests(monkeypatch):
    """What is asked of the store: (operation, bytes of the range that is asked for)."""
    import s3fs

    seen = []
    real = s3fs.S3FileSystem._call_s3

    async def noted(self, method, *args, **named):
        first, _, last = named.get("Range", "").removeprefix("bytes=").partition("-")
        seen.append((method, int(last) - int(first) + 1 if last else 0))
        return await real(self, method, *args, **named)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", noted)
    return seen


def test_a_column_of_a_row_group_is_read_alone(options, requests):
    folder = Folder("s3://corpus/columns", options)
    size = 2000
    table = pa.table(
        {"id": [str(i) for i in range(size)], "text": [f"{i * i} " * 900 for i in range(size)]},
        schema=pa.schema([("id", pa.large_string()), ("text", pa.large_string())]),
    )
    name = part_file(0, "kept")
    with folder.create(name) as file:
        pq.write_table(table, file, row_group_size=size // 4, compression=None)
    requests.clear()
    wanted = pa.schema([("id", pa.large_string())])
    assert read_rows(folder, 0, np.array([size // 2]), wanted).to_pylist() == [{"id": str(size // 2)}]
    asked = [count for method, count in requests if method == "get_object"]
    assert len(asked) <= 3
    assert sum(asked) < 200_000 < folder.size(name) / 50


def test_a_shard_reads_its_own_batches(options, requests):
    folder = Folder("s3://corpus/batches", options)
    rows, shards, parts = 4000, 40, 3
    owner = np.sort(np.arange(rows) % shards)
    table = pa.table({"id": np.arange(rows), "text": [f"{i * i * 7919} " * 300 for i in range(rows)]})
    names = [f"stages/scatter/{part}" for part in range(parts)]
    for name in names:
        write_batches(folder, name, shards, [(owner, table)])
    size = sum(folder.size(name) for name in names)
    requests.clear()
    found = read_batches(folder, names, 7, table.schema)
    assert found.equals(pa.concat_tables([table.filter(pa.array(owner == 7))] * parts))
    assert len(requests) == 3 * parts
    assert sum(count for _, count in requests) < 2 * size / shards


def test_many_are_removed_at_a_time(options, requests):
    folder = Folder("s3://corpus/many", options)
    for i in range(20):
        folder.write_bytes(f"stages/{i}", b"x")
    requests.clear()
    folder.remove_all([*folder.list("stages"), "stages/never-there"])
    assert folder.list("stages") == []
    assert [method for method, _ in requests if method.startswith("delete")] == ["delete_objects"]
