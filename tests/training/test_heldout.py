"""Held-out loss and bits per byte against a loop over tokens."""

from __future__ import annotations

import gzip
import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import WINDOW, make_model, write_lines

from malmoi.pipeline.errors import ChangedError, MalmoiError, SourceError
from malmoi.pipeline.manifest import Manifest, Output
from malmoi.pipeline.storage import Folder
from malmoi.training.evaluate_model import load_tokenizer
from malmoi.training.heldout import HeldoutPlan, ratio, read_heldout, windows
from malmoi.training.scoring import score

ROWS = [
    {"id": "1", "text": "말모이는 조선어학회가 엮으려던 사전이다. " * 6, "source": "docs", "language": "ko"},
    {"id": "2", "text": "", "source": "docs", "language": "ko"},
    {"id": "3", "text": "the words of a text in English", "source": "web", "language": "en"},
    {"id": "4", "text": "漢字とかなと한글과 Latin, 12時34分", "source": "web", "language": "ja"},
    {"id": "5", "text": "👩‍👩‍👧‍👦🇰🇷", "source": "web", "language": "unknown"},
    {
        "id": "6",
        "text": "\u1106\u1161\u11af\u1106\u1169\u110b\u1175 <|eos|> 123",
        "source": "docs",
        "language": "ko",
    },
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_tokenizer):
    return make_model(tmp_path_factory.mktemp("heldout") / "model", tiny_tokenizer)


@pytest.fixture(scope="module")
def model(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer):
    return load_tokenizer(tiny_tokenizer / "tokenizer.json")


@given(
    count=st.integers(0, 80), window=st.integers(1, 30), stride=st.integers(1, 30), prefix=st.integers(0, 5)
)
def test_windows_score_each_token_once(count, window, stride, prefix):
    stride = min(stride, window)
    tokens = list(range(100, 100 + count))
    found = windows(tokens, prefix, window, stride)
    assert [int(x) for part in found for x in part.tokens[part.start :]] == tokens
    whole = [prefix, *tokens]
    for number, part in enumerate(found):
        assert len(part.tokens) <= window + 1, "the last token is seen by nobody"
        first = whole.index(int(part.tokens[0]))
        assert part.tokens.tolist() == whole[first : first + len(part.tokens)]
        if number:
            assert len(part.tokens) == window + 1
            assert part.start >= window - stride + 1
        else:
            assert first == 0


def test_a_stride_beyond_the_window():
    with pytest.raises(MalmoiError, match="window=8, got stride=9"):
        windows([1, 2], 0, 8, 9)


def slow_nats(model, tokens, prefix, window, stride):
    """A call of the model for each token, with the context that the window gives it."""
    whole, total = [prefix, *tokens], 0.0
    for at in range(1, len(whole)):
        end = at if at <= window else min(len(tokens), window + math.ceil((at - window) / stride) * stride)
        first = 0 if at <= window else max(0, end - window)
        with torch.no_grad():
            logits = model(torch.tensor([whole[first:at]])).logits[0, -1].double()
        total -= float(logits.log_softmax(-1)[whole[at]])
    return total


@pytest.mark.parametrize(("window", "stride"), [(WINDOW, WINDOW), (WINDOW, 20), (24, 8)])
def test_figures_equal_a_loop_over_tokens(tmp_path, model, tokenizer, window, stride):
    heldout = read_heldout([write_lines(tmp_path / "a.jsonl", ROWS)])
    plan = HeldoutPlan.of(heldout, tokenizer.texts, tokenizer.prefix, window, stride)
    report = plan.report(heldout, score(model, plan.requests, 200))
    nats = [
        slow_nats(model, tokenizer.texts([x["text"]])[0].tolist(), tokenizer.prefix, window, stride)
        for x in ROWS
    ]
    tokens = [len(tokenizer.texts([x["text"]])[0].tolist()) for x in ROWS]
    assert max(tokens) > window, "no document is longer than the window"

    def check(row, chosen):
        size = sum(len(ROWS[i]["text"].encode()) for i in chosen)
        total = sum(nats[i] for i in chosen)
        assert (row["documents"], row["bytes"]) == (len(chosen), size)
        assert row["tokens"] == sum(tokens[i] for i in chosen)
        assert row["loss"] == pytest.approx(total / row["tokens"], rel=1e-5)
        assert row["bits_per_byte"] == pytest.approx(total / math.log(2) / size, rel=1e-5)

    check(report["all"], range(6))
    check(report["sources"]["docs"], [0, 1, 5])
    check(report["sources"]["web"], [2, 3, 4])
    check(report["languages"]["ko"], [0, 1, 5])
    check(report["languages"]["ja"], [3])
    assert list(report["languages"]) == ["en", "ja", "ko", "unknown"]
    assert report["languages"]["ja"]["bits_per_byte_stderr"] is None
    assert report["all"]["bits_per_byte_stderr"] > 0
    assert (report["window"], report["stride"]) == (window, stride)


