"""What is done for very many parts, files, sources and shards: counted, as none of it shows in small runs."""

import difflib
import io
import json
import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from malmoi.operators.candidates import distinct
from malmoi.operators.diversity import merge, sketch_from_text
from malmoi.pipeline import batches, dedup, index, removed, spread
from malmoi.pipeline.batches import files_merged
from malmoi.pipeline.buckets import read_bucket, read_whole, write_buckets
from malmoi.pipeline.engine import Job, _done, run_jobs
from malmoi.pipeline.files import find_files
from malmoi.pipeline.identity import MOST_INPUTS, differences
from malmoi.pipeline.manifest import Book, Dedup, Group, Loss, Manifest, Mixture, Output, wrong_files
from malmoi.pipeline.recipe import Source
from malmoi.pipeline.report import print_summary
from malmoi.pipeline.result import Result
from malmoi.pipeline.shards import ShardPlan
from malmoi.pipeline.sources import split_parts
from malmoi.pipeline.spread import Sketches, Spread, text_figures
from malmoi.pipeline.storage import Folder
from malmoi.pipeline.written import hash_file

DEMO = Path(__file__).resolve().parents[2] / "examples/recipes/demo.yaml"


@pytest.fixture
def opened(monkeypatch):
    """The names that are opened for reading in any folder."""
    names = []
    real = Folder.open

    def counted(self, name, **settings):
        names.append(name)
        return real(self, name, **settings)

    monkeypatch.setattr(Folder, "open", counted)
    return names


@pytest.mark.parametrize(
    "values", [[], [3], [3, 3, 3], [9, 1, 9, 2**40, 1], np.array([7, 7, 0], "<u4"), np.zeros(0, np.uint64)]
)
def test_distinct_numbers(values):
    found = distinct(np.asarray(values))
    assert found.tolist() == np.unique(values).tolist()
    assert found.dtype == np.asarray(values).dtype


def identity(files, **more):
    return {"inputs": [{"file": name, "bytes": size} for name, size in files.items()], "seed": 0, **more}


FILES = {f"하나/{i:06d}.jsonl": i for i in range(20_000)}


@pytest.mark.parametrize(
    ("now", "told"),
    [
        (identity(FILES, seed=1), ['- "seed": 0', '+ "seed": 1']),
        (identity({**FILES, "하나/000077.jsonl": 5}), ['-   "bytes": 77,', '+   "bytes": 5,']),
        (identity({**FILES, "new.jsonl": 5}), ['+   "file": "new.jsonl"']),
        (identity({name: i + 1 for name, i in FILES.items()}), ["20,000 input files differ"]),
        (identity(dict(reversed(FILES.items()))), ["the input files are in another order"]),
        (identity(FILES), None),
    ],
)
def test_a_comparison_shows_what_differs_and_compares_little(monkeypatch, now, told):
    compared = []
    real = difflib.unified_diff

    def counted(a, b, *names, **settings):
        compared.append(len(a) + len(b))
        return real(a, b, *names, **settings)

    monkeypatch.setattr(difflib, "unified_diff", counted)
    lines = differences(identity(FILES), now)
    assert set(told or []) <= set(lines), lines[-20:]
    assert bool(lines) == (told is not None)
    assert sum(compared) <= 2 * 5 * (MOST_INPUTS + 5)


def samples(folder, jobs):
    """Jobs of two documents each."""
    counts = []
    for job in range(jobs):
        one = Spread()
        texts = [f"글 {job} {i} " * 100 for i in range(2)]
        ids = [f"{job}-{i}" for i in range(2)]
        one.add(pa.table({"id": ids, "source": ["s", "s"], "text": pa.array(texts, pa.large_string())}))
        counts.append({**one.counts, "files": [one.write(folder, f"{job}.sample.parquet")]})
    return counts


@pytest.mark.parametrize("jobs", [0, 1, 40, 160])
def test_the_sample_of_many_jobs_is_read_from_few(tmp_path, monkeypatch, opened, jobs):
    monkeypatch.setattr(spread, "SAMPLE_BYTES", 10_000)
    folder = Folder(str(tmp_path))
    counts = samples(folder, jobs)
    opened.clear()
    found = text_figures(folder, counts, Sketches())
    assert len(opened) <= 10_000 // 900 + spread.READERS
    without = [{key: value for key, value in one.items() if key != "smallest"} for one in counts]
    opened.clear()
    assert text_figures(folder, without, Sketches()) == found, "as if all were read"
    assert len(opened) == jobs


