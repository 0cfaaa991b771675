"""Finding files, inferring columns, cutting into parts, reading parts."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import tracemalloc
import unicodedata
from collections import Counter
from itertools import pairwise

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from malmoi.pipeline.columns import original_name, travelling_name
from malmoi.pipeline.errors import ChangedError, SourceError
from malmoi.pipeline.recipe import Source
from malmoi.pipeline.sources import Part, Piece, find_files, infer_extras, read_part, split_parts

RECORDS = [
    {
        "id": f"d{i}",
        "text": f"{i} 말모이 漢字 \U0001f600\n" * (i % 7),
        "n": i,
        "lang": None if i % 3 else "ko",
    }
    for i in range(300)
]


def jsonl(records=RECORDS):
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def lay(folder, **files):
    """Write files; `a__b_jsonl` becomes a/b.jsonl."""
    for name, data in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def made(path, **fields):
    return Source(name="web", path=(str(path),) if not isinstance(path, tuple) else path, **fields)


def names(source, base="/"):
    return [file.relpath for file in find_files(source, base)]


def read(source, base="/", part_bytes=10**9, **limits):
    files = find_files(source, str(base))
    extras = infer_extras(source, files)
    tables, bad = [], []
    for part in split_parts(source, files, part_bytes):
        for batch in read_part(part, source, extras, **limits):
            tables.append(batch.table)
            bad += batch.quarantine.to_pylist()
    return pa.concat_tables(tables) if tables else None, bad


@pytest.fixture
def tree(tmp_path):
    lay(
        tmp_path,
        a_jsonl=jsonl(),
        b__c_jsonl_zst=zstandard.compress(jsonl()),
        b__d_JSON_gz=gzip.compress(jsonl()),
        b__e_ndjson=jsonl(),
        README_md=b"# read me",
        b___temporary__f_jsonl=jsonl(),
        b__g_jsonl_tmp=jsonl(),
    )
    (tmp_path / "_SUCCESS").write_bytes(b"")
    (tmp_path / ".hidden.jsonl").write_bytes(b"")
    pq.write_table(pa.Table.from_pylist(RECORDS), tmp_path / "b" / "h.parquet")
    return tmp_path


ALL = ["a.jsonl", "b/c.jsonl.zst", "b/d.JSON.gz", "b/e.ndjson", "b/h.parquet"]


def test_a_folder_is_walked(tree):
    files = find_files(made(tree), "/")
    assert [file.relpath for file in files] == ALL
    assert [file.compression for file in files] == ["", "zstd", "gzip", "", ""]
    assert [file.format for file in files] == ["jsonl"] * 4 + ["parquet"]
    assert files[0].url == f"{tree}/a.jsonl"
    assert pickle.loads(pickle.dumps(files)) == files


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.jsonl", ["a.jsonl"]),
        ("b", ["c.jsonl.zst", "d.JSON.gz", "e.ndjson", "h.parquet"]),
        ("./b/", ["c.jsonl.zst", "d.JSON.gz", "e.ndjson", "h.parquet"]),
        ("*.jsonl", ["a.jsonl"]),
        ("*", ALL),
        ("**/*.zst", ["b/c.jsonl.zst"]),
        ("b/[cd].*", ["c.jsonl.zst", "d.JSON.gz"]),
        ("?/e*", ["b/e.ndjson"]),
        (("a.jsonl", "b/e.ndjson"), ["a.jsonl", "e.ndjson"]),
        (("a.jsonl", "*.jsonl", "."), ALL),
    ],
)
def test_paths_and_globs(tree, path, expected):
    path = (path,) if isinstance(path, str) else path
    assert names(made(path), str(tree)) == expected


def test_names_stay_apart(tmp_path):
    lay(tmp_path, x__data__0_jsonl=b"", y__data__0_jsonl=b"", y__more__0_jsonl=b"")
    assert names(made(("x/data", "y/more")), str(tmp_path)) == ["data/0.jsonl", "more/0.jsonl"]
    assert names(made(("x/data", "y/data")), str(tmp_path)) == ["x/data/0.jsonl", "y/data/0.jsonl"]


def nfd(text):
    return unicodedata.normalize("NFD", text)


@pytest.mark.parametrize(
    ("path", "top"),
    [
        ("말뭉치", ""),
        ("말뭉치/*", ""),
        ("말*", "말뭉치/"),
        ("말*/**/*.jsonl", "말뭉치/"),
        ("말*/글*.jsonl", "말뭉치/"),
        ("*/글*", "말뭉치/"),
        (("말뭉치/글가.jsonl", "말뭉치/글나.jsonl"), ""),
    ],
)
@pytest.mark.parametrize("asked", [str, nfd])
@pytest.mark.parametrize("lies", [(str, str, str), (nfd, nfd, nfd), (nfd, str, str), (str, nfd, str)])
def test_names_are_the_same_in_each_normal_form(tmp_path, path, top, asked, lies):
    """A Mac spells names in either form, finds them by both, and copies them to other machines as they are."""
    folder, first, second = (form(name) for form, name in zip(lies, ("말뭉치", "글가", "글나"), strict=True))
    (tmp_path / folder).mkdir()
    for name in (first, second):
        (tmp_path / folder / f"{name}.jsonl").write_bytes(jsonl())
    path = tuple(map(asked, path)) if isinstance(path, tuple) else asked(path)
    found = find_files(made(path), str(tmp_path))
    assert [file.relpath for file in found] == [f"{top}글가.jsonl", f"{top}글나.jsonl"]
    assert all(os.path.exists(file.url) for file in found)


def test_names_that_differ_in_the_normal_form_alone(tmp_path):
    """Two files on Linux: both are read, and their documents have ids of their own."""
    for name in (nfd("글.jsonl"), "글.jsonl"):
        (tmp_path / name).write_bytes(jsonl())
    if len(os.listdir(tmp_path)) == 1:
        pytest.skip("one file here")
    for path in (".", "글*", nfd("글*")):
        assert names(made(path), str(tmp_path)) == [nfd("글.jsonl"), "글.jsonl"]
    assert names(made("글.jsonl"), str(tmp_path)) == ["글.jsonl"]


def test_what_a_mac_leaves_in_folders_is_passed_over(tree):
    for name in (".DS_Store", "._a.jsonl", "b/._h.parquet"):
        (tree / name).write_bytes(b"\0\5\x16\7")
    for path in (".", "*", "**/*"):
        assert names(made(path), str(tree)) == ALL


def test_home_and_format(tree, monkeypatch):
    monkeypatch.setenv("HOME", str(tree))
    assert names(made("~/a.jsonl")) == ["a.jsonl"]
    assert names(made(tree, format="parquet")) == ["b/h.parquet"]
    assert names(made(tree, format="jsonl")) == ALL[:-1]
    lay(tree, odd_txt=jsonl())
    assert names(made(tree / "odd.txt", format="jsonl")) == ["odd.txt"]
    assert names(made(tree / "*.txt", format="jsonl")) == ["odd.txt"]


def test_a_loop_of_links_ends(tree):
    (tree / "b" / "again").symlink_to(tree)
    assert len(names(made(tree))) == 5


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.json", r"web: a.json: nothing there; did you mean a.jsonl in"),
        ("bb/c.jsonl", r"nothing there; did you mean b in"),
        ("x/*.jsonl", r"nothing there; .* holds README.md, _SUCCESS, a.jsonl, b"),
        ("README.md", r"web: README.md: unknown kind of file; known: .jsonl"),
        ("*.md", r"no file of a known kind \(there: README.md\)"),
        ("nosuch://x/y", r"nosuch"),
    ],
)
def test_what_is_wrong_is_named(tree, path, expected):
    with pytest.raises(SourceError, match=expected):
        find_files(made((path,)), str(tree))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file(tree):
    (tree / "a.jsonl").chmod(0)
    with pytest.raises(SourceError, match=r"a.jsonl: cannot be read \(Permission denied\)"):
        find_files(made(tree), "/")


def test_a_file_that_the_system_refuses(tree, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("malmoi.pipeline.files.open_input", refuse)
    with pytest.raises(SourceError, match=r"web: .*cannot be read \(Permission denied\); check"):
        find_files(made(tree / "a.jsonl"), "/")


def test_extras(tree):
    extras = infer_extras(made(tree), find_files(made(tree), "/"))
    assert extras == pa.schema(
        [("input_id", pa.large_string()), ("n", pa.int64()), ("lang", pa.large_string())]
    )
    with_id = made(tree, id="id")
    assert infer_extras(with_id, find_files(with_id, "/")).names == ["n", "lang"]


def test_types_are_unified(tmp_path):
    lines = [
        {"text": "", "a": 1, "b": 1, "c": None, "d": True, "e": 1, "f": {"x": 1}, "g": "s", "drop": 1},
        {"text": "", "a": 1.5, "b": "x", "c": None, "d": None, "e": True, "f": "s", "g": None, "meta.url": 1},
        {"text": "", "a": 2**70, "h": 2**70, "source": "mine", "input_source": "theirs"},
    ]
    lay(tmp_path, a_jsonl=b"garbage\n" + jsonl(lines[:2]), b_jsonl=jsonl(lines[2:]))
    source = made(tmp_path)
    extras = infer_extras(source, find_files(source, "/"))
    text = pa.large_string()
    assert {field.name: field.type for field in extras} == {
        "a": text,
        "b": text,
        "c": text,
        "d": pa.bool_(),
        "e": text,
        "f": text,
        "g": text,
        "h": text,
        "input_drop": pa.int64(),
        "input_meta.url": pa.int64(),
        "input_source": text,
        "input_input_source": text,
    }
    rows, bad = read(source)
    assert [row["reason"] for row in bad] == ["quarantine.bad_json"]
    assert rows["a"].to_pylist() == ["1", "1.5", str(2**70)]
    assert rows["f"].to_pylist() == ['{"x": 1}', "s", None]
    assert rows["input_source"].to_pylist() == [None, None, "mine"]
    assert rows["input_input_source"].to_pylist() == [None, None, "theirs"]


def test_names_go_there_and_back():
    for name in ("a", "id", "input_id", "input_input_id", "a.b", "input_a", "input_a.b", "inputs", ""):
        assert original_name(travelling_name(name)) == name
    assert travelling_name("input_a") == "input_a"
    assert [travelling_name(name) for name in ("epoch", "order key")] == ["input_epoch", "input_order key"]


@pytest.mark.parametrize(
    ("data", "fields", "expected"),
    [
        (jsonl([{"txt": "a"}]), {}, r"no column 'text'; did you mean text: txt\? \(columns: txt\)"),
        (jsonl([{"text": "a", "uid": 1}]), {"id": "url"}, r"no column 'url'; .*\(columns: text, uid\)"),
        (b'[{"text": "a"},\n{"text": "b"}]', {}, r"a JSON array: .* jq -c"),
        (b"text\na\n", {}, r"no record in its first lines; want one JSON object a line"),
    ],
)
def test_columns_that_are_missing(tmp_path, data, fields, expected):
    lay(tmp_path, a_jsonl=data)
    source = made(tmp_path, **fields)
    with pytest.raises(SourceError, match=expected):
        infer_extras(source, find_files(source, "/"))


@pytest.mark.parametrize(
    ("columns", "fields", "expected"),
    [
        ({"content": ["a"]}, {}, r"a.parquet: no column 'text'; name it with `text` \(columns: content\)"),
        ({"text": [1]}, {}, r"column text holds int64, not text"),
        ({"text": ["a"]}, {"id": "key"}, r"no column 'key'"),
        ({"text": ["가"], "key": [True]}, {"id": "key"}, r"column key holds bool, no ids; name a column"),
        ({"text": ["가"], "key": [["a"]]}, {"id": "key"}, r"column key holds list<.*>, no ids"),
    ],
)
def test_parquet_columns_that_are_missing(tmp_path, columns, fields, expected):
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    source = made(tmp_path, **fields)
    with pytest.raises(SourceError, match=expected):
        infer_extras(source, find_files(source, "/"))


def test_a_broken_parquet_file(tmp_path):
    lay(tmp_path, a_parquet=b"PAR1 not really")
    source = made(tmp_path)
    files = find_files(source, "/")
    for check in (infer_extras, lambda source, files: split_parts(source, files, 1)):
        with pytest.raises(SourceError, match=r"a.parquet: not a"):
            check(source, files)


def test_nothing_in_the_files(tmp_path):
    lay(tmp_path, a_jsonl=b"", b_jsonl=b"\n\n", c_jsonl_zst=zstandard.compress(b""), d_jsonl_gz=b"")
    rows, bad = read(made(tmp_path))
    assert (rows, bad) == (None, [])


def test_one_record_larger_than_the_sample(tmp_path):
    lay(tmp_path, a_jsonl=jsonl([{"text": "가" * 300_000, "n": 1}, {"text": "", "m": 1}]))
    assert infer_extras(made(tmp_path), find_files(made(tmp_path), "/")).names == ["n", "m"]


@pytest.mark.parametrize("part_bytes", [997, 5000, 20_000, 10**9])
def test_parts_hold_every_record_once(tree, part_bytes):
    whole, _ = read(made(tree))
    parted, bad = read(made(tree), part_bytes=part_bytes)
    assert bad == []
    assert parted.num_rows == 5 * 300
    assert parted.combine_chunks().equals(whole.combine_chunks())


def test_parts_are_even_and_joined(tree):
    source = made(tree)
    files = find_files(source, "/")
    size = files[0].size
    parts = split_parts(source, files, size // 3, first=10)
    assert [part.index for part in parts] == list(range(10, 10 + len(parts)))
    assert parts[0].pieces == (Piece(files[0], 0, size // 4),)
    for file in files[1:3]:
        pieces = [piece for part in parts for piece in part.pieces if piece.file == file]
        assert [(piece.start, piece.stop) for piece in pieces] == [
            (size * i // 4, size * (i + 1) // 4 if i < 3 else -1) for i in range(4)
        ]
    assert len(split_parts(source, files, 10**9)) == 1
    for part in parts:
        assert Part.from_json(part.to_json()) == part
        assert pickle.loads(pickle.dumps(part)) == part


@pytest.mark.parametrize(("files", "pieces"), [(1, 16), (2, 16), (3, 10), (16, 2), (17, 1), (40, 1)])
def test_only_a_few_compressed_files_are_cut(tmp_path, files, pieces):
    lay(tmp_path, **{f"{i}_jsonl_gz": gzip.compress(jsonl()) for i in range(files)})
    source = made(tmp_path)
    cut = Counter(
        piece.file.relpath
        for part in split_parts(source, find_files(source, "/"), 500)
        for piece in part.pieces
    )
    assert list(cut.values()) == [pieces] * files
    assert read(source, part_bytes=500)[0].num_rows == 300 * files


def test_a_bomb_is_not_unpacked_to_measure_it(tmp_path):
    lay(tmp_path, a_jsonl_zst=zstandard.compress(b"a" * 2**28))
    source = made(tmp_path)
    parts = split_parts(source, find_files(source, "/"), 2**16)
    assert 1 <= len(parts) <= 16
    assert parts[-1].pieces[-1].stop == -1


@pytest.mark.parametrize("packed", ["zst", "gz"])
@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_cut_and_torn_file_gives_every_line_and_the_tear_once(tmp_path, packed, data):
    texts = data.draw(st.lists(st.sampled_from(["", "a", "말모이" * 50, "x" * 3000, "둘\n셋"]), max_size=30))
    stream = b"".join(json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n" for text in texts)
    if data.draw(st.booleans()):
        stream += b'{"text": "no line end"}'
    frames = data.draw(st.integers(1, 4))
    step = len(stream) // frames + 1
    pack = zstandard.compress if packed == "zst" else gzip.compress
    stored = b"".join(pack(stream[i : i + step]) for i in range(0, len(stream), step)) or pack(b"")
    stored = stored[: data.draw(st.one_of(st.just(len(stored)), st.integers(1, len(stored))))]
    path = tmp_path / f"a.jsonl.{packed}"
    path.write_bytes(stored)
    source = made(path)
    [file] = find_files(source, "/")
    edges = [0, *sorted(data.draw(st.sets(st.integers(1, len(stream) + 9), max_size=5))), -1]

    def rows(edges):
        tables, bad = [], []
        for start, stop in pairwise(edges):
            part = Part(0, "web", (Piece(file, start, stop),))
            for batch in read_part(part, source, pa.schema([]), batch_bytes=4096, max_record_bytes=2000):
                tables += batch.table.to_pylist()
                bad += batch.quarantine.to_pylist()
        return tables, bad

    assert rows(edges) == rows([0, -1])


@pytest.mark.parametrize("batch_rows", [1, 2, 7, 299, 5000])
@pytest.mark.parametrize("batch_bytes", [1, 3000, 10**7])
def test_batches_change_nothing(tree, batch_rows, batch_bytes):
    lay(tree, z_jsonl=b'{"text":"a"}\nbad\n{"text":"b"}\nbad\n' * 5)
    source = made(tree, id=None)
    whole, bad = read(source)
    cut, cut_bad = read(source, batch_rows=batch_rows, batch_bytes=batch_bytes)
    assert cut.combine_chunks().equals(whole.combine_chunks())
    assert cut_bad == bad
    assert len(bad) == 10
    assert cut["text"].num_chunks >= whole.num_rows // batch_rows


def test_values(tree):
    rows, _ = read(made(tree / "b" / "c.jsonl.zst", id="id"))
    assert rows.to_pylist() == [
        {
            "id": record["id"],
            "source": "web",
            "text": record["text"],
            "n": record["n"],
            "lang": record["lang"],
        }
        for record in RECORDS
    ]


def test_the_offset_is_the_id(tree):
    rows, _ = read(made(tree / "b" / "d.JSON.gz"))
    offset = int(rows["id"][7].as_py().removeprefix("d.JSON.gz#"))
    assert json.loads(jsonl()[offset:].split(b"\n")[0]) == RECORDS[7]


@pytest.mark.parametrize("change", ["gone", "longer", "first byte", "middle", "last byte"])
def test_a_changed_file_is_refused(tmp_path, change):
    data = bytearray(jsonl() * 10)
    lay(tmp_path, a_jsonl=data)
    source = made(tmp_path)
    files = find_files(source, "/")
    part = split_parts(source, files, 10**9)[0]
    if change == "gone":
        (tmp_path / "a.jsonl").unlink()
    else:
        place = {"first byte": 0, "middle": len(data) * 8 // 17, "last byte": -1, "longer": 0}[change]
        data[place] ^= change != "longer"
        lay(tmp_path, a_jsonl=data + b"\n" * (change == "longer"))
    with pytest.raises(ChangedError, match=r"a.jsonl: (is gone|has changed) since"):
        list(read_part(part, source, pa.schema([])))


def test_the_fingerprint_is_of_the_content(tmp_path):
    lay(tmp_path, a__x_jsonl=jsonl(), b__y_jsonl=jsonl(), c__x_jsonl=jsonl(RECORDS[1:]))
    os.utime(tmp_path / "a" / "x.jsonl", (1, 1))
    marks = [file.fingerprint for file in find_files(made(tmp_path), "/")]
    assert marks[0] == marks[1] != marks[2]


def test_memory_is_bounded(tmp_path):
    line = json.dumps({"text": "a" * 2000}).encode() + b"\n"
    lay(tmp_path, a_jsonl_zst=zstandard.compress(line * 50_000))
    source = made(tmp_path)
    part = split_parts(source, find_files(source, "/"), 10**9)[0]
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    rows = 0
    for batch in read_part(part, source, pa.schema([]), batch_bytes=2**20):
        rows += batch.table.num_rows
        assert pa.total_allocated_bytes() - before < 20 * 2**20
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert rows == 50_000
    assert peak < 20 * 2**20


def test_parquet_that_unpacks_to_much_more_than_it_says(tmp_path):
    texts = [f"{i % 3} " + "같은 글 " * 5000 for i in range(300)]
    table = pa.table({"text": pa.array(texts, pa.large_string()).dictionary_encode()})
    pq.write_table(table, tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < 10**5
    source = made(tmp_path)
    [part] = split_parts(source, find_files(source, "/"), 10**9)
    sizes = [b.table.nbytes for b in read_part(part, source, pa.schema([]), batch_bytes=2**20)]
    assert sum(sizes) > 15 * 10**6
    assert max(sizes) < 3 * 2**20


def test_a_key_that_is_not_utf8(tmp_path):
    lay(tmp_path, a_jsonl=b'{"text": "a", "\\ud800": 1}\n{"text": "b", "n": 2}\n')
    source = made(tmp_path)
    assert infer_extras(source, find_files(source, "/")).names == ["n"]
    table, bad = read(source)
    assert table["text"].to_pylist() == ["b"]
    assert [row["reason"] for row in bad] == ["quarantine.lone_surrogate"]


def test_a_file_name_that_is_not_utf8(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff\xea\xb0\x80.jsonl"
    with open(path, "wb") as file:
        file.write(b'{"text": "a"}\nbad\n')
    source = made(tmp_path)
    assert names(source) == ["\\xff가.jsonl"]
    table, bad = read(source)
    assert table["id"].to_pylist() == ["\\xff가.jsonl#0"]
    assert [row["file"] for row in bad] == ["\\xff가.jsonl"]
    [part] = split_parts(source, find_files(source, "/"), 1000)
    assert Part.from_json(part.to_json().encode().decode()) == part


@pytest.mark.parametrize("path", [".", "*", "**/*.jsonl", "../*/"])
def test_the_output_of_a_run_is_no_input(tmp_path, path):
    base = tmp_path / "in"
    lay(
        base,
        a_jsonl=jsonl(),
        out__plan_json=b"{}",
        out__corpus__s_jsonl=jsonl(),
        no__plan_json=b'{"text":""}',
    )
    (base / "out" / "stages").mkdir()
    expected = ["in/a.jsonl", "in/no/plan.json"] if path == "../*/" else ["a.jsonl", "no/plan.json"]
    assert names(made(path), str(base)) == [name for name in expected if "**" not in path or "jsonl" in name]
    assert names(made("out/corpus"), str(base)) == ["s.jsonl"]


def test_local_and_remote_files_of_one_name(tmp_path):
    lay(tmp_path, a__b__x_jsonl=b"{}")
    with fsspec.open("memory://a/b/x.jsonl", "wb") as file:
        file.write(b"{}")
    found = find_files(made(("a/b", "memory://a/b")), str(tmp_path))
    assert [file.relpath for file in found] == ["memory/a/b/x.jsonl", f"{tmp_path}/a/b/x.jsonl".lstrip("/")]


def test_a_part_is_not_a_byte(tmp_path):
    lay(tmp_path, a_jsonl=jsonl())
    source = made(tmp_path)
    [file] = find_files(source, "/")
    assert len(split_parts(source, [file], 1)) == -(-file.size // 256)
    assert read(source, part_bytes=1)[0].num_rows == 300


@pytest.mark.parametrize("place", [4100, 7999])
def test_a_fraction_late_in_a_file_is_seen(tmp_path, place):
    lines = [{"text": "x" * 100, "n": 0.5 if i == place else i} for i in range(8000)]
    lay(tmp_path, a_jsonl=jsonl(lines))
    table, bad = read(made(tmp_path))
    assert bad == []
    assert table["n"].to_pylist() == [line["n"] for line in lines]
