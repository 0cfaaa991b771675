"""Gopher quality: values against a plain count in Python, reasons by language, any batching."""

from __future__ import annotations

import math
import re
import statistics
import unicodedata

import numpy as np
import pyarrow as pa
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.operators.c4_phrases import phrases_of
from malmoi.operators.config import build, settings_of
from malmoi.operators.gopher_quality import SIGNALS, GopherQuality
from malmoi.operators.stop_words import stop_table
from malmoi.operators.text_scan import BULLETS

PROSE = (
    "The committee has said that it will have to be patient with the people of the town and the river. "
    "They walked along the bank until the evening, and nobody wanted to go home before the music ended. "
    "It was the first warm night of the year and the windows of every house along the street were open."
)
KOREAN = (
    "정부는 어제 새로운 정책을 발표했다. 이번 정책은 지방의 작은 도서관을 돕기 위한 것으로, "
    "내년부터 전국에서 시행된다. "
    "도서관 이용자들은 더 많은 책을 빌릴 수 있게 되고, 주말에도 "
    "늦게까지 문을 연다. 하지만 예산이 충분하지 않다는 지적도 있다. "
    "한 사서는 책을 고르는 일이 가장 어렵다고 말했다. 그리고 주민들의 의견을 먼저 들어야 한다고 덧붙였다."
)
MIXED = "東京タワーは1958年に完成した。高さは333メートルで、観光客に人気がある。 서울에서도 유명하다. OK?"


def table(texts: list[str], languages: list[str | None] | None = None) -> pa.Table:
    columns = {"text": pa.array(texts, pa.large_string())}
    if languages is not None:
        columns["language"] = pa.array(languages, pa.large_string())
    return pa.table(columns)


def reasons(texts: list[str], language: str, **fields: object) -> list[str | None]:
    out = GopherQuality(**fields)(table(texts, [language] * len(texts)))
    return [x and x.removeprefix("gopher_quality.") for x in out.column("drop").to_pylist()]


CASES = [
    ("en", PROSE, None),
    ("en", "", "words"),
    ("en", "Too short to keep.", "words"),
    ("en", "😀👍🏽❤️🎉", "words"),
    ("en", "a b c d e of the to " * 20, "mean_word_chars"),
    ("en", "the and " + "internationalisation " * 60, "mean_word_chars"),
    ("en", PROSE + " #tag" * 20, "hashes_per_word"),
    ("en", PROSE + " and so on..." * 20, "ellipses_per_word"),
    ("en", "\n".join(f"- the cat sat with {word}" for word in PROSE.split()), "bullet_line_fraction"),
    (
        "en",
        "\n".join(f"the cat sat with a lot more words than this {i}…" for i in "abcdefgh"),
        "ellipsis_line_fraction",
    ),
    ("en", PROSE + " 1984 2024" * 15, "alphabetic_word_fraction"),
    ("en", "kitchen garden window table " * 20, "stop_words"),
    ("ko", KOREAN, None),
    ("ko", unicodedata.normalize("NFC", unicodedata.normalize("NFD", KOREAN)), None),
    ("kor_Hang", KOREAN, None),
    ("en", KOREAN, "mean_word_chars"),
    ("ko", "책 책상 " * 20, "mean_word_chars"),
    ("ko", "도서관 책상 의자 창문 " * 15, "stop_words"),
    ("ko", "한국어", "words"),
    ("ja", MIXED, "words"),
    ("ja", MIXED * 3, None),
    ("fr", "Le petit chat dort sur la chaise devant la fenêtre ouverte. " * 6, None),
]


@pytest.mark.parametrize(("language", "text", "reason"), CASES, ids=lambda x: str(x)[:24])
def test_reason(language, text, reason):
    assert reasons([text], language) == [reason]


def plain(text: str) -> list[float]:
    """The signals by str and regex, English stop words."""
    words = [w for w in regex.split(r"(?V1w)\b", text) if regex.search(r"[\p{L}\p{N}]", w)]
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    n = len(words)
    stops = {"the", "be", "to", "of", "and", "that", "have", "with"}

    def over(part: float, whole: int) -> float:
        return part / whole if whole else math.nan

    return [
        n,
        statistics.fmean(map(len, words)) if words else math.nan,
        over(text.count("#"), n),
        over(text.count("...") + text.count("…"), n),
        over(sum(line[0] in "•-*·‣●○■□▪▫◦・∙" for line in lines), len(lines)),
        over(sum(line.endswith(("...", "…")) for line in lines), len(lines)),
        over(sum(re.search(r"[^\W\d_]", w) is not None for w in words), n),
        len(stops & {w.lower() for w in words}),
    ]


