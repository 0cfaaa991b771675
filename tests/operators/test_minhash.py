"""Signatures are datasketch's, bit for bit, in any batching; Jaccard is that of Python's sets."""

import itertools
import math
import unicodedata

import datasketch
import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.operators.contract import Operator
from malmoi.operators.jaccard import jaccard, shingle_sets, unique_runs
from malmoi.operators.minhash import MinHash
from malmoi.operators.minima import BLOCK, permutations
from malmoi.operators.shingles import hashfunc

from .test_shingles import TEXTS, slow_ids, slow_shingles

MORE = [
    *TEXTS,
    "국회의원은 국가·공공단체 또는 기업체와의 계약에 의하여 재산상의 권리를 취득할 수 없다.",
    "국회의원은 국가·공공단체 또는 기업체와의 계약에 의해 재산상의 권리를 취득할 수 없다.",
    "a b c d e " * 700,
    " ".join(f"word{i}" for i in range(2 * BLOCK + 17)),
    "人人生而自由,在尊嚴和權利上一律平等。",
]
MODELS = [
    MinHash(),
    MinHash(ngram="char", ngram_size=5),
    MinHash(ngram_size=2, num_perm=128, bands=9, rows=14, seed=7),
    MinHash(num_perm=286, bands=20, rows=14, seed=3),
    MinHash(num_perm=1, bands=1, rows=1, ngram="char", ngram_size=3, seed=2**32 - 1),
]


def table_of(texts):
    return pa.table({"text": pa.array(texts, pa.large_string())})


@pytest.mark.parametrize("model", MODELS)
def test_signatures_are_bit_identical_to_datasketch(model):
    got = model.signatures(table_of(MORE))
    assert got.dtype == np.uint32
    assert got.shape == (len(MORE), model.num_perm)
    for text, row in zip(MORE, got, strict=True):
        want = datasketch.MinHash(
            model.num_perm, seed=model.seed, hashfunc=hashfunc(model.ngram), scheme="affine32"
        )
        want.update_batch(slow_shingles(text, model.ngram, model.ngram_size))
        np.testing.assert_array_equal(row, want.digest())


@pytest.mark.parametrize(("num_perm", "seed"), [(112, 1), (128, 1), (256, 42), (1, 0), (7, 2**32 - 1)])
def test_permutations_are_those_of_datasketch(num_perm, seed):
    want = datasketch.MinHash(num_perm, seed=seed, scheme="affine32").permutations
    np.testing.assert_array_equal(permutations(num_perm, seed), want)


@pytest.mark.parametrize(
    ("bands", "rows"), [(3, 5), (14, 8), (1, 1), (9, 2), (8, 6), (3, 22), (16, 16), (2, 13)]
)
def test_bands_are_the_published_hash_of_their_rows(bands, rows):
    model = MinHash(num_perm=bands * rows + 3, bands=bands, rows=rows)
    signatures = model.signatures(table_of(MORE))
    for row, hashes in zip(signatures, model.band_hashes(signatures), strict=True):
        parts = row.astype("<u4")[: bands * rows].reshape(bands, rows)
        assert hashes.tolist() == [xxhash.xxh64_intdigest(part.tobytes(), k) for k, part in enumerate(parts)]
    assert model.band_hashes(signatures[:0]).shape == (0, bands)


def test_operator_adds_bands_and_null_without_words():
    model = MinHash()
    assert isinstance(model, Operator)
    table = table_of(MORE)
    got = model(table)
    assert got.schema.field("bands").type == model.adds.field("bands").type
    assert got.column("text").equals(table.column("text"))
    bands = got.column("bands").to_pylist()
    wordless = [i for i, text in enumerate(MORE) if not slow_shingles(text, "word", 5)]
    assert [i for i, x in enumerate(bands) if x is None] == wordless
    assert len(wordless) == 3
    want = model.band_hashes(model.signatures(table))
    assert [b for b in bands if b] == [w.tolist() for i, w in enumerate(want) if i not in wordless]


@pytest.mark.parametrize("size", [1, 2, 7])
def test_any_batching_gives_the_same_rows(size):
    table, model = table_of(MORE), MinHash()
    whole = model(table)
    parts = [model(table.slice(i, size)) for i in range(0, len(MORE), size)]
    assert pa.concat_tables(parts).combine_chunks().equals(whole.combine_chunks())
    chunked = pa.concat_tables([table.slice(0, 3), table.slice(3)])
    assert model(chunked).column("bands").to_pylist() == whole.column("bands").to_pylist()
    none = model(table.slice(0, 0))
    assert none.schema == whole.schema
    assert none.num_rows == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(alphabet="ab 가나 漢x1.", max_size=60), min_size=1, max_size=8), st.integers(1, 7))
