"""A whole run: the same bytes however it is run, books that balance, every record found exactly once."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import zstandard
from rich.console import Console

from malmoi.pipeline import ahead
from malmoi.pipeline.config import load_recipe, parse_recipe
from malmoi.pipeline.plan import make_plan
from malmoi.pipeline.run import run_plan

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "examples/recipes/demo.yaml"
SAMPLE = ROOT / "examples/sample"


def lines(path: Path) -> list[bytes]:
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    elif path.suffix == ".zst":
        data = zstandard.ZstdDecompressor().stream_reader(data).read()
    return [line for line in data.split(b"\n") if line.strip()]


def sample() -> Counter[tuple[str, str]]:
    """(source, id) of every good record of the sample, read the plain way; broken ones as (source, "")."""
    found: Counter[tuple[str, str]] = Counter()
    for path in SAMPLE.iterdir():
        source = path.name.split(".")[0]
        if path.suffix == ".parquet":
            found.update((source, id) for id in pq.read_table(path)["id"].to_pylist())
        elif "jsonl" in path.name:
            for line in lines(path):
                try:
                    record = json.loads(line)
                    good = isinstance(record, dict) and isinstance(record.get("text"), str)
                except ValueError:
                    good = False
                found[source, record["id"] if good else ""] += 1
    return found


def shingles(text: str) -> set[tuple[str, ...]]:
    """Word 5-grams as the scheme `malmoi-shingle-v1` has them, for text without scripts that lack spaces."""
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + 5]) for i in range(max(len(words) - 4, min(len(words), 1)))}


@pytest.mark.parametrize("batch_rows", [1, 7])
def test_batches_change_no_byte(tmp_path, demo, run_here, outputs, batch_rows):
    other = run_here(tmp_path / "run", DEMO, f"run.batch_rows={batch_rows}", "run.batch_bytes=50000")
    assert other.manifest.manifest_hash == demo.manifest.manifest_hash
    assert outputs(other.path) == outputs(demo.path)


def test_the_size_of_parts_changes_no_document(tmp_path, demo, run_here):
    """Parts are part of a run's identity: their files differ, not the corpus. Which shard a row lies in and
    the order are decided by the id, so even the shards hold the same."""
    other = run_here(tmp_path / "run", DEMO, "part_bytes=20000")
    assert len(other.manifest.others) > len(demo.manifest.others)
    assert other.manifest.manifest_hash != demo.manifest.manifest_hash
    assert [shard.hash for shard in other.manifest.corpus] == [shard.hash for shard in demo.manifest.corpus]
    assert other.manifest.books == demo.manifest.books
    assert sorted(map(repr, other.dropped)) == sorted(map(repr, demo.dropped))
    assert sorted(map(repr, other.quarantine)) == sorted(map(repr, demo.quarantine))


def test_nothing_is_lost_or_made_up(demo):
    found = Counter((row["source"], row["id"]) for row in demo.corpus if row["epoch"] == 0)
    assert max(found.values()) == 1
    found.update((row["source"], row["id"]) for row in demo.dropped)
    found.update((row["source"], "") for row in demo.quarantine)
    assert found == sample()


def test_the_books_balance(demo):
    books = demo.manifest.books
    assert [book.stage for book in books] == ["filter", "dedup", "mixture", "write"]
    assert books[0].read == sum(sample().values())
    for book, following in pairwise(books):
        assert book.read == book.kept + sum(book.dropped.values()) + book.quarantined
        assert book.kept == following.read
        assert book.kept_bytes == following.read_bytes or following.stage == "write"  # which counts copies
    reasons = Counter(row["drop"] for row in demo.dropped)
    assert reasons == Counter({name: n for book in books for name, n in book.dropped.items()})
    assert len(demo.quarantine) == sum(book.quarantined for book in books) == 10
    rows = demo.corpus
    assert books[-1].rows == len(rows)
    assert books[-1].kept == len({(row["source"], row["id"]) for row in rows})
    assert demo.manifest.text_bytes == sum(len(row["text"].encode()) for row in rows)
    assert sum(group.read for group in demo.manifest.sources) == books[0].read


def test_copies_are_whole_documents(demo):
    epochs: dict[tuple[str, str], list[int]] = {}
    texts: dict[tuple[str, str], set[str]] = {}
    for row in demo.corpus:
        epochs.setdefault((row["source"], row["id"]), []).append(row["epoch"])
        texts.setdefault((row["source"], row["id"]), set()).add(row["text"])
    assert max(map(len, epochs.values())) == 2
    assert all(sorted(found) == list(range(len(found))) for found in epochs.values())
    assert all(len(found) == 1 for found in texts.values())


def test_every_duplicate_names_a_survivor_that_is_as_similar_as_told(demo):
    lost = [row for row in demo.dropped if row["duplicate_of"] is not None]
    assert {row["drop"] for row in lost} == {"exact_dedup.duplicate", "fuzzy_dedup.duplicate"}
    place = {(row["source"], row["id"]): row for row in (*demo.dropped, *demo.corpus)}
    compared = 0
    for row in lost:
        survivor = place[row["duplicate_source"], row["duplicate_of"]]
        assert survivor.get("duplicate_of") is None, "a survivor is no duplicate itself"
        assert survivor.get("drop") in (None, "mixture.not_chosen")
        if row["drop"] == "exact_dedup.duplicate":
            assert row["similarity"] == 1.0
            assert row["text"].split() == survivor["text"].split()
        else:
            assert row["similarity"] >= 0.8
        if row["language"] in ("en", "de", "ko"):
            one, other = shingles(row["text"]), shingles(survivor["text"])
            assert row["similarity"] == pytest.approx(len(one & other) / len(one | other), abs=1e-6)
            compared += 1
    assert compared >= 40


def test_no_two_documents_of_the_corpus_are_exact_copies(demo):
    texts = Counter(" ".join(row["text"].split()) for row in demo.corpus if row["epoch"] == 0)
    assert max(texts.values()) == 1


def test_priority_decides_who_stays(demo):
    """The recipe prefers priority: the old revisions and the mirror give way to the others."""
    order = {"docs-ko-old": -1, "laws-de-old": -1, "mirror": -2}
    for row in demo.dropped:
        if row["duplicate_of"] is not None:
            assert order.get(row["duplicate_source"], 0) >= order.get(row["source"], 0)


def test_without_a_shuffle_the_order_is_that_of_the_input(tmp_path, run_here):
    ran = run_here(tmp_path / "run", DEMO, "write.shuffle=false", "write.shard_bytes=200000")
    assert len(ran.manifest.corpus) > 3
    order = {name: i for i, name in enumerate(x.name for x in load_recipe(DEMO).sources)}
    places = [order[row["source"]] for row in ran.corpus]
    assert places == sorted(places)
    ids = [id for source, id in sample() if source == "news-ko"]
    kept = list(dict.fromkeys(row["id"] for row in ran.corpus if row["source"] == "news-ko"))
    assert kept == [id for id in ids if id in set(kept)]


def test_json_lines_hold_what_parquet_holds(tmp_path, demo, run_here):
    ran = run_here(tmp_path / "run", DEMO, "write.format=jsonl.zst")
    rows = [json.loads(line) for shard in ran.manifest.corpus for line in lines(ran.path / shard.path)]
    assert rows == demo.corpus


def test_equal_ids_in_two_sources_are_two_documents(tmp_path, run_here):
    for name in ("a", "b"):
        record = {"id": "1", "text": f"{name} is the text of this document"}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(record))
    sources = [{"name": name, "path": f"{name}.jsonl", "id": "id"} for name in ("a", "b")]
    ran = run_here(tmp_path / "run", {"sources": sources}, base=tmp_path)
    assert sorted((row["source"], row["id"]) for row in ran.corpus) == [("a", "1"), ("b", "1")]


def test_the_order_of_files_on_the_disk_changes_nothing(tmp_path, run_here):
    records = [json.dumps({"text": f"document number {i} of a folder"}) for i in range(9)]
    made = []
    for folder, order in (("one", (0, 1, 2)), ("two", (2, 0, 1))):
        (tmp_path / folder).mkdir()
        for i in order:
            (tmp_path / folder / f"{i}.jsonl").write_text("\n".join(records[3 * i : 3 * i + 3]))
        sources = [{"name": "s", "path": folder}]
        made.append(run_here(tmp_path / f"run-{folder}", {"sources": sources}, base=tmp_path))
    one, two = (ran.manifest for ran in made)
    assert one.manifest_hash == two.manifest_hash
    assert (one.corpus, one.others) == (two.corpus, two.others)


def test_a_plan_names_every_job_once():
    plan = make_plan(load_recipe(DEMO, ["output=/tmp/none", "part_bytes=20000"]), str(DEMO.parent))
    assert [job.part.index for job in plan.jobs()] == list(range(plan.num_parts))


def test_a_group_without_a_byte_of_text_is_in_the_corpus(tmp_path):
    """`as_is` takes every document once, also the empty one of a source that has no other."""
    (tmp_path / "a.jsonl").write_text('{"text": ""}\n', encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"text": "말모이"}\n', encoding="utf-8")
    sources = [{"name": name, "path": f"{name}.jsonl"} for name in ("a", "b")]
    recipe = parse_recipe({"name": "r", "output": str(tmp_path / "run"), "sources": sources})
    manifest = run_plan(make_plan(recipe, str(tmp_path)), console=Console(quiet=True), engine="local")
    assert manifest.rows == 2


@pytest.mark.parametrize(
    ("kept", "compiled"),
    [
        ([], False),
        (["fasttext_file.fnv-1.nbi", "fasttext_kernel._find-2.nbi"], False),
        (["words.segment-3.nbi"], True),
    ],
)
def test_a_plan_alone_has_not_compiled_the_kernels(tmp_path, monkeypatch, kept, compiled):
    """Which it does for a language model, before the first run says how long it will compile."""
    for name in kept:
        (tmp_path / name).touch()
    monkeypatch.setattr(ahead, "cache_folder", lambda: tmp_path)
    assert ahead.compiled() is compiled
