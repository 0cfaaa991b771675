"""Shards are gathered group by group: bounded in bytes, and nothing of a group stays in memory."""

import numpy as np
import pyarrow as pa
import pytest

from malmoi.operators import analysis
from malmoi.pipeline import gather
from malmoi.pipeline.spread import Spread


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
