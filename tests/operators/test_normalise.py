"""Normalise against unicodedata and a slow, obvious reference."""

import pickle
import re
import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.operators.normalise import _LOOK, Normalise, quick_check_table

ALL_ON = Normalise(trailing_spaces=True, blank_lines=True)
NEWLINE = re.compile("\r\n|[\r\v\f\x85\u2028\u2029]")
CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff]")


def table_of(texts: list[str | None]) -> pa.Table:
    return pa.table({"text": pa.array(texts, pa.large_string())})


def reference(text: str) -> str:
    return unicodedata.normalize("NFC", CONTROL.sub("", NEWLINE.sub("\n", text)))


def reference_all_on(text: str) -> str:
    text = CONTROL.sub("", NEWLINE.sub("\n", text))
    text = re.sub("[ \t\u00a0\u3000]+(?=\n|\\Z)", "", text)
    return unicodedata.normalize("NFC", re.sub("\n{4,}", "\n\n\n", text))


CASES = [
    # text, wanted, nfc, newlines, controls
    ("", "", False, 0, 0),
    ("plain ASCII\n\tstays", "plain ASCII\n\tstays", False, 0, 0),
    ("말모이는 우리말을 모은다.", "말모이는 우리말을 모은다.", False, 0, 0),
    (unicodedata.normalize("NFD", "값싼 닭갈비, 한글"), "값싼 닭갈비, 한글", True, 0, 0),
    ("漢字とかな交じり, 한글, English", "漢字とかな交じり, 한글, English", False, 0, 0),
    ("か\u3099き", "がき", True, 0, 0),
    ("👩‍👩‍👧‍👦🇰🇷❤️", "👩‍👩‍👧‍👦🇰🇷❤️", False, 0, 0),
    ("می\u200cخواهم क्\u200dष", "می\u200cخواهم क्\u200dष", False, 0, 0),
    ("a\r\nb\rc\x85d\u2028e\u2029f\x0bg\x0ch\n", "a\nb\nc\nd\ne\nf\ng\nh\n", False, 7, 0),
    ("\r", "\n", False, 1, 0),
    ("\ufeff첫 줄\x00\x07\x7f\x9f 끝\ufeff", "첫 줄 끝", False, 0, 6),
    ("e\x01\u0301", "é", True, 0, 1),  # the letter and its mark meet only after the control has gone
    ("\u05d0\u05b8\x01\u05b0", "\u05d0\u05b0\u05b8", True, 0, 1),  # so do two marks in the wrong order
    ("\u2126 \u212b \ufa0c", "Ω Å 兀", True, 0, 0),
    ("ส้มตำ น้ำ", "ส้มตำ น้ำ", False, 0, 0),
    ("a  \n\n\n\n\n b\t", "a  \n\n\n\n\n b\t", False, 0, 0),
]


@pytest.mark.parametrize(("text", "wanted", "nfc", "newlines", "controls"), CASES)
def test_cases(text, wanted, nfc, newlines, controls):
    row = Normalise()(table_of([text])).to_pylist()[0]
    assert row == {
        "text": wanted,
        "normalise.nfc": nfc,
        "normalise.newlines": newlines,
        "normalise.controls": controls,
    }
    assert wanted == reference(text)


def test_switches():
    text = "e\u0301\r\n\x00 \u3000\n\n\n\n\n\u00a0끝 \t"
    assert Normalise(nfc=False, newlines=False, controls=False)(table_of([text]))["text"][0].as_py() == text
    assert (
        Normalise(newlines=False)(table_of(["a\r\n\x85\u2028\x01b"]))["text"][0].as_py() == "a\r\n\x85\u2028b"
    )
    assert Normalise(controls=False)(table_of(["a\r\n\x01b"]))["text"][0].as_py() == "a\n\x01b"
    assert ALL_ON(table_of([text])).to_pylist()[0] == {
        "text": "é\n\n\n\u00a0끝",
        "normalise.nfc": True,
        "normalise.newlines": 1,
        "normalise.controls": 1,
        "normalise.trailing_spaces": 4,
        "normalise.blank_lines": 3,
    }


