"""JSON lines against Python's json, whatever the slices."""

import io
import json

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.pipeline.json_lines import JsonLinesWriter, json_lines

TEXTS = [
    "",
    "A plain sentence.",
    'It said "no"\\\n\tand\x00 left\r\n',
    "우리말 모음을 말모이라 한다.",
    "漢字かな 한글 mixed",
    "😀🎉👩‍👩‍👧",
    "\u1112\u1161\u11ab\u1100\u1173\u11af",  # NFD Hangul
    "line separator \u2028 inside",
]

ANY_TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.none() | ANY_TEXT,
            '키 "x"': st.none() | ANY_TEXT | st.sampled_from(TEXTS),
            "f": st.none() | st.floats(allow_nan=False, allow_infinity=False),
            "i": st.none() | st.integers(-(2**63), 2**63 - 1),
            "b": st.none() | st.booleans(),
            "l": st.none() | st.lists(ANY_TEXT, max_size=2),
        }
    ),
    max_size=8,
)
COLUMNS = pa.schema(
    [
        ("id", pa.large_string()),
        ('키 "x"', pa.string()),
        ("f", pa.float64()),
        ("i", pa.int64()),
        ("b", pa.bool_()),
        ("l", pa.list_(pa.large_string())),
    ]
)


@settings(max_examples=50, deadline=None)
@given(ROWS, st.integers(1, 8))
def test_json_lines_read_back(rows, size):
    table = pa.Table.from_pylist(rows, COLUMNS)
    lines = json_lines(table).to_pylist()
    assert [json.loads(line) for line in lines] == rows
    assert all(line.endswith("}\n") and line.count("\n") == 1 for line in lines)
    sliced = [
        line for i in range(0, len(rows), size) for line in json_lines(table.slice(i, size)).to_pylist()
    ]
    assert sliced == lines


def test_json_lines_of_other_types():
    table = pa.table(
        {
            "f": pa.array([1.0, float("nan"), None], pa.float32()),
            "day": pa.array([0, None, 1], pa.date32()),
            "raw": pa.array([b"\xff", None, b""], pa.large_binary()),
            "kind": pa.array(["a", None, "b"]).dictionary_encode(),
            "none": pa.nulls(3),
        }
    )
    assert [json.loads(line) for line in json_lines(table).to_pylist()] == [
        {"f": 1.0, "day": "1970-01-01", "raw": "/w==", "kind": "a", "none": None},
        {"f": None, "day": None, "raw": None, "kind": None, "none": None},
        {"f": None, "day": "1970-01-02", "raw": "", "kind": "b", "none": None},
    ]
    assert json_lines(table).to_pylist()[0].startswith('{"f":1.0,')


def test_json_lines_writer_bytes_do_not_depend_on_batches():
    rows = [{"id": str(i), '키 "x"': TEXTS[i % len(TEXTS)] * (i % 5), "f": i / 3} for i in range(50)]
    table = pa.Table.from_pylist(rows, COLUMNS)
    found = []
    for size in (1, 7, 50):
        sink = io.BytesIO()
        with JsonLinesWriter(sink) as writer:
            for start in range(0, 50, size):
                writer.write(table.slice(start, size))
            writer.write(table.slice(0, 0))
        found.append(sink.getvalue())
    assert found[0] == found[1] == found[2]
