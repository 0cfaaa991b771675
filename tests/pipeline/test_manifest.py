"""The manifest: what enters its hash, what a changed or missing file says, books that do not balance."""

import json
from dataclasses import replace

import pytest
import xxhash

from malmoi.pipeline.errors import ChangedError, MalmoiError
from malmoi.pipeline.manifest import (
    Book,
    Dedup,
    Group,
    Input,
    Loss,
    Manifest,
    Mixture,
    Output,
    check_books,
)
from malmoi.pipeline.storage import Folder

SHARDS = {f"corpus/shard-0000{i}-of-00002.parquet": content for i, content in enumerate([b"one", b"two"])}

GROUP = Group(
    "책", read=10, kept=7, unique=5, unique_bytes=500, documents=5, rows=8, text_bytes=800, target=1.0
)


def make_manifest(**changes):
    manifest = Manifest(
        name="demo",
        recipe={
            "name": "demo",
            "sources": [{"name": "책", "path": ["/data/books"], "storage_options": {"secret": "x"}}],
            "write": {"format": "parquet", "shuffle": True},
        },
        versions={"malmoi": "0.1.0", "pyarrow": "26.0.1"},
        operators={"gopher_quality": 1},
        schemes={"exact": "xxh64 pair", "minhash": None},
        books=(
            Book("filter", 10, 7, {"c4.lorem_ipsum": 2}, 1, 1000, 700),
            Book("dedup", 7, 5, {"exact_dedup.duplicate": 2}, 0, 700, 500),
            Book("write", 5, 5, {}, 0, 500, 500, rows=8),
        ),
        inputs=(Input("책", "a.jsonl", 123, "abc"),),
        corpus=tuple(
            Output(name, len(content), xxhash.xxh3_128_hexdigest(content), 4, 250, tokens=60)
            for name, content in SHARDS.items()
        ),
        others=(Output("dropped/part-00000.parquet", 3, xxhash.xxh3_128_hexdigest(b"bad"), 4),),
        sources=(GROUP,),
        languages=(replace(GROUP, name="ko"),),
        dedup=Dedup(2, 3, (Loss("책", 7, 2, 0),), ("책 lost 29 %",)),
        mixture=Mixture("source", "given", "bytes", (GROUP,)),
        diversity={"before": {"sources": 1.0}, "after": {"sources": 1.0, "zstd_ratio": None}},
    )
    return replace(manifest, **changes)


def write_files(folder):
    for name, content in {**SHARDS, "dropped/part-00000.parquet": b"bad"}.items():
        folder.write_bytes(name, content)


def test_what_is_saved_is_loaded(tmp_path):
    folder, manifest = Folder(str(tmp_path)), make_manifest()
    write_files(folder)
    manifest.save(folder)
    loaded = Manifest.load(str(tmp_path))
    del manifest.recipe["sources"][0]["storage_options"]
    assert loaded == manifest
    assert loaded.manifest_hash == manifest.manifest_hash
    assert (loaded.rows, loaded.text_bytes, loaded.tokens) == (8, 500, 120)
    assert loaded.dedup.exact == 2
    assert loaded.corpus_files(folder)[0] == folder.join("corpus/shard-00000-of-00002.parquet")
    loaded.verify(folder, deep=True)
    text = (tmp_path / "manifest.json").read_text(encoding="utf-8")
    assert "책" in text
    assert "secret" not in text
    manifest.save(folder)
    assert (tmp_path / "manifest.json").read_text(encoding="utf-8") == text


def test_hash_is_of_what_was_made_not_of_where_and_how():
    first = make_manifest()
    recipe = {
        **first.recipe,
        "output": "/elsewhere",
        "run": {"num_cpus": 64, "batch_rows": 1},
        "sources": [{"name": "책", "path": ["s3://bucket/books"]}],
    }
    assert make_manifest(recipe=recipe).manifest_hash == first.manifest_hash
    for change in (
        {"operators": {"gopher_quality": 2}},
        {"recipe": {**first.recipe, "seed": 1}},
        {"recipe": {**first.recipe, "sources": [{"name": "other", "path": []}]}},
        {"inputs": (replace(first.inputs[0], fingerprint="abd"),)},
        {"corpus": (replace(first.corpus[0], hash="00"), first.corpus[1])},
        {"schemes": {"exact": "another", "minhash": None}},
    ):
        assert make_manifest(**change).manifest_hash != first.manifest_hash, change


def test_verify_names_what_changed(tmp_path):
    folder, manifest = Folder(str(tmp_path)), make_manifest()
    write_files(folder)
    first, second = SHARDS
    folder.write_bytes(second, b"TWO")
    manifest.verify(folder)
    with pytest.raises(ChangedError, match=r"shard-00001-of-00002.parquet: content changed"):
        manifest.verify(folder, deep=True)
    folder.write_bytes(second, b"longer")
    folder.remove(first)
    with pytest.raises(ChangedError) as caught:
        manifest.verify(folder)
    assert [line.split("corpus/")[1] for line in str(caught.value).splitlines()] == [
        "shard-00000-of-00002.parquet: missing",
        "shard-00001-of-00002.parquet: 6 bytes, want 3",
    ]


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (None, "not there, so this is not a finished run"),
        ("", "not a manifest"),
        ("[]", "not a manifest"),
        ("{}", "not a manifest"),
        ('{"manifest_hash": "x", "format_version": 99}', "format 99; this malmoi reads format 1"),
    ],
)
def test_a_file_that_is_no_manifest(tmp_path, content, wanted):
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(MalmoiError, match=wanted):
        Manifest.load(str(tmp_path))


def test_an_edited_manifest_is_refused(tmp_path):
    folder = Folder(str(tmp_path))
    make_manifest().save(folder)
    content = json.loads(folder.read_bytes("manifest.json"))
    content["corpus"][0]["rows"] = 5
    folder.write_bytes("manifest.json", json.dumps(content).encode())
    with pytest.raises(ChangedError, match="changed since it was written"):
        Manifest.load(folder)


def test_books():
    check_books([])
    good = make_manifest().books
    check_books(good)
    with pytest.raises(
        MalmoiError, match=r"^filter: .* read 11, but kept 7 \+ dropped 2 \+ quarantined 1 = 10$"
    ):
        check_books([replace(good[0], read=11)])
    with pytest.raises(MalmoiError, match="dedup: read 6, but filter kept 7"):
        check_books([good[0], replace(good[1], read=6, kept=4)])


def test_save_refuses_books_that_do_not_balance(tmp_path):
    manifest = make_manifest()
    lost = (*manifest.books[:2], replace(manifest.books[2], rows=9))
    with pytest.raises(MalmoiError, match="write: wrote 9 rows, but the shards hold 8"):
        replace(manifest, books=lost).save(Folder(str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


def test_book_of_counts():
    counts = {
        "read": 3,
        "kept": 1,
        "dropped": {"b": 1, "a": 1},
        "quarantine_reasons": {"x": 0},
        "text_bytes": 30,
        "files": [],
        "seconds": 1.0,
    }
    assert Book.of("filter", counts) == Book(
        "filter", 3, 1, {"a": 1, "b": 1}, 0, 30, 30, quarantine_reasons={"x": 0}
    )
    assert Book.of("filter", {**counts, "kept_bytes": 10, "rows": 2}).kept_bytes == 10


def test_tokens_are_unknown_where_a_shard_was_not_counted():
    first, second = make_manifest().corpus
    assert make_manifest(corpus=(first, replace(second, tokens=None))).tokens is None