def test_schema_empty_null_and_chunked():
    operator = ALL_ON
    texts = ["x\r\ny ", None, "", unicodedata.normalize("NFD", "한글"), "plain"]
    whole = operator(table_of(texts))
    assert whole.schema == pa.schema([pa.field("text", pa.large_string()), *operator.adds])
    assert operator(table_of([])).schema == whole.schema
    assert operator(pa.table({"text": pa.chunked_array([], pa.large_string())})).num_rows == 0
    assert whole["text"].to_pylist() == ["x\ny", None, "", "한글", "plain"]
    parts = pa.concat_tables([table_of(["cut off", *texts[:2]]), table_of([*texts[2:], "cut off"])]).slice(
        1, 5
    )
    assert operator(parts).combine_chunks() == whole.combine_chunks()
    assert operator(pa.table({"text": pa.array(texts)})) == whole  # 32-bit offsets come out as large_string


def test_untouched_batch_keeps_its_buffers():
    table = table_of(["plain", "한글", "漢字"])
    before, after = table["text"].chunk(0), Normalise()(table)["text"].chunk(0)
    assert before.buffers()[2].address == after.buffers()[2].address


def test_pickle_and_hash():
    assert pickle.loads(pickle.dumps(ALL_ON)) == ALL_ON
    assert hash(ALL_ON) != hash(Normalise())


def test_table_flags_everything_that_nfc_changes():
    index, blocks = quick_check_table()
    kinds = blocks[index].reshape(-1)
    codes = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    chars = pa.array([chr(code) for code in codes], pa.large_string())
    changed = pc.not_equal(pc.utf8_normalize(chars, form="NFC"), chars).to_numpy(zero_copy_only=False)
    assert (kinds[np.array(codes)[changed]] == 255).all()
    known = [code for code in codes if unicodedata.combining(chr(code)) and kinds[code] != 255]
    assert known
    assert all(kinds[code] == unicodedata.combining(chr(code)) for code in known)
    # Newer Pythons know characters that are newer than the table; hardly any of them lie below 0x10000.
    asked = [code for code in codes if code < 0x10000 and kinds[code] == 255]
    assert sum(unicodedata.category(chr(code)) != "Cn" for code in asked) < 800


TRICKY = st.text(
    st.one_of(
        st.sampled_from("a e\n\t\r\v\f\x00\x85\u2028\u2029\ufeff \u00a0\u3000\u0301\u0323\u0327\u05b0\u05b8"),
        st.sampled_from("ᄀ가각ᅡᆨ\u3099か漢\u093c\u0928👍\u200d"),
        st.characters(exclude_categories=["Cs", "Cn"]),
    ),
    max_size=24,
)


@given(st.lists(TRICKY, max_size=6), st.integers(1, 4))
@settings(max_examples=300, deadline=None)
def test_reference_idempotence_and_batching(texts, rows):
    table = table_of(texts)
    for operator, slow in ((Normalise(), reference), (ALL_ON, reference_all_on)):
        whole = operator(table)
        assert whole["text"].to_pylist() == [slow(text) for text in texts]
        parts = [operator(table.slice(start, rows)) for start in range(0, len(texts), rows)]
        if parts:
            assert pa.concat_tables(parts).combine_chunks() == whole.combine_chunks()
        again = operator(whole.select(["text"]))
        assert again["text"] == whole["text"]
        assert not any(any(row.values()) for row in again.drop_columns(["text"]).to_pylist())


def test_nothing_is_passed_over_that_the_table_names():
    index, blocks = quick_check_table()
    table = blocks[index.astype(np.int64)].reshape(-1)
    for code in (*range(0xD800), *range(0xE000, 0x110000)):
        text = chr(code)
        if table[code] or CONTROL.match(text) or NEWLINE.match(text):
            data = [*text.encode(), 0, 0]
            assert any(all(low <= data[k] <= high for k, low, high in tests) for tests in _LOOK), hex(code)


@pytest.mark.parametrize("every", [1, 2, 15, 40, 99])
def test_few_and_many_changed_documents(every):
    texts = [None if i == 7 else f"말모이 {i}" + ("\r\n끝" if i % every == 0 else "") for i in range(200)]
    done = Normalise()(pa.table({"text": pa.array(texts, pa.large_string())}))
    assert done["text"].to_pylist() == [text and text.replace("\r\n", "\n") for text in texts]
