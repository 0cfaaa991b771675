"""Text of a run tokenised on the way: every token once, as operators alone and on Ray Data."""

from __future__ import annotations

import os

import pyarrow as pa
import pytest
from rich.console import Console
from tokenizers import Tokenizer

from malmoi.operators.packing import IGNORE
from malmoi.operators.tokenizing import load_encoder
from malmoi.pipeline.config import parse_recipe
from malmoi.pipeline.errors import MalmoiError
from malmoi.pipeline.plan import make_plan
from malmoi.pipeline.run import run_plan
from malmoi.training.ray_reader import Pack, RayReader, stream_rows

TEXTS = ["말모이는 사전이다.", "", "one <|eos|> text", "漢字 과 한글", "🎉", "long " * 100]


def run(folder, tmp_path, **write):
    source = tmp_path / "in.jsonl"
    lines = [f'{{"id": "{i}", "text": "{text}"}}\n' for i, text in enumerate(TEXTS)]
    source.write_text("".join(lines), encoding="utf-8")
    recipe = {"name": "t", "output": str(folder), "sources": [{"name": "s", "path": str(source), "id": "id"}]}
    plan = make_plan(parse_recipe({**recipe, "write": {"shuffle": False, **write}}))
    run_plan(plan, console=Console(quiet=True), engine="local")
    return str(folder)


@pytest.fixture(scope="module")
def wanted(tiny_tokenizer):
    """The tokens of each text with eos."""
    made = Tokenizer.from_file(str(tiny_tokenizer / "tokenizer.json"))
    made.encode_special_tokens = True
    return [[*made.encode(x, add_special_tokens=False).ids, 0] for x in TEXTS if x]


def documents(batches):
    """The documents in rows of 1,000 tokens, sorted."""
    found = []
    for batch in batches:
        for ids, labels, starts in zip(batch.input_ids, batch.labels, batch.doc_starts, strict=True):
            used = int((labels != IGNORE).sum())
            assert (labels[:used] == ids[:used]).all()
            ends = [*starts[1:].tolist(), used]
            found += [ids[a:b].tolist() for a, b in zip(starts.tolist(), ends, strict=True)]
    return sorted(found)


def test_pack(tiny_tokenizer, wanted):
    table = Pack(load_encoder(str(tiny_tokenizer)), 8)(pa.table({"text": pa.array(TEXTS, pa.large_string())}))
    flat = [x for row in table["labels"].to_pylist() for x in row if x != IGNORE]
    assert flat == [x for document in wanted for x in document]
    assert all(len(row) == 8 for row in table["input_ids"].to_pylist())
    empty = Pack(load_encoder(str(tiny_tokenizer)), 8)(pa.table({"text": pa.array([], pa.large_string())}))
    assert (empty.num_rows, empty.schema) == (0, table.schema)


@pytest.mark.ray
def test_on_ray(tmp_path, tiny_tokenizer, wanted):
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    folder = run(tmp_path / "run", tmp_path, shard_bytes=1024)
    started = not ray.is_initialized()
    if started:
        ray.init(
            address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
            object_store_memory=128 * 1024**2,
        )  # fmt: skip
    try:
        reader = RayReader(stream_rows(folder, str(tiny_tokenizer), 1000), 2)
        assert documents(reader) == sorted(wanted)
        assert reader.samples_seen >= 1
        assert documents(RayReader(reader.source, 1, shuffle_rows=4)) == sorted(wanted)
    finally:
        if started:
            ray.shutdown()


def test_what_it_cannot(tmp_path, tiny_tokenizer):
    pytest.importorskip("ray.data")
    with pytest.raises(MalmoiError, match="cannot go on at sample 8"):
        RayReader(None, 2).seek(8)
    folder = run(tmp_path / "run", tmp_path, format="jsonl.zst")
    with pytest.raises(MalmoiError, match="want a corpus in Parquet"):
        stream_rows(folder, str(tiny_tokenizer), 8)