def test_sketches_are_merged_and_not_held(tmp_path):
    folder, sketches = Folder(str(tmp_path)), Sketches()
    counts = samples(folder, 20)
    kept = run_jobs(
        folder,
        [Job("t", f"job-{i}", lambda _, one: dict(one), one) for i, one in enumerate(counts)],
        engine="local",
        num_cpus=1,
        tick=lambda _: None,
        keep=sketches.take,
    )
    assert not any("ngrams" in one for one in kept)
    every = [sketch_from_text(one["ngrams"]) for one in counts]
    assert sketches.whole == merge(every)


def test_a_summary_of_hundreds_of_sources_can_be_read():
    names = [f"source-{i:03d}" for i in range(500)]
    losses = tuple(Loss(name, 10, 9, 0) for name in names)
    notes = tuple(f"{name}: wants more than it has" for name in names)
    manifest = Manifest(
        "m", {}, {}, {}, {}, (Book("write", 1, 1, {}, 0, rows=1),), (), (Output("corpus/a", 0, "0", 1),)
    )  # fmt: skip
    out = io.StringIO()
    print_summary(
        replace(
            manifest,
            sources=tuple(Group(name, read=1) for name in names),
            languages=tuple(Group(name, read=1) for name in names[:200]),
            dedup=Dedup(1, 2, losses, tuple(f"alarm: {name} lost 9 of 10 documents" for name in names)),
            mixture=Mixture("source", "given", "bytes", tuple(Group(name) for name in names), notes),
        ),
        {},
        Console(file=out, width=100),
        "/runs/m",
    )
    text = out.getvalue()
    assert len(text.splitlines()) < 120
    assert text.count("488 more such lines in manifest.json") == 2
    assert "removed 4,500 of 5,000 (90.0 %)" in text, "of all sources"


def test_many_small_pieces_are_merged_and_the_corpus_is_the_same(
    tmp_path, demo, run_here, outputs, monkeypatch, opened
):
    read = []
    real = batches.read_range
    monkeypatch.setattr(batches, "read_range", lambda *at: read.append(at) or real(*at))
    settings = ["part_bytes=40_000", "write.shard_bytes=40_000", "dedup.save_index=true"]
    monkeypatch.setattr(index, "SHARD_DOCUMENTS", 60)
    whole = run_here(tmp_path / "apart", DEMO, *settings)
    apart = len(read)
    read.clear()
    monkeypatch.setattr(batches, "MOST_PIECES", 1)
    monkeypatch.setattr(batches, "MERGED_BYTES", 300_000)
    merged = run_here(tmp_path / "merged", DEMO, *settings)
    assert outputs(merged.path) == outputs(whole.path)
    parts, files = (
        len(list((merged.path / f"stages/{stage}").glob("*.commit.json"))) for stage in ("split", "merge")
    )
    assert 1 < files < parts // 2
    shards = len(list((merged.path / "index").glob("shard-*")))
    assert len(read) <= (files + 3) * (len(merged.manifest.corpus) + shards) < apart / 2, (
        "one a file and a shard"
    )
    assert not list((merged.path / "stages/scatter").iterdir())


@pytest.mark.parametrize(
    ("parts", "shards", "size", "merged"),
    [
        (1000, 1000, 1000 * 1000 * 5000, 107),  # of 5 MB: 107 are 512 MiB
        (1000, 999, 1000 * 1000 * 5000, 1),  # not a million
        (1000, 1000, 1000 * 1000 * 70_000, 1),  # pieces are large
        (100_000, 10_000, 10**12, 53),
        (1000, 2000, 1000, 1000),
    ],
)
def test_when_pieces_are_merged(parts, shards, size, merged):
    assert files_merged(parts, shards, size) == merged


