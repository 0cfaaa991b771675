"""The lines of each document as C4 judges them: which stay, what is in them, how many sentences they hold.

One pass copies every line to a buffer without its citations, tests it there and takes it back if it does
not stay; what is left in the buffer is the edited text. Legend: D documents, L languages (of a document:
`codes`).
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from .datatrove_affixes import Chunk
from .datatrove_joins import Tokens
from .datatrove_tables import DIGIT, PUNCTUATION, SENTENCE_END, SPACE, TERMINAL, Rules, class_of, decode
from .datatrove_words import tokenize
from .kernel import kernel, lean
from .text_scan import back, code_points, ends_with_ellipsis, is_terminal, next_line, strip, strip_closers

LINES, KEPT, SENTENCES, LOREM, CURLY, LONG_WORD, UNTERMINATED, FEW_WORDS, SCRIPT, POLICY = range(10)
COUNTS = 10

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
CITATIONS = ("[edit]", "[citation needed]")
ANY = -1


class Phrases(NamedTuple):
    """Phrases as bytes `data[start[i]:start[i + 1]]`, what they mean, in which language's list they are
    (ANY: all).

    `filter` uint64 [1024]: bit i is set where phrase i may begin, by its first three bytes.
    """

    data: np.ndarray
    start: np.ndarray
    meaning: np.ndarray
    language: np.ndarray
    filter: np.ndarray


class Marks(NamedTuple):
    """`closers` uint32: closing quotes and brackets (none: C4 to the letter); citation marks as bytes and
    starts.
    """

    closers: np.ndarray
    citations: np.ndarray
    start: np.ndarray


class LineRules(NamedTuple):
    """By language [L]: fewest words of a line, most code points of a word (inf: no limit), and what is
    required.
    """

    min_words: np.ndarray
    max_word_chars: np.ndarray
    terminal: np.ndarray
    script: np.ndarray
    policy: np.ndarray
    citations: np.ndarray


class Scratch(NamedTuple):
    """For counting sentences as datatrove does: tokens of one line."""

    chunk: Chunk
    raw: Tokens
    tokens: Tokens
    joins: np.ndarray


@cache
def phrases_of(languages: tuple[str, ...]) -> Phrases:
    """The phrases for documents whose language is an index into `languages`; at most 64 of them."""
    entries = [("lorem ipsum", LOREM, ANY), ("javascript", SCRIPT, ANY)]
    for language in sorted({name for name in languages if name in POLICY_PHRASES}):
        for place in [i for i, name in enumerate(languages) if name == language][:1]:
            entries += [(phrase, POLICY, place) for phrase in POLICY_PHRASES[language]]
    encoded = [phrase.encode() for phrase, _, _ in entries]
    bits = np.zeros(1024, np.uint64)
    for place, phrase in enumerate(encoded):
        bits[(phrase[0] ^ (phrase[1] << 3) ^ (phrase[2] << 5)) & 1023] |= np.uint64(1 << place)
    return Phrases(
        np.frombuffer(b"".join(encoded), np.uint8),
        np.cumsum([0, *(len(phrase) for phrase in encoded)]),
        np.array([meaning for _, meaning, _ in entries]),
        np.array([language for _, _, language in entries]),
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
def _find_phrases(text: np.ndarray, a: int, b: int, phrases: Phrases, code: int) -> int:
    """Bit m is set if a phrase of meaning m, or a curly bracket, lies in [a, b); letters of ASCII in any
    case.
    """
    found = 0
    for p in range(a, b):
        if text[p] == 123:
            found |= 1 << CURLY
        if p + 3 > b:
            continue
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


@lean
def _citation(data: np.ndarray, p: int, end: int, marks: Marks, rules: Rules) -> int:
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
        cp, length = decode(data, q)
        if cp == 93:
            return q + 1 - p
        if not class_of(rules, cp) & DIGIT:
            return 0
        q += length
    return 0


@lean
def _copy(
    data: np.ndarray, a: int, b: int, out: np.ndarray, k: int, cite: bool, marks: Marks, rules: Rules
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


@lean
def _runs(data: np.ndarray, a: int, b: int, rules: Rules) -> tuple[int, int]:
    """How many runs without white space, and the code points of the longest."""
    count = longest = run = 0
    p = a
    while p < b:
        cp, length = decode(data, p)
        if class_of(rules, cp) & SPACE:
            run = 0
        else:
            count += run == 0
            run += 1
            longest = max(longest, run)
        p += length
    return count, longest


@lean
def _is_terminated(text: np.ndarray, a: int, b: int, closers: np.ndarray, rules: Rules) -> bool:
    """C4: the line ends in . ? ! or a quotation mark, not in three full stops.

    With `closers` (native) any script's terminal punctuation counts, also before closing quotes and brackets.
    """
    if a == b or ends_with_ellipsis(text, a, b):
        return False
    last = text[b - 1]
    if last == 46 or last == 63 or last == 33 or last == 34 or last == 39:
        return True
    if closers.size == 0:
        return False
    cp, _ = decode(text, back(text, b))
    if cp == 0x201D or cp == 0x2019 or cp == 0x300D or cp == 0x300F:
        return True
    return is_terminal(text, a, strip_closers(text, a, b, closers), rules)


@lean
def _plain_sentences(text: np.ndarray, a: int, b: int, rules: Rules) -> int:
    """Sentences of a line, at least one: terminal marks that white space follows, closers between left out.

    A mark outside ASCII (full-width, danda) ends a sentence without white space.
    """
    count = 0
    p = a
    while p < b:
        cp, length = decode(text, p)
        p += length
        if not class_of(rules, cp) & TERMINAL or p >= b:
            continue
        q = p
        following, length = decode(text, q)
        while q + length < b and (
            following == 34 or following == 39 or following == 41 or following == 0x201D
        ):
            q += length
            following, length = decode(text, q)
        if (cp >= 128 and not class_of(rules, following) & TERMINAL) or class_of(rules, following) & SPACE:
            count += 1
            p = q
    return count + 1


@lean
def _token_sentences(text: np.ndarray, tokens: Tokens, n: int, rules: Rules) -> int:
    """Sentences that spaCy's sentencizer makes of the tokens, at least one."""
    count, seen = 1, False
    for i in range(n):
        p, end = tokens.start[i], tokens.start[i] + tokens.size[i]
        cp, length = decode(text, p)
        if tokens.chars[i] == 1 and class_of(rules, cp) & SENTENCE_END:
            seen = True
            continue
        if not seen:
            continue
        punctuation = True
        while p < end:
            cp, length = decode(text, p)
            punctuation &= class_of(rules, cp) & PUNCTUATION != 0
            p += length
        if not punctuation:
            count += 1
            seen = False
    return count


