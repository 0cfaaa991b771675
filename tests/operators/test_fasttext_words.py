"""Words and their keys, a block of bytes at a time, against fastText's own way: byte by byte."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.operators.fasttext_words import find_words, word_key
from malmoi.operators.kernel import lean


@lean
def words_of(data: np.ndarray, start: int, end: int, edges: np.ndarray) -> int:
    n, blank, p = np.int64(0), np.uint64(1), start
    while p <= end:
        n, blank = find_words(data, p, end, blank, edges, n)
        p += 64
    return n


@lean
def key_of(data: np.ndarray, a: int, b: int) -> np.uint64:
    return word_key(data, a, b)


def check(text: bytes, before: int = 0, behind: int = 0) -> None:
    data = np.frombuffer(b"x" * before + text + b"y" * behind, np.uint8)
    edges = np.zeros(len(text) + 200, np.int64)
    count = words_of(data, before, before + len(text), edges)
    found = [tuple(pair) for pair in edges[:count].reshape(-1, 2).tolist()]
    wanted = [match.span() for match in re.finditer(rb"[^ \t\n\v\f\r\0]+", text)]
    assert found == [(a + before, b + before) for a, b in wanted]
    for (a, b), match in zip(found, wanted, strict=True):
        alone = np.frombuffer(text[slice(*match)], np.uint8)
        assert key_of(data, a, b) == key_of(alone, 0, len(alone)) != 0


@pytest.mark.parametrize("behind", [0, 7, 15, 16, 64])
@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "a",
        "말모이는 사전의 이름이다",
        "漢字 👍👍",
        "x" * 64,
        "x" * 63 + " y",
        " " * 64 + "z",
        "ab\0c\x1fd\x0ee",
    ],
)
def test_words(text: str, behind: int) -> None:
    check(text.encode(), 3, behind)
    check(text.encode(), 0, behind)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab \n\0é말👍", max_size=200), st.integers(0, 80), st.integers(0, 80))
def test_words_of_any_text(text: str, before: int, behind: int) -> None:
    check(text.encode(), before, behind)


def test_words_that_differ_have_keys_that_differ() -> None:
    words = [bytes([x]) for x in range(33, 128)]
    words += [bytes([x, y]) for x in range(97, 123) for y in range(97, 123)]
    words += [b"x" * n for n in range(1, 100)] + [b"x" * n + b"y" for n in range(1, 100)]
    words += [b"y" + b"x" * n for n in range(1, 100)] + [str(n).encode() for n in range(10, 5000)]
    keys = [int(key_of(np.frombuffer(word, np.uint8), 0, len(word))) for word in words]
    assert len(set(keys)) == len(set(words))
    for shift in (0, 50):  # the dictionary uses the lowest bits, the kept sums the highest: 16,384 places
        places = len({key >> shift & 0x3FFF for key in keys})
        expected = 16384 * (1 - (1 - 1 / 16384) ** len(set(words)))
        assert abs(places - expected) < 0.03 * expected
