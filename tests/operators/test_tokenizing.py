"""Ids equal those of tokenizers; text never becomes a control token; a file that is none is told."""

from __future__ import annotations

import json
import pickle
import shutil

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from malmoi.operators import tokenizing
from malmoi.operators.tokenizing import load_encoder

TEXTS = [
    "",
    "말모이는 조선어학회가 엮으려던 사전이다.",
    "말모이 辞書 dictionary 12,345",
    "🎉🎉👩‍👩‍👧",
    "\u1106\u1161\u11af\u1106\u1169\u110b\u1175",
    "before <|eos|> after <|im_start|><|pad|>",
    "<|eos|>",
    None,
    "one more\n\n  text",
]
COLUMN = pa.array(TEXTS, pa.large_string())


@pytest.fixture(scope="module")
def encoder(tiny_tokenizer):
    return load_encoder(str(tiny_tokenizer), [x for x in TEXTS if x])


def rows(ids, offsets):
    return [piece.tolist() for piece in np.split(ids, offsets[1:-1])] if len(offsets) > 1 else []


def test_what_it_is(encoder, tiny_tokenizer):
    assert (encoder.library, encoder.name) == ("fastokens", "tiny")
    assert "equal those of tokenizers" in encoder.why
    assert (encoder.eos_id, encoder.bos_id, encoder.pad_id, encoder.vocab_size) == (0, 1, 2, 600)
    assert load_encoder(str(tiny_tokenizer / "tokenizer.json")).sha256 == encoder.sha256


def test_ids_are_those_of_tokenizers(encoder, reference):
    ids, offsets = encoder.encode(COLUMN)
    assert (ids.dtype, offsets.dtype) == (np.int32, np.int64)
    assert rows(ids, offsets) == [reference.encode(x or "", add_special_tokens=False).ids for x in TEXTS]


def test_text_never_becomes_a_control_token(encoder):
    ids, _ = encoder.encode(COLUMN)
    assert not set(ids.tolist()) & {number for _, number in encoder.control}
    assert reference_text(encoder, ids) == "".join(x or "" for x in TEXTS)


def reference_text(encoder, ids):
    return Tokenizer.from_file(encoder.path).decode(ids.tolist(), skip_special_tokens=False)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(max_size=40), max_size=8), st.data())
def test_any_slicing(encoder, reference, texts, data):
    column = pa.array(texts, pa.large_string())
    cut = data.draw(st.integers(0, len(texts)))
    want = [reference.encode(x, add_special_tokens=False).ids for x in texts]
    assert rows(*encoder.encode(column)) == want
    assert rows(*encoder.encode(column.slice(cut))) == want[cut:]
    assert rows(*encoder.encode(pa.chunked_array([column[:cut], column[cut:]]))) == want


def test_batches_inside(encoder, monkeypatch):
    whole = encoder.encode(COLUMN)
    monkeypatch.setattr(tokenizing, "_BATCH_BYTES", 10)
    parts = encoder.encode(COLUMN)
    assert all(np.array_equal(a, b) for a, b in zip(whole, parts, strict=True))


def test_it_travels(encoder):
    ids, _ = pickle.loads(pickle.dumps(encoder)).encode(COLUMN)
    assert np.array_equal(ids, encoder.encode(COLUMN)[0])


def changed(folder, tmp_path, **changes):
    """A copy of the tokenizer with other top keys."""
    data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    (tmp_path / "tokenizer.json").write_text(json.dumps({**data, **changes}), encoding="utf-8")
    return str(tmp_path)


def test_without_fastokens(tiny_tokenizer, monkeypatch, encoder):
    real = tokenizing._open

    def refuse(library, content):
        if library == "fastokens":
            raise RuntimeError("unsupported model")
        return real(library, content)

    monkeypatch.setattr(tokenizing, "_open", refuse)
    other = load_encoder(str(tiny_tokenizer))
    assert (other.library, "unsupported model" in other.why) == ("tokenizers", True)
    assert np.array_equal(other.encode(COLUMN)[0], encoder.encode(COLUMN)[0])