@lean
def _judge_line(
    text: np.ndarray,
    a: int,
    b: int,
    words: int,
    longest: int,
    code: int,
    line: LineRules,
    phrases: Phrases,
    closers: np.ndarray,
    rules: Rules,
) -> int:
    """Bits of what is wrong with the line, in C4's order; LOREM and CURLY are only noted."""
    if longest > line.max_word_chars[code]:
        return 1 << LONG_WORD
    if line.terminal[code] and not _is_terminated(text, a, b, closers, rules):
        return 1 << UNTERMINATED
    if words < line.min_words[code]:
        return 1 << FEW_WORDS
    found = _find_phrases(text, a, b, phrases, code)
    if not line.script[code]:
        found &= ~(1 << SCRIPT)
    if not line.policy[code]:
        found &= ~(1 << POLICY)
    if found & (1 << SCRIPT):
        found &= ~((1 << CURLY) | (1 << POLICY))
    return found


@lean
def _close(out: np.ndarray, begin: int, end: int, rules: Rules) -> int:
    """Strip the edited text in place; returns its end."""
    a, b = strip(out, begin, end, rules)
    if a > begin:
        for p in range(b - a):
            out[begin + p] = out[a + p]
    return begin + b - a


@lean
def _words_between(word_start: np.ndarray, w: int, a: int, b: int) -> tuple[int, int]:
    """How many words from the `w`th on begin in [a, b), and the first word behind it."""
    count = 0
    while w < word_start.size and word_start[w] < b:
        count += word_start[w] >= a
        w += 1
    return count, w


@lean
def _sentences(out: np.ndarray, at: int, to: int, native: bool, rules: Rules, scratch: Scratch) -> int:
    """Sentences of the line, or -1 where the scratch is too small."""
    if native:
        return _plain_sentences(out, at, to, rules)
    tokens = scratch.tokens
    n = tokenize(tokens, 0, out, at, to, rules, scratch.chunk, scratch.raw, scratch.joins, True)
    if n < 0 or n > tokens.start.size:
        return -1
    return _token_sentences(out, tokens, n, rules)


@kernel
def scan_lines(
    data: np.ndarray,
    offsets: np.ndarray,
    codes: np.ndarray,
    line: LineRules,
    phrases: Phrases,
    word_start: np.ndarray,
    native: bool,
    marks: Marks,
    rules: Rules,
    scratch: Scratch,
    out: np.ndarray,
    out_offsets: np.ndarray,
) -> np.ndarray:
    """int64 [COUNTS + 1, D]: the counts named above, and code points left; `out`, `out_offsets` get the
    edited text.

    `word_start` int64: UAX #29 words of the batch (native). Returns an empty array where the scratch is too
    small.
    """
    counts = np.zeros((COUNTS + 1, offsets.size - 1), np.int64)
    k = w = 0
    for doc in range(offsets.size - 1):
        start, end = offsets[doc], offsets[doc + 1]
        code = codes[doc]
        begin = k
        blank = False
        while start < end:
            stop, following = next_line(data, start, end, rules, native)
            a, b = strip(data, start, stop, rules)
            start = following
            if a == b:
                blank = True
                continue
            counts[LINES, doc] += 1
            words, longest = _runs(data, a, b, rules)
            if native:
                words, w = _words_between(word_start, w, a, b)
            at = k + (0 if k == begin else 2 if blank and native else 1)
            to = _copy(data, a, b, out, at, line.citations[code], marks, rules)
            if native:
                to = _close(out, at, to, rules)
            wrong = _judge_line(out, at, to, words, longest, code, line, phrases, marks.closers, rules)
            for bit in (LOREM, CURLY, LONG_WORD, UNTERMINATED, FEW_WORDS, SCRIPT, POLICY):
                counts[bit, doc] += wrong >> bit & 1
            if wrong & ~((1 << LOREM) | (1 << CURLY)):
                continue
            sentences = _sentences(out, at, to, native, rules, scratch)
            if sentences < 0:
                return np.zeros((0, 0), np.int64)
            counts[SENTENCES, doc] += sentences
            counts[KEPT, doc] += 1
            out[k:at] = 10
            k = to
            blank = False
        k = _close(out, begin, k, rules)
        out_offsets[doc + 1] = k
        for p in range(begin, k):
            counts[COUNTS, doc] += (out[p] & 0xC0) != 0x80
    return counts
