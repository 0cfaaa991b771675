"""The compiled prediction against fastText itself, on the embedded model; models that it leaves to fastText."""

import json
import struct
import unicodedata
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.operators import language
from malmoi.operators.fasttext_file import UnsupportedError, fnv, read_classifier
from malmoi.operators.fasttext_kernel import predict_batch
from malmoi.operators.fasttext_rows import AHEAD, add_rows, aligned, sum_rows
from malmoi.operators.fasttext_vectors import LANES, characters, keep, load, remainder
from malmoi.operators.kernel import lean
from malmoi.operators.language import Model, load_model, model_path, predict
from malmoi.operators.normalise import text_buffers

from .fasttext_models import LOSSES, model_bytes

SAMPLE = Path(__file__).resolve().parents[2] / "examples" / "sample"


@cache
def file_bytes() -> np.ndarray:
    return np.fromfile(model_path("lid.176"), np.uint8)


@cache
def fasttext_itself() -> Model:
    loaded = load_model("lid.176")
    return Model(loaded.handle, loaded.labels)


def sample(name: str) -> list[str]:
    with zstandard.open(SAMPLE / name, "rt", encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


def check(texts: list[str]) -> None:
    column = pa.array(texts, pa.large_string())
    labels, scores = predict(load_model("lid.176"), column)
    own_labels, own_scores = predict(fasttext_itself(), column)
    assert labels.to_pylist() == own_labels.to_pylist()
    np.testing.assert_allclose(scores, own_scores, atol=1e-4)


def test_the_embedded_model_is_predicted_by_the_kernel() -> None:
    assert load_model("lid.176").arrays is not None


@pytest.mark.parametrize("stem", ["docs-en", "docs-ko-old", "reviews-ko", "bible"])
def test_real_documents(stem: str) -> None:
    check(sample(f"{stem}.jsonl.zst"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \t\n",
        "말모이는 사전의 이름이다",
        unicodedata.normalize("NFD", "말모이는 사전의 이름이다"),
        "漢字とカナ, 한글 and Latin",
        "👍👍 🇰🇷",
        "a </s> 한국어는 읽지 않는다",
        "</s>",
        "__label__en 한국어 문장",
        "__label__nothere",
        "x\x00y\x0bz",
        "line one\nline two\r\nline three",
        "가" * 5000,
        "word " * 3000,
    ],
)
def test_odd_texts(text: str) -> None:
    check([text])


def test_long_words() -> None:
    """Words that are laid into the block of characters whole, and such as are cut."""
    lengths = [13, 14, 15, 29, 30, 31, *range(505, 520), *range(1020, 1030), 1536, 5000]
    check([unit * length for unit in ("a", "가나", "é👍b") for length in lengths])
    check([" ".join("한국어의 낱말"[: length % 7] + "x" * length for length in lengths)])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=30), max_size=8))
def test_any_text(texts: list[str]) -> None:
    check([text.encode("utf-8", "ignore").decode() for text in texts])


def test_any_batching_gives_the_same_bits() -> None:
    texts = sample("bible.jsonl.zst") + sample("reviews-ko.jsonl.zst")[:200]
    model = load_model("lid.176").arrays
    assert model is not None
    whole = predict_batch(model, *text_buffers(pa.array(texts, pa.large_string())))
    for size in (1, 7, 100):
        parts = [
            predict_batch(model, *text_buffers(pa.array(texts[i : i + size], pa.large_string())))
            for i in range(0, len(texts), size)
        ]
        for whole_values, *values in zip(whole, *parts, strict=True):
            assert np.concatenate(values).tobytes() == whole_values.tobytes()


def test_the_hash_is_fasttexts() -> None:
    def slow(data: bytes) -> int:
        h = 2166136261
        for byte in data:
            h = ((h ^ (byte if byte < 128 else byte | 0xFFFFFF00)) * 16777619) & 0xFFFFFFFF
        return h

    for word in ("", "a", "말모이", "<ab>"):
        data = word.encode()
        assert fnv(np.frombuffer(data, np.uint8), 0, len(data)) == slow(data)


