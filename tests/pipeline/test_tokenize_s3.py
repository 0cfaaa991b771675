"""Rows from S3 to S3 are those of a disk, and the reader reads them there."""

from __future__ import annotations

import json

import pytest

from malmoi.pipeline.storage import Folder
from malmoi.training.reader import PackedReader

s3fs = pytest.importorskip("s3fs")


@pytest.fixture
def options(s3):
    """fsspec options of a running server with the bucket `rows`."""
    return {**s3, "secret": "hush"}


@pytest.mark.slow
def test_the_same_as_on_a_disk(tmp_path, options, run_here, tiny_tokenizer):
    fs = s3fs.S3FileSystem(**options)
    fs.mkdir("rows")
    lines = [json.dumps({"text": f"document {i} of {i * i} words"}).encode() for i in range(200)]
    fs.pipe("rows/in/a.jsonl", b"\n".join(lines))
    recipe = {
        "sources": [{"name": "s", "path": "s3://rows/in", "storage_options": options}],
        "output_options": options,
        "write": {"shard_bytes": 2048},
        "tokenize": {"tokenizer": str(tiny_tokenizer), "seq_len": 32},
    }
    run_here("s3://rows/run", recipe)
    run_here(tmp_path / "run", recipe)
    remote = Folder("s3://rows/run/tokens", options)
    names = ["tokens.json", *(f"shard-{i:05d}.parquet" for i in range(2))]
    for name in names:
        assert remote.read_bytes(name) == (tmp_path / "run/tokens" / name).read_bytes()
    found = [str(path) for path in fs.find("rows/run/tokens")]
    assert found
    assert not [path for path in found if b"hush" in fs.cat(path)]
    there = PackedReader(remote.url, 3, batch_rows=4, epochs=1, options=options)
    here = PackedReader(str(tmp_path / "run/tokens"), 3, batch_rows=4, epochs=1)
    pairs = zip(there, here, strict=True)
    assert all((a.input_ids == b.input_ids).all() for a, b in pairs)
