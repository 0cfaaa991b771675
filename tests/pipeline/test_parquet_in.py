"""Parquet row groups: values, bad rows, damaged pages."""

from __future__ import annotations

import datetime
import decimal
import errno
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from malmoi.pipeline import parquet_in
from malmoi.pipeline.arrow_json import to_json
from malmoi.pipeline.columns import infer_extras
from malmoi.pipeline.errors import SourceError
from malmoi.pipeline.files import find_files
from malmoi.pipeline.parquet_in import invalid_utf8
from malmoi.pipeline.recipe import Source
from malmoi.pipeline.sources import read_part, split_parts

TEXTS = ["", "말모이는 우리말 사전이다.", "漢字とかなと한글", "\U0001f600", "\u1112\u1161\u11ab", "plain"]


def read(tmp_path, table, *, extras=None, batch_rows=4096, max_record_bytes=10**6, source=None, **writing):
    """(table, quarantine rows)"""
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, **writing)
    return read_file(path, extras, batch_rows, max_record_bytes, source)


def read_file(path, extras=None, batch_rows=4096, max_record_bytes=10**6, source=None):
    source = source or Source(name="web", path=(str(path),))
    files = find_files(source, "/")
    if extras is None:
        extras = infer_extras(source, files)
    batches = [
        batch
        for part in split_parts(source, files, 10**9)
        for batch in read_part(part, source, extras, batch_rows=batch_rows, max_record_bytes=max_record_bytes)
    ]
    names = [pa.field(name, pa.large_string()) for name in ("id", "source", "text")]
    schema = pa.schema([*names, *extras])
    for batch in batches:
        assert batch.table.schema.equals(schema)
        batch.table.validate(full=True)
    rows = pa.concat_tables([batch.table for batch in batches]) if batches else schema.empty_table()
    return rows, [row for batch in batches for row in batch.quarantine.to_pylist()]


STRINGS = [pa.string(), pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), pa.string())]


@pytest.mark.parametrize("kind", STRINGS, ids=str)
def test_text_types(tmp_path, kind):
    data = [text.encode() for text in TEXTS] if pa.types.is_binary(kind) else TEXTS
    rows, bad = read(tmp_path, pa.table({"text": pa.array(data, kind)}), row_group_size=4)
    assert rows["text"].to_pylist() == TEXTS
    assert rows["id"].to_pylist() == [f"a.parquet#{i}" for i in range(6)]
    assert rows["source"].to_pylist() == ["web"] * 6
    assert bad == []


def test_extra_columns_of_every_kind(tmp_path):
    noon = datetime.datetime(2024, 5, 17, 12, 30)
    columns = {
        "i": pa.array([1, None], pa.int16()),
        "u": pa.array([2**64 - 1, None], pa.uint64()),
        "f": pa.array([0.5, None], pa.float32()),
        "b": pa.array([True, None]),
        "s": pa.array(["가", None]),
        "c": pa.array(["x", None]).dictionary_encode(),
        "n": pa.nulls(2),
        "d": pa.array([noon.date(), None]),
        "t": pa.array([noon, None], pa.timestamp("us")),
        "m": pa.array([decimal.Decimal("1.50"), None]),
        "raw": pa.array([b"\x00\xff", None]),
        "l": pa.array([[1, None], None]),
        "k": pa.array([{"a": "x\n", "b": [1.5]}, None]),
        "source": pa.array(["theirs", None]),
        "a.b": pa.array([1, None]),
    }
    rows, bad = read(tmp_path, pa.table({"text": ["a", "b"], **columns}))
    assert bad == []
    assert rows.slice(0, 1).drop_columns(["id", "source", "text"]).to_pylist() == [
        {
            "i": 1,
            "u": "18446744073709551615",
            "f": 0.5,
            "b": True,
            "s": "가",
            "c": "x",
            "n": None,
            "d": "2024-05-17",
            "t": "2024-05-17 12:30:00.000000",
            "m": "1.50",
            "raw": "00ff",
            "l": "[1,null]",
            "k": '{"a":"x\\n","b":[1.5]}',
            "input_source": "theirs",
            "input_a.b": 1,
        }
    ]
    assert set(rows.slice(1).drop_columns(["id", "source", "text"]).to_pylist()[0].values()) == {None}


