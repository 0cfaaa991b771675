"""TokenCount against the tokenizers library, one document at a time."""

import pickle
import sys
import unicodedata

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.operators import token_count as module
from malmoi.operators.token_count import TokenCount

tokenizers = pytest.importorskip("tokenizers")

TEXTS = [
    "",
    "말모이는 우리말을 모은 첫 국어사전의 원고이다.",
    unicodedata.normalize("NFD", "말모이는 우리말"),
    "漢字와 한글을 섞어 쓴 文章",
    "😀😀👍🏽",
    "plain English words, and some more of them",
    "a <|endoftext|> b",
    "line\nline\n\n\tend ",
]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A byte-level BPE with everything in it that could spoil a count."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<s>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(TEXTS * 4, trainer)
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    made.enable_truncation(4)
    made.enable_padding(length=16)
    target = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    made.save(str(target))
    return target


def table_of(texts: list[str]) -> pa.Table:
    return pa.table({"text": pa.array(texts, pa.large_string())})


def reference(path, text: str) -> int:
    one = tokenizers.Tokenizer.from_file(str(path))
    one.no_truncation()
    one.no_padding()
    one.encode_special_tokens = True
    return len(one.encode(text, add_special_tokens=False).ids)


@pytest.mark.parametrize("text", TEXTS)
def test_counts(path, text):
    table = TokenCount(str(path))(table_of([text]))
    assert table["num_tokens"].to_pylist() == [reference(path, text)]


def test_known_counts(path):
    counts = TokenCount(str(path))(table_of(["", "a", "<|endoftext|>"]))["num_tokens"].to_pylist()
    assert counts[:2] == [0, 1]
    assert counts[2] > 1  # as text; as a control token it would be one


def test_folder_empty_chunked_null_pickle(path):
    operator = TokenCount(str(path.parent))
    assert operator.files == (str(path),)
    assert pickle.loads(pickle.dumps(operator)) == operator
    whole = operator(table_of(TEXTS))
    assert operator(table_of([])).schema == whole.schema
    assert whole.select(["num_tokens"]).schema == operator.adds
    chunked = pa.concat_tables([table_of(["x", *TEXTS[:3]]), table_of([*TEXTS[3:], "y"])]).slice(
        1, len(TEXTS)
    )
    assert operator(chunked).combine_chunks() == whole.combine_chunks()
    assert operator(pa.table({"text": pa.array([None], pa.large_string())}))["num_tokens"].to_pylist() == [0]


def test_errors(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="tokenizer: want the path"):
        TokenCount("")
    with pytest.raises(
        FileNotFoundError, match=r"nowhere.json' cannot be read \(No such file or directory\)"
    ):
        TokenCount(str(tmp_path / "nowhere.json")).check()
    junk = tmp_path / "junk.json"
    junk.write_text("{}")
    with pytest.raises(ValueError, match=r"junk.json' is not a tokenizer.json"):
        TokenCount(str(junk))(table_of([]))
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"pip install 'malmoi\[tokenize\]'"):
        TokenCount(str(junk)).check()


@given(
    st.lists(st.sampled_from(TEXTS) | st.text(max_size=30), max_size=8), st.integers(1, 3), st.integers(1, 64)
)
@settings(max_examples=40, deadline=None)
def test_batching(path, texts, rows, batch_bytes):
    table = table_of(texts)
    operator = TokenCount(str(path))
    whole = operator(table)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BATCH_BYTES", batch_bytes)
        parts = [operator(table.slice(start, rows)) for start in range(0, len(texts), rows)]
    if parts:
        assert pa.concat_tables(parts).combine_chunks() == whole.combine_chunks()
