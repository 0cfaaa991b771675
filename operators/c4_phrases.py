"""Phrases, brackets and citation marks that C4 looks for in a line."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from .byte_masks import Test, below, lowest, masks
from .datatrove_tables import DIGIT, Kinds, class_of, decode
from .kernel import inline, lean
from .text_scan import code_points

LINES, KEPT, SENTENCES, LOREM, CURLY, LONG_WORD, UNTERMINATED, FEW_WORDS, SCRIPT, POLICY = range(10)
COUNTS = 10
SQUARE = 10  # no count

# Phrases of a line that is about the page and not of it. English: C4's (Raffel et al. 2020; the list of its
# code). Korean: notices of copyright, privacy and terms under Korean news, shops and forums.
POLICY_PHRASES: dict[str, tuple[str, ...]] = {
    "en": (
        "terms of use",
        "privacy policy",
        "cookie policy",
        "uses cookies",
        "use of cookies",
        "use cookies",
    ),
    "ko": (
        *("무단전재", "무단 전재", "재배포 금지", "재배포금지", "저작권자 ⓒ", "저작권자ⓒ", "저작권자 ©"),
        *("저작권자©", "저작권자(c)", "개인정보처리방침", "개인정보 처리방침", "개인정보취급방침"),
        *("개인정보 취급방침", "이용약관", "청소년보호정책", "청소년 보호정책", "이메일무단수집거부"),
        *("이메일 무단수집 거부", "쿠키 정책", "쿠키를 사용합니다", "사업자등록번호", "통신판매업신고"),
        *("all rights reserved", "privacy policy", "terms of use"),
    ),
}
PHRASES = (("lorem ipsum", LOREM), ("javascript", SCRIPT))
CITATIONS = ("[edit]", "[citation needed]")
ANY = -1


class Phrases(NamedTuple):
    """Phrases as bytes `data[start[i]:start[i + 1]]`, what they mean, in which language's list they are
    (ANY: all).

    `wide` bool [languages]: some phrase is not of ASCII. `filter` uint64 [1024]: bit i is set where phrase i may
    begin, by three bytes.
    """

    data: np.ndarray
    start: np.ndarray
    meaning: np.ndarray
    language: np.ndarray
    wide: np.ndarray
    filter: np.ndarray


class Marks(NamedTuple):
    """`closers` uint32: closing quotes and brackets (none: C4 to the letter); citation marks as bytes and
    starts.
    """

    closers: np.ndarray
    citations: np.ndarray
    start: np.ndarray


@lru_cache(maxsize=64)  # of as many batches as differ in their languages
def phrases_of(languages: tuple[str, ...]) -> Phrases:
    """The phrases for documents whose language is an index into `languages`, in which none is twice; at most 64."""
    entries = [(phrase, meaning, ANY) for phrase, meaning in PHRASES]
    for place, language in enumerate(languages):
        entries += [(phrase, POLICY, place) for phrase in POLICY_PHRASES.get(language, ())]
    encoded = [phrase.encode() for phrase, _, _ in entries]
    bits = np.zeros(1024, np.uint64)
    for place, phrase in enumerate(encoded):
        bits[(phrase[0] ^ (phrase[1] << 3) ^ (phrase[2] << 5)) & 1023] |= np.uint64(1 << place)
    return Phrases(
        np.frombuffer(b"".join(encoded), np.uint8),
        np.cumsum([0, *(len(phrase) for phrase in encoded)]),
        np.array([meaning for _, meaning, _ in entries]),
        np.array([language for _, _, language in entries]),
        np.array(
            [any(not p.isascii() for p in POLICY_PHRASES.get(name, ())) for name in languages], np.bool_
        ),
        bits,
    )


def marks_of(closers: str) -> Marks:
    encoded = [mark.encode() for mark in CITATIONS]
    starts = np.cumsum([0, *(len(mark) for mark in encoded)])
    return Marks(code_points(closers), np.frombuffer(b"".join(encoded), np.uint8), starts)


@lean
def _lower(b: int) -> np.int64:
    return np.int64(b + 32) if 65 <= b <= 90 else np.int64(b)


@lean
def _phrases_at(text: np.ndarray, p: int, b: int, phrases: Phrases, code: int) -> int:
    """Bit m is set if a phrase of meaning m begins at `p`; letters of ASCII in any case."""
    found = 0
    key = _lower(text[p]) ^ (_lower(text[p + 1]) << 3) ^ (_lower(text[p + 2]) << 5)
    bits = phrases.filter[key & 1023]
    place = 0
    while bits:
        if bits & np.uint64(1) and (phrases.language[place] == ANY or phrases.language[place] == code):
            i, size = phrases.start[place], phrases.start[place + 1] - phrases.start[place]
            k = 0
            while k < size and p + k < b and _lower(text[p + k]) == phrases.data[i + k]:
                k += 1
            if k == size:
                found |= 1 << phrases.meaning[place]
        bits = np.uint64(bits >> np.uint64(1))
        place += 1
    return found


_RARE = dict(zip("zqjxkvbpygwfmcu", (1, 1, 2, 2, 7, 10, 15, 19, 20, 20, 20, 22, 24, 28, 28), strict=True))


def _beginning(phrase: str) -> tuple[Test, ...]:
    """Tests of bytes in which a phrase differs from most text: its three rarest letters; where it is not of ASCII, the
    last bytes of its first three characters."""
    code = phrase.encode()
    ends = [len(phrase[: k + 1].encode()) - 1 for k in range(3)]
    rarest = sorted(
        range(len(code)), key=lambda k: _RARE.get(chr(code[k]), 50 if 0x61 <= code[k] <= 0x7A else 180)
    )
    places = sorted(rarest[:3]) if code[0] < 0x80 else ends
    return tuple((k, code[k], code[k], *([0x20] if 0x61 <= code[k] <= 0x7A else [])) for k in places)


_beginnings = dict.fromkeys(
    _beginning(phrase)
    for phrase in (*(p for p, _ in PHRASES), *(p for ps in POLICY_PHRASES.values() for p in ps))
)
_MARKS = ((0, 0x7B, 0x7B, 0x20),)  # curly and square brackets
_places = masks((_MARKS, *_beginnings))
# For languages without others.
_ascii_places = masks((_MARKS, *(tests for tests in _beginnings if tests[0][1] < 0x80)))
_brackets = masks((((0, 91, 91),),))


@inline
def rare_places(text: np.ndarray, p: int, wide: bool) -> np.uint64:
    """Those of 64 bytes at which there is a bracket or a phrase may begin, one that is not of ASCII only if `wide`."""
    return np.uint64(_places(text, p)[0] if wide else _ascii_places(text, p)[0])


@lean
def find_phrases(text: np.ndarray, begin: int, bits: np.uint64, b: int, phrases: Phrases, code: int) -> int:
    """Of `rare_places` from `begin` on: bit m is set if a phrase of meaning m that ends before `b`, or a curly bracket
    (bit CURLY), begins at one of them, bit SQUARE for a square bracket."""
    found = 0
    while bits:
        p = begin + lowest(bits)
        bits = np.uint64(bits & (bits - np.uint64(1)))
        if text[p] == 123:
            found |= 1 << CURLY
        elif text[p] == 91:
            found |= 1 << SQUARE
        elif p + 3 <= b:
            found |= _phrases_at(text, p, b, phrases, code)
    return found


@lean
def has_citation(data: np.ndarray, a: int, b: int, marks: Marks, rules: Kinds) -> bool:
    """Whether a citation mark begins in [a, b)."""
    p = a
    while p < b:
        bits = np.uint64(_brackets(data, p)[0] & below(b - p))
        while bits:
            if _citation(data, p + lowest(bits), b, marks, rules):
                return True
            bits = np.uint64(bits & (bits - np.uint64(1)))
        p += 64
    return False


@lean
def _citation(data: np.ndarray, p: int, end: int, marks: Marks, rules: Kinds) -> int:
    """Bytes of the citation mark at `p`: `[12]`, `[]`, `[edit]`, `[citation needed]`; 0 where there is
    none.
    """
    for m in range(marks.start.size - 1):
        size = marks.start[m + 1] - marks.start[m]
        k = 0
        while k < size and p + k < end and data[p + k] == marks.citations[marks.start[m] + k]:
            k += 1
        if k == size:
            return k
    q = p + 1
    while q < end:
        cp, length = decode(data, q, end)
        if cp == 93:
            return q + 1 - p
        if not class_of(rules, cp) & DIGIT:
            return 0
        q += length
    return 0


@lean
def copy_line(
    data: np.ndarray, a: int, b: int, out: np.ndarray, k: int, cite: bool, marks: Marks, rules: Kinds
) -> int:
    """Append [a, b) to `out`, with `cite` without citation marks."""
    p = a
    while p < b:
        if cite and data[p] == 91:
            size = _citation(data, p, b, marks, rules)
            if size:
                p += size
                continue
        out[k] = data[p]
        k += 1
        p += 1
    return k
