"""The shared analysis against Python's own strings, the `regex` package and the xxhash library."""

import itertools
import re
import unicodedata

import numpy as np
import pyarrow as pa
import pytest
import regex
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.operators.analysis import Spans, TextBatch, analyse, forget, restrict
from malmoi.operators.hashing import xxh64
from malmoi.operators.normalise import text_buffers
from malmoi.operators.unicode_tables import PICTOGRAPH, lower_case, properties

NFD = unicodedata.normalize("NFD", "한글 문장")


def column(texts: list[str]) -> pa.Array:
    return pa.array(texts, pa.large_string())


def pieces(batch: TextBatch, spans: Spans, document: int) -> list[str]:
    here = range(spans.first[document], spans.first[document + 1])
    return [bytes(batch.data[spans.start[i] : spans.end[i]]).decode() for i in here]


@pytest.mark.parametrize(
    ("text", "tokens", "words"),
    [
        ("", [], []),
        (" \t\n ", [], []),
        ("can't stop", ["can't", "stop"], ["can't", "stop"]),
        ("3.14 and 1,000.5!", ["3.14", "and", "1,000.5", "!"], ["3.14", "and", "1,000.5"]),
        ("a.b a. b", ["a.b", "a", ".", "b"], ["a.b", "a", "b"]),
        ("foo_bar __ _x", ["foo_bar", "__", "_x"], ["foo_bar", "_x"]),
        ("한국어 문장입니다. 그는", ["한국어", "문장입니다", ".", "그는"], ["한국어", "문장입니다", "그는"]),
        (NFD, NFD.split(), NFD.split()),
        ("日本語カタカナ", ["日", "本", "語", "カタカナ"], ["日", "本", "語", "カタカナ"]),
        ("한국語의 ABC", ["한국", "語", "의", "ABC"], ["한국", "語", "의", "ABC"]),
        ("👩‍👩‍👧‍👦🇰🇷🇯🇵", ["👩‍👩‍👧‍👦", "🇰🇷", "🇯🇵"], []),
        ("🇰🇷🇰", ["🇰🇷", "🇰"], []),
        ('ש"ש a"b', ['ש"ש', "a", '"', "b"], ['ש"ש', "a", "b"]),
        ("e\u0301a\u00adb c\u200dd", ["e\u0301a\u00adb", "c\u200dd"], ["e\u0301a\u00adb", "c\u200dd"]),
        ("“quote”—dash…", ["“", "quote", "”", "—", "dash", "…"], ["quote", "dash"]),
        ("x:y 12:30", ["x:y", "12", ":", "30"], ["x:y", "12", "30"]),
    ],
)
def test_words_by_uax_29(text: str, tokens: list[str], words: list[str]) -> None:
    batch = analyse(column([text]))
    assert pieces(batch, batch.tokens, 0) == tokens
    assert pieces(batch, batch.words, 0) == words


# regex tailors apostrophes before vowels and, otherwise than UAX #29, keeps some signs with a flag or a mark
# at the start of a line; the alphabet leaves those out.
ALPHABET = "aB1_.,:ß漢한アא👍é \n가"


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=ALPHABET, max_size=24))
def test_words_as_the_regex_package_finds_them(text: str) -> None:
    cuts = [match.start() for match in regex.finditer(r"(?w)\b", text, flags=regex.V1)]
    bounds = sorted({0, *cuts, len(text)})
    expected = [text[a:b] for a, b in itertools.pairwise(bounds)]
    batch = analyse(column([text]))
    assert pieces(batch, batch.tokens, 0) == [piece for piece in expected if not piece.isspace()]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(alphabet="ab 가\n\r\u3000\u2028é\x0b", max_size=20), max_size=6))
def test_lines_paragraphs_and_chars_as_python_has_them(texts: list[str]) -> None:
    batch = analyse(column(texts))
    assert batch.num_chars.tolist() == [len(text) for text in texts]
    for i, text in enumerate(texts):
        assert pieces(batch, batch.lines, i) == text.split("\n")
        assert pieces(batch, batch.paragraphs, i) == re.split(r"\n{2,}", text.strip())
        here = slice(batch.lines.first[i], batch.lines.first[i + 1])
        assert batch.lines.chars[here].tolist() == [len(line) for line in text.split("\n")]


def test_hashes_are_those_of_xxhash() -> None:
    texts = ["", "Straße ÉCOLE 한국어 ΑΘΗΝΑ x" * 9, "z" * 31, "z" * 32, "z" * 33, "漢字 " * 40]
    batch = analyse(column(texts))
    for spans in (batch.words, batch.lines):
        for i in range(len(spans.start)):
            raw = bytes(batch.data[spans.start[i] : spans.end[i]])
            lowered = "".join(c.lower() if len(c.lower()) == 1 else c for c in raw.decode())
            assert spans.hash[i] == xxhash.xxh64_intdigest(raw)
            assert spans.lower_hash[i] == xxhash.xxh64_intdigest(lowered.encode())


def test_everything_that_has_a_lower_case_is_lowered() -> None:
    table = lower_case()
    points = np.flatnonzero(table != np.arange(len(table)))
    batch = analyse(column([chr(point) for point in points]))
    expected = [xxhash.xxh64_intdigest(chr(table[point]).encode()) for point in points]
    assert batch.tokens.lower_hash.tolist() == expected


