"""Gopher repetition: values against a plain count in Python, reasons, any batching."""

from __future__ import annotations

import math
import re
from collections import Counter

import pyarrow as pa
import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st

from malmoi.operators.analysis import analyse
from malmoi.operators.datatrove_words import english_words
from malmoi.operators.gopher_repetition import SIGNALS, GopherRepetition

PROSE = (
    "Nobody wanted to go home before the music ended, and every window of the street stood open that night."
)
KOREAN = "도서관 이용자들은 더 많은 책을 빌릴 수 있게 되고, 주말에도 늦게까지 문을 연다."


def table(texts: list[str]) -> pa.Table:
    return pa.table({"text": pa.array(texts, pa.large_string())})


CASES = [
    ("", "empty"),
    (PROSE, None),
    (KOREAN, None),
    ("😀👍🏽❤️", None),
    ("漢字とカナ、mixed。한국어 OK？", None),
    ("\n\n\n", None),
    ("\n\n".join([PROSE] * 3), "duplicate_paragraph_fraction"),
    ("\n\n".join(["a", "b", "c", "d", PROSE, PROSE]), "duplicate_paragraph_char_fraction"),
    ("\n".join([*"abc", "menu", "menu", "menu"]), "duplicate_line_fraction"),
    ("\n".join(["a", "b", "c", "d", PROSE, PROSE]), "duplicate_line_char_fraction"),
    (" ".join(["buy now"] * 8), "top_2_gram_char_fraction"),
    (
        " ".join(f"word{i} other{i}" for i in range(30)) + f" {PROSE} {PROSE}",
        "duplicate_5_gram_char_fraction",
    ),
    (
        " ".join(f"낱말{i} 다른말{i}" for i in range(14)) + f" {KOREAN} {KOREAN}",
        "duplicate_5_gram_char_fraction",
    ),
]


@pytest.mark.parametrize(("text", "reason"), CASES, ids=lambda x: str(x)[:24])
def test_reason(text, reason):
    found = GopherRepetition()(table([text])).column("drop").to_pylist()
    assert found == [reason and f"gopher_repetition.{reason}"]


def plain(text: str) -> list[float]:
    """The signals by lists and counters."""

    def over(part: float, whole: int) -> float:
        return part / whole if whole else math.nan

    def repeats(pieces: list[str]) -> list[float]:
        again = [piece for i, piece in enumerate(pieces) if piece in pieces[:i]]
        return [over(len(again), len(pieces)), over(len("".join(again)), len("".join(pieces)))]

    words = [w for w in regex.split(r"(?V1w)\b", text) if regex.search(r"[\p{L}\p{N}]", w)]
    whole = len("".join(words))
    signals: list[float] = [len(text)]
    signals += repeats([x for x in re.split(r"\n{2,}", text.strip()) if x])
    signals += repeats([x for x in text.split("\n") if x])
    for n in (2, 3, 4):
        grams = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
        top = grams.most_common(1)
        chars = len("".join(top[0][0])) * top[0][1] if top and top[0][1] > 1 else 0
        signals.append(min(1.0, over(chars, whole)) if whole else math.nan)
    for n in range(5, 11):
        grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        covered = {j for i, gram in enumerate(grams) if gram in grams[:i] for j in range(i, i + n)}
        signals.append(over(sum(len(words[j]) for j in covered), whole))
    return signals


WORDS = st.lists(st.sampled_from(["a", "bb", "가나", "漢", ".", "👍", "x"]), max_size=45)
SEPARATORS = st.sampled_from([" ", "\n", "\n\n", " \n"])
TEXTS = st.builds(
    lambda words, gap, last: " ".join(words) + gap + last.join(words[:9]), WORDS, SEPARATORS, SEPARATORS
)


@settings(max_examples=150, deadline=None)
@given(st.lists(TEXTS, max_size=5))
def test_signals_are_those_of_a_plain_count(texts):
    out = GopherRepetition()(table(texts))
    for row, text in enumerate(texts):
        found = [out.column(f"gopher_repetition.{signal}")[row].as_py() for signal in SIGNALS]
        assert found == pytest.approx(plain(text), nan_ok=True), text


@settings(max_examples=40, deadline=None)
@given(st.lists(TEXTS, max_size=6), st.integers(1, 3))
def test_any_batching_gives_the_same_rows(texts, size):
    whole = table(texts)
    for operator in (GopherRepetition(), GopherRepetition(parity="datatrove")):
        expected = operator(whole)
        parts = [operator(whole.slice(start, size)) for start in range(0, len(texts), size)]
        joined = pa.concat_tables(parts) if parts else expected
        assert joined.schema == expected.schema
        for name in expected.column_names:
            assert str(joined.column(name).to_pylist()) == str(expected.column(name).to_pylist())


def duplicate_chars(words: list[str], n: int) -> int:
    """datatrove's: goes on behind each n-gram that came before, n-grams are words joined without a space."""
    seen: set[str] = set()
    total = i = 0
    while i + n <= len(words):
        gram = "".join(words[i : i + n])
        total, i = (total + len(gram), i + n) if gram in seen else (total, i + 1)
        seen.add(gram)
    return total


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="ab漢' \n", max_size=120))
@example("a bc x y z q ab c x y z")
def test_parity_compares_words_joined_without_a_space(text):
    source = table([text])
    tokens, data = english_words(analyse(source)).tokens, text.encode()
    pairs = zip(tokens.start.tolist(), tokens.size.tolist(), strict=True)
    words = [data[start : start + size].decode() for start, size in pairs]
    out = GopherRepetition(parity="datatrove")(source)
    for n in range(5, 11):
        found = out.column(f"gopher_repetition.duplicate_{n}_gram_char_fraction")[0].as_py()
        assert found == pytest.approx(
            duplicate_chars(words, n) / len(text) if text else math.nan, nan_ok=True
        )


def test_limits_by_language():
    operator = GopherRepetition(languages={"ko": {"max_duplicate_line_fraction": 0.374}})
    assert {limit.signal: limit.max for limit in operator.limits("ko")}[
        "gopher_repetition.duplicate_line_fraction"
    ] == 0.374
    assert {limit.signal: limit.max for limit in operator.limits("zh")}[
        "gopher_repetition.duplicate_5_gram_char_fraction"
    ] is None
