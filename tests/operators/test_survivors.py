"""Candidates, survivors and rounds, against slow and obvious versions of the same and against promises."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.operators import survivors as survivors_module
from malmoi.operators.candidates import band_rows, candidates, pack, unpack
from malmoi.operators.survivors import (
    EXACT,
    FUZZY,
    STAYS,
    compose,
    decide,
    exact_groups,
    rank,
    resolve,
    survivors,
)


def slow_survivors(num_docs, edges, ranks, threshold):
    """Best to worst: gone if similar to a survivor that is better, namely to the best such."""
    near = {}
    for a, b, similarity in edges:
        if similarity >= threshold:
            near.setdefault(a, {})[b] = similarity
            near.setdefault(b, {})[a] = similarity
    duplicate_of, found = [-1] * num_docs, [None] * num_docs
    for document in sorted(range(num_docs), key=lambda d: ranks[d]):
        alive = [o for o in near.get(document, {}) if ranks[o] < ranks[document] and duplicate_of[o] < 0]
        if alive:
            duplicate_of[document] = min(alive, key=lambda o: ranks[o])
            found[document] = near[document][duplicate_of[document]]
    return duplicate_of, found


def all_pairs(keys, documents):
    buckets = {}
    for key, document in zip(keys.tolist(), documents.tolist(), strict=True):
        buckets.setdefault(key, set()).add(document)
    return {pair for b in buckets.values() for pair in itertools.combinations(sorted(b), 2)}


def as_pairs(packed):
    return set(zip(*(side.tolist() for side in unpack(packed)), strict=True))


@st.composite
def graphs(draw):
    n = draw(st.integers(1, 14))
    pairs = list(itertools.combinations(range(n), 2))
    chosen = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=40)) if pairs else []
    edges = [(a, b, draw(st.sampled_from([0.5, 0.79, 0.8, 0.9, 1.0]))) for a, b in chosen]
    return n, edges, np.array(draw(st.permutations(range(n))), dtype=np.int64)


def columns(edges):
    left, right, similarity = zip(*edges, strict=True) if edges else ((), (), ())
    return np.array(left, np.int64), np.array(right, np.int64), np.array(similarity, np.float64)


@settings(max_examples=300, deadline=None)
@given(graphs())
def test_survivors_are_those_of_the_slow_version_and_keep_every_promise(graph):
    n, edges, ranks = graph
    got, similarity = survivors(n, *columns(edges), ranks, 0.8)
    want, want_similarity = slow_survivors(n, edges, ranks, 0.8)
    assert got.tolist() == want
    assert [None if np.isnan(x) else x for x in similarity] == [x and np.float32(x) for x in want_similarity]
    gone = np.flatnonzero(got >= 0)
    assert (got[got[gone]] == -1).all(), "a survivor was removed"
    assert (ranks[got[gone]] < ranks[gone]).all()
    for a, b, s in edges:
        assert s < 0.8 or got[a] >= 0 or got[b] >= 0, "two survivors are a verified pair"


@settings(max_examples=100, deadline=None)
@given(graphs(), st.randoms(use_true_random=False))
def test_survivors_do_not_depend_on_the_order_of_documents(graph, shuffle):
    n, edges, ranks = graph
    new = list(range(n))
    shuffle.shuffle(new)
    moved = [(new[b], new[a], s) for a, b, s in edges]
    shuffle.shuffle(moved)
    moved_ranks = np.empty(n, np.int64)
    moved_ranks[new] = ranks
    before, _ = survivors(n, *columns(edges), ranks, 0.8)
    after, _ = survivors(n, *columns(moved), moved_ranks, 0.8)
    assert [new[o] if o >= 0 else -1 for o in before] == [int(after[new[d]]) for d in range(n)]


def test_a_chain_does_not_drag_in_what_is_unlike_the_survivor():
    # 0 is like 1, 1 is like 2, 2 is not like 0: one connected component, two survivors.
    got, similarity = survivors(
        3, *columns([(0, 1, 0.9), (1, 2, 0.85), (0, 2, 0.4)]), np.array([0, 1, 2]), 0.8
    )
    assert got.tolist() == [-1, 0, -1]
    assert similarity[1] == np.float32(0.9)
    # In the middle, the best-ranked document takes both.
    got, _ = survivors(3, *columns([(0, 1, 0.9), (1, 2, 0.85)]), np.array([1, 0, 2]), 0.8)
    assert got.tolist() == [1, -1, 1]


def test_rank_follows_prefer_then_source_then_id():
    numbers = {
        "quality": np.array([0.5, 0.9, np.nan, 0.9, 0.5, 0.5]),
        "length": np.array([10, 5, 99, 7, 10, 10]),
        "priority": np.array([0, 0, 9, 0, 1, 0], dtype=np.int32),
        "id_hi": np.array([2, 0, 0, 0, 9, 1 << 63], dtype=np.uint64),
        "id_lo": np.array([0, 0, 0, 0, 0, 0], dtype=np.uint64),
    }
    source = np.array([1, 0, 0, 0, 0, 1], dtype=np.int32)
    assert np.argsort(rank(numbers, source)).tolist() == [3, 1, 4, 0, 5, 2]
    assert np.argsort(rank(numbers, source, ("priority",))).tolist() == [2, 4, 1, 3, 0, 5]
    with pytest.raises(ValueError, match="'size'"):
        rank(numbers, source, ("size",))
    none = {name: values[:0] for name, values in numbers.items()}
    assert rank(none, source[:0]).tolist() == []


def test_exact_groups_keep_the_best_of_equal_hashes_only():
    lo = np.array([7, 7, 7, 8, 7, 9, 9], dtype=np.uint64)
    hi = np.array([1, 1, 2, 1, 1, 5, 5], dtype=np.uint64)
    assert exact_groups(lo, hi, np.array([5, 3, 0, 1, 4, 2, 6])).tolist() == [1, -1, -1, -1, 1, -1, 5]
    assert exact_groups(lo, hi).tolist() == [-1, 0, -1, -1, 0, -1, 5]
    active = np.array([True, False, True, True, True, False, True])
    assert exact_groups(lo, hi, active=active).tolist() == [-1, -1, -1, -1, 0, -1, -1]
    empty = np.empty(0, dtype=np.uint64)
    assert exact_groups(empty, empty, np.empty(0, np.int64)).tolist() == []


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 300), st.integers(1, 40))
def test_order_and_groups_are_those_of_plain_sorting(seed, n, at_once):
    """However few documents are sorted together, and in however few bits their numbers are."""
    chance = np.random.default_rng(seed)
    lo = chance.integers(0, 2**64, max(n, 1), dtype=np.uint64)[chance.integers(0, max(n // 2, 1), n)]
    hi, active = chance.integers(0, 2, n).astype(np.uint64), chance.random(n) < 0.7
    numbers = {
        "quality": chance.choice([0.0, 1.0, np.nan], n),
        "length": chance.integers(-3, 3, n).astype(chance.choice([np.int8, np.int64])),
        "priority": np.broadcast_to(np.int8(2), n),
        "id_lo": lo,
        "id_hi": hi,
    }
    source = chance.integers(0, 2, n)
    quality = np.where(np.isnan(numbers["quality"]), -np.inf, numbers["quality"])
    rows = zip(
        -quality, -numbers["length"].astype(int), source, hi.tolist(), lo.tolist(), range(n), strict=True
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(survivors_module, "_AT_ONCE", at_once)
        places = rank(numbers, source)
        groups = exact_groups(lo, hi, places, active)
    assert [row[-1] for row in sorted(rows)] == np.argsort(places).tolist()
    expected = np.full(n, -1)
    for key in {(lo[i], hi[i]) for i in range(n)}:
        same = [i for i in np.argsort(places) if (lo[i], hi[i]) == key and active[i]]
        expected[same[1:]] = same[:1] * (len(same) - 1)
    assert groups.tolist() == expected.tolist()


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 11)), max_size=60),
    st.permutations(range(12)),
    st.integers(2, 5),
    st.randoms(use_true_random=False),
)
def test_candidates_end_up_with_every_pair_of_every_bucket(rows, ranks, max_bucket, shuffle):
    rows = list(set(rows))
    ranks = np.array(ranks, dtype=np.int64)
    keys = np.array([k for k, _ in rows], dtype=np.uint64)
    documents = np.array([d for _, d in rows], dtype=np.int64)
    want, seen = all_pairs(keys, documents), np.empty(0, np.uint64)
    for _ in range(100):
        found = candidates(keys, documents, ranks, max_bucket=max_bucket, verified=seen)
        order = np.array(shuffle.sample(range(len(rows)), len(rows)), dtype=np.int64)
        again = candidates(keys[order], documents[order], ranks, max_bucket=max_bucket, verified=seen)
        np.testing.assert_array_equal(found, again)
        split = [
            candidates(
                keys[keys % 2 == p], documents[keys % 2 == p], ranks, max_bucket=max_bucket, verified=seen
            )
            for p in (0, 1)
        ]
        np.testing.assert_array_equal(np.union1d(*split), found)
        if not len(found):
            break
        assert not as_pairs(found) & as_pairs(seen)
        seen = np.union1d(seen, found)
    assert as_pairs(seen) == want
    if all(np.count_nonzero(keys == k) <= max_bucket for k in set(keys.tolist())):
        assert as_pairs(candidates(keys, documents, ranks, max_bucket=max_bucket)) == want


def test_a_large_bucket_gives_stars_within_the_budget():
    n = 100_000
    keys, documents = np.zeros(n, np.uint64), np.arange(n, dtype=np.int64)
    ranks = (documents + 77) % n
    found = candidates(keys, documents, ranks, max_bucket=64)
    assert len(found) == n - 1
    left, right = unpack(found)
    assert ((left == n - 77) | (right == n - 77)).all(), "the best-ranked document is the centre"
    few = candidates(keys[:100], documents[:100], np.arange(100, dtype=np.int64), max_bucket=64)
    assert 64 * 63 // 2 <= len(few) < 64 * 63 // 2 + 100
    with pytest.raises(ValueError, match="max_bucket=1"):
        candidates(keys, documents, ranks, max_bucket=1)


def test_band_rows_are_those_that_share_a_band():
    bands = np.array([[1, 5], [2, 5], [1, 6], [3, 7]], dtype=np.uint64)
    keys, documents = band_rows(bands, np.array([10, 11, 12, 13]))
    assert sorted(zip(keys.tolist(), documents.tolist(), strict=True)) == [(1, 10), (1, 12), (5, 10), (5, 11)]
    keys, documents = band_rows(np.empty((0, 3), np.uint64), np.empty(0, np.int64))
    assert len(keys) == len(documents) == 0


def test_pairs_are_packed_either_way_round():
    left, right = np.array([0, 5, 2**32 - 1]), np.array([7, 1, 3])
    np.testing.assert_array_equal(pack(left, right), pack(right, left))
    assert as_pairs(pack(left, right)) == {(0, 7), (1, 5), (3, 2**32 - 1)}


class Points:
    """Documents as points on a line: similarity falls with distance. Counts what it is asked."""

    def __init__(self, places):
        self.places, self.asked = np.asarray(places, dtype=np.float64), set()

    def __call__(self, left, right):
        for pair in zip(left.tolist(), right.tolist(), strict=True):
            assert pair not in self.asked, "a pair is verified once"
            self.asked.add(pair)
        return np.maximum(0.0, 1.0 - np.abs(self.places[left] - self.places[right]) / 100)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 300), min_size=1, max_size=60), st.integers(2, 9), st.data())
def test_resolve_leaves_no_unverified_pair_and_no_similar_survivors(places, max_bucket, data):
    n = len(places)
    ranks = np.array(data.draw(st.permutations(range(n))), dtype=np.int64)
    keys, documents = np.zeros(n, np.uint64), np.arange(n, dtype=np.int64)
    verify = Points(places)
    got = resolve(keys, documents, ranks, verify, threshold=0.8, max_bucket=max_bucket, max_rounds=1000)
    assert got.left == 0
    assert sum(got.verified) == len(verify.asked)
    stay = np.flatnonzero(got.duplicate_of < 0).tolist()
    for a, b in itertools.combinations(stay, 2):
        assert abs(places[a] - places[b]) > 20
    for document in np.flatnonzero(got.duplicate_of >= 0):
        other = got.duplicate_of[document]
        assert got.duplicate_of[other] == -1
        assert ranks[other] < ranks[document]
        assert got.similarity[document] == np.float32(1 - abs(places[document] - places[other]) / 100)
        assert abs(places[document] - places[other]) <= 20
        assert got.kind[document] == FUZZY


def test_a_template_of_thousands_is_resolved_in_few_comparisons():
    places = np.repeat(np.arange(6) * 1000.0, 3000)  # one bucket, six groups that are alike inside
    n = len(places)
    ranks = np.random.default_rng(5).permutation(n)
    got = resolve(np.zeros(n, np.uint64), np.arange(n, dtype=np.int64), ranks, Points(places), threshold=0.8)
    assert np.count_nonzero(got.duplicate_of < 0) == 6
    assert got.left == 0
    assert got.rounds <= 6
    assert sum(got.verified) < 6 * n


def test_rounds_that_are_used_up_are_reported():
    places = np.arange(400) * 1000.0
    verify = Points(places)
    keys, documents = np.zeros(400, np.uint64), np.arange(400, dtype=np.int64)
    got = resolve(keys, documents, documents, verify, threshold=0.8, max_bucket=4, max_rounds=3)
    assert got.rounds == 3
    assert got.left > 0
    assert (got.duplicate_of == -1).all()
    assert np.isnan(got.similarity).all()


def test_exact_copies_of_a_fuzzy_duplicate_point_to_the_final_survivor():
    #        0: best; 1: fuzzy to 0; 2: copy of 1; 3: copy of 0; 4: alone, no signature; 5: copy of 4
    lo = np.array([1, 2, 2, 1, 3, 3], dtype=np.uint64)
    bands = np.zeros((6, 1), np.uint64)
    signed = np.array([True] * 4 + [False] * 2)
    verify = Points([0, 10, 10, 0, 5, 5])
    ranks = np.arange(6, dtype=np.int64)
    got = decide(ranks, verify, exact=(lo, lo), bands=bands, signed=signed)
    assert got.duplicate_of.tolist() == [-1, 0, 0, 0, -1, 4]
    assert got.kind.tolist() == [STAYS, FUZZY, FUZZY, EXACT, STAYS, EXACT]
    np.testing.assert_allclose(got.similarity, [np.nan, 0.9, 0.9, 1.0, np.nan, 1.0], rtol=1e-6)
    assert verify.asked == {(0, 1)}
    only_exact = decide(ranks, verify, exact=(lo, lo), bands=None)
    assert only_exact.duplicate_of.tolist() == [-1, -1, 1, 0, -1, 4]
    only_fuzzy = decide(ranks, Points([0, 10, 10, 0, 5, 5]), exact=None, bands=bands, signed=signed)
    assert only_fuzzy.duplicate_of.tolist() == [-1, 0, 0, 0, -1, -1]
    assert only_fuzzy.kind.tolist() == [STAYS, FUZZY, FUZZY, FUZZY, STAYS, STAYS]


def test_nothing_at_all():
    none = np.empty(0, np.int64)
    got = decide(none, Points([]), exact=(none.astype(np.uint64),) * 2, bands=np.empty((0, 14), np.uint64))
    assert (len(got.duplicate_of), len(got.similarity), len(got.kind), got.rounds, got.left) == (
        0,
        0,
        0,
        0,
        0,
    )
    final = compose(none, none, np.empty(0, np.float32))
    assert [x.dtype for x in final] == [np.int64, np.float32, np.int8]
