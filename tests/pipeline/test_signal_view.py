"""Signals as a notebook looks at them: a threshold that moves gives what the changed operator would give."""

from __future__ import annotations

import sys

import numpy as np
import pyarrow as pa
import pytest

from malmoi.operators import (
    C4Quality,
    FineWebQuality,
    GopherQuality,
    GopherRepetition,
    LanguageId,
    Normalise,
    analysis,
)
from malmoi.pipeline.errors import MalmoiError
from malmoi.pipeline.signal_view import signals

ENGLISH = "The cat sat on the mat and it was of the opinion that the world is good to all of us. "
KOREAN = "말모이는 우리말 사전을 만들려던 첫 계획의 이름이다. 그 원고는 서울역 창고에서 다시 나왔다고 한다. "
TEXTS = [
    ENGLISH * 5, ENGLISH, KOREAN * 6, KOREAN, "", "😀😀😀", "中文 mixed with English 한글 かな",
    "\u1112\u1161\u11ab\u1100\u1173\u11af",
    "# # # # # # # # 번호 " * 12, "* one\n* two\n* three\n" * 20,
]  # fmt: skip
LANGUAGES = ["en", "en", "ko", "ko", "", "", "zh", "ko", "ko", "en"]
TABLE = pa.table({"id": [str(i) for i in range(len(TEXTS))], "text": TEXTS, "language": LANGUAGES})


def verdicts(operator, table=TABLE):
    return operator(table.set_column(1, "text", table["text"].cast(pa.large_string())))["drop"].to_pylist()


@pytest.mark.parametrize(
    "operator", [GopherQuality(), GopherRepetition(), C4Quality(), FineWebQuality()], ids=lambda x: x.name
)
def test_the_view_says_what_the_operator_says(operator):
    view = signals(TABLE, operator)
    assert view.reasons.to_pylist() == verdicts(operator)
    assert view.num_dropped == view.num_only_here == sum(x is not None for x in verdicts(operator))
    assert sum(view.counts().values()) == view.num_dropped == view.dropped().num_rows
    assert "drop" in view.dropped().column_names
    assert operator.name in repr(view)


@pytest.mark.parametrize(
    ("operator", "field", "value"),
    [
        (GopherQuality(), "min_words", 5),
        (GopherQuality(), "min_words", None),
        (GopherQuality(languages={"ko": {"min_words": 70}}), "min_words", 12),
        (GopherQuality(), "min_mean_word_chars", 4.5),
        (GopherRepetition(), "max_top_2_gram_char_fraction", 0.05),
        (C4Quality(), "min_sentences", 1),
        (FineWebQuality(), "max_short_line_fraction", 0.01),
    ],
)
def test_a_moved_threshold_is_the_changed_operator(operator, field, value, monkeypatch):
    before = signals(TABLE, operator)
    monkeypatch.setattr(analysis, "analyse", lambda _: pytest.fail("text was read again"))
    after = before.with_threshold(field, value)
    monkeypatch.undo()
    assert after.reasons.to_pylist() == verdicts(after.operator)
    assert all(
        bound == value
        for language in after.languages
        for limit in after.operator.limits(language)
        if limit.signal.endswith("." + field.removeprefix("min_").removeprefix("max_"))
        for bound in [limit.min if field.startswith("min_") else limit.max]
    )
    assert before.operator == operator
    assert before.reasons.to_pylist() == verdicts(operator)


def test_for_one_language():
    before = signals(TABLE, GopherQuality())
    after = before.with_threshold("min_words", 1000, language="ko")
    assert after.operator == GopherQuality(languages={"ko": {"min_words": 1000}})
    assert after.changes(before)["language"].unique().to_pylist() == ["ko"]
    row = after.changes(before).to_pylist()[0]
    assert (row["id"], row["before"], row["after"]) == ("2", None, "gopher_quality.words")


def test_limits_that_are_no_numbers():
    view = signals(TABLE.drop_columns(["language"]), LanguageId())
    assert view.num_dropped == 0
    kept = view.with_threshold("keep", ["ko"])
    assert set(kept.counts()) == {"language.not_kept"}
    assert view.with_threshold("min_score", {"default": 0.999}).num_dropped > 0


