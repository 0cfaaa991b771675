"""Diversity figures against exact counts."""

import json
import math
import unicodedata
from itertools import pairwise

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.operators.diversity import (
    GroupDiversity,
    NgramSketch,
    effective_number,
    group_diversity,
    merge,
    sample_rows,
    sketch_from_text,
    sketch_ngrams,
    zstd_ratio,
)

TEXTS = [
    "",
    "말모이는 우리말을 모은 첫 국어사전의 원고이다 말모이는 우리말을 모은 책",
    unicodedata.normalize("NFD", "말모이는 우리말을 모은"),
    "漢字와 한글을 섞어 쓴 文章 漢字와 한글을",
    "😀 😀 😀",
    "one two one two one two",
    "one",
]


def words_of(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    words = [text.split() for text in texts]
    first = np.cumsum([0, *map(len, words)])
    return first, np.array([xxhash.xxh64_intdigest(w.encode()) for ws in words for w in ws], np.uint64)


def sketch_of(texts: list[str], ngram: int = 2, copies: list[int] | None = None) -> NgramSketch:
    first, hashes = words_of(texts)
    return sketch_ngrams(first, hashes, ngram, None if copies is None else np.array(copies, np.int32))


def ngrams_of(texts: list[str], ngram: int) -> list[tuple[str, ...]]:
    return [tuple(w[i : i + ngram]) for w in map(str.split, texts) for i in range(len(w) - ngram + 1)]


def test_effective_number():
    assert effective_number([]) == 0.0
    assert effective_number([0, 0]) == 0.0
    assert effective_number([7]) == 1.0
    assert effective_number([3, 3, 3, 0]) == pytest.approx(3.0)
    assert effective_number([1, 3]) == pytest.approx(4 / 3**0.75)
    with pytest.raises(ValueError, match=r"got -1.0\.\.2.0"):
        effective_number([-1, 2])
    languages = {"ko": (10, 1000), "en": (10, 3000), "ja": (0, 0)}
    found = group_diversity(*zip(*languages.values(), strict=True))
    assert found == GroupDiversity(2, pytest.approx(2.0), pytest.approx(4 / 3**0.75))


@given(
    st.lists(
        st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 60)), max_size=30, unique_by=lambda pair: pair[0]
    ),
    st.integers(0, 100),
    st.integers(1, 8),
)
@settings(max_examples=300, deadline=None)
def test_sample_is_that_of_the_parts(documents, budget, step):
    hashes = np.array([pair[0] for pair in documents], np.uint64)
    sizes = np.array([pair[1] for pair in documents], np.int64)
    whole = sample_rows(hashes, sizes, budget)
    slow, used = [], 0
    for row in sorted(range(len(hashes)), key=lambda row: hashes[row]):
        if sizes[row] <= budget and used < budget:
            slow.append(row)
            used += sizes[row]
    assert whole.tolist() == slow
    assert used < 2 * budget or used == 0
    held = np.zeros(0, np.int64)
    for start in range(0, len(hashes), step):
        part = start + sample_rows(hashes[start : start + step], sizes[start : start + step], budget)
        held = np.concatenate([held, part])
        held = held[sample_rows(hashes[held], sizes[held], budget)]
    assert held.tolist() == slow


def test_zstd_ratio():
    noise = np.random.default_rng(0).bytes(300_000)
    assert zstd_ratio([noise]) == pytest.approx(1.0, abs=0.01)
    assert zstd_ratio([noise, noise, noise]) == pytest.approx(3.0, abs=0.05)  # seen across documents
    assert zstd_ratio([TEXTS[1]] * 50) > zstd_ratio(TEXTS)
    assert zstd_ratio(TEXTS) == zstd_ratio([text.encode() for text in TEXTS])
    assert math.isnan(zstd_ratio([]))
    assert math.isnan(zstd_ratio([""]))