ALPHABET = st.sampled_from(
    [*"aZ. #-•…\n\t 가나 1٣あ漢é", "the ", "to\n", "...", "\u3000", "👍🏽", "\r\n", "e\u0301"]
)
# Of "e\u0301.a" the regex package makes two words, forgetting the letter before the mark (WB4).
TEXTS = st.lists(ALPHABET, max_size=60).map("".join).filter(lambda text: "\u0301." not in text)


@settings(max_examples=150, deadline=None)
@given(st.lists(TEXTS, max_size=6))
def test_signals_are_those_of_a_plain_count(texts):
    out = GopherQuality()(table(texts))
    found = [out.column(f"gopher_quality.{signal}").to_numpy() for signal in SIGNALS]
    for row, text in enumerate(texts):
        assert [column[row] for column in found] == pytest.approx(plain(text), nan_ok=True), text


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(TEXTS, st.sampled_from(["en", "ko", "ja", "xx", None])), max_size=7), st.integers(1, 3)
)
def test_any_batching_gives_the_same_rows(rows, size):
    whole = table([text for text, _ in rows], [language for _, language in rows])
    for operator in (GopherQuality(), GopherQuality(parity="datatrove")):
        expected = operator(whole)
        parts = [operator(whole.slice(start, size)) for start in range(0, len(rows), size)]
        joined = pa.concat_tables(parts) if parts else expected
        assert joined.schema == expected.schema
        for name in expected.column_names:
            assert str(joined.column(name).to_pylist()) == str(expected.column(name).to_pylist())


def test_a_reason_that_is_there_stays_and_no_column_is_lost():
    given_table = table(["", PROSE]).append_column("drop", pa.array(["mine", None], pa.large_string()))
    out = GopherQuality()(given_table)
    assert out.column("drop").to_pylist() == ["mine", None]
    assert out.column_names == ["text", "drop", *GopherQuality().adds.names]


def test_default_language_and_overrides():
    operator = GopherQuality(
        default_language="ko", languages={"ko": {"min_words": 5}, "de": {"max_words": None}}
    )
    assert operator(table([KOREAN[:60]])).column("drop").to_pylist() == [None]
    assert operator.limits("")[0].min == operator.limits("ko-KR")[0].min == 5
    assert operator.limits("de")[0].max is None
    assert operator.limits("en")[0].min == 50
    assert GopherQuality(parity="datatrove").limits("ko") == GopherQuality().limits("en")


def test_configuration_is_hashable_and_comes_back_from_the_manifest():
    languages = {"ko": {"min_words": 5}, "de": {"max_words": None}}
    operator = build(GopherQuality, {"languages": languages, "min_words": 40}, "step")
    assert hash(operator) == hash(build(GopherQuality, settings_of(operator), "step"))
    assert operator == GopherQuality(languages=languages, min_words=40)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"languages": {"ko": {"min_wrds": 5}}}, "languages.ko: unknown setting 'min_wrds'"),
        ({"languages": {"zh": {}, "yue": {}}}, "'zh' and 'yue' are one language here"),
        ({"parity": "datatrove", "languages": {"ko": {"min_words": 5}}}, "one set for all languages"),
        ({"parity": "dolma"}, "got 'dolma'"),
    ],
)
def test_wrong_configuration_is_refused(fields, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        GopherQuality(**fields)


def test_a_giant_line_without_spaces():
    out = GopherQuality()(table(["a" * 1_000_000, "." * 1_000_000]))
    assert out.column("gopher_quality.words").to_pylist() == [1.0, 0.0]
    assert np.isnan(out.column("gopher_quality.mean_word_chars").to_pylist()[1])


def test_bytes_that_are_not_utf8_are_not_read_across_documents():
    def signal(*documents: bytes) -> float:
        raw = pa.array([*documents, b"ok"], pa.large_binary())
        text = pa.LargeStringArray.from_buffers(len(raw), *raw.buffers()[1:])
        out = GopherQuality()(pa.table({"text": text}))
        return out.column("gopher_quality.bullet_line_fraction")[len(documents) - 1].as_py()

    for odd in (b"\x80\x80", b"\x80\n\x80", b"\xf7\xbf\xbf\xbf", b"\xff\xff\xff\xff"):
        assert signal(b"a", odd) == signal(b"a \n", odd) == 0.0


def test_what_is_kept_by_the_languages_of_a_batch_is_bounded():
    for number in range(200):
        stop_table(("en", f"x{number}"))
        phrases_of(("en", f"x{number}"))
    assert stop_table.cache_info().currsize <= 64
    assert phrases_of.cache_info().currsize <= 64


def test_no_bullet_begins_as_what_is_passed_over():
    assert not any(
        0x30 <= bullet.encode()[0] < 0x80 or 0xEB <= bullet.encode()[0] <= 0xEC for bullet in BULLETS
    )
