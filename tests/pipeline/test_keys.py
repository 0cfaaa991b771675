"""The arrays that the leading process decides by: as narrow as they may be, and the same numbers."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.pipeline import keys as keys_module
from malmoi.pipeline.errors import MalmoiError
from malmoi.pipeline.filtering import KeySpec
from malmoi.pipeline.groups import group_counts
from malmoi.pipeline.keys import Coded, Filling, Keys, coded, load_keys
from malmoi.pipeline.shards import part_file
from malmoi.pipeline.spread import group_figures
from malmoi.pipeline.storage import Folder

WIDE = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5)
PIECES = st.lists(
    st.one_of(st.lists(st.just(-1), max_size=4), st.lists(st.integers(-9, 300), max_size=4), WIDE)
)


@settings(deadline=None)
@given(PIECES, st.sampled_from([np.int64, np.uint64, np.float64]))
def test_pieces_make_one_column(pieces, kind):
    arrays = [np.array(piece, np.int64).astype(kind) for piece in pieces]
    whole, start = np.concatenate([np.empty(0, kind), *arrays]), 0
    filling = Filling(len(whole))
    for array in arrays:
        filling.put(start, array)
        start += len(array)
    assert filling.values.tolist() == whole.tolist()
    if len(whole):
        assert filling.values.dtype.kind == whole.dtype.kind


@pytest.mark.parametrize(
    ("pieces", "dtype", "constant"),
    [
        ([[7, 7], [7]], np.int8, True),
        ([[7, 7], [8]], np.int8, False),
        ([[7, 7], [128]], np.int16, False),
        ([[7, 2**31 - 1], [1]], np.int32, False),
        ([[7], [2**31]], np.int64, False),
        ([[-1], [-1]], np.int8, True),
    ],
)
def test_a_column_takes_as_little_as_its_values_allow(pieces, dtype, constant):
    filling, start = Filling(sum(map(len, pieces))), 0
    for piece in pieces:
        filling.put(start, np.array(piece, np.int64))
        start += len(piece)
    assert (filling.values.dtype, filling.values.strides == (0,)) == (dtype, constant)


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from(["", "ko", "말모이", "en", *(f"g{i}" for i in range(200))]))))
def test_names_are_sorted_whatever_their_order(pieces):
    found = coded([pa.array(piece, pa.large_string()).dictionary_encode() for piece in pieces])
    texts = [text for piece in pieces for text in piece]
    assert [found.names[code] for code in found.codes] == texts
    assert list(found.names) == sorted(set(texts))


def _write(folder, part, rows):
    schema = KeySpec(None, True, "source", None).schema
    with folder.create(part_file(part, "keys")) as sink:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), sink)


def _row(number, source, text_bytes):
    hashes = {name: number * 2**40 for name in ("id_lo", "id_hi", "exact_lo", "exact_hi")}
    numbers = {"quality": 0.0, "length": 3, "priority": 0, "text_bytes": text_bytes, "tokens": -1}
    return {**hashes, **numbers, "group": source, "source": source, "language": ""}


def test_keys_of_parts(tmp_path):
    folder = Folder(str(tmp_path))
    _write(folder, 0, [_row(1, "웹", 10), _row(2, "웹", 20)])
    _write(folder, 1, [])
    _write(folder, 2, [_row(3, "news", 30)])
    keys = load_keys(folder, [2, 0, 1])
    assert keys.first.tolist() == [0, 2, 2, 3]
    assert keys.numbers["id_lo"].tolist() == [2**40, 2 * 2**40, 3 * 2**40]
    assert keys.names["source"].names == ("news", "웹")
    assert keys.names["source"].codes.tolist() == [1, 1, 0]
    assert keys.names["language"].names == ("",)
    assert keys.text_of_parts() == [30, 0, 30]
    assert keys.text_of_parts(np.array([2, 0, 5])) == [20, 0, 150]
    with pytest.raises(MalmoiError, match=r"part-00002.*1 rows, want 4"):
        load_keys(folder, [2, 0, 4])


def test_sums_are_not_those_of_narrow_integers(monkeypatch):
    """Documents of 2 GB, each three times, in columns of 32 bits."""
    monkeypatch.setattr(keys_module, "_BLOCK", 2)
    size, docs = 2**31 - 1, 5
    codes = np.array([0, 0, 1, 1, 1], np.int8)
    keys = Keys(
        np.array([0, 3, docs]),
        {"text_bytes": np.full(docs, size, np.int32), "tokens": np.full(docs, size, np.int32)},
        {name: Coded(codes, ("a", "b")) for name in ("source", "language", "group")},
    )
    copies = np.full(docs, 3, np.int32)
    assert keys.text_of_parts(copies) == [9 * size, 6 * size]
    counts = group_counts(keys, np.ones(docs, bool), copies)["source"]
    assert counts["b"] == {
        "kept": 3,
        "unique": 3,
        "unique_bytes": 3 * size,
        "unique_tokens": 3 * size,
        "documents": 3,
        "rows": 9,
        "text_bytes": 9 * size,
        "tokens": 9 * size,
    }
    figures = group_figures(keys, copies)
    assert figures == group_figures(keys)
    assert figures["effective_sources"] == pytest.approx(np.exp(-(0.4 * np.log(0.4) + 0.6 * np.log(0.6))))
