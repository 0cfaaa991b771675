"""Runs of tokens that spell one of spaCy's special cases and are joined again (its `_apply_special_cases`)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .datatrove_tables import MAX_SEQUENCE, Rules, chain, find_key
from .kernel import lean


class Tokens(NamedTuple):
    """Arrays of one length: byte `start` int64, `size` int32 in bytes, `chars` int32, `hash` uint64,
    `space` uint8.
    """

    start: np.ndarray
    size: np.ndarray
    chars: np.ndarray
    hash: np.ndarray
    space: np.ndarray


def new_tokens(capacity: int) -> Tokens:
    return Tokens(
        np.empty(capacity, np.int64),
        np.empty(capacity, np.int32),
        np.empty(capacity, np.int32),
        np.empty(capacity, np.uint64),
        np.empty(capacity, np.uint8),
    )


@lean
def _runs_at(tokens: Tokens, i: int, n: int, rules: Rules) -> int:
    """Bit L is set if the L tokens from `i` on are those of a special case."""
    h = np.uint64(0)
    runs = 0
    for j in range(i, min(n, i + MAX_SEQUENCE)):
        h = np.uint64(chain(h, tokens.hash[j]))
        slot = find_key(rules.sequence_keys, rules.sequence_kinds, 0, h)
        if slot < 0:
            break
        kind = rules.sequence_kinds[slot]
        if kind & 2:
            runs |= 1 << (j - i + 1)
        if not kind & 1:
            break
    return runs


@lean
def find_joins(tokens: Tokens, n: int, rules: Rules, joins: np.ndarray) -> bool:
    """Fill `joins` int32 [4, n + 1]: row 0 gets the length of the run to join at each token. False: there
    is none.

    As in spaCy, longer runs first, then those further left; a run is taken if neither of its ends lies in a
    run that was looked at before, taken or not.
    """
    places = 0
    starts, hashes = rules.sequence_starts, tokens.hash
    for i in range(n):
        if not starts[np.int64(hashes[i] & np.uint64(4095))]:
            continue
        runs = _runs_at(tokens, i, n, rules)
        if runs:
            joins[0, places], joins[1, places] = i, runs
            places += 1
    if places == 0:
        return False
    taken, seen = joins[2], joins[3]
    for i in range(n):
        taken[i] = seen[i] = 0
    for length in range(MAX_SEQUENCE, 0, -1):
        for place in range(places):
            if joins[1, place] >> length & 1:
                i = joins[0, place]
                if not seen[i] and not seen[i + length - 1]:
                    taken[i] = length
                for j in range(i, i + length):
                    seen[j] = 1
    for i in range(n):
        joins[0, i] = taken[i]
    return True