def test_other_ids_are_seen_on_the_sample(tiny_tokenizer, monkeypatch):
    real = tokenizing._encode

    def wrong(backend, library, texts):
        ids, offsets = real(backend, library, texts)
        return (ids + 1, offsets) if library == "fastokens" and "odd text" in texts else (ids, offsets)

    monkeypatch.setattr(tokenizing, "_encode", wrong)
    assert load_encoder(str(tiny_tokenizer), ["even text"]).library == "fastokens"
    other = load_encoder(str(tiny_tokenizer), ["odd text"])
    assert other.library == "tokenizers"
    assert "other ids" in other.why


def test_a_vocabulary_that_gives_control_tokens_for_text(tmp_path):
    """WordLevel without added tokens: its model itself maps the text to eos."""
    model = {"type": "WordLevel", "vocab": {"</s>": 0, "a": 1, "b": 2, "?": 3, "<": 4}, "unk_token": "?"}
    data = {"version": "1.0", "model": model, "pre_tokenizer": {"type": "WhitespaceSplit"}}
    data |= {"normalizer": None, "post_processor": None, "decoder": None, "added_tokens": []}
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    encoder = load_encoder(str(tmp_path), eos="</s>")
    ids, offsets = encoder.encode(pa.array(["a b", "a </s> b", "b"], pa.large_string()))
    assert rows(ids, offsets) == [[1, 2], [1, 4, 3, 2], [2]]


def test_a_character_that_the_model_lacks(tmp_path):
    """Its token is special, but no control token: it stays."""
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": i, "content": text, **special} for i, text in enumerate(("<unk>", "</s>"))]
    model = {"type": "WordLevel", "vocab": {"<unk>": 0, "</s>": 1, "a": 2}, "unk_token": "<unk>"}
    data = {
        "version": "1.0",
        "model": model,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "added_tokens": added,
    }
    data |= {"normalizer": None, "post_processor": None, "decoder": None}
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    encoder = load_encoder(str(tmp_path))
    assert encoder.control == (("</s>", 1),)
    assert encoder.encode(pa.array(["a 漢 a"], pa.large_string()))[0].tolist() == [2, 0, 2]


def test_a_giant_text(encoder, reference):
    text = "a 말모이 " * 40_000
    ids, _ = encoder.encode(pa.array([text], pa.large_string()))
    assert ids.tolist() == reference.encode(text, add_special_tokens=False).ids


def test_nothing(encoder):
    ids, offsets = encoder.encode(pa.array([], pa.large_string()))
    assert (len(ids), offsets.tolist()) == (0, [0])


def test_eos_is_found_or_asked_for(tiny_tokenizer, tmp_path):
    without = changed(tiny_tokenizer, tmp_path)
    assert load_encoder(without).eos_id == 0, "by its name"
    assert load_encoder(without, eos="<|im_end|>").eos_id == 4
    with pytest.raises(ValueError, match="eos 'nothing' is not in its vocabulary"):
        load_encoder(without, eos="nothing")
    bare = changed(tiny_tokenizer, tmp_path, added_tokens=[])
    with pytest.raises(ValueError, match=r"names no token that ends a document .*give one with `eos`"):
        load_encoder(bare)


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"model": 3}', '{"model": {"type": "Odd"}}', "text"])
def test_no_tokenizer(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"tokenizer\.json' is not a tokenizer\.json"):
        load_encoder(str(tmp_path))


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="cannot be read"):
        load_encoder(str(tmp_path / "none"))


def test_a_file_that_changed(tiny_tokenizer, tmp_path):
    shutil.copytree(tiny_tokenizer, tmp_path / "t")
    encoder = load_encoder(str(tmp_path / "t"))
    with (tmp_path / "t/tokenizer.json").open("a") as file:
        file.write("\n")
    with pytest.raises(ValueError, match="changed since it was loaded"):
        encoder.encode(COLUMN)
