"""Eight lanes give what the xxhash library and the plain formula give."""

import numpy as np
import pytest
import xxhash

from malmoi.operators.hash_lanes import LONG, combine_eight, hash_eight, hash_eight_lower
from malmoi.operators.kernel import kernel
from malmoi.operators.shingles import BASE

MASK = (1 << 64) - 1


@kernel
def hashed(data, start, end, out):
    return hash_eight(data, start, end, 0, out, 0)


@kernel
def hashed_lower(data, start, end, out):
    return hash_eight_lower(data, start, end, 0, out, 0)


@kernel
def combined(hashes, terms, base, out):
    combine_eight(hashes, 0, terms, base, out, 0)


@pytest.mark.parametrize(("run", "change"), [(hashed, bytes), (hashed_lower, bytes.lower)])
def test_words_of_every_length(run, change):
    draw = np.random.default_rng(3)
    data = draw.integers(0, 256, 200, dtype=np.uint8)
    data[::2] = draw.integers(60, 130, 100)
    for _ in range(200):
        start = draw.integers(0, 150, 8)
        end = start + draw.integers(0, draw.integers(2, 40), 8)
        out = np.zeros(8, np.uint64)
        left = int(run(data, start, end, out))
        for k in range(8):
            word = change(data[start[k] : end[k]].tobytes())
            assert bool(left >> k & 1) == (len(word) >= LONG)
            assert left >> k & 1 or int(out[k]) == xxhash.xxh64_intdigest(word)


@pytest.mark.parametrize("terms", [1, 2, 5, 13])
def test_sums_of_powers(terms):
    hashes = np.random.default_rng(terms).integers(0, 1 << 64, 7 + terms, dtype=np.uint64)
    out = np.zeros(8, np.uint64)
    combined(hashes, terms, np.uint64(BASE), out)
    for k in range(8):
        value = 0
        for j in range(terms):
            value = (value * BASE + int(hashes[k + j])) & MASK
        for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
            value = ((value ^ (value >> 33)) * factor) & MASK
        assert int(out[k]) == value ^ (value >> 33)
