"""The shingle scheme against a slow version of it, and its words against regular expressions."""

import itertools
import re
import unicodedata

import numpy as np
import pyarrow as pa
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.operators.code_points import NO_SPACES, SPACE, code_points
from malmoi.operators.shingles import (
    char_hash64,
    hashfunc,
    shingle_ids,
    shingle_runs,
    word_hash32,
    word_hash64,
)

TEXTS = [
    "",
    " \n\t ",
    "One",
    "The quick brown fox jumps over the lazy dog, and then it does not stop: 3.14 foo_bar don't!",
    "모든 국민은 법률이 정하는 바에 의하여 국가기관에 문서로 청원할 권리를 가진다. 국가는 청원을 심사한다.",
    "東京は日本の首都です。ＡＢＣとabc、カタカナのターミナルとﾊﾝｶｸ。漢字かな交じり文 with English words",
    "한국어와 漢字를 섞어 쓴 文章은 이렇게 나뉜다",
    "👩‍👩‍👧‍👦 😀👍🏽 ❤️ 🇰🇷",
    unicodedata.normalize("NFD", "모든 국민은 법률이 정하는 바에 의하여 Äpfel und Öl"),
    "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता",
    "มนุษย์ทั้งหลายเกิดมามีอิสระ และเสมอภาคกัน",
    "a\u00a0b\u3000c\u2028d\u200be  f\r\ng",
    "ȺȾ ẞ İstanbul ΣΊΣΥΦΟΣ Ǆ \U00010400\U00010401",
    "x" * 5000 + " " + "Ⱥ" * 3000,
]

WORD_VALUE = 0x410795B77A92CDB6
CHAR_VALUE = 0xBC1F3A55FAADEEF7


def in_ranges(char):
    return any(first <= ord(char) <= last for first, last in NO_SPACES)


def simple_lower(text):
    lower = code_points()[1]
    return "".join(chr(lower[ord(c)]) for c in text)


def slow_words(text):
    words, open_run = [], False
    for c in text:
        if c == "_" or regex.match(r"[\p{L}\p{N}]", c):
            alone = in_ranges(c)
            if open_run and not alone:
                words[-1] += c
            else:
                words.append(c)
            open_run, joined = not alone, True
        elif regex.match(r"\p{WB=Extend}", c) and not regex.match(r"[\p{S}\p{P}]", c):
            if words and (joined or open_run):
                words[-1] += c
        else:
            open_run = joined = False
    return [simple_lower(w) for w in words]


def slow_shingles(text, ngram, size):
    if ngram == "word":
        units, glue = slow_words(text), " "
    else:
        units = list(simple_lower(regex.sub(r"\p{White_Space}+", " ", text).strip(" ")))
        glue = ""
    if not units:
        return []
    count = max(1, len(units) - size + 1)
    return [glue.join(units[i : i + size]).encode() for i in range(count)]


def slow_ids(text, ngram, size):
    of = word_hash64 if ngram == "word" else char_hash64
    return [of(s) for s in slow_shingles(text, ngram, size)]


def fast_ids(texts, ngram, size):
    first, ids = shingle_ids(pa.array(texts, pa.large_string()), ngram, size)
    assert first.dtype == np.int64
    assert ids.dtype == np.uint64
    return [ids[a:b].tolist() for a, b in itertools.pairwise(first)]


@pytest.mark.parametrize("ngram", ["word", "char"])
@pytest.mark.parametrize("size", [1, 2, 5, 13])
def test_ids_are_those_of_the_slow_version(ngram, size):
    assert fast_ids(TEXTS, ngram, size) == [slow_ids(t, ngram, size) for t in TEXTS]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(max_size=40), max_size=6), st.sampled_from(["word", "char"]), st.integers(1, 6))
def test_ids_are_those_of_the_slow_version_on_any_text(texts, ngram, size):
    assert fast_ids(texts, ngram, size) == [slow_ids(t, ngram, size) for t in texts]


MIXED = """漢字 カタカナ ﾊﾝ 。 文abc 々 ー ・ 〜 ゙ ａＢ ， « · ₩ ½ µ é É Äpfel ß ’ “ … Привет да ΣΊΣΥΦΟΣ αβγ Ⱥ łódź
Łódź שלום سلام ـ 😀 👩‍👩‍👧‍👦 มนุษย์ सभी"""
PIECES = [
    *("the", "Quick", "foo_bar9", "X", "don't", " ", "  ", "\n", ". ", ", ", "3.14", "-"),
    *("x" * 31, "Y" * 32, "Zz" * 40),
    *("모든", "국민은", "가", "하", "힣", "갸갸", "한국어와"),
    *("\u1100\u1161", "\u0301", "\u200d", "\u200c", "\u00a0", "\u3000", "\x00", "\x7f", "\x80", "\U00010400"),
    *re.findall(r"\S+", MIXED),
]


