"""Bad input, from the command line to the files of the run: a clear word, or quarantine with a reason."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

WITH_PROC = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
GOOD = json.dumps({"id": "good", "text": "말모이 is a dictionary of words."}, ensure_ascii=False).encode()
MANY = b"\n".join(
    json.dumps({"id": f"n{i}", "text": f"document {i} has the number {i * i}"}).encode() for i in range(5000)
)


def write(path: Path, data: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return str(path)


def torn(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3]


RECORDS = {
    # what one line holds: (the line, the reason of its quarantine, or the text that it becomes)
    "empty text": (b'{"id": "x", "text": ""}', ""),
    "white space": (b'{"id": "x", "text": " \\n\\t "}', " \n\t "),
    "one character": ('{"id": "x", "text": "말"}'.encode(), "말"),
    "NFD Hangul": ('{"id": "x", "text": "말모이"}'.encode(), "말모이"),
    "NFD in escapes": (b'{"id": "x", "text": "\\u1106\\u1161\\u11af"}', "말"),
    "CRLF inside": (b'{"id": "x", "text": "a\\r\\nb\\rc"}', "a\nb\nc"),
    "CRLF at the end": (b'{"id": "x", "text": "a"}\r', "a"),
    "a null character": (b'{"id": "x", "text": "a\\u0000b"}', "ab"),
    "emoji as a pair": (b'{"id": "x", "text": "\\ud83d\\ude00"}', "😀"),
    "a number as id": (b'{"id": 7, "text": "seven"}', "seven"),
    "one giant line": (b'{"id": "x", "text": "' + b"word " * 400_000 + b'"}', "word " * 400_000),
    "invalid UTF-8": (b'{"id": "x", "text": "caf\xe9"}', "quarantine.invalid_utf8"),
    "UTF-8 surrogate": (b'{"id": "x", "text": "\xed\xa0\x80"}', "quarantine.invalid_utf8"),
    "lone surrogate": (b'{"id": "x", "text": "\\ud83d"}', "quarantine.lone_surrogate"),
    "low surrogate first": (b'{"id": "x", "text": "\\ude00\\ud83d"}', "quarantine.lone_surrogate"),
    "truncated": (b'{"id": "x", "text": "a', "quarantine.bad_json"),
    "nothing but noise": (b"\x00\x01\x02", "quarantine.bad_json"),
    "a list": (b'["x"]', "quarantine.not_an_object"),
    "no text": (b'{"id": "x"}', "quarantine.missing_text"),
    "null text": (b'{"id": "x", "text": null}', "quarantine.missing_text"),
    "a number as text": (b'{"id": "x", "text": 7}', "quarantine.text_not_string"),
    "null id": (b'{"id": null, "text": "a"}', "quarantine.missing_id"),
}


@pytest.mark.parametrize("case", RECORDS)
def test_a_record(tmp_path, recipe_file, cli, run_here, case):
    line, expected = RECORDS[case]
    write(tmp_path / "in.jsonl", GOOD + b"\n" + line + b"\n")
    recipe = recipe_file([{"name": "s", "path": "in.jsonl", "id": "id"}], steps=["normalise"])
    said = cli("run", recipe)
    assert (said.code, said.err) == (0, "")
    ran = run_here(tmp_path / "run", recipe)  # done already
    others = [row for row in ran.corpus if row["id"] != "good"]
    if expected.startswith("quarantine."):
        [row] = ran.quarantine
        assert (row["reason"], row["source"], row["file"]) == (expected, "s", "in.jsonl")
        assert (row["offset"], row["raw"]) == (len(GOOD) + 1, line[:4096])
        assert others == []
    else:
        [row] = others
        assert row["text"] == expected
        assert ran.quarantine == []
    assert len(ran.corpus) == 1 + len(others)


def test_a_type_that_varies_travels_as_text(tmp_path, run_here):
    rows = [{"text": "one", "v": 1}, {"text": "two", "v": "zwei"}, {"text": "three", "v": {"a": [3]}}]
    write(tmp_path / "in.jsonl", b"\n".join(json.dumps(row).encode() for row in rows))
    ran = run_here(tmp_path / "run", {"sources": [{"name": "s", "path": "in.jsonl"}]}, base=tmp_path)
    assert {row["text"]: row["v"] for row in ran.corpus} == {"one": "1", "two": "zwei", "three": '{"a": [3]}'}


def test_a_type_that_varies_after_the_sample_is_quarantined(tmp_path, run_here):
    first = [{"text": f"document number {i} " + "x" * 300, "v": i} for i in range(1500)]
    rows = [*first, {"text": "the last", "v": "text"}]
    write(tmp_path / "in.jsonl", b"\n".join(json.dumps(row).encode() for row in rows))
    ran = run_here(
        tmp_path / "run",
        {"sources": [{"name": "s", "path": "in.jsonl"}], "dedup": {"fuzzy": {"enabled": False}}},
        base=tmp_path,
    )
    [row] = ran.quarantine
    assert row["reason"] == "quarantine.wrong_schema"
    assert json.loads(row["raw"])["text"] == "the last"
    assert len(ran.corpus) == 1500


def test_types_of_two_sources_are_unified(tmp_path, run_here):
    write(tmp_path / "a.jsonl", b'{"text": "from a", "n": 1, "only_a": true}')
    pq.write_table(pa.table({"text": ["from b"], "n": [0.5]}), tmp_path / "b.parquet")
    sources = [{"name": "a", "path": "a.jsonl"}, {"name": "b", "path": "b.parquet"}]
    rows = run_here(tmp_path / "run", {"sources": sources}, base=tmp_path).corpus
    assert sorted((row["text"], row["n"], row["only_a"]) for row in rows) == [
        ("from a", 1.0, True),
        ("from b", 0.5, None),
    ]


@pytest.mark.parametrize(
    ("name", "compress", "reason"),
    [
        ("x.jsonl.gz", gzip.compress, "quarantine.torn_gzip"),
        ("x.jsonl.zst", zstandard.compress, "quarantine.torn_zstd"),
    ],
)
def test_a_torn_file(tmp_path, run_here, name, compress, reason):
    write(tmp_path / name, torn(compress(MANY)))
    recipe = {"sources": [{"name": "s", "path": name, "id": "id"}], "dedup": {"fuzzy": {"enabled": False}}}
    ran = run_here(tmp_path / "run", recipe, base=tmp_path)
    [row] = ran.quarantine
    assert row["reason"] == reason
    kept = {row["id"] for row in ran.corpus}
    assert kept == {f"n{i}" for i in range(len(kept))}
    assert len(kept) < 5000
    assert ran.manifest.books[0].quarantine_reasons == {reason: 1}


def test_ids_that_are_not_unique(tmp_path, run_here):
    """The first in input order stays; the others are whole documents in quarantine."""
    lines = [{"id": id, "text": f"{i} stands before all other words here"} for i, id in enumerate("abaacb")]
    write(tmp_path / "1.jsonl", b"\n".join(json.dumps(line).encode() for line in lines[:3]))
    write(tmp_path / "2.jsonl", b"\n".join(json.dumps(line).encode() for line in lines[3:]))
    recipe = {"sources": [{"name": "s", "path": ".", "id": "id"}], "part_bytes": 100}
    ran = run_here(tmp_path / "run", recipe, base=tmp_path)
    assert {row["id"]: row["text"][0] for row in ran.corpus} == {"a": "0", "b": "1", "c": "4"}
    assert {row["reason"] for row in ran.quarantine} == {"quarantine.duplicate_id"}
    assert sorted(json.loads(row["raw"])["text"][0] for row in ran.quarantine) == ["2", "3", "5"]
    assert [book.quarantined for book in ran.manifest.books] == [0, 3, 0, 0]


REFUSED = {
    # what is wrong: (files, source, what the message says)
    "no such file": ({"in.jsonl": GOOD}, {"path": "inn.jsonl"}, "nothing there; did you mean in.jsonl"),
    "a glob without a match": ({"in.jsonl": GOOD}, {"path": "*.parquet"}, "nothing there"),
    "an empty folder": ({"in/.hidden": b""}, {"path": "in"}, "nothing there"),
    "no known kind": ({"in/a.docx": b"x"}, {"path": "in"}, "no file of a known kind (there: a.docx)"),
    "no text column": ({"in.jsonl": b'{"txt": "a"}'}, {"path": "in.jsonl"}, "did you mean text: txt?"),
    "no id column": ({"in.jsonl": b'{"text": "a"}'}, {"path": "in.jsonl", "id": "key"}, "no column 'key'"),
    "empty files": ({"in/a.jsonl": b"", "in/b.jsonl": b""}, {"path": "in"}, "every file is empty"),
    "a JSON array": ({"in.jsonl": b'[{"text": "a"}]'}, {"path": "in.jsonl"}, "make one object a line"),
    "no Parquet": ({"in.parquet": b"PAR1"}, {"path": "in.parquet"}, "not a"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("verb", ["plan", "run"])
def test_refused_before_anything_is_read(tmp_path, recipe_file, cli, case, verb):
    files, source, message = REFUSED[case]
    for name, data in files.items():
        write(tmp_path / name, data)
    said = cli(verb, recipe_file([{"name": "web", **source}]))
    assert said.code == 2
    assert message in " ".join(said.err.split())
    assert "web" in said.err
    assert said.err.startswith("error: ")
    assert "Traceback" not in said.err
    assert not (tmp_path / "run").exists()


def test_an_unreadable_file(tmp_path, recipe_file, cli, monkeypatch):
    """Rights mean nothing to root, who runs many a test: the system's refusal is played."""
    write(tmp_path / "in/a.jsonl", GOOD)
    recipe = recipe_file([{"name": "web", "path": "in"}])
    original = open

    def refuse(path, *rest, **more):
        if str(path).endswith("a.jsonl"):
            raise PermissionError(13, "Permission denied", str(path))
        return original(path, *rest, **more)

    monkeypatch.setattr("malmoi.pipeline.files.open", refuse, raising=False)
    said = cli("run", recipe)
    assert said.code == 2
    assert "source web" in said.err
    assert "cannot be read (Permission denied)" in " ".join(said.err.split())


