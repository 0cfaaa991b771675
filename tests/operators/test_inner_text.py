"""Tokenizers that put a space before each text: none where a text goes on behind another, as in the whole."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from malmoi.operators.chat import CHATML, ChatTemplate, encode_chat
from malmoi.operators.templates import Segment, Template, encode_segments
from malmoi.operators.tokenizing import load_encoder

LINES = [
    "말모이는 사전이다. 낱말을 모은 사전",
    "Hello world how are you",
    "user assistant question: answer:",
] * 20
SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
KINDS = ("prepend", "always", "first", "never")
ROWS = [
    {"q": "말모이가 뭐야?", "a": "사전이다. \n둘째 줄"},
    {"q": "", "a": " world"},
    {"q": "x", "a": "漢字 🎉"},
    {"q": "Hello ", "a": "\n\x01 you"},
]


@pytest.fixture(scope="module", params=KINDS)
def folder(request, tmp_path_factory):
    """A BPE with bytes for unknown characters, as Llama 2 and Mistral have it."""
    made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    if request.param == "prepend":
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme=request.param)
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    made.train_from_iterator(LINES, trainers.BpeTrainer(special_tokens=SPECIAL, show_progress=False))
    content = json.loads(made.to_str())
    first = len(content["model"]["vocab"])
    content["model"]["vocab"] |= {f"<0x{byte:02X}>": first + byte for byte in range(256)}
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", "bos_token": "<s>"}))
    return folder


def whole(folder, text):
    made = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return made.decode(made.encode(text, add_special_tokens=False).ids, skip_special_tokens=False)


def test_an_answer_goes_on_behind_its_prompt(folder):
    encoder = load_encoder(str(folder))
    segments = (
        Segment("{q}"),
        Segment("<|im_end|>"),
        Segment("A:"),
        Segment("{a}", trained=True),
        Segment(" ok"),
    )
    table = pa.table({name: pa.array([row[name] for row in ROWS], pa.large_string()) for name in "qa"})
    made = encode_segments(table, Template("mine", segments), encoder, append_eos=False)
    decode = Tokenizer.from_file(encoder.path).decode
    for row, a, b in zip(ROWS, made.offsets, made.offsets[1:], strict=False):
        got = decode(made.ids[a:b].tolist(), skip_special_tokens=False)
        assert got == whole(folder, f"{row['q']}<|im_end|>A:{row['a']} ok")
    assert (encoder.inner is None) == (folder.name.startswith("never"))


def test_ids_are_those_of_the_whole_text(folder):
    """Where no token crosses the border between what is learned and what is not."""
    encoder = load_encoder(str(folder))
    talk = [{"role": "user", "content": "말모이가 뭐야?"}, {"role": "assistant", "content": "Hello world"}]
    column = pa.array([json.dumps(talk), json.dumps([talk[1], *talk])], pa.large_string())
    made, bad = encode_chat(column, ChatTemplate(CHATML), encoder, append_eos=False)
    assert not bad.any()
    reference = Tokenizer.from_file(encoder.path)
    text = "<|im_start|>user\n말모이가 뭐야?<|im_end|>\n"
    said = "<|im_start|>assistant\nHello world<|im_end|>\n"
    want = [reference.encode(x, add_special_tokens=False).ids for x in (text + said, said + text + said)]
    assert [made.ids[a:b].tolist() for a, b in zip(made.offsets, made.offsets[1:], strict=False)] == want


def test_nothing_behind_a_text(folder):
    encoder = load_encoder(str(folder))
    texts = pa.array(["", "world", ""], pa.large_string())
    ids, offsets = encoder.encode_behind(texts, np.array([True, True, False]))
    assert offsets.tolist() == [0, 0, len(ids), len(ids)]
    assert Tokenizer.from_file(encoder.path).decode(ids.tolist()) == "world"


def test_unknown_characters_are_not_one_with_what_stands_before_them(tmp_path):
    """Unigram makes one unknown token of several characters."""
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=99, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
    )
    made.train_from_iterator([*LINES, "A:\nB"], trainer)
    made.save(str(tmp_path / "tokenizer.json"))
    encoder = load_encoder(str(tmp_path), eos="</s>")
    texts = pa.array(["漢字", "world"], pa.large_string())
    ids, offsets = encoder.encode_behind(texts, np.ones(2, np.bool_))
    want = made.encode("A:world").tokens[len(made.encode("A:").tokens) :]
    got = [[made.id_to_token(i) for i in ids[a:b]] for a, b in pairwise(offsets)]
    assert got == [["<unk>"], want]