def test_any_batching_of_any_text(texts, size):
    table, model = table_of(texts), MinHash(ngram_size=2)
    parts = [model.signatures(table.slice(i, size)) for i in range(0, len(texts), size)]
    np.testing.assert_array_equal(np.concatenate(parts), model.signatures(table))


def test_probability_is_the_published_curve():
    # 14 bands of 8 rows.
    np.testing.assert_allclose(
        MinHash().probability(np.array([0.5, 0.8, 0.9])), [0.0534, 0.9236, 0.9996], atol=1e-4
    )
    assert MinHash().probability(0.0) == 0.0
    assert MinHash().probability(1.0) == 1.0


def test_similar_texts_share_as_many_minima_as_they_are_similar():
    left = " ".join(f"w{i}" for i in range(2000))
    right = " ".join(f"w{i}" for i in range(400, 2400))
    model = MinHash(ngram_size=1, num_perm=1024, bands=1, rows=1)
    a, b = model.signatures(table_of([left, right]))
    offsets, values = shingle_sets(table_of([left, right]), model)
    exact = float(jaccard(offsets, values, np.array([0]), np.array([1]))[0])
    assert math.isclose(exact, 1600 / 2400)
    assert abs(np.mean(a == b) - exact) < 0.05


@pytest.mark.parametrize(
    ("settings_", "words"),
    [
        ({"bands": 15}, "15 \\* 8 = 120 and num_perm=112"),
        ({"ngram": "line"}, "'line'"),
        ({"ngram_size": 0}, "ngram_size: want >= 1, got 0"),
        ({"threshold": 0.0}, "threshold"),
        ({"seed": -1}, "seed"),
    ],
)
def test_wrong_settings_are_refused(settings_, words):
    with pytest.raises(ValueError, match=words):
        MinHash(**settings_)


def test_scheme_names_everything_that_decides_the_bands():
    assert MinHash().scheme == "malmoi-shingle-v1/word-5/affine32-112-seed-1/bands-14x8-xxh64-v1"
    schemes = {model.scheme for model in MODELS}
    assert len(schemes) == len(MODELS)
    assert MinHash(threshold=0.5).scheme == MinHash().scheme


@pytest.mark.parametrize("model", [MinHash(), MinHash(ngram="char", ngram_size=4)])
def test_jaccard_is_that_of_sets(model):
    offsets, values = shingle_sets(table_of(MORE), model)
    sets = [set(slow_ids(text, model.ngram, model.ngram_size)) for text in MORE]
    assert [values[a:b].tolist() for a, b in itertools.pairwise(offsets)] == [sorted(s) for s in sets]
    left, right = (grid.reshape(-1) for grid in np.meshgrid(np.arange(len(MORE)), np.arange(len(MORE))))
    want = [len(sets[a] & sets[b]) / max(1, len(sets[a] | sets[b])) for a, b in zip(left, right, strict=True)]
    np.testing.assert_array_equal(jaccard(offsets, values, left, right), want)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 3), max_size=40), max_size=8))
def test_unique_runs_sort_any_numbers(runs):
    first = np.cumsum([0, *map(len, runs)]).astype(np.int64)
    ids = np.array([x for run in runs for x in run], dtype=np.uint64)
    offsets, values = unique_runs(first, ids)
    got = [values[a:b].tolist() for a, b in itertools.pairwise(offsets)]
    assert got == [sorted(set(run)) for run in runs]


def test_pairs_of_sets_that_are_not_there_are_refused():
    offsets, values = shingle_sets(table_of(["a", "b"]), MinHash())
    with pytest.raises(ValueError, match="max=2"):
        jaccard(offsets, values, np.array([0]), np.array([2]))
    with pytest.raises(ValueError, match="left=1, right=0"):
        jaccard(offsets, values, np.array([0]), np.array([], dtype=np.int64))


def test_normal_forms_differ_so_normalise_first():
    nfc = "모든 국민은 법률이 정하는 바에"
    a, b = MinHash().signatures(table_of([nfc, unicodedata.normalize("NFD", nfc)]))
    assert (a != b).any()