def test_a_broken_link(tmp_path, recipe_file, cli):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jsonl").symlink_to(tmp_path / "gone.jsonl")
    assert cli("run", recipe_file([{"name": "web", "path": "in/a.jsonl"}])).code == 2
    assert cli("run", recipe_file([{"name": "web", "path": "in"}])).code == 2


@pytest.mark.parametrize("data", [b"", b"\n\n \r\n", b"\xef\xbb\xbf"])
def test_an_empty_file(tmp_path, run_here, data):
    write(tmp_path / "in/a.jsonl", data)
    write(tmp_path / "in/b.jsonl", GOOD)
    ran = run_here(tmp_path / "run", {"sources": [{"name": "s", "path": "in"}]}, base=tmp_path)
    assert len(ran.corpus) == ran.manifest.books[0].read == 1


@pytest.mark.parametrize("format", ["parquet", "jsonl.zst"])
@pytest.mark.parametrize("case", ["only white space", "only bad records", "all dropped"])
def test_a_corpus_without_a_document(tmp_path, recipe_file, cli, run_here, case, format):
    good = b'{"text": "12345 12345"}'
    data = {"only white space": b" \n", "only bad records": good + b'\n{"text": 7}', "all dropped": good}[
        case
    ]
    write(tmp_path / "in.jsonl", data)
    steps = ["language_id", {"gopher_quality": {}}]
    recipe = recipe_file([{"name": "s", "path": "in.jsonl"}], steps=steps, write={"format": format})
    said = cli("run", recipe)
    assert (said.code, said.err) == (0, "")
    ran = run_here(tmp_path / "run", recipe)
    assert ran.manifest.rows == 0
    [shard] = ran.manifest.corpus
    if format == "parquet":
        assert pq.read_table(ran.path / shard.path).num_rows == 0
        assert pq.read_schema(ran.path / shard.path).names[:3] == ["id", "source", "text"]
    else:
        assert zstandard.ZstdDecompressor().stream_reader((ran.path / shard.path).read_bytes()).read() == b""
    assert Counter(row["reason"] for row in ran.quarantine) == (
        {"quarantine.text_not_string": 1} if case == "only bad records" else {}
    )