def test_bad_rows_go_alone(tmp_path):
    invalid = pa.Array.from_buffers(
        pa.string(), 3, [None, pa.array([0, 1, 3, 4], pa.int32()).buffers()[1], pa.py_buffer(b"a\xff\xfeb")]
    )
    text = pa.chunked_array([invalid, pa.array([None, "d" * 2000, "e"])])
    rows, bad = read(tmp_path, pa.table({"text": text, "n": range(6)}), max_record_bytes=1000)
    assert rows["text"].to_pylist() == ["a", "b", "e"]
    assert rows["n"].to_pylist() == [0, 2, 5]
    assert [(row["offset"], row["length"], row["reason"]) for row in bad] == [
        (1, 2, "quarantine.invalid_utf8"),
        (3, 0, "quarantine.missing_text"),
        (4, 2000, "quarantine.record_too_large"),
    ]
    assert bad[0]["raw"] == b"\xff\xfe"
    assert bad[0]["file"] == "a.parquet"


@pytest.mark.parametrize(
    ("ids", "expected", "lost"),
    [
        (pa.array(["x", None, ""]), ["x"], 2),
        (pa.array([7, 8, None]), ["7", "8"], 1),
        (pa.array([2**64 - 1, 0, 1], pa.uint64()), ["18446744073709551615", "0", "1"], 0),
        (pa.nulls(3), [], 3),
    ],
)
def test_id(tmp_path, ids, expected, lost):
    source = Source(name="web", path=(str(tmp_path),), id="key")
    rows, bad = read(tmp_path, pa.table({"text": ["a", "b", "c"], "key": ids}), source=source)
    assert rows["id"].to_pylist() == expected
    assert [row["reason"] for row in bad] == ["quarantine.missing_id"] * lost


def test_a_file_that_differs_from_the_plan(tmp_path):
    extras = pa.schema([("n", pa.int64()), ("x", pa.float64()), ("s", pa.large_string()), ("z", pa.bool_())])
    table = pa.table({"text": ["a", "b"], "n": ["1", None], "x": [1, 2], "s": [1.5, None]})
    rows, bad = read(tmp_path, table, extras=extras)
    assert rows.to_pylist() == [
        {"id": "a.parquet#1", "source": "web", "text": "b", "n": None, "x": 2.0, "s": None, "z": None}
    ]
    assert [(row["reason"], row["detail"]) for row in bad] == [
        ("quarantine.wrong_schema", "column n: expected int64, got string")
    ]


@pytest.mark.parametrize("columns", [{"other": ["a", "b"]}, {"text": [1, 2]}], ids=["missing", "number"])
def test_a_later_file_without_text(tmp_path, columns):
    pq.write_table(pa.table({"text": ["good"]}), tmp_path / "a.parquet")
    source = Source(name="web", path=(str(tmp_path),))
    extras = infer_extras(source, find_files(source, "/"))
    pq.write_table(pa.table(columns), tmp_path / "b.parquet")
    rows, bad = read_file(tmp_path, extras, source=source)
    assert rows["text"].to_pylist() == ["good"]
    reason = "missing_text" if "other" in columns else "text_not_string"
    assert [row["reason"] for row in bad] == [f"quarantine.{reason}"] * 2


@pytest.mark.parametrize("batch_rows", [1, 7, 4096])
def test_batches_and_row_groups_change_nothing(tmp_path, batch_rows):
    table = pa.table({"text": TEXTS * 40, "n": [*range(239), None]})
    expected, _ = read(tmp_path, table)
    for size in (1, 50, 1000):
        rows, bad = read(tmp_path, table, batch_rows=batch_rows, row_group_size=size)
        assert rows.equals(expected)
        assert bad == []


def test_parts_by_row_groups_give_each_row_once(tmp_path):
    texts = [f"{i} 말모이" * 100 for i in range(500)]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": texts}), path, row_group_size=50, compression="none")
    source = Source(name="web", path=(str(path),))
    files = find_files(source, "/")
    parts = split_parts(source, files, 200_000)
    assert 2 < len(parts) < 10
    rows = [batch.table for part in parts for batch in read_part(part, source, pa.schema([]))]
    assert pa.concat_tables(rows)["text"].to_pylist() == texts
    assert pa.concat_tables(rows)["id"].to_pylist() == [f"a.parquet#{i}" for i in range(500)]


