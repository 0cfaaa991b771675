"""C4's rules: which lines stay, what is counted, reasons by language, the editor, any batching."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.operators.analysis import analyse
from malmoi.operators.c4 import C4Lines, C4Quality, _edit, _judge
from malmoi.operators.c4_phrases import COUNTS, POLICY_PHRASES
from malmoi.operators.c4_scan import _ENDS
from malmoi.operators.datatrove_tables import TERMINAL, english_rules

GOOD = "The river rose in the night. By morning the bridge was gone."
KOREAN = "도서관 이용자들은 더 많은 책을 빌릴 수 있게 되었다. 주말에도 문을 연다."


def table(texts: list[str], language: str | None = None) -> pa.Table:
    columns = {"text": pa.array(texts, pa.large_string())}
    if language is not None:
        columns["language"] = pa.array([language] * len(texts), pa.large_string())
    return pa.table(columns)


CASES = [
    ("en", "", "sentences"),
    ("en", "\n \n", "sentences"),
    ("en", "\n".join([GOOD] * 3), None),
    ("en", "\n".join([GOOD] * 2), "sentences"),
    ("en", "\n".join([GOOD] * 3 + ["It goes LOREM Ipsum and so on."]), "lorem_ipsum_lines"),
    ("en", "\n".join([GOOD] * 3 + ["Then f(x) { return x; } was called."]), "curly_bracket_lines"),
    ("en", "\n".join([GOOD] * 3 + ["function f(x) { return x; }"]), None),
    ("en", "\n".join([GOOD] * 3 + ["In JavaScript { is a bracket."]), None),
    ("en", "😀👍🏽❤️", "sentences"),
    ("ko", "\n".join([KOREAN] * 3), None),
    ("ko", "\n".join([KOREAN.replace(".", "")] * 5), None),
    ("en", "\n".join([KOREAN.replace(".", "")] * 5), "sentences"),
    ("ja", "川は夜に増水した。朝には橋が消えていた。「本当だ。」と彼は言った。한국어 OK？はい。", None),
]


@pytest.mark.parametrize(("language", "text", "reason"), CASES, ids=lambda x: str(x)[:24])
def test_reason(language, text, reason):
    found = C4Quality()(table([text], language)).column("drop").to_pylist()
    assert found == [reason and f"c4_quality.{reason}"]


LINES = [
    ("en", "The river rose in the night.", "kept_lines"),
    ("en", "  The river rose in the night!  ", "kept_lines"),
    ("en", 'She asked, "Is the bridge gone?"', "kept_lines"),
    ("en", "She asked (was the bridge gone?)", "kept_lines"),
    ("en", "The river rose in the night", "unterminated_lines"),
    ("en", "The river rose in the night...", "unterminated_lines"),
    ("en", "The river.", "short_lines"),
    ("en", "The river " + "o" * 1001 + " rose.", "long_word_lines"),
    ("en", "Please enable JavaScript in your browser.", "javascript_lines"),
    ("en", "By browsing you accept our Cookie Policy.", "policy_lines"),
    ("en", "본 기사의 무단전재 및 재배포 금지.", "kept_lines"),
    ("ko", "본 기사의 무단전재 및 재배포 금지", "policy_lines"),
    ("ko", "개인정보처리방침 | 이용약관", "policy_lines"),
    ("ko", "자바스크립트(JavaScript)로 짠 프로그램이다", "kept_lines"),
    ("ko", "메뉴", "short_lines"),
    ("de", "Der Fluss stieg in der Nacht", "kept_lines"),
]


@pytest.mark.parametrize(("language", "line", "signal"), LINES, ids=lambda x: str(x)[:30])
def test_what_becomes_of_a_line(language, line, signal):
    out = C4Quality()(table([line], language))
    expected = {"lines": 1.0, signal: 1.0}
    for name in (
        "kept_lines",
        "long_word_lines",
        "unterminated_lines",
        "short_lines",
        "javascript_lines",
        "policy_lines",
    ):
        assert out.column(f"c4_quality.{name}").to_pylist() == [expected.get(name, 0.0)], name


SENTENCES = [
    ("One is here. Two is here! Is three here?", 3),
    ("It costs 3.14 and no more than that.", 1),
    ("He left (early.) She stayed on for long.", 2),
    ("川は増水した。橋が消えた。", 2),
    ("नदी रात में उठी। पुल चला गया।", 2),
    ("「橋が消えた。」", 1),
    ("橋が消えた！？と叫んだ。", 2),
    ("橋が消えた！?と叫んだ。", 2),
    ("橋が消えた?！と叫んだ。", 2),
    ("川は増水した（らしい。）「橋が消えた。」", 2),
    ("“강물이 불었다!” 그가 말했다. “다리가 없어졌다。”", 3),
    ("Il dit: «Le pont est parti.» Personne ne vint.", 2),
]


@pytest.mark.parametrize(("text", "count"), SENTENCES)
def test_sentences(text, count):
    out = C4Quality(min_words_per_line=None)(table([text], "en"))
    assert out.column("c4_quality.sentences").to_pylist() == [count]


EDITS = [
    ("en", "", ""),
    ("en", "Menu\nThe river rose [1] in the night.[12]\nHome", "The river rose  in the night."),
    ("en", f"{GOOD}\n\n\n{GOOD}\n{GOOD}\n\n", f"{GOOD}\n\n{GOOD}\n{GOOD}"),
    ("en", "[edit] The river rose in the night.[citation needed]", "The river rose in the night."),
    ("ko", f"로그인\n{KOREAN}\n무단전재 및 재배포 금지", KOREAN),
    ("ko", "😀", ""),
]


@pytest.mark.parametrize(("language", "text", "edited"), EDITS)
def test_lines_are_removed(language, text, edited):
    given_table = table([text], language)
    out = C4Lines()(given_table)
    assert out.column("text").to_pylist() == [edited]
    assert out.column("c4_lines.chars_removed").to_pylist() == [len(text) - len(edited)]
    assert "drop" not in out.column_names
    assert out.column_names == [*given_table.column_names, *C4Lines().adds.names]


def test_parity_keeps_no_blank_line_and_knows_english_only():
    editor = C4Lines(parity="datatrove")
    out = editor(table([f"{GOOD}\n\n{GOOD}\x85{GOOD}", f"{KOREAN}\n橋が消えた。"], "ko"))
    assert out.column("text").to_pylist() == [f"{GOOD}\n{GOOD}\n{GOOD}", KOREAN]
    assert out.column("c4_lines.lines_removed").to_pylist() == [0, 1]


def test_a_line_limit_may_be_off():
    loose = C4Quality(
        max_curly_bracket_lines=None, min_sentences=None, languages={"en": {"max_lorem_ipsum_lines": 1}}
    )
    text = "Lorem ipsum is { here for you."
    assert loose(table([text], "en")).column("drop").to_pylist() == [None]


PIECES = st.sampled_from(
    [
        GOOD,
        KOREAN,
        "\n",
        "\n\n",
        " ",
        "[1]",
        "{",
        "menu",
        "javascript ",
        "。",
        "...",
        "\r\n",
        "👍🏽",
        "[citation needed]",
        "cookie policy",
    ]
)
TEXTS = st.lists(PIECES, max_size=14).map("".join)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(TEXTS, st.sampled_from(["en", "ko", None])), max_size=6), st.integers(1, 3))
def test_any_batching_gives_the_same_rows(rows, size):
    whole = table([text for text, _ in rows])
    whole = whole.append_column("language", pa.array([language for _, language in rows], pa.large_string()))
    for make in (C4Quality, C4Lines):
        for operator in (make(), make(parity="datatrove")):
            expected = operator(whole)
            parts = [operator(whole.slice(start, size)) for start in range(0, len(rows), size)]
            joined = pa.concat_tables(parts) if parts else expected
            assert joined.schema == expected.schema
            assert joined.to_pylist() == expected.to_pylist()


@settings(max_examples=60, deadline=None)
@given(st.lists(TEXTS, max_size=4))
def test_editing_twice_changes_nothing_more(texts):
    editor = C4Lines(remove_citations=False)
    once = editor(table(texts))
    assert editor(once).column("text").to_pylist() == once.column("text").to_pylist()


def test_the_judge_counts_what_the_editor_leaves():
    texts = [f"Menu\n{GOOD}\n{GOOD}", KOREAN]
    judged, edited = C4Quality()(table(texts)), C4Lines()(table(texts))
    left = [len([x for x in text.split("\n") if x]) for text in edited.column("text").to_pylist()]
    assert judged.column("c4_quality.kept_lines").to_pylist() == left


@pytest.mark.parametrize(
    ("text", "languages"),
    [
        ("By browsing you accept our Cookie Policy.", ["en", "", None, "eng", "en-US"]),
        ("본 기사의 무단전재 및 재배포 금지", ["ko", "kor_Hang", "ko-KR"]),
    ],
)
def test_names_of_one_language_beside_each_other(text, languages):
    rows = [(text, language) for language in languages]
    texts, codes = zip(*rows, strict=True)
    mixed = pa.table(
        {"text": pa.array(texts, pa.large_string()), "language": pa.array(codes, pa.large_string())}
    )
    assert C4Quality()(mixed).column("c4_quality.policy_lines").to_pylist() == [1.0] * len(rows)
    assert C4Lines()(mixed).column("text").to_pylist() == [""] * len(rows)


def test_nothing_that_ends_a_sentence_is_passed_over():
    kinds = english_rules().kinds
    blocks = kinds.blocks.reshape(-1, 256)[kinds.block_index.astype(np.int64)].reshape(-1)
    for code in np.flatnonzero(blocks & TERMINAL):
        if not 0xD800 <= code < 0xE000:
            data = [*chr(code).encode(), 0, 0]
            assert any(all(low <= data[k] <= high for k, low, high in tests) for tests in _ENDS), hex(code)


PIECES = [
    *(
        "the river",
        " ",
        " ",
        "rose. ",
        ".",
        "..",
        "...",
        "…",
        "!",
        ",",
        "[1]",
        "[edit]",
        "[x]",
        ")",
        "]",
        '"',
        "{",
        "7",
    ),
    *(
        "한글",
        "다. ",
        "日本語",
        "ひらがな",
        "。",
        "”",
        "javascript",
        "use cookies",
        "A",
        "é",
        "\t",
        "b" * 70,
        "c" * 1001,
    ),
]


@pytest.mark.parametrize("language", ["en", "ko", "ja"])
def test_the_judge_counts_what_the_editor_does(language):
    rng = random.Random(7)
    lines = ["".join(rng.choices(PIECES, k=rng.randrange(12))) for _ in range(4000)]
    mixed = table(["\n".join(lines[k : k + 5]) for k in range(0, len(lines), 5)], language)
    for operator in (C4Quality(), C4Quality(require_terminal_punctuation=False, min_words_per_line=2)):
        batch = analyse(mixed)
        assert np.array_equal(_judge(operator, mixed, batch), _edit(operator, mixed, batch)[0][:COUNTS])


@pytest.mark.parametrize("language", POLICY_PHRASES)
def test_every_phrase_is_found_at_any_place(language):
    phrases = [*POLICY_PHRASES[language], "lorem ipsum", "javascript", "{"]
    loud = ["".join(c.upper() if c.isascii() else c for c in phrase) for phrase in phrases]
    for at in (0, 61, 62, 63, 64, 127):
        texts = [". " * (at // 2) + "." * (at % 2) + phrase + " one two three." for phrase in loud]
        rows = C4Quality()(table(texts, language)).to_pylist()
        found = [
            row["c4_quality.policy_lines"]
            + row["c4_quality.javascript_lines"]
            + row["c4_quality.lorem_ipsum_lines"]
            + row["c4_quality.curly_bracket_lines"]
            for row in rows
        ]
        script = 1.0 if language == "en" else 0.0  # lines about it stay in the other languages
        assert found == [*[1.0] * (len(phrases) - 2), script, 1.0], (at, phrases)