def test_a_file_of_bad_records_among_good_ones(tmp_path, run_here):
    write(tmp_path / "in/a.jsonl", b"no record\nno record\n")
    write(tmp_path / "in/b.jsonl", GOOD)
    ran = run_here(tmp_path / "run", {"sources": [{"name": "s", "path": "in"}]}, base=tmp_path)
    assert [(row["file"], row["reason"]) for row in ran.quarantine] == [
        ("a.jsonl", "quarantine.bad_json")
    ] * 2
    assert len(ran.corpus) == 1


def test_a_source_of_bad_records_alone_is_refused(tmp_path, recipe_file, cli):
    """Nothing in it says what its columns are: rather a word before the run than a corpus of nothing."""
    write(tmp_path / "in.jsonl", b"no record\nno record\n")
    said = cli("run", recipe_file([{"name": "s", "path": "in.jsonl"}]))
    assert said.code == 2
    assert "no record in its first lines" in " ".join(said.err.split())


def measure(tmp_path: Path, size: int, limit: int) -> tuple[int, dict]:
    """Peak memory in bytes of a run over two documents with a record of `size` bytes between them."""
    with (tmp_path / "in.jsonl").open("wb") as file:
        file.write(GOOD + b'\n{"id": "large", "text": "')
        for _ in range(size // 1024**2):
            file.write(b"large " * (1024**2 // 6) + b"    ")
        file.write(b'"}\n' + b'{"id": "after", "text": "what comes after it"}')
    code = textwrap.dedent(f"""
        import json, re, pathlib
        from malmoi.pipeline.config import parse_recipe
        from malmoi.pipeline.plan import make_plan
        from malmoi.pipeline.run import run_plan
        from rich.console import Console
        import numba, malmoi.pipeline.gather, malmoi.operators.normalise
        recipe = parse_recipe({{
            "name": "t", "output": {str(tmp_path / f"run-{size}")!r}, "max_record_bytes": {limit},
            "sources": [{{"name": "s", "path": {str(tmp_path / "in.jsonl")!r}, "id": "id"}}],
            "steps": ["normalise"],
        }})
        manifest = run_plan(make_plan(recipe), console=Console(quiet=True), engine="local")
        # Not getrusage: there the peak of the parent, up to the exec, counts as well.
        status = pathlib.Path("/proc/self/status").read_text()
        peak = 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", status).group(1))
        print(json.dumps([peak, manifest.books[0].quarantine_reasons, manifest.rows]))
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    peak, reasons, rows = json.loads(done.stdout)
    return peak, {"reasons": reasons, "rows": rows}


@WITH_PROC
def test_a_record_that_is_too_large_is_never_held(tmp_path):
    small, _ = measure(tmp_path, 30 * 1024**2, 1024**2)  # buffers that the process keeps are in both
    large, found = measure(tmp_path, 90 * 1024**2, 1024**2)
    assert found == {"reasons": {"quarantine.record_too_large": 1}, "rows": 2}
    assert large - small < 25 * 1024**2


@WITH_PROC
@pytest.mark.slow
@pytest.mark.parametrize("limit", [128 * 1024**2, 256 * 1024**2])
def test_a_record_of_200_mb(tmp_path, limit):
    peak, found = measure(tmp_path, 200 * 1024**2, limit)
    if limit < 200 * 1024**2:
        assert found == {"reasons": {"quarantine.record_too_large": 1}, "rows": 2}
        assert peak < 1536 * 1024**2  # a first run compiles the kernels in the same process
    else:
        assert found["reasons"] == {}
        assert peak < 4 * 1024**3