def patched(position: int, value: int) -> np.ndarray:
    data = file_bytes().copy()
    data[position : position + 4] = np.frombuffer(np.int32(value).tobytes(), np.uint8)
    return data


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (lambda: patched(0, 1), UnsupportedError),
        (lambda: patched(4, 11), UnsupportedError),
        (lambda: patched(8 + 4 * 7, 1), UnsupportedError),  # not supervised
        (lambda: patched(8 + 4 * 10, 33), UnsupportedError),  # n-grams of 33 characters
        (lambda: file_bytes()[:1000], ValueError),
        (lambda: file_bytes()[:-100], ValueError),
        (lambda: file_bytes()[:10], ValueError),
    ],
    ids=["magic", "version", "vectors", "long n-grams", "torn dictionary", "torn matrix", "torn head"],
)
def test_what_the_kernel_cannot_read_is_refused(data, error) -> None:
    with pytest.raises(error):
        read_classifier(data(), "__label__")


def damaged(kind: str) -> bytes:
    """A model of 8 words, 5 labels and 10 dimensions with one number changed."""
    if kind.startswith("output"):
        data = model_bytes("softmax")
        shape = {"output rows": (4, 10), "output width": (10, 5)}[kind]
        at = len(data) - 5 * 10 * 4 - 16
        return data[:at] + struct.pack("<qq", *shape) + data[at + 16 :]
    data = model_bytes("softmax", pruned=True)
    at = data.index(b"__label__ja\0") + 12 + 9  # behind it the pairs of bucket and row
    first, second = struct.unpack_from("<i4xi", data, at)
    bucket, row = {"row": (first, -1), "bucket": (-1, 0), "twice": (second, 0)}[kind]
    return data[:at] + struct.pack("<ii", bucket, row) + data[at + 8 :]


@pytest.mark.parametrize("kind", ["output rows", "output width", "row", "bucket", "twice"])
def test_numbers_that_point_outside_are_refused(kind) -> None:
    with pytest.raises(ValueError, match=r"matrices of|an n-gram"):
        read_classifier(np.frombuffer(damaged(kind), np.uint8), "__label__")


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"word_ngrams": 3},
        {"word_ngrams": 2, "minn": 0, "maxn": 0},
        {"minn": 0, "maxn": 0},
        {"minn": 1, "maxn": 3, "dim": 16},
        {"minn": 1, "maxn": 1},
        {"minn": 30, "maxn": 32},
        {"minn": 3, "maxn": 6, "quantised": True, "pruned": True},
        {"word_ngrams": 2, "quantised": True, "pruned": True, "dim": 7},
    ],
    ids=str,
)
def test_every_kind_of_model(loss: str, settings: dict[str, int], tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(model_bytes(loss, **settings))
    model = load_model(str(path))
    assert model.arrays is not None, model.why_not
    slow = Model(model.handle, model.labels)
    texts = [*language._PROBES, *sample("bible.jsonl.zst")[:60], *sample("reviews-ko.jsonl.zst")[:100]]
    texts += ["", "the of 사전의 </s> the", "</s>", "x __label__en x", "가" * 3000]
    column = pa.array(texts, pa.large_string())
    (labels, scores), (own_labels, own_scores) = predict(model, column), predict(slow, column)
    assert labels.to_pylist() == own_labels.to_pylist()
    np.testing.assert_allclose(scores, own_scores, atol=1e-4)


def test_a_kernel_that_disagrees_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language, "_models", {})
    monkeypatch.setattr(language, "predict_batch", lambda model, data, offsets: (
        np.zeros(len(offsets) - 1, np.int32), np.ones(len(offsets) - 1)
    ))  # fmt: skip
    with pytest.warns(UserWarning, match="by fastText itself, which is slower .the kernel.s answers differ"):
        model = load_model("lid.176")
    assert model.arrays is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        labels, _ = predict(model, pa.array(["한국어 문장입니다."], pa.large_string()))
    assert labels.to_pylist() == ["ko"]


