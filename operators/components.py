"""Connected components of pairs: in one process by union-find, or partition by partition by stars.

The label of a component is its smallest node. Large-star and small-star are the operations of Kiveris et al.,
"Connected Components in MapReduce and Beyond", SoCC 2014: done in turn until nothing changes they leave every
node with one edge, to its label, after O(log^2 nodes) rounds (in practice a dozen at most). Each needs, of one
node, all its edges and nothing else, so edges may be partitioned by node.

A directed edge is one uint64, the node that it belongs to in the upper 32 bits, its neighbour in the lower.
"""

from __future__ import annotations

import numpy as np

from .candidates import distinct
from .kernel import kernel

_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)


def union_find(nodes: int, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The label of every node, int64 [nodes]; `left`, `right`: int64 [edges] below `nodes`."""
    return np.asarray(_union_find(nodes, left.astype(np.int64), right.astype(np.int64)))


def both_ways(edges: np.ndarray) -> np.ndarray:
    """Every edge and its reverse, uint64 [2 * edges], sorted and unique."""
    return distinct(np.concatenate([edges, (edges << _SHIFT) | (edges >> _SHIFT)]))


def large_star(edges: np.ndarray) -> np.ndarray:
    """Of every node: its larger neighbours, each joined to the smallest of the node and its neighbours.

    `edges`: directed uint64, both ways, all edges of each node that is in them. The result goes from the larger
    to the smaller node, sorted and unique.
    """
    edges = distinct(edges)
    node, other, least = _least(edges)
    larger = other > node
    return distinct((other[larger] << _SHIFT) | least[larger])


def small_star(edges: np.ndarray) -> np.ndarray:
    """Of every node: itself and its neighbours, all of them smaller, joined to the smallest of them.

    `edges`: directed uint64 from the larger to the smaller node, all edges of each larger node. The result goes
    from the larger to the smaller node, sorted and unique.
    """
    edges = distinct(edges)
    node, other, least = _least(edges)
    joined = np.concatenate([(other << _SHIFT) | least, (node << _SHIFT) | least])
    return distinct(joined[(joined >> _SHIFT) != (joined & _LOW)])


def labels(edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(node uint64, label uint64), sorted by node, of directed edges both ways once they are stars."""
    node, _, least = _least(distinct(edges))
    first = np.flatnonzero(np.diff(node, prepend=node[:1] + np.uint64(1)))
    return node[first], least[first]


def _least(edges: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of sorted edges: node, neighbour, and the smallest of the node and all its neighbours, per edge."""
    node, other = edges >> _SHIFT, edges & _LOW
    starts = np.flatnonzero(np.diff(node, prepend=node[:1] + np.uint64(1)))
    sizes = np.diff(starts, append=len(node))
    return node, other, np.minimum(np.repeat(other[starts], sizes), node)


@kernel
def _union_find(nodes: int, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    parent = np.arange(nodes)
    for edge in range(len(left)):
        a, b = left[edge], right[edge]
        while parent[a] != a:
            parent[a] = parent[parent[a]]
            a = parent[a]
        while parent[b] != b:
            parent[b] = parent[parent[b]]
            b = parent[b]
        if a < b:
            parent[b] = a
        else:
            parent[a] = b
    for node in range(nodes):  # a parent is never larger than its child, so it is settled before
        parent[node] = parent[parent[node]]
    return parent
