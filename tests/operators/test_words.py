"""Words of plain stretches, found 64 bytes at a time, against the rules alone; and the bits that they are found by."""

import random

import numpy as np
import pyarrow as pa
import pytest

from malmoi.operators import word_runs
from malmoi.operators.analysis import TextBatch
from malmoi.operators.byte_masks import below, bits_in, highest, lowest, masks
from malmoi.operators.kernel import lean
from malmoi.operators.normalise import text_buffers
from malmoi.operators.unicode_tables import (
    ALETTER,
    KATAKANA,
    LETTER,
    MID_NUM_LET,
    NUMBER,
    OTHER,
    SPACE,
    properties,
)
from malmoi.operators.word_runs import _HANGUL, _TWO

ALPHABET = [
    *"aZ9_.:;,'\" \n\r\t-éßÀ×÷가힣각ﾞ日本ーア。\u3000«ʼʰжЖ҂İıǅ’“…·אב",
    *(
        "\u0301",
        "\u200d",
        "\u0483",
        "\x0b",
        "\x85",
        "\xa0",
        "\u2028",
        "😀",
        "🇰🇷",
        "가나다 ",
        "the ",
        "a.b",
        "1,000",
        "漢字かな",
        "e’e",
        "1’1",
        "a/(b)-c",
    ),
    *"Ｍ９々ゝ・゠｜＃ぁんァヺ》Ωـỹ×™→★‘—_ªµ²\u3099\u2007\u2003\u202f\u203f\u2024\u200b\xad\u0e01\u0e31",
]


def batch_of(texts: list[bytes]) -> TextBatch:
    data, offsets = text_buffers(pa.array(texts, pa.large_binary()).view(pa.large_string()))
    return TextBatch(data, offsets)


def random_text(rng: random.Random) -> bytes:
    some = rng.sample(ALPHABET, rng.choice([3, 6, len(ALPHABET)]))
    weights = [rng.random() ** 3 for _ in some]
    size = rng.choice([0, 1, 5, 20, 63, 64, 65, 100, 200])
    text = bytearray("".join(rng.choices(some, weights, k=size)).encode())
    if text and rng.random() < 0.2:
        text[rng.randrange(len(text))] = rng.randrange(256)
    return bytes(text)


@pytest.mark.parametrize("seed", range(8))
def test_words_are_the_tokens_with_a_letter_or_number(seed: int) -> None:
    rng = random.Random(seed)
    texts = [random_text(rng) for _ in range(300)]
    batch = batch_of(texts)
    words, tokens = batch.words, batch.tokens  # all tokens are found by the rules
    kept = tokens.flags & 3 != 0
    for name in ("start", "end", "chars", "flags"):
        found, expected = getattr(words, name), getattr(tokens, name)[kept]
        assert np.array_equal(found, expected), name
    assert np.array_equal(words.first, np.concatenate([[0], np.cumsum(kept)])[tokens.first])


POINTS = np.array([*range(0x80, 0xD800), *range(0xE000, 0x110000)])


@pytest.fixture(scope="module")
def codes() -> np.ndarray:
    """The bytes of all characters that are not ASCII, a row each, zeros behind them."""
    return np.array([[*(chr(x).encode() + bytes(4))[:6]] for x in POINTS.tolist()], np.uint8)


def told(codes: np.ndarray, tests: tuple[tuple[int, int, int], ...]) -> np.ndarray:
    """Which characters pass all tests."""
    passed = [(low <= codes[:, offset]) & (codes[:, offset] <= high) for offset, low, high in tests]
    return np.logical_and.reduce(passed)


def test_plain_characters_are_letters_that_always_join(codes: np.ndarray) -> None:
    index, blocks = properties()
    plain = POINTS[np.logical_or.reduce([told(codes, tests) for tests in (*_TWO, *_HANGUL)])]
    assert {0xE9, 0xAC00, 0xD7A3, 0x416} <= set(plain.tolist())
    assert not set(plain.tolist()) & {0xD7, 0xF7, 0xD7A4, 0x300, 0x482}
    entries = blocks[index[plain >> 8], plain & 255].astype(np.int64)
    assert plain[entries != (ALETTER << 8 | LETTER)].tolist() == []


@pytest.mark.parametrize(
    ("patterns", "kind", "lettered"),
    [
        ("_MORE_OF_TWO", ALETTER, True),
        ("_LATIN", ALETTER, True),
        ("_AGAIN", ALETTER, True),
        ("_ALONE", OTHER, True),
        ("_KATAKANA", KATAKANA, True),
        ("_QUOTES", MID_NUM_LET, False),
        ("_SIGNS_OF_TWO", OTHER, False),
        ("_SIGNS", OTHER, False),
        ("_MORE_SIGNS", OTHER, False),
        ("_WIDE_SPACE", SPACE, False),
    ],
)
def test_characters_that_are_told_by_their_bytes(codes, patterns: str, kind: int, lettered: bool) -> None:
    index, blocks = properties()
    points = POINTS[np.logical_or.reduce([told(codes, tests) for tests in getattr(word_runs, patterns)])]
    entries = blocks[index[points >> 8], points & 255].astype(np.int64)
    wrong = (entries >> 8 != kind) | (entries & (LETTER | NUMBER) != LETTER * lettered)
    assert points[wrong].tolist() == []
    assert len(points)


_masks = masks(
    (((0, 10, 10),),), (((0, 0xEA, 0xEA), (1, 0xB0, 0xBF)), ((0, 0xEB, 0xEC),), ((3, 0xF0, 0xFF),))
)


@lean
def _look(data: np.ndarray, out: np.ndarray) -> None:
    for p in range(0, len(data), 64):
        lines, some = _masks(data, p)
        out[0, p // 64], out[1, p // 64] = lines, some
        out[2, p // 64] = lowest(some) | (highest(some) + 1) << 8 | bits_in(some) << 16
        out[3, p // 64] = below(p)


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 66, 67, 68, 130, 1000])
def test_bits_of_64_bytes(size: int) -> None:
    data = np.random.default_rng(size).choice(np.array([0, 10, 0xEA, 0xB5, 0xEB, 0xF7], np.uint8), size)
    out = np.zeros((4, -(-size // 64)), np.uint64)
    _look(data, out)
    ahead = np.append(data, np.zeros(67, np.uint8))
    some = (ahead == 0xEB) | (np.roll(ahead, -3) >= 0xF0)
    some |= (ahead == 0xEA) & (np.roll(ahead, -1) == 0xB5)
    for k in range(out.shape[1]):
        bits = some[k * 64 : k * 64 + 64]
        assert out[0, k] == sum(1 << int(i) for i in np.flatnonzero(ahead[k * 64 : k * 64 + 64] == 10))
        assert out[1, k] == sum(1 << int(i) for i in np.flatnonzero(bits))
        first, last = (int(bits.argmax()), int(64 - bits[::-1].argmax())) if bits.any() else (64, 0)
        assert out[2, k] == first | last << 8 | int(bits.sum()) << 16
        assert out[3, k] == (1 << min(k * 64, 64)) - 1
