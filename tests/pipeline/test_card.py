"""The card: its front matter, its tables, and `datasets.load_dataset` on a folder that has it."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from malmoi.pipeline.card import card, front_matter, write_card
from malmoi.pipeline.json_lines import JsonLinesWriter
from malmoi.pipeline.manifest import Book, Group, Manifest, Output
from malmoi.pipeline.parquet_out import RowGroupWriter
from malmoi.pipeline.storage import Folder

MANIFEST = Manifest(
    name="demo",
    recipe={
        "name": "demo",
        "output": "/srv/runs",
        "run": {"num_cpus": 3},
        "sources": [{"name": "책", "path": ["books/*.jsonl"], "storage_options": {"key": "hidden"}}],
    },
    versions={"malmoi": "0.1.0", "pyarrow": "26.0.1"},
    operators={"gopher_quality": 1},
    schemes={"exact": "xxh64 pair", "minhash": None},
    books=(Book("filter", 5, 4, {"a|b.<c>": 1}, 0, 100, 80),),
    inputs=(),
    corpus=(Output("corpus/shard-00000-of-00001.parquet", 10, "0", 4, 80),),
    languages=(
        Group("ko", rows=3),
        Group("en", rows=1),
        Group("de", read=1),
        Group("", rows=1),
        Group("und", rows=1),
    ),
)
ROWS = pa.table(
    {
        "id": pa.array(["a", "b", "c"], pa.large_string()),
        "source": pa.array(["책"] * 3, pa.large_string()),
        "text": pa.array(["한글 text\n", "", "😀 line \u2028 end"], pa.large_string()),
        "language.score": [1.0, 0.25, None],
        "epoch": pa.array([0, 0, 1], pa.int32()),
    }
)


def split_card(text):
    _, head, body = text.split("---\n", 2)
    return yaml.safe_load(head), body


def test_front_matter():
    head, body = split_card(card(MANIFEST))
    assert head == front_matter(MANIFEST)
    assert head["language"] == ["en", "ko"]
    assert head["size_categories"] == ["n<1K"]
    assert head["configs"] == [
        {"config_name": "default", "data_files": [{"split": "train", "path": "corpus/*.parquet"}]}
    ]
    assert "| a\\|b.&lt;c> | filter | 1 | 20.0 % |" in body
    assert "books/*.jsonl" in body
    assert not any(word in body for word in ("hidden", "someone", "num_cpus", "num_tokens"))


@pytest.mark.parametrize(
    ("rows", "size"),
    [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (10**9, "1B<n<10B"), (10**12, "n>1T")],
)
def test_size_categories(rows, size):
    manifest = replace(MANIFEST, corpus=(Output("corpus/a.jsonl.zst", 1, "0", rows),))
    assert front_matter(manifest)["size_categories"] == [size]
    assert front_matter(manifest)["configs"][0]["data_files"][0]["path"] == "corpus/*.jsonl.zst"


def write_run(folder, suffix):
    """Three shards, the last of them without a row, beside files that are not the corpus."""
    names = [f"corpus/shard-0000{i}-of-00003{suffix}" for i in range(3)]
    for name, table in zip(names, (ROWS.slice(0, 2), ROWS.slice(2), ROWS.slice(0, 0)), strict=True):
        with folder.create(name) as sink:
            if suffix == ".parquet":
                with RowGroupWriter(sink, ROWS.schema) as writer:
                    writer.write(table)
            else:
                with JsonLinesWriter(sink) as writer:
                    writer.write(table)
    other = pa.table({"something": ["else"]})
    for name in ("dropped/part-00000.parquet", "stages/filter/part-00000.kept.parquet"):
        with folder.create(name) as sink:
            pq.write_table(other, sink)
    folder.write_bytes("manifest.json", b"{}")
    folder.write_bytes("report.json", b"{}")
    outputs = tuple(Output(name, 1, "0", 1) for name in names)
    write_card(folder, replace(MANIFEST, corpus=outputs))


LOAD = """
import sys, json, datasets
datasets.disable_progress_bars()
for run in sys.argv[1:]:
    found = datasets.load_dataset(run)
    print(json.dumps({name: found[name].to_list() for name in found}))
"""


def test_load_dataset_opens_the_corpus_and_nothing_else(tmp_path):
    pytest.importorskip("datasets")
    runs = []
    for suffix in (".parquet", ".jsonl.zst"):
        runs.append(str(tmp_path / f"run{suffix}"))
        write_run(Folder(runs[-1]), suffix)
    env = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *runs],
        env=env,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines == [{"train": ROWS.to_pylist()}] * 2
    assert (Path(runs[0]) / "README.md").read_text(encoding="utf-8").startswith("---\npretty_name: demo\n")
