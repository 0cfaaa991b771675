"""Components by union-find and by stars: the same labels on any graph, partitioned in any way."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.operators.components import both_ways, labels, large_star, small_star, union_find

LOW = np.uint64(0xFFFFFFFF)


def packed(pairs):
    edges = np.array(pairs, dtype=np.uint64).reshape(-1, 2)
    return (edges[:, 0] << np.uint64(32)) | edges[:, 1]


def by_stars(edges, partitions):
    """(label of every node that is in an edge, rounds): each operation sees a partition of the nodes."""

    def apart(step, edges):
        owner = (edges >> np.uint64(32)) % np.uint64(partitions)
        return np.unique(np.concatenate([step(edges[owner == p]) for p in range(partitions)]))

    edges, rounds = both_ways(edges), 0
    while True:
        after = both_ways(apart(small_star, apart(large_star, edges)))
        rounds += 1
        if np.array_equal(after, edges):
            return dict(zip(*(x.tolist() for x in labels(edges)), strict=True)), rounds
        edges = after


def check(num, pairs, partitions=3):
    edges = packed(pairs)
    want = union_find(num, (edges >> np.uint64(32)).astype(np.int64), (edges & LOW).astype(np.int64))
    got, rounds = by_stars(edges, partitions)
    nodes = {node for pair in pairs for node in pair}
    assert got == {node: int(want[node]) for node in nodes}
    assert all(want[node] == node for node in range(num) if node not in nodes)
    return rounds


@settings(max_examples=200, deadline=None)
@given(st.data(), st.integers(2, 40), st.integers(1, 5))
def test_random_graphs(data, num, partitions):
    node = st.integers(0, num - 1)
    pairs = data.draw(st.lists(st.tuples(node, node).filter(lambda p: p[0] != p[1]), max_size=60))
    check(num, pairs, partitions)


@pytest.mark.parametrize("partitions", [1, 4])
def test_chains_stars_and_cliques(partitions):
    shuffled = np.random.default_rng(3).permutation(3000).tolist()
    chain = list(itertools.pairwise(shuffled))
    assert check(3000, chain, partitions) <= 14
    assert check(3000, [(i, i + 1) for i in range(2999)], partitions) <= 14
    assert check(3000, [(shuffled[0], other) for other in shuffled[1:]], partitions) <= 4
    clique = [(a, b) for a in shuffled[:60] for b in shuffled[:60] if a != b]
    assert check(3000, [*clique, (shuffled[60], shuffled[61])], partitions) <= 4


def test_nothing():
    none = np.empty(0, dtype=np.uint64)
    assert [len(x) for x in (both_ways(none), large_star(none), small_star(none), *labels(none))] == [0] * 5
    assert union_find(3, none.astype(np.int64), none.astype(np.int64)).tolist() == [0, 1, 2]
