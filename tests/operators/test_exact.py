"""128-bit hashes of texts and ids against the xxhash library on strings made the slow way."""

import unicodedata

import numpy as np
import pyarrow as pa
import pytest
import regex
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.operators.contract import Operator
from malmoi.operators.exact import ExactHash, id_hash, text_hash

TEXTS = [
    "",
    " \n",
    "a  b",
    " a\u00a0\u3000b\n",
    "모든 국민은\n\n법률이",
    "東京 と ABC",
    "👩‍👩‍👧‍👦 😀",
    unicodedata.normalize("NFD", "모든 국민은 법률이"),
    "long enough to leave the short path of the hash " * 40,
    "\x1c \x1d",
]


def slow(text):
    text = regex.sub(r"\p{White_Space}+", " ", text).strip(" ")
    return tuple(xxhash.xxh64_intdigest(text.encode(), seed) for seed in (0, 1))


def rows(hashes):
    return list(zip(*(h.tolist() for h in hashes), strict=True))


def test_text_hash_is_that_of_the_collapsed_text():
    got = rows(text_hash(pa.array(TEXTS, pa.large_string())))
    assert got == [slow(text) for text in TEXTS]
    assert got[2] == got[3]
    assert got[0] == got[1]
    assert got[4] != got[7]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.text(alphabet=" \n\t\u00a0\u2003\u3000a가漢😀", max_size=20), max_size=6), st.integers(1, 3)
)
def test_any_text_in_any_batching(texts, size):
    table = pa.table({"text": pa.array(texts, pa.large_string())})
    got = ExactHash()(table)
    assert list(zip(got["exact_lo"].to_pylist(), got["exact_hi"].to_pylist(), strict=True)) == list(
        map(slow, texts)
    )
    parts = [ExactHash()(table.slice(i, size)) for i in range(0, len(texts), size)]
    assert pa.concat_tables([got.slice(0, 0), *parts]).combine_chunks().equals(got.combine_chunks())


PIECES = [
    *(
        "a",
        " ",
        "\n",
        "\t",
        "    ",
        "\r\n",
        "word ",
        "x" * 30,
        "\x00",
        "\x1c",
        "\x7f",
        "\u00a0",
        "\u0085",
        "£",
        "é",
        "가나",
    ),
    *("\u1680", "\u1100", "\u2003", "’", "\u2028", "\u202f", "\u205f", "⁠", "\u3000", "。", "漢", "😀"),
]


@pytest.mark.parametrize("kinds", [len(PIECES), 8, 2])
def test_white_space_at_every_place_of_long_text(kinds):
    draw = np.random.default_rng(kinds)
    texts = ["".join(PIECES[i] for i in draw.integers(kinds, size=draw.integers(0, 150))) for _ in range(200)]
    assert rows(text_hash(pa.array(texts, pa.large_string()))) == [slow(text) for text in texts]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from([b"a", b" ", b"  ", b"\xc2", b"\xe2", b"\x80", b"\xa0", b"\xe3\x80", b"\xf0"]),
        max_size=99,
    )
)
def test_where_a_document_lies_does_not_matter_even_where_it_is_not_utf8(pieces):
    # Bytes near the end of a batch are looked at one by one, others 64 at a time.
    raw = b"".join(pieces)
    found = rows(text_hash(pa.array([raw, b"-" * 200], pa.large_binary()).view(pa.large_string())))
    assert found[0] == rows(text_hash(pa.array([raw], pa.large_binary()).view(pa.large_string())))[0]


def test_operator_has_the_same_schema_without_rows():
    operator = ExactHash()
    assert isinstance(operator, Operator)
    table = pa.table({"text": pa.array(TEXTS, pa.large_string())})
    assert operator(table.slice(0, 0)).schema == operator(table).schema
    assert [field.name for field in operator.adds] == operator(table).column_names[1:]


def test_id_hash_is_that_of_source_and_id():
    source = pa.chunked_array([["web", "web"], ["새"]], pa.large_string())
    ids = pa.chunked_array([["1"], ["", "하나"]], pa.large_string())
    want = [
        tuple(xxhash.xxh64_intdigest(name.encode(), seed) for seed in (0, 1))
        for name in ("web\0001", "web\0", "새\0하나")
    ]
    assert rows(id_hash(source, ids)) == want
    assert rows(id_hash(source.combine_chunks()[1:], ids.combine_chunks()[1:])) == want[1:]
    none = id_hash(source.slice(0, 0), ids.slice(0, 0))
    assert [len(x) for x in none] == [0, 0]
    assert none[0].dtype == np.uint64
    with pytest.raises(ValueError, match="1 nulls"):
        id_hash(source, pa.array(["1", None, "2"], pa.large_string()))