@pytest.mark.parametrize("batch_rows", [1, 4096])
def test_a_damaged_page_loses_the_rest_of_its_row_group(tmp_path, batch_rows):
    rng = np.random.default_rng(0)
    texts = [rng.bytes(500).hex() for _ in range(300)]
    path = tmp_path / "a.parquet"
    writing = {"row_group_size": 100, "use_dictionary": False, "write_page_checksum": True}
    pq.write_table(pa.table({"text": texts}), path, data_page_size=5000, **writing)
    column = pq.read_metadata(path).row_group(1).column(0)
    data = bytearray(path.read_bytes())
    middle = column.data_page_offset + column.total_compressed_size // 2
    data[middle : middle + 20] = bytes(20)
    path.write_bytes(data)
    rows, bad = read_file(path, batch_rows=batch_rows)
    got = rows["text"].to_pylist()
    assert got[:100] == texts[:100]
    assert got[-100:] == texts[200:]
    assert [row["reason"] for row in bad] == ["quarantine.unreadable_row_group"]
    lost = 300 - len(got)
    assert f"row group 1: {lost} of 100 rows lost" in bad[0]["detail"]
    assert bad[0]["offset"] == 200 - lost


class Failing(io.BufferedReader):
    """A file of a store that answers no more once its footer is read."""

    reads = 0
    error: OSError

    def read(self, size: int = -1) -> bytes:
        self.reads += 1
        if self.reads > 4:
            raise self.error
        return super().read(size)


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), TimeoutError("no answer")])
def test_a_store_that_fails_is_no_damage(tmp_path, monkeypatch, error):
    """Rows that could not be fetched are not lost: the run stops, and its next attempt reads them."""
    rng = np.random.default_rng(0)
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [rng.bytes(500).hex() for _ in range(300)]}), path, row_group_size=30)
    source = Source(name="web", path=(str(path),))
    parts = split_parts(source, find_files(source, "/"), 10**9)
    monkeypatch.setattr(parquet_in, "open_input", lambda url, _: Failing(io.FileIO(url)))
    monkeypatch.setattr(Failing, "error", error, raising=False)
    with pytest.raises(SourceError, match=r"a\.parquet: cannot be read .*(Input/output error|no answer)"):
        [list(read_part(part, source, pa.schema([]))) for part in parts]


def test_no_rows(tmp_path):
    rows, bad = read(tmp_path, pa.table({"text": pa.array([], pa.string()), "n": pa.array([], pa.int64())}))
    assert (rows.num_rows, bad) == (0, [])


NESTED = pa.struct(
    [
        ("a", pa.list_(pa.int32())),
        ("b", pa.struct([("c", pa.string()), ("d", pa.list_(pa.struct([("e", pa.float64())])))])),
        ("m", pa.map_(pa.string(), pa.int64())),
        ("p", pa.list_(pa.int8(), 2)),
        ('"q\n', pa.bool_()),
    ]
)
VALUES = [
    {
        "a": [1, None, 3],
        "b": {"c": 'é"\n', "d": [{"e": 1.5}, {"e": None}, None]},
        "m": [("k", 1), ("q", None)],
    }
    | {"p": [1, 2], '"q\n': True},
    None,
    {"a": [], "b": None, "m": [], "p": None, '"q\n': None},
    {"a": None, "b": {"c": None, "d": []}, "m": None, "p": [3, None], '"q\n': False},
]


@pytest.mark.parametrize("bounds", [(0, 9), (2, 3), (5, 4), (0, 0), (8, 1)])
def test_json_of_nested_values(bounds):
    values = pa.array([VALUES[i % 4] for i in range(9)], NESTED).slice(*bounds)

    def plain(value):
        return value if value is None or value["m"] is None else value | {"m": dict(value["m"])}

    assert [json.loads(text) for text in to_json(values).to_pylist()] == [
        plain(value) for value in values.to_pylist()
    ]


def test_json_has_no_nan():
    assert to_json(pa.array([[float("nan"), float("inf"), 1.0]])).to_pylist() == ["[null,null,1]"]


@pytest.mark.parametrize("view", [pa.list_view, pa.large_list_view])
def test_json_of_list_views(view):
    values = pa.array([[9], [1, 2], [], None, [None, 3]], view(pa.int64()))
    assert to_json(values.slice(1)).to_pylist() == ["[1,2]", "[]", "null", "[null,3]"]
    nested = pa.array([[[1], None], [[2, 3]]], view(view(pa.int64())))
    assert to_json(nested).to_pylist() == ["[[1],null]", "[[2,3]]"]


def test_invalid_utf8_as_python_says():
    rng = np.random.default_rng(1)
    pieces = [rng.bytes(3) if i % 2 else "가é😀"[: i % 4].encode()[: i % 9] for i in range(3000)]
    array = pa.array(pieces, pa.large_binary()).slice(10)
    strings = pa.Array.from_buffers(pa.large_string(), len(array), array.buffers(), offset=array.offset)

    def broken(piece):
        try:
            piece.decode()
        except UnicodeDecodeError:
            return True
        return False

    assert invalid_utf8(strings).tolist() == [broken(piece) for piece in pieces[10:]]