def test_the_place_of_a_partition_is_read_and_not_those_before_it(tmp_path, monkeypatch):
    folder, partitions = Folder(str(tmp_path)), 50_000
    rows = np.arange(partitions, dtype="<u8")
    write_buckets(folder, "x", rows, rows, partitions)
    read = []
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda handle, size, at: read.append(size) or real(handle, size, at))
    for partition in (0, 1, 31_000, partitions - 1):
        assert read_bucket(folder, "x", partition, rows.dtype).tolist() == [partition]
    assert sum(read) == 4 * (16 + 16 + 8)
    counts, found = read_whole(folder, "x", rows.dtype)
    assert counts.tolist() == [1] * partitions
    assert found.tolist() == rows.tolist()


@pytest.fixture
def requests(s3, monkeypatch):
    """The requests to the store, as they are made."""
    import s3fs

    made = []
    real = s3fs.S3FileSystem._call_s3

    async def counted(self, method, *arguments, **settings):
        made.append(method)
        return await real(self, method, *arguments, **settings)

    fs = s3fs.S3FileSystem(**s3)
    if not fs.exists("growth"):
        fs.mkdir("growth")
    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", counted)
    return made


def write_two(folder, number):
    names = [f"stages/t/{number}.{kind}" for kind in ("a", "b")]
    for name in names:
        folder.write_bytes(name, "말모이".encode())
    return {"read": 1, "files": [hash_file(folder, name) for name in names]}


def test_what_is_done_is_listed_and_not_looked_for(s3, requests):
    """No request for a job that has no record; of one that has: the record, then its files, which are read."""
    looked, gone_on, verified = {}, {}, {}
    for count in (5, 40):
        folder = Folder(f"s3://growth/{count}", s3)
        jobs = [Job("t", f"job-{i}", write_two, i) for i in range(count)]
        assert _done(folder, jobs, on_workers=False, whole=True) == ({}, frozenset())
        looked[count] = len(requests)
        counts = run_jobs(folder, jobs, engine="local", num_cpus=1, tick=lambda _: None)
        requests.clear()
        assert len(_done(folder, jobs, on_workers=False, whole=True)[0]) == count
        gone_on[count] = len(requests)
        requests.clear()
        outputs = [Output(*file, 1) for one in counts for file in one["files"]]
        assert wrong_files(folder, outputs, deep=False) == ""
        verified[count] = len(requests)
        requests.clear()
    assert looked[5] == looked[40] <= 4
    assert verified[5] == verified[40] <= 4
    assert gone_on[40] - gone_on[5] <= 35 * 3 * 2, "each of three files is opened and read"


def test_input_files_in_a_store_are_listed_once_and_their_footers_read(s3, requests):
    import s3fs

    fs, made = s3fs.S3FileSystem(**s3), io.BytesIO()
    pq.write_table(pa.table({"id": ["1"], "text": ["글"]}), made)
    for i in range(60):
        fs.pipe(f"growth/in/{i:03d}.parquet", made.getvalue())
    source = Source(name="s", path="s3://growth/in", id="id", storage_options=s3)
    requests.clear()
    files = find_files(source, "/")
    assert len(requests) <= 4
    assert not any(len(rows) > 1 for rows in fs.dircache.values()), "each open would search the list"
    requests.clear()
    assert sum(len(part.pieces) for part in split_parts(source, files, 10**6)) == 60
    assert requests == ["get_object"] * 60