@pytest.mark.parametrize(
    ("operator", "field", "value", "said"),
    [
        (GopherQuality(), "min_wrods", 3, "did you mean 'min_words'"),
        (GopherQuality(), "default_language", "ko", "decides what is measured"),
        (GopherQuality(), "min_words", "many", "valid number"),
        (GopherQuality(), "min_words", 10**9, "want min <= max"),
        (C4Quality(), "min_words_per_line", 9, "decides what is measured"),
        (FineWebQuality(), "short_line_chars", 9, "decides what is measured"),
        (Normalise(), "nfc", False, "decides what is measured"),
    ],
)
def test_what_is_no_threshold_is_refused(operator, field, value, said):
    with pytest.raises(MalmoiError, match=said):
        signals(TABLE, operator).with_threshold(field, value)


def test_no_language_where_there_is_one_set():
    view = signals(TABLE, GopherQuality(parity="datatrove"))
    with pytest.raises(MalmoiError, match="leave out language="):
        view.with_threshold("min_words", 3, language="ko")
    assert view.with_threshold("min_words", 3).operator.min_words == 3


def test_what_something_else_drops_is_told_apart():
    table = TABLE.append_column("drop", pa.array(["other.rule", *[None] * (len(TEXTS) - 1)]))
    view = signals(table, GopherQuality(min_words=10**5, max_words=None, languages={}))
    assert view.num_dropped - view.num_only_here == 1


def test_histogram():
    found = signals(TABLE, GopherQuality()).histogram("words", bins=7)
    assert found.signal == "gopher_quality.words"
    assert found.counts.sum() + found.undefined == len(TEXTS)
    assert (found.failed <= found.counts).all()
    assert len(found.edges) == 8
    undefined = signals(TABLE, GopherQuality()).histogram("gopher_quality.mean_word_chars").undefined
    assert undefined == sum(
        x == 0 for x in signals(TABLE, GopherQuality()).table["gopher_quality.words"].to_pylist()
    )
    for bad, said in ((("wrods",), "no signal"), (("words", 0), "bins >= 1")):
        with pytest.raises(MalmoiError, match=said):
            signals(TABLE, GopherQuality()).histogram(*bad)


@pytest.mark.parametrize("rows", [0, 1, len(TEXTS)])
def test_any_slice(rows):
    whole, part = signals(TABLE, GopherQuality()), signals(TABLE.slice(0, rows), GopherQuality())
    assert part.table.schema == whole.table.schema
    assert part.reasons.to_pylist() == whole.reasons.to_pylist()[:rows]
    assert np.array_equal(part.failed, whole.failed[:rows])
    assert part.histogram("words").counts.sum() == rows
    assert "gopher_quality.words" in part._repr_html_()


def test_html_escapes():
    table = pa.table({"text": ["x"], "language": ["<script>"]})
    page = signals(table, GopherQuality())._repr_html_()
    assert "<script>" not in page


@pytest.mark.parametrize(
    ("table", "operator", "said"),
    [
        (TABLE, GopherQuality, r"write GopherQuality\(\)"),
        (TABLE, "gopher_quality", "want an operator, got str"),
        ([1], GopherQuality(), "want a pyarrow.Table, got list"),
        (pa.table({"txt": ["a"]}), GopherQuality(), "needs column 'text'; there: txt"),
        (pa.table({"text": [1]}), GopherQuality(), "'text' is int64"),
    ],
)
def test_wrong_arguments(table, operator, said):
    with pytest.raises(MalmoiError, match=said):
        signals(table, operator)


def test_views_of_different_tables():
    with pytest.raises(MalmoiError, match="same table"):
        signals(TABLE, GopherQuality()).changes(signals(TABLE.slice(1), GopherQuality()))


def test_plot():
    pytest.importorskip("matplotlib").use("agg")
    view = signals(TABLE, GopherQuality())
    titles = [axes.get_title() for axes in view.plot().axes if axes.get_visible()]
    assert len(titles) == len(view.signals)
    [one] = view.plot("words", bins=5).axes
    assert one.get_title().startswith("gopher_quality.words")
    assert one.get_ylabel() == "documents"
    assert len(signals(TABLE.slice(0, 0), GopherQuality()).plot().axes) > 0


def test_plot_without_matplotlib(monkeypatch):
    for name in [x for x in sys.modules if x.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MalmoiError, match=r"plot needs matplotlib: pip install 'malmoi\[notebook\]'"):
        signals(TABLE, GopherQuality()).plot()
