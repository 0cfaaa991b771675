"""One boilerplate shared by a million documents: time and pairs stay linear in the bucket."""

import time

import numpy as np
import pytest

from malmoi.operators.survivors import resolve

MILLION = 1_000_000


@pytest.mark.parametrize(("kinds", "rounds"), [(1, 1), (4, 4)])
def test_a_bucket_of_a_million_documents(kinds, rounds):
    """Documents of one band that are alike (or of a few kinds that are): every one but the best of each goes."""
    rank = np.random.default_rng(7).permutation(MILLION)
    kind = np.arange(MILLION) % kinds

    def alike(left, right):
        return np.where(kind[left] == kind[right], 1.0, 0.1)

    started = time.perf_counter()
    keys, documents = np.zeros(MILLION, np.uint64), np.arange(MILLION, dtype=np.int64)
    found = resolve(keys, documents, rank, alike, threshold=0.8, max_rounds=64)
    assert time.perf_counter() - started < 20
    assert found.left == 0
    assert found.rounds == rounds
    assert sum(found.verified) < kinds * MILLION
    stay = np.flatnonzero(found.duplicate_of < 0)
    assert sorted(kind[stay]) == list(range(kinds))
    for one in stay:
        assert rank[one] == rank[kind == kind[one]].min()


def test_a_million_documents_that_only_share_a_band_are_left_after_the_rounds():
    keys, documents = np.zeros(MILLION, np.uint64), np.arange(MILLION, dtype=np.int64)
    started = time.perf_counter()
    found = resolve(
        keys, documents, documents, lambda left, right: np.zeros(len(left)), threshold=0.8, max_rounds=3
    )
    assert time.perf_counter() - started < 20
    assert found.verified == (MILLION - 1, MILLION - 2, MILLION - 3)
    assert found.left == MILLION - 4
    assert not (found.duplicate_of >= 0).any()
