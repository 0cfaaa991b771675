"""What a pattern says of characters is what the tables of code points say."""

import itertools

import numpy as np
import pytest

from malmoi.operators.code_points import MARK, OTHER, SINGLE, SPACE, WORD, code_points
from malmoi.operators.kernel import kernel
from malmoi.operators.script_masks import HANGUL, PATTERNS, hangul_mask, script_masks


@kernel
def hangul(data, p):
    return hangul_mask(data, p)


@kernel
def scripts(data, p):
    return script_masks(data, p)


def characters(pattern):
    _, *limits, parity = pattern
    for bytes_ in itertools.product(*(range(a, b + 1) for a, b in filter(None, limits))):
        if parity is None or bytes_[1] & 1 == parity:
            yield bytes(bytes_).decode()


@pytest.mark.parametrize("pattern", [*PATTERNS, *HANGUL])
def test_a_pattern_tells_the_truth(pattern):
    classes, lower = code_points()
    points = np.array([ord(c) for c in characters(pattern)])
    assert len(points)
    want = {WORD: {WORD}, SINGLE: {SINGLE}, OTHER: {OTHER, SPACE}}[pattern[0]]
    assert set(classes[points].tolist()) <= want
    assert MARK not in want
    if pattern[0] != OTHER:
        assert (lower[points] == points).all()


def test_masks_find_the_characters_of_their_patterns_and_no_others():
    kinds = {}
    for pattern in [*PATTERNS, *HANGUL]:
        for c in characters(pattern):
            kinds[c] = (pattern[0], len(c.encode()))
    order = [(WORD, 2), (SINGLE, 3), (OTHER, 2), (OTHER, 3), (WORD, 3)]
    points = [chr(p) for p in range(0x80, 0x10000) if not 0xD800 <= p < 0xE000] + ["\U0001f600", "a"]
    for start in range(0, len(points), 15):
        some = points[start : start + 15]
        raw = np.frombuffer("".join(some).encode() + b" " * 70, np.uint8)
        masks = dict(zip(order, [*scripts(raw, 0), *hangul(raw, 0)], strict=True))
        p = 0
        for c in some:
            size = len(c.encode())
            got = [kind for kind in order if int(masks[kind]) >> p & 1]
            assert got == ([kinds[c]] if c in kinds else []), hex(ord(c))
            assert not any(int(mask) >> (p + k) & 1 for mask in masks.values() for k in range(1, size))
            p += size


def test_what_is_cut_or_not_utf8_is_not_found():
    for raw in (b"\xea\xb0a", b"\xeb\xff\x80", b"\xe3\x81\xc1", b"\xc3 ", b"\xd0\xffa", b"\xe5\x80"):
        data = np.frombuffer(raw + b" " * 80, np.uint8)
        assert not any([*scripts(data, 0), *hangul(data, 0)])
