"""FineWeb's rules: values against a plain count in Python, reasons by language, any batching."""

from __future__ import annotations

import math

import pyarrow as pa
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.operators.fineweb import SIGNALS, FineWebQuality

PROSE = "Nobody wanted to go home before the music ended that night."
KOREAN = "도서관 이용자들은 더 많은 책을 빌릴 수 있게 되었다."


def table(texts: list[str], language: str | None = None) -> pa.Table:
    columns = {"text": pa.array(texts, pa.large_string())}
    if language is not None:
        columns["language"] = pa.array([language] * len(texts), pa.large_string())
    return pa.table(columns)


CASES = [
    ("en", "", "empty"),
    ("en", " \n\t\n", "empty"),
    ("en", PROSE, None),
    ("en", "\n".join([PROSE[:-1] + f" {i}" for i in range(9)]), "terminal_line_fraction"),
    (
        "en",
        "\n".join([f"He said it {i} more times than anybody could count (“really.”)" for i in range(9)]),
        None,
    ),
    ("en", "\n".join(["Short one."] + ["Shorter."] * 3), "short_line_fraction"),
    ("en", "\n".join([PROSE, "Another line that is long enough.", PROSE]), "duplicate_line_char_fraction"),
    ("en", "\n\n\n\n".join([PROSE, "Incomprehensibilities notwithstanding!"]), "newlines_per_word"),
    ("en", "😀👍🏽❤️", "terminal_line_fraction"),
    ("ko", KOREAN, None),
    ("ko", "\n".join([f"그는 “{i}번 더 그렇게 했다.”" for i in range(20)]), None),
    ("en", "\n".join([f"그는 “{i}번 더 그렇게 했다.”" for i in range(20)]), "short_line_fraction"),
    (
        "ko",
        "\n".join([f"{i}번 메뉴를 고르시오 아니면 나가시오" for i in range(20)]),
        "terminal_line_fraction",
    ),
    ("ja", "漢字とカナ、mixed。한국어 OK？", None),
    ("th", "ภาษาไทยไม่มีจุดจบประโยค\nและไม่เว้นวรรคระหว่างคำ", None),
]


@pytest.mark.parametrize(("language", "text", "reason"), CASES, ids=lambda x: str(x)[:24])
def test_reason(language, text, reason):
    found = FineWebQuality()(table([text], language)).column("drop").to_pylist()
    assert found == [reason and f"fineweb_quality.{reason}"]


def test_parity_wants_the_very_last_character():
    quoted = "\n".join([f"He said it {i} more times than anybody could count “really.”" for i in range(9)])
    out = FineWebQuality(parity="datatrove")(table([quoted, PROSE + " ", PROSE]))
    assert out.column("fineweb_quality.terminal_line_fraction").to_pylist() == [0.0, 0.0, 1.0]


def plain(text: str) -> list[float]:
    """The signals by str and regex; terminal punctuation as far as the texts below have it."""
    lines = [line for line in text.split("\n") if line.strip()]
    words = [w for w in regex.split(r"(?V1w)\b", text) if regex.search(r"[\p{L}\p{N}]", w)]
    n, chars = len(lines), len(text.replace("\n", ""))

    def over(part: float, whole: int) -> float:
        return part / whole if whole else math.nan

    return [
        n,
        over(sum(line.strip().rstrip("\"'”)」").endswith((".", "!", "。", "।")) for line in lines), n),
        over(sum(len(line) <= 30 for line in lines), n),
        over(sum(len(line) for i, line in enumerate(lines) if line in lines[:i]), chars),
        over(text.count("\n"), len(words)),
    ]


PIECES = st.sampled_from(
    [*"a가漢 .!\n\t", "。", "।", ".”", "(x.)", "」", "\u3000", "\r", PROSE, KOREAN, "\n", "👍🏽", "e\u0301"]
)
# Of "e\u0301.a" the regex package makes two words, forgetting the letter before the mark (WB4).
TEXTS = st.lists(PIECES, max_size=25).map("".join).filter(lambda text: "\u0301." not in text)


@settings(max_examples=150, deadline=None)
@given(st.lists(TEXTS, max_size=5))
def test_signals_are_those_of_a_plain_count(texts):
    out = FineWebQuality()(table(texts))
    for row, text in enumerate(texts):
        found = [out.column(f"fineweb_quality.{signal}")[row].as_py() for signal in SIGNALS]
        assert found == pytest.approx(plain(text), nan_ok=True), repr(text)


@settings(max_examples=40, deadline=None)
@given(st.lists(TEXTS, max_size=6), st.integers(1, 3))
def test_any_batching_gives_the_same_rows(texts, size):
    whole = table(texts, "ko")
    for operator in (FineWebQuality(), FineWebQuality(parity="datatrove")):
        expected = operator(whole)
        parts = [operator(whole.slice(start, size)) for start in range(0, len(texts), size)]
        joined = pa.concat_tables(parts) if parts else expected
        assert joined.schema == expected.schema
        for name in expected.column_names:
            assert str(joined.column(name).to_pylist()) == str(expected.column(name).to_pylist())
