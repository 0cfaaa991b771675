"""What a pattern says of characters is what the tables of code points say."""

import itertools

import numpy as np
import pytest

from malmoi.operators.code_points import MARK, OTHER, SINGLE, SPACE, WORD, code_points
from malmoi.operators.kernel import kernel
from malmoi.operators.script_masks import HANGUL, PATTERNS, hangul_masks, script_masks

MASK = (1 << 64) - 1


@kernel
def hangul(data, p, whole):
    return hangul_masks(data, p, whole)


@kernel
def scripts(data, p, whole):
    return script_masks(data, p, whole)


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


def bits(mask):
    return [k for k in range(64) if int(mask) >> k & 1]


@pytest.mark.parametrize(("find", "patterns"), [(scripts, PATTERNS), (hangul, HANGUL)])
def test_masks_find_the_characters_of_their_patterns_and_no_others(find, patterns):
    kinds = {c: pattern[0] for pattern in patterns for c in characters(pattern)}
    points = [chr(p) for p in range(0x80, 0x10000) if not 0xD800 <= p < 0xE000] + ["\U0001f600", "a"]
    for start in range(0, len(points), 15):
        some = points[start : start + 15]
        raw = np.frombuffer("".join(some).encode() + b" " * 70, np.uint8)
        want = [], [], []
        p = 0
        for c in some:
            places = range(p, p := p + len(c.encode()))
            want[0].extend(places if kinds.get(c) in (WORD, SINGLE) else [])
            want[1].extend(places[:1] if kinds.get(c) == SINGLE else [])
            want[2].extend(places if c in kinds else [])
        assert tuple(map(bits, find(raw, 0, np.uint64(MASK)))) == want, some


def test_what_is_cut_or_not_utf8_is_not_found():
    for raw in (b"\xea\xb0a", b"\xeb\xff\x80", b"\xe3\x81\xc1", b"\xc3 ", b"\xd0\xffa", b"\xe5\x80"):
        data = np.frombuffer(raw + b" " * 80, np.uint8)
        assert not any([*scripts(data, 0, np.uint64(MASK)), *hangul(data, 0, np.uint64(MASK))])
    data = np.frombuffer("가나다라".encode() + b" " * 80, np.uint8)
    assert bits(hangul(data, 0, np.uint64(0b1111))[0]) == [0, 1, 2, 3, 4, 5]
