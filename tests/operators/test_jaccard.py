"""Similarities of shingle sets against Python sets, estimates against the formula, batches against the whole."""

import math
import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.operators.jaccard import (
    containment,
    estimate,
    estimate_floor,
    jaccard,
    shingle_sets,
    sketches,
)
from malmoi.operators.minhash import MinHash

TEXTS = [
    "",
    "😀🎉",
    "모든 국민은 법률이 정하는 바에 의하여 선거권을 가진다",
    unicodedata.normalize("NFD", "모든 국민은 법률이 정하는 바에 의하여 선거권을 가진다"),
    "東京は日本の首都です。모든 국민은 and more",
    "the quick brown fox jumps over the lazy dog " * 3,
    "the quick brown fox jumps over the lazy cat",
    "one",
]
TABLE = pa.table({"text": pa.array(TEXTS, pa.large_string())})


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sets(st.integers(0, 30), max_size=20), min_size=2, max_size=6))
def test_against_sets(sets):
    offsets = np.cumsum([0, *map(len, sets)]).astype(np.int64)
    values = np.array([x for one in sets for x in sorted(one)], dtype=np.uint64)
    pairs = [(a, b) for a in range(len(sets)) for b in range(len(sets))]
    left, right = (np.array(side, dtype=np.int64) for side in zip(*pairs, strict=True))
    want_j = [len(sets[a] & sets[b]) / max(1, len(sets[a] | sets[b])) for a, b in pairs]
    want_c = [len(sets[a] & sets[b]) / max(1, min(len(sets[a]), len(sets[b]))) for a, b in pairs]
    assert jaccard(offsets, values, left, right).tolist() == want_j
    assert containment(offsets, values, left, right).tolist() == want_c


def test_wrong_pairs_are_refused():
    none, two = np.zeros(0, np.int64), np.array([0, 1])
    for measure in (jaccard, containment):
        with pytest.raises(ValueError, match="left=2, right=0"):
            measure(np.zeros(3, np.int64), np.zeros(0, np.uint64), two, none)
        with pytest.raises(ValueError, match="max=1"):
            measure(np.zeros(2, np.int64), np.zeros(0, np.uint64), two, two)


@pytest.mark.parametrize("ngram", ["word", "char"])
def test_sketches_are_signatures_and_sets(ngram):
    model = MinHash(ngram=ngram, ngram_size=3, num_perm=32, bands=4, rows=8)
    signatures, offsets, values = sketches(TABLE, model)
    np.testing.assert_array_equal(signatures, model.signatures(TABLE))
    want = shingle_sets(TABLE, model)
    np.testing.assert_array_equal(offsets, want[0])
    np.testing.assert_array_equal(values, want[1])
    pieces = [sketches(TABLE.slice(i, 3), model) for i in range(0, len(TEXTS), 3)]
    np.testing.assert_array_equal(np.concatenate([piece[0] for piece in pieces]), signatures)
    np.testing.assert_array_equal(np.concatenate([piece[2] for piece in pieces]), values)
    empty = sketches(TABLE.slice(0, 0), model)
    assert [x.shape for x in empty] == [(0, 32), (1,), (0,)]


def test_the_estimate_is_within_its_error():
    chance = np.random.default_rng(3)
    words = [f"w{i}" for i in range(400)]
    texts = [" ".join(words)]
    for changed in (2, 5, 10, 20, 40):
        other = list(words)
        for place in chance.choice(400, changed, replace=False):
            other[place] = "changed"
        texts.append(" ".join(other))
    model = MinHash(num_perm=1024, bands=14, rows=8)
    signatures, offsets, values = sketches(pa.table({"text": pa.array(texts, pa.large_string())}), model)
    left, right = np.zeros(5, np.int64), np.arange(1, 6)
    exact = jaccard(offsets, values, left, right)
    error = 4 * np.sqrt(exact * (1 - exact) / 1024)
    assert (np.abs(estimate(signatures, left, right) - exact) <= error).all()
    assert estimate(signatures, left[:0], right[:0]).tolist() == []


def test_the_floor():
    assert estimate_floor(0.8, 112) == pytest.approx(0.8 - 4 * math.sqrt(0.16 / 112))
    assert estimate_floor(1.0, 112) == 1.0
    below = math.floor(estimate_floor(0.8, 112) * 112)
    lost = sum(math.comb(112, k) * 0.8**k * 0.2 ** (112 - k) for k in range(below + 1))
    assert lost < 1 / 12_000
