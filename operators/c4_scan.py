"""The lines of each document as C4 judges them: which stay, what is in them, how many sentences they hold.

One pass copies every line to a buffer without its citations, tests it there and takes it back if it does
not stay; what is left in the buffer is the edited text. Legend: D documents, L languages (of a document:
`codes`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .byte_masks import below, lowest, masks
from .c4_phrases import (
    COUNTS,
    CURLY,
    FEW_WORDS,
    KEPT,
    LINES,
    LONG_WORD,
    LOREM,
    POLICY,
    SCRIPT,
    SENTENCES,
    UNTERMINATED,
    Marks,
    Phrases,
    copy_line,
    find_phrases,
    has_citation,
)
from .datatrove_affixes import Chunk
from .datatrove_joins import Tokens
from .datatrove_tables import (
    PUNCTUATION,
    SENTENCE_END,
    SPACE,
    TERMINAL,
    Rules,
    class_of,
    decode,
)
from .datatrove_words import tokenize
from .kernel import lean
from .spans import count_points
from .text_scan import back, ends_with_ellipsis, is_terminal, next_line, strip, strip_closers


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
    """For counting sentences as datatrove does it: the tokens of one line."""

    chunk: Chunk
    raw: Tokens
    tokens: Tokens
    joins: np.ndarray


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
    cp, _ = decode(text, back(text, a, b))
    if cp == 0x201D or cp == 0x2019 or cp == 0x300D or cp == 0x300F:
        return True
    return is_terminal(text, a, strip_closers(text, a, b, closers), rules)


# What terminal punctuation begins with, and few others. A test holds that it is so.
_ENDS = (
    ((0, 0x21, 0x21),),
    ((0, 0x2E, 0x2E),),
    ((0, 0x3F, 0x3F),),
    ((0, 0xD6, 0xD6), (1, 0x89, 0x89)),
    ((0, 0xD8, 0xE1),),
    ((0, 0xE2, 0xE2), (1, 0x80, 0x80), (2, 0xBC, 0xBD)),
    ((0, 0xE2, 0xE2), (1, 0x81, 0xBF)),
    ((0, 0xE3, 0xE3), (1, 0x80, 0x80), (2, 0x82, 0x82)),
    ((0, 0xEA, 0xEA), (1, 0x80, 0xAF)),
    ((0, 0xEF, 0xEF), (1, 0xB9, 0xBD)),
    ((0, 0xF0, 0xF0),),
)
_ends = masks(_ENDS)


@lean
def _plain_sentences(text: np.ndarray, a: int, b: int, rules: Rules) -> int:
    """Sentences of a line, at least one: terminal marks that white space follows, closers between left out.

    A mark outside ASCII (full-width, danda) ends a sentence without white space.
    """
    count, after, begin = 1, a, a
    while begin < b:
        bits = np.uint64(_ends(text, begin)[0] & below(b - begin))
        while bits:
            p = begin + lowest(bits)
            bits = np.uint64(bits & (bits - np.uint64(1)))
            if p < after:
                continue
            cp, length = decode(text, p)
            p += length
            if p >= b or not class_of(rules, cp) & TERMINAL:
                continue
            following, length = decode(text, p)
            while p + length < b and (
                following == 34 or following == 39 or following == 41 or following == 0x201D
            ):
                p += length
                following, length = decode(text, p)
            kind = class_of(rules, following)
            if (cp >= 128 and not kind & TERMINAL) or kind & SPACE:
                count += 1
                after = p
        begin += 64
    return count


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
    found = find_phrases(text, a, b, phrases, code)
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
    while w < word_start.size and word_start[np.uint64(w)] < a:
        w += 1
    first = w
    while w < word_start.size and word_start[np.uint64(w)] < b:
        w += 1
    return w - first, w


@lean
def _sentences(text: np.ndarray, at: int, to: int, native: bool, rules: Rules, scratch: Scratch) -> int:
    """Sentences of the line, or -1 where the scratch is too small."""
    if native:
        return _plain_sentences(text, at, to, rules)
    tokens = scratch.tokens
    n = tokenize(tokens, 0, text, at, to, rules, scratch.chunk, scratch.raw, scratch.joins, True)
    if n < 0 or n > tokens.start.size:
        return -1
    return _token_sentences(text, tokens, n, rules)


@lean
def _note(counts: np.ndarray, doc: int, wrong: int) -> bool:
    """Count what is wrong with a line; whether it stays."""
    if wrong:
        for bit in (LOREM, CURLY, LONG_WORD, UNTERMINATED, FEW_WORDS, SCRIPT, POLICY):
            counts[bit, doc] += wrong >> bit & 1
    return not wrong & ~((1 << LOREM) | (1 << CURLY))


@lean
def judge_lines(
    data: np.ndarray,
    lines: tuple[np.ndarray, np.ndarray, np.ndarray],
    codes: np.ndarray,
    line: LineRules,
    phrases: Phrases,
    word_start: np.ndarray,
    marks: Marks,
    rules: Rules,
    out: np.ndarray,
    counts: np.ndarray,
) -> None:
    """Fill the int64 [COUNTS, D] `counts` of native rules without making the edited text.

    `lines`: first [D + 1], start and end of the batch's lines, stripped; `word_start`: its words; `out` uint8: room
    for the longest line, which only those with a citation mark are copied to.
    """
    first, starts, ends = lines
    w = 0
    for doc in range(first.size - 1):
        code = codes[doc]
        for i in range(first[doc], first[doc + 1]):
            a, b = starts[i], ends[i]
            if a == b:
                continue
            counts[LINES, doc] += 1
            words, w = _words_between(word_start, w, a, b)
            longest = 0
            if b - a > line.max_word_chars[code]:
                _, longest = _runs(data, a, b, rules)
            text = data
            if line.citations[code] and has_citation(data, a, b, marks, rules):
                b = copy_line(data, a, b, out, 0, True, marks, rules)
                text, a, b = out, 0, _close(out, 0, b, rules)
            wrong = _judge_line(text, a, b, words, longest, code, line, phrases, marks.closers, rules)
            if _note(counts, doc, wrong):
                counts[SENTENCES, doc] += _plain_sentences(text, a, b, rules)
                counts[KEPT, doc] += 1


@lean
def edit_lines(
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
    counts: np.ndarray,
) -> bool:
    """Fill the int64 [COUNTS + 1, D] `counts` (the last row: code points left); `out`, `out_offsets` get the
    edited text. False where the scratch is too small.

    `word_start` int64: UAX #29 words of the batch (native).
    """
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
            to = copy_line(data, a, b, out, at, line.citations[code], marks, rules)
            if native:
                to = _close(out, at, to, rules)
            wrong = _judge_line(out, at, to, words, longest, code, line, phrases, marks.closers, rules)
            if not _note(counts, doc, wrong):
                continue
            sentences = _sentences(out, at, to, native, rules, scratch)
            if sentences < 0:
                return False
            counts[SENTENCES, doc] += sentences
            counts[KEPT, doc] += 1
            for p in range(k, at):
                out[p] = 10
            k = to
            blank = False
        k = _close(out, begin, k, rules)
        out_offsets[doc + 1] = k
        counts[COUNTS, doc] = count_points(out, begin, k)
    return True