def test_an_even_model_gives_the_logarithm_of_its_vocabulary(tmp_path, tokenizer, folder):
    from transformers import AutoModelForCausalLM

    even = AutoModelForCausalLM.from_pretrained(folder).eval()
    even.lm_head.weight.data.zero_()
    heldout = read_heldout([write_lines(tmp_path / "a.jsonl", ROWS)])
    plan = HeldoutPlan.of(heldout, tokenizer.texts, tokenizer.prefix, 32, 16)
    row = plan.report(heldout, score(even, plan.requests))["all"]
    assert row["loss"] == pytest.approx(math.log(640), rel=1e-6)
    assert row["bits_per_byte"] == pytest.approx(math.log2(640) * row["tokens"] / row["bytes"], rel=1e-6)


def test_what_looks_like_a_control_token_is_text(tokenizer):
    ids = tokenizer.texts(["a<|eos|>b"])[0].tolist()
    assert 0 not in ids
    assert tokenizer.decode(ids) == "a<|eos|>b"


def test_error_of_a_ratio():
    parts, wholes = np.asarray([2.0, 4.0, 9.0]), np.asarray([10.0, 10.0, 10.0])
    value, error = ratio(parts, wholes)
    assert value == 0.5
    assert error == pytest.approx(np.std(parts / 10, ddof=1) / math.sqrt(3)), "of equal wholes that of a mean"
    assert ratio(parts[:1], wholes[:1]) == (0.2, None)
    assert ratio(np.zeros(2), np.zeros(2)) == (None, None)


def test_files_of_all_kinds_hold_the_same(tmp_path):
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
    (tmp_path / "a.jsonl").write_bytes(lines + b"\n  \n")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines))
    cut = lines.index(b"\n") + 5
    frames = [zstandard.ZstdCompressor().compress(part) for part in (lines[:cut], lines[cut:])]
    (tmp_path / "a.jsonl.zst").write_bytes(b"".join(frames))
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    want = read_heldout([str(tmp_path / "a.jsonl")]).documents
    assert [x.text for x in want] == [x["text"] for x in ROWS]
    for name in ("a.jsonl.gz", "a.jsonl.zst", "a.parquet"):
        assert read_heldout([str(tmp_path / name)]).documents == want, name


def test_source_and_language_that_are_not_there(tmp_path):
    [document] = read_heldout([write_lines(tmp_path / "news.v2.jsonl", [{"text": "한국어"}])]).documents
    assert (document.source, document.language) == ("news", "unknown")


BAD = {
    "nothing.jsonl": (None, "No such file"),
    "a.csv": (b"text\n", r"want \.parquet or \.jsonl"),
    "half.jsonl": (b'{"text": "a"}\n{"text": ', r"half\.jsonl:2: not JSON"),
    "list.jsonl": (b"[1]\n", "want a JSON object, got list"),
    "number.jsonl": (b'{"text": 3}\n', "want a string in text, got int"),
    "key.jsonl": (b'{"body": "a"}\n', "want a string in text, got NoneType"),
    "surrogate.jsonl": (b'{"text": "a\\ud800"}\n', "half a surrogate pair at 1"),
    "blank.jsonl": (b'{"text": ""}\n', "no document with text"),
    "void.jsonl": (b"", "no document with text"),
    "cut.jsonl.gz": (gzip.compress(b'{"text": "abc"}\n' * 50)[:-12], "damaged"),
    "cut.jsonl.zst": (zstandard.ZstdCompressor().compress(b'{"text": "abc"}\n' * 50)[:-3], "damaged"),
    "a.parquet": (b"PAR1", "not a Parquet file"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_named(tmp_path, name):
    content, message = BAD[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=message) as error:
        read_heldout([str(tmp_path / name)])
    assert name in str(error.value)


def test_a_limit_takes_the_same_of_each_source_in_any_order(tmp_path):
    rows = [{"text": f"문서 {i}", "source": "ab"[i % 2]} for i in range(20)]
    chosen = read_heldout([write_lines(tmp_path / "a.jsonl", rows)], 3).documents
    again = read_heldout([write_lines(tmp_path / "b.jsonl", rows[::-1])], 3).documents
    assert {x.text for x in chosen} == {x.text for x in again}
    assert sorted(x.source for x in chosen) == list("aaabbb")
    other = read_heldout([str(tmp_path / "a.jsonl")], 3, seed=1)
    assert {x.text for x in chosen} != {x.text for x in other.documents}
    assert other.hash != read_heldout([str(tmp_path / "a.jsonl")], 3).hash


def test_the_corpus_of_a_run(tmp_path):
    (tmp_path / "corpus").mkdir()
    shard = tmp_path / "corpus/part-00000.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), shard)
    output = Output("corpus/part-00000.parquet", shard.stat().st_size, "0" * 32, len(ROWS))
    Manifest("run", {}, {}, {}, {}, (), (), (output,)).save(Folder(str(tmp_path)))
    assert len(read_heldout([str(tmp_path)]).documents) == len(ROWS)
    shard.write_bytes(shard.read_bytes() + b"x")
    with pytest.raises(ChangedError, match=r"part-00000\.parquet"):
        read_heldout([str(tmp_path)])


def test_rows_of_tokens_are_no_text(tmp_path):
    (tmp_path / "tokens.json").write_text("{}")
    with pytest.raises(SourceError, match="give the run that they are of"):
        read_heldout([str(tmp_path)])
