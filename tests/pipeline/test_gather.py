"""Shards are gathered group by group: bounded in bytes, and nothing of a group stays in memory."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.operators import analysis
from malmoi.pipeline import batches, gather
from malmoi.pipeline.batches import read_batches, take_rows, write_batches
from malmoi.pipeline.spread import Spread
from malmoi.pipeline.storage import Folder


def table(texts):
    return pa.table({"text": pa.array(texts, pa.large_string())})


@pytest.mark.parametrize(
    ("texts", "want"),
    [
        ([], []),
        (["", "", ""], [[2, 1, 0]]),
        (["x" * 6, "한글", "x" * 6], [[2], [1], [0]]),
        (["x" * 5, "y" * 5, "z" * 99, "", "w"], [[4, 3], [2], [1, 0]]),
    ],
)
def test_groups_are_bounded_in_bytes(monkeypatch, texts, want):
    monkeypatch.setattr(gather, "TAKE_BYTES", 10)
    order = np.arange(len(texts))[::-1]
    assert [some.tolist() for some in gather._groups(table(texts), order)] == want


def test_groups_are_bounded_in_rows(monkeypatch):
    monkeypatch.setattr(gather, "GROUP_ROWS", 3)
    sizes = [len(some) for some in gather._groups(table(["a"] * 7), np.arange(7))]
    assert sizes == [3, 3, 1]


def test_no_analysis_is_kept_between_groups(tmp_path, monkeypatch):
    from malmoi.pipeline.json_lines import JsonLinesWriter  # noqa: F401  (the writer is replaced)

    held = []
    add = Spread.add

    def counted(self, rows):
        held.append(len(analysis._memory.entries))
        add(self, rows)

    monkeypatch.setattr(Spread, "add", counted)
    monkeypatch.setattr(gather, "TAKE_BYTES", 10)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=6), st.data())
def test_rows_of_chunks_are_those_of_the_table(sizes: list[int], data: st.DataObject) -> None:
    numbers = iter(range(100))
    schema = pa.schema([("n", pa.int64()), ("text", pa.large_string())])
    chunks = []
    for size in sizes:
        some = [next(numbers) for _ in range(size)]
        texts = [None if n % 7 == 3 else "가" * n for n in some]
        chunks.append(pa.record_batch([pa.array(some), pa.array(texts, pa.large_string())], schema=schema))
    total = sum(sizes)
    rows = data.draw(st.lists(st.integers(0, total - 1), min_size=1)) if total else []
    table = pa.Table.from_batches(chunks, schema)
    if rows:
        assert take_rows(chunks, np.array(rows)).equals(table.take(pa.array(rows)))


def test_batches_come_back_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small frames are joined and all are there, in their order, wherever the chunks end."""
    folder = Folder(str(tmp_path))
    runs = [
        (np.array([0] * 3 + [1] * 2), pa.table({"n": [i, i + 100, i + 200, -i, -i - 100]})) for i in range(40)
    ]
    write_batches(folder, "some.batches", 2, runs)
    wanted = [n for i in range(40) for n in (i, i + 100, i + 200)]
    for chunk_bytes in (1, 100, 10**6):
        monkeypatch.setattr(batches, "CHUNK_BYTES", chunk_bytes)
        found = read_batches(folder, ["some.batches"], 0, pa.schema([("n", pa.int64())]))
        assert found.column("n").to_pylist() == wanted
        assert found.column("n").num_chunks == {1: 40, 100: 8, 10**6: 1}[chunk_bytes]
    assert read_batches(folder, [], 0, pa.schema([("n", pa.int64())])).num_rows == 0