@pytest.mark.parametrize("dim", [1, 15, 16, 17, 32, 100])
@pytest.mark.parametrize("kind", [np.int64, np.uint32])
def test_rows_are_added_one_after_the_other(dim, kind) -> None:
    draw = np.random.default_rng(dim)
    rows = aligned(50, dim)
    rows[:] = draw.normal(size=rows.shape)
    index = np.concatenate([draw.integers(0, 50, 90), np.full(AHEAD, 2**31)]).astype(kind)

    sizes = draw.integers(0, 9, 50).astype(np.int32)

    @lean
    def added(
        to: np.ndarray, rows: np.ndarray, index: np.ndarray, first: int, last: int, sizes: np.ndarray
    ) -> int:
        return add_rows(to, 1, rows, index, first, last, sizes)

    for first, last in [(0, 90), (7, 8), (40, 40), (89, 90)]:
        to, want = aligned(3, dim) + np.float32(1), aligned(3, dim) + np.float32(1)
        assert added(to, rows, index, first, last, sizes) == sizes[index[first:last]].sum()
        for k in range(first, last):
            want[1] += rows[index[k]]
        assert to.tobytes() == want.tobytes()


@pytest.mark.parametrize("dim", [16, 48])
def test_rows_are_added_to_the_target_of_each(dim) -> None:
    draw = np.random.default_rng(dim)
    rows, to = aligned(50, dim), aligned(41, dim)
    rows[:], to[:-1] = draw.normal(size=rows.shape), draw.normal(size=(40, dim))
    index = np.concatenate([draw.integers(0, 50, 200), np.full(AHEAD, 2**31)]).astype(np.uint32)
    target = np.repeat(draw.integers(0, 40, 100), 2).astype(np.uint32)

    @lean
    def summed(to: np.ndarray, target: np.ndarray, rows: np.ndarray, index: np.ndarray, count: int) -> None:
        sum_rows(to, target, rows, index, count)

    want = to.copy()
    for k in range(200):
        want[target[k]] += rows[index[k]]
    summed(to, np.concatenate([target, np.zeros(AHEAD, np.uint32)]), rows, index, 200)
    assert to.tobytes() == want.tobytes()


@lean
def laid(data: np.ndarray, p: int, stop: int, out: np.ndarray) -> int:
    n = np.int64(0)
    for at in range(p, stop, LANES):
        n += characters(data, at, stop, out, n)
    return n


@pytest.mark.parametrize(
    "text", ["", "a", "plain ASCII that is longer", "말모이는 사전", "é👍b가" * 9, "👍" * 20]
)
def test_characters_are_taken_apart(text: str) -> None:
    for before in range(4):
        data = np.frombuffer(b"x" * before + text.encode() + " 가".encode() + bytes(40), np.uint8)
        out = np.zeros(len(text) + 40, np.uint32)
        assert laid(data, before, before + len(text.encode()), out) == len(text)
        assert out[: len(text)].tolist() == [int.from_bytes(c.encode(), "little") for c in text]


@lean
def remainders(values: np.ndarray, size: int, out: np.ndarray) -> None:
    inverse = np.uint32(min((1 << 32) // size, (1 << 32) - 1))
    for i in range(0, len(values), LANES):
        keep(out, i, remainder(load(values, i), np.uint32(size), inverse), 0xFFFF)


@pytest.mark.parametrize("size", [1, 2, 3, 997, 65536, 2_000_000, 2**31 - 1, 2**31, 2**32 - 1])
def test_the_remainder_of_any_hash(size) -> None:
    draw = np.random.default_rng(size)
    values = np.concatenate(
        [draw.integers(0, 2**32, 480), np.arange(16), 2**32 - 1 - np.arange(16), size * np.arange(16) % 2**32]
    ).astype(np.uint32)
    out = np.zeros_like(values)
    remainders(values, size, out)
    assert (out == values.astype(np.uint64) % size).all()