def mixed_texts(seed, documents):
    draw = np.random.default_rng(seed)
    # Runs of one kind and changes between kinds, of every length about the 64 bytes that are looked at together.
    kinds = [PIECES[:15], PIECES[15:22], PIECES[:22], PIECES]
    for _ in range(documents):
        pieces = kinds[draw.integers(len(kinds))]
        glue = [" ", ""][draw.integers(2)]
        yield glue.join(pieces[i] for i in draw.integers(len(pieces), size=draw.integers(0, 60)))


@pytest.mark.parametrize("seed", range(3))
def test_ids_are_those_of_the_slow_version_on_mixed_text(seed):
    texts = list(mixed_texts(seed, 250))
    for size in (1, 5):
        assert fast_ids(texts, "word", size) == [slow_ids(t, "word", size) for t in texts]


def test_many_words_and_long_documents():
    texts = [
        "Ab " * 5000,
        "é " * 5000,
        "漢" * 5000,
        "Ⱥ" * 40000 + " " + "Ab" * 40000,
        *("a", "가", "É") * 1500,
        "x" * 70000 + "é",
        " ".join(mixed_texts(9, 60)),
    ]
    assert fast_ids(texts, "word", 2) == [slow_ids(t, "word", 2) for t in texts]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from([b"a", b"B ", b"\xeb", b"\x80", b"\xea\xb0\x80", b"\xc3", b"\xe3\x81", b"\xf0"]),
        max_size=99,
    )
)
def test_where_a_document_lies_does_not_matter_even_where_it_is_not_utf8(pieces):
    # Bytes near the end of a batch are looked at one by one, others 64 at a time.
    raw = b"".join(pieces)
    column = pa.array([raw, b"a" * 100, b" " * 5 + raw, b"a" * 99], pa.large_binary()).view(pa.large_string())
    first, ids = shingle_ids(column, "word", 2)
    alone = shingle_ids(column.slice(0, 1).take(pa.array([0])), "word", 2)[1]
    assert ids[: first[1]].tolist() == alone.tolist() == ids[first[2] : first[3]].tolist()


def test_runs_are_the_whole(monkeypatch):
    column = pa.array([*TEXTS, *mixed_texts(5, 40)], pa.large_string())
    first, ids = shingle_ids(column, "word", 5)
    for run in (1, 300, 1 << 20):
        monkeypatch.setattr("malmoi.operators.shingles.RUN", run)
        parts = list(shingle_runs(column, "word", 5))
        assert np.concatenate([part[2] for part in parts]).tolist() == ids.tolist()
        assert np.concatenate([np.diff(part[1]) for part in parts]).tolist() == np.diff(first).tolist()
        assert [part[0] for part in parts] == np.cumsum([0, *(len(part[1]) - 1 for part in parts)])[
            :-1
        ].tolist()


def test_words_are_those_of_the_regular_expression_where_words_have_spaces():
    for text in TEXTS[:5]:
        assert slow_words(text) == re.findall(r"\w+", text.lower())


def test_published_values():
    # Fixed for ever: another value is another scheme.
    assert word_hash64(b"the quick brown fox jumps") == WORD_VALUE
    assert char_hash64("모든 국민".encode()) == CHAR_VALUE
    assert word_hash32(b"the quick brown fox jumps") == WORD_VALUE >> 32
    assert hashfunc("word") is word_hash32
    assert fast_ids(["The QUICK brown, fox jumps!"], "word", 5) == [[WORD_VALUE]]
    assert fast_ids([" 모든\n\n국민 "], "char", 5) == [[CHAR_VALUE]]


def test_lower_case_is_pythons_but_for_the_one_letter_that_python_makes_two_of():
    assigned = [chr(c) for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Cn", "Cs")]
    assert [c for c in assigned if simple_lower(c) != c.lower()] == ["İ"]


def test_bytes_that_are_not_utf8_do_no_harm():
    raw = [b"\xe9t\xe9 caf\xe9", b"\xf0\x9f", b"\xff" * 100, b"\xed\xa0\x80 \xf4\xbf\xbf\xbf"]
    column = pa.array(raw, pa.large_binary()).view(pa.large_string())
    for ngram in ("word", "char"):
        first, _ = shingle_ids(column, ngram, 1)
        assert len(first) == 5


def test_classes_of_code_points():
    classes, lower = code_points()
    assert len(classes) == len(lower) == 0x110000
    spaces = [c for c in range(0x110000) if classes[c] == SPACE]
    assert spaces == [c for c in range(0x110000) if regex.match(r"\p{White_Space}", chr(c))]


def test_short_documents_are_one_shingle_and_empty_ones_none():
    assert [
        len(ids) for ids in fast_ids(["", "...", "😀", "one", "one two three four", "a b c d e f"], "word", 5)
    ] == [
        0,
        0,
        0,
        1,
        1,
        2,
    ]


@pytest.mark.parametrize(("ngram", "size"), [("word", 0), ("line", 5)])
def test_wrong_settings_are_refused(ngram, size):
    with pytest.raises(ValueError, match=str(ngram)):
        shingle_ids(pa.array(["a"]), ngram, size)