@pytest.mark.parametrize("ngram", [1, 2, 3])
def test_small_counts_are_near_exact(ngram):
    for texts in [[text] for text in TEXTS] + [TEXTS]:
        sketch, exact = sketch_of(texts, ngram), ngrams_of(texts, ngram)
        assert sketch.total == len(exact)
        assert sketch.distinct == pytest.approx(len(set(exact)), abs=0.05)
        if exact:
            assert sketch.share == pytest.approx(len(set(exact)) / len(exact), abs=0.01)
        else:
            assert math.isnan(sketch.share)


@pytest.mark.parametrize("ngram", [1, 3, 5])
@pytest.mark.parametrize("sizes", [[2], [5, 0, 3], [40, 1, 33, 36], [200, 70, 4]])
def test_registers_are_those_of_the_definition(sizes, ngram):
    hashes = np.random.default_rng(sum(sizes)).integers(0, 2**64, sum(sizes), np.uint64)
    first = np.cumsum([0, *sizes])
    wanted = bytearray(16)
    for begin, end in pairwise(first.tolist()):
        for i in range(begin, end - ngram + 1):
            h = 0
            for word in hashes[i : i + ngram].tolist():
                h = fmix64((h + word + 0x9E3779B97F4A7C15) % 2**64)
            rank = 61 - (h % 2**60).bit_length()
            wanted[h >> 60] = max(wanted[h >> 60], rank)
    assert sketch_ngrams(first, hashes, ngram, precision=4).registers == bytes(wanted)


def fmix64(h: int) -> int:
    h = (h ^ h >> 33) * 0xFF51AFD7ED558CCD % 2**64
    h = (h ^ h >> 33) * 0xC4CEB9FE1A85EC53 % 2**64
    return h ^ h >> 33


def test_error_is_as_stated():
    generator = np.random.default_rng(3)
    for size in (1_000, 20_000, 45_000, 300_000):
        errors = []
        for _ in range(8):
            hashes = generator.integers(0, 2**64, size, dtype=np.uint64)
            sketch = sketch_ngrams(np.array([0, size]), np.concatenate([hashes]), 1)
            errors.append(sketch.distinct / size - 1)
        assert np.sqrt(np.mean(np.square(errors))) < 2.0 * 1.04 / 2**7


def test_order_of_words_counts_and_documents_do_not_touch():
    assert sketch_of(["a b", "b a"]).distinct == pytest.approx(2, abs=0.01)
    assert sketch_of(["a b", "a b"]).distinct == pytest.approx(1, abs=0.01)
    assert sketch_of(["a", "b"]).total == 0


def test_copies():
    assert sketch_of(TEXTS, copies=[1, 0, 1, 2, 0, 3, 1]) == NgramSketch(
        2, sketch_of([TEXTS[2], TEXTS[3], TEXTS[5]]).registers, 2 + 2 * 6 + 3 * 5
    )


@given(st.lists(st.sampled_from(TEXTS) | st.text("ab한 ", max_size=12), max_size=8), st.integers(1, 4))
@settings(max_examples=80, deadline=None)
def test_parts_merge_to_the_whole(texts, rows):
    whole = sketch_of(texts)
    parts = [sketch_of(texts[start : start + rows]) for start in range(0, len(texts), rows)] or [
        sketch_of([])
    ]
    assert merge(parts) == merge(parts[::-1]) == whole
    assert sketch_from_text(json.loads(json.dumps(whole.to_text()))) == whole


def test_refused():
    with pytest.raises(ValueError, match=r"one n and one precision, got \[\(1, 14\), \(2, 14\)\]"):
        merge([sketch_of(TEXTS, 1), sketch_of(TEXTS, 2)])
    with pytest.raises(ValueError, match="got none"):
        merge([])
    with pytest.raises(ValueError, match="got ngram=0, precision=14"):
        sketch_of(TEXTS, 0)
    with pytest.raises(ValueError, match="got 1 for 7"):
        sketch_of(TEXTS, 2, [1])
    for junk in ("", "hll1:2:3:###", "hll2:2:3:" + sketch_of(TEXTS).to_text().rsplit(":", 1)[1]):
        with pytest.raises(ValueError, match="not a sketch"):
            sketch_from_text(junk)