@pytest.mark.parametrize("size", [0, 1, 3, 4, 7, 8, 15, 31, 32, 33, 63, 64, 200])
@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
def test_xxh64(size: int, seed: int) -> None:
    data = bytes(i * 37 % 256 for i in range(size))
    got = xxh64(np.frombuffer(b"xx" + data, np.uint8), 2, 2 + size, np.uint64(seed))
    assert got == xxhash.xxh64_intdigest(data, seed)


def test_flags() -> None:
    batch = analyse(column(["a 1 a1 , 👍 한"]))
    assert batch.tokens.flags.tolist() == [1, 2, 3, 4, 4, 1]


def test_one_analysis_for_a_column_and_no_stale_one() -> None:
    forget()
    table = pa.table({"text": column(["가 나", "b"]), "n": [1, 2]})
    assert analyse(table) is analyse(table.append_column("more", pa.array([1, 2])))
    assert analyse(table) is analyse(table.column("text"))
    assert analyse(table.slice(1)) is not analyse(table)
    for number in range(50):  # buffers that are freed and made again must not be mistaken for old ones
        batch = analyse(column([f"{number} x"]))
        assert bytes(batch.data) == f"{number} x".encode()


@pytest.mark.parametrize(
    "shape",
    [
        pa.chunked_array([column(["가", "b c"]), column([]), column(["d"])]),
        pa.chunked_array([], pa.large_string()),
        pa.array(["가", None, "b"], pa.string()),
        column(["skip", "가 나", "b"]).slice(1),
        column(["가 나", "b"]).slice(2),
    ],
    ids=["chunks", "no chunk", "string and null", "slice", "empty slice"],
)
def test_any_shape_of_column(shape: pa.Array | pa.ChunkedArray) -> None:
    batch = analyse(shape)
    expected = [value or "" for value in shape.to_pylist()]
    assert batch.num_docs == len(expected)
    assert batch.offsets[0] == 0
    assert bytes(batch.data).decode() == "".join(expected)
    for i, text in enumerate(expected):
        assert pieces(batch, batch.words, i) == text.split()


def test_bytes_that_are_not_utf8_are_not_read_past() -> None:
    raw = [b"\xff\xfe", b"abc\xf0", b"\xe2\x82", b"\x80\x80", b"ok"]
    array = pa.array(raw, pa.large_binary())
    batch = analyse(pa.LargeStringArray.from_buffers(len(raw), array.buffers()[1], array.buffers()[2]))
    assert batch.words.first[-1] >= 1
    assert batch.tokens.end.max(initial=0) <= len(batch.data)
    odd = pa.array([b"\x80" * 1000, b"Word\xf0", b""], pa.large_binary())
    lines = analyse(pa.LargeStringArray.from_buffers(len(odd), *odd.buffers()[1:])).lines
    assert lines.lower_hash.tolist() == [
        xxhash.xxh64_intdigest(x) for x in (b"\x80" * 1000, b"word\xf0", b"")
    ]


def test_tables_agree_with_the_regex_package() -> None:
    index, blocks = properties()
    step = 7  # every seventh code point: the maker's own loop is over all of them
    for point in [p for p in range(0, 0x30000, step) if not 0xD800 <= p < 0xE000]:
        entry = int(blocks[index[point >> 8], point & 255])
        assert bool(entry & PICTOGRAPH) == bool(regex.match(r"\p{Extended_Pictographic}", chr(point)))
        assert bool(entry & 1) == bool(regex.match(r"\p{L}", chr(point)))
    assert lower_case()[ord("É")] == ord("é")
    assert lower_case()[0x130] == ord("i")
    assert lower_case()[ord("가")] == ord("가")


def test_kernels_see_one_kind_of_array_wherever_the_text_comes_from() -> None:
    table = pa.table({"text": column(["가 나", "b"])})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    received = pa.ipc.open_stream(sink.getvalue()).read_all()
    for source in (table, received, table.slice(2), pa.table({"text": column([""])})):
        data, offsets = text_buffers(source.column("text").combine_chunks())
        assert not data.flags.writeable
        assert not offsets.flags.writeable
        assert not analyse(source).data.flags.writeable
        assert analyse(source).offsets.flags.writeable


def test_a_part_of_a_batch_has_the_words_of_the_whole() -> None:
    texts = [
        "The Cat sat.",
        "",
        "한국어 Straße ÉCOLE",
        "x" * 40 + " Y" * 40,
        "İstanbul ǅ I",
        "gone GONE",
        "End",
    ]
    table = pa.table({"text": column(texts * 40)})
    is_kept = pa.chunked_array([[text != "gone GONE" and i % 5 != 1 for i, text in enumerate(texts * 40)]])
    for seen_before in (False, True):
        forget()
        assert analyse(table).words.hash is not None
        assert not seen_before or analyse(table).num_chars is not None
        kept = table.filter(is_kept)
        restrict(table, kept, is_kept)
        part = analyse(kept)
        first, hashes = part.lower_words
        fresh = TextBatch(part.data, part.offsets)
        assert np.array_equal(first, fresh.words.first)
        assert np.array_equal(hashes, fresh.words.lower_hash)
        assert np.array_equal(part.num_chars, fresh.num_chars)
        for name in ("first", "start", "end", "chars", "flags", "hash", "lower_hash"):
            assert np.array_equal(getattr(part.words, name), getattr(fresh.words, name)), name
        assert hashes.tolist() == [
            xxhash.xxh64_intdigest("".join(lowered(c) for c in word).encode())
            for i in range(part.num_docs)
            for word in pieces(part, part.words, i)
        ]


def lowered(char: str) -> str:
    table = lower_case()
    return chr(table[ord(char)]) if ord(char) < len(table) else char