def test_jobs_of_deduplication_carry_no_list_of_parts(tmp_path, run_here, monkeypatch):
    source = tmp_path / "in.jsonl"
    lines = [json.dumps({"id": str(i), "text": f"같은 글 {i // 2} " * 20 + f"끝 {i}"}) for i in range(400)]
    source.write_text("\n".join(lines), encoding="utf-8")
    sizes = {}
    real = dedup.run_jobs

    def noted(folder, jobs, **settings):
        for job in jobs:
            kind = job.name.split("-")[1]
            sizes.setdefault(kind, []).append(len(pickle.dumps(job.payload)))
        return real(folder, jobs, **settings)

    monkeypatch.setattr(dedup, "run_jobs", noted)
    monkeypatch.setattr(dedup, "DOCUMENTS_PER_GROUP", 40)
    size, largest = source.stat().st_size, {}
    for parts in (10, 200):
        settings = {"sources": [{"name": "s", "path": str(source), "id": "id"}], "part_bytes": size // parts}
        run_here(tmp_path / str(parts), settings)
        largest[parts] = {kind: max(found) for kind, found in sizes.items()}
        assert 5 <= len(sizes["bands"]) <= 11
        sizes.clear()
    assert set(largest[10]) == {"bands", "pairs", "unique", "fetch", "compare"}
    for kind in ("pairs", "unique", "compare"):
        assert largest[200][kind] < largest[10][kind] + 50, kind
    for kind in ("bands", "fetch"):
        assert largest[200][kind] < largest[10][kind] + 20 * 50, "20 parts of its group"


@pytest.mark.parametrize("limit", [1, 3, 10**6])
def test_duplicates_that_are_shown_are_all_whose_text_is_read(demo, monkeypatch, limit):
    result = Result.load(demo.path)
    read = []
    for name in ("rows_of", "read_rows"):
        real = getattr(removed, name)
        monkeypatch.setattr(
            removed,
            name,
            lambda *at, name=name, real=real: read.extend((name, row) for row in at[2]) or real(*at),
        )
    monkeypatch.setattr(removed, "_FILES", 2)
    found = result.duplicates(limit)
    gone = [row for row in demo.dropped if row["drop"].split(".")[0] in ("exact_dedup", "fuzzy_dedup")]
    gone.sort(key=lambda row: (row["similarity"], row["source"], row["id"]))
    assert found.total == len(gone) == 43
    for name in ("id", "source", "text", "drop", "duplicate_of", "similarity"):
        assert found.table[name].to_pylist() == [row[name] for row in gone[:limit]]
    texts = {(row["source"], row["id"]): row["text"] for row in demo.corpus}
    pairs = zip(
        found.table["duplicate_source"].to_pylist(), found.table["duplicate_of"].to_pylist(), strict=True
    )
    for pair, text in zip(pairs, found.table["stays"].to_pylist(), strict=True):
        assert text
        assert text == texts.get(pair, text)
    assert sum(name == "rows_of" for name, _ in read) == min(limit, 43)
    assert sum(name == "read_rows" for name, _ in read) <= min(limit, 43)


@pytest.mark.parametrize(
    ("sizes", "shards"), [([10] * 40, 7), ([0, 5, 0, 100, 1, 1, 0], 4), ([3], 1), ([1, 1, 50], 50)]
)
def test_each_shard_that_is_not_shuffled_has_the_parts_that_it_reads(sizes, shards):
    total = sum(sizes)
    starts = tuple(np.cumsum([0, *sizes])[:-1].tolist())
    size = -(-total // shards)
    schema = pa.schema([])
    plan = ShardPlan(9, total, shards, size, False, 0, "parquet", 3, schema, range(len(sizes)), starts)
    found = [list(zip(own.parts, own.starts, strict=True)) for own in plan.each()]
    places = [
        (plan.shard_at(np.array(at)), plan.shard_at(np.array(at + n)))
        for at, n in zip(starts, sizes, strict=True)
    ]
    want = [[(i, starts[i]) for i, (a, b) in enumerate(places) if a <= shard <= b] for shard in range(shards)]
    assert found == want
    whole = replace(plan, shuffle=True, starts=())
    assert [own.parts for own in whole.each()] == [range(len(sizes))] * shards


def test_names_of_columns_are_asked_for_once_and_not_for_each_column(tmp_path, run_here, monkeypatch):
    asked = []
    real = pq.ParquetFile.schema_arrow
    monkeypatch.setattr(
        pq.ParquetFile, "schema_arrow", property(lambda self: asked.append(1) or real.fget(self))
    )
    counts = {}
    for columns in (5, 100):
        records = [
            {"id": str(i), "text": f"글 {i}", **{f"c{k}": k for k in range(columns)}} for i in range(20)
        ]
        place = tmp_path / f"{columns}.jsonl"
        place.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
        asked.clear()
        ran = run_here(tmp_path / str(columns), {"sources": [{"name": "s", "path": str(place), "id": "id"}]})
        counts[columns] = len(asked)
        assert len(ran.corpus[0]) >= columns + 4
    assert counts[5] == counts[100]
