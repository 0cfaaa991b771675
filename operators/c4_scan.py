"""The lines of each document as C4 judges them: which stay, what is in them, how many sentences they hold.

`judge_lines` tests every line where it lies. `edit_lines` copies it to a buffer without its citations, tests it there
and takes it back if it does not stay; what is left in the buffer is the edited text. Legend: D documents, L languages
(of a document: `codes`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .byte_masks import below, bits_in, highest, lowest, masks
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
    SQUARE,
    UNTERMINATED,
    Marks,
    Phrases,
    copy_line,
    find_phrases,
    has_citation,
    rare_places,
)
from .datatrove_affixes import Chunk
from .datatrove_joins import Tokens
from .datatrove_tables import (
    PUNCTUATION,
    SENTENCE_END,
    SPACE,
    TERMINAL,
    Kinds,
    Rules,
    class_of,
    decode,
)
from .datatrove_words import tokenize
from .kernel import lean
from .spans import count_points
from .text_scan import ends_for_sure, is_terminated, next_line, skip_closers, strip


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
def _runs(data: np.ndarray, a: int, b: int, rules: Kinds) -> tuple[int, int]:
    """How many runs without white space, and the code points of the longest."""
    count = longest = run = 0
    p = a
    while p < b:
        cp, length = decode(data, p, b)
        if class_of(rules, cp) & SPACE:
            run = 0
        else:
            count += run == 0
            run += 1
            longest = max(longest, run)
        p += length
    return count, longest


_blanks = masks((((0, 0x20, 0x20),),))


@lean
def _may_have_longer(data: np.ndarray, a: int, b: int, most: float) -> bool:
    """Whether there may be a run of more than `most` characters: no ASCII space in so many bytes."""
    if b - a <= most:
        return False
    latest, longest, p = a, 0, a
    while p < b:
        blanks = np.uint64(_blanks(data, p)[0] & below(b - p))
        if blanks:
            longest = max(longest, p + lowest(blanks) - latest, 64)  # 64: between two of them
            latest = p + highest(blanks)
        p += 64
    return max(longest, b - latest) > most


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
_ascii_ends = masks(_ENDS[:3], (((0, 0x80, 0xFF),),))
_ends = masks(_ENDS[3:])


@lean
def _read_line(
    text: np.ndarray, a: int, b: int, phrases: Phrases, code: int, closers: np.ndarray, rules: Kinds
) -> tuple[int, int]:
    """What `find_phrases` finds, and the sentences, at least one: terminal marks that white space follows, closers
    between left out.

    A mark outside ASCII (full-width, danda), and what marks stand right behind it, ends a sentence without white space.
    """
    found, wide = 0, phrases.wide[code]
    count, after, begin, run = 1, a, a, -1
    while begin < b:
        inside = below(b - begin)
        rare = np.uint64(rare_places(text, begin, wide) & inside)
        if rare:
            found |= find_phrases(text, begin, rare, b, phrases, code)
        bits, high = _ascii_ends(text, begin)
        if high & inside:
            bits |= _ends(text, begin)[0]
        bits = np.uint64(bits & inside)
        while bits:
            p = begin + lowest(bits)
            bits = np.uint64(bits & (bits - np.uint64(1)))
            if p < after:
                continue
            cp, length = decode(text, p, b)
            alone = cp >= 128 or p == run
            p += length
            if p >= b or not class_of(rules, cp) & TERMINAL:
                continue
            p = skip_closers(text, p, b, closers)
            if p >= b:
                break
            following, _ = decode(text, p, b)
            kind = class_of(rules, following)
            if alone and kind & TERMINAL:
                run = p
            elif alone or kind & SPACE:
                count += 1
                after = p
        begin += 64
    return found, count


@lean
def _token_sentences(text: np.ndarray, tokens: Tokens, n: int, rules: Rules) -> int:
    """Sentences that spaCy's sentencizer makes of the tokens, at least one."""
    count, seen = 1, False
    for i in range(n):
        p, end = tokens.start[i], tokens.start[i] + tokens.size[i]
        cp, length = decode(text, p, end)
        if tokens.chars[i] == 1 and class_of(rules.kinds, cp) & SENTENCE_END:
            seen = True
            continue
        if not seen:
            continue
        punctuation = True
        while p < end:
            cp, length = decode(text, p, end)
            punctuation &= class_of(rules.kinds, cp) & PUNCTUATION != 0
            p += length
        if not punctuation:
            count += 1
            seen = False
    return count


@lean
def _wrong(longest: int, ended: bool, enough: bool, found: int, code: int, line: LineRules) -> int:
    """Bits of what is wrong with the line, in C4's order; LOREM and CURLY are only noted."""
    if longest > line.max_word_chars[code]:
        return 1 << LONG_WORD
    if not ended:
        return 1 << UNTERMINATED
    if not enough:
        return 1 << FEW_WORDS
    found &= ~(1 << SQUARE)
    if not line.script[code]:
        found &= ~(1 << SCRIPT)
    if not line.policy[code]:
        found &= ~(1 << POLICY)
    if found & (1 << SCRIPT):
        found &= ~((1 << CURLY) | (1 << POLICY))
    return found


@lean
def _close(out: np.ndarray, begin: int, end: int, rules: Kinds) -> int:
    """Strip the edited text in place; returns its end."""
    a, b = strip(out, begin, end, rules)
    if a > begin:
        for p in range(b - a):
            out[begin + p] = out[a + p]
    return begin + b - a


_LETTER, _CONTINUED = (1, 0x61, 0x7A, 0x20), ((1, 0x80, 0xBF), (2, 0x80, 0xBF))
# Where a word begins for sure: a letter of ASCII or a Hangul syllable behind a space, Hiragana and Han.
_word_starts = masks(
    (
        ((0, 0x20, 0x20), _LETTER),
        ((0, 0x20, 0x20), (1, 0xEB, 0xEC), (2, 0x80, 0xBF), (3, 0x80, 0xBF)),
        ((0, 0xE5, 0xE9), *_CONTINUED),
        ((0, 0xE3, 0xE3), (1, 0x81, 0x81), (2, 0x81, 0xBF)),
    )
)


@lean
def _has_words(word_start: np.ndarray, w: int, a: int, b: int, fewest: float) -> tuple[bool, int]:
    """Whether at least `fewest` of the words from the `w`th on begin in [a, b), and the first that begins at `a` or
    behind it."""
    last = word_start.size
    while w + 64 < last and word_start[np.uint64(w + 64)] < a:
        w += 64
    while w < last and word_start[np.uint64(w)] < a:
        w += 1
    if fewest <= 0:
        return True, w
    if fewest > last - w:
        return False, w
    return bool(word_start[np.uint64(w + np.int64(np.ceil(fewest)) - 1)] < b), w


@lean
def _sentences(text: np.ndarray, at: int, to: int, rules: Rules, scratch: Scratch) -> int:
    """Sentences of the line as datatrove counts them, or -1 where the scratch is too small."""
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
    kinds: Kinds,
    out: np.ndarray,
    copy: np.ndarray,
    counts: np.ndarray,
) -> None:
    """Fill the int64 [COUNTS, D] `counts` of native rules without making the edited text.

    `lines`: first [D + 1], start and end of the batch's lines, stripped; `word_start`: its words; `out` uint8: room
    for the longest line, which only those with a citation mark are copied to; `copy` is the same, to be read.
    """
    first, starts, ends = lines
    w = 0
    for doc in range(first.size - 1):
        code = codes[doc]
        any_end = not line.terminal[code]
        for i in range(first[doc], first[doc + 1]):
            a, b = starts[i], ends[i]
            if a == b:
                continue
            counts[LINES, doc] += 1
            longest = found = sentences = 0
            if _may_have_longer(data, a, b, line.max_word_chars[code]):
                _, longest = _runs(data, a, b, kinds)
            sure = any_end or ends_for_sure(data, a, b)
            ended = any_end or data[b - 1] == 46
            if not sure:
                ended = is_terminated(data, a, b, marks.closers, kinds)
            enough = False
            if ended or not sure:
                # At a letter behind a space a word begins: most lines have enough of them.
                starts_here = np.uint64(_word_starts(data, a)[0] & below(b - a - 1))
                enough = bits_in(starts_here) >= line.min_words[code]
                if not enough:
                    enough, w = _has_words(word_start, w, a, b, line.min_words[code])
            # Only of a line that stays, or may stay without its citation marks, the rest has to be read.
            if (enough and ended) or not sure:
                found, sentences = _read_line(data, a, b, phrases, code, marks.closers, kinds)
                if found >> SQUARE & 1 and line.citations[code] and has_citation(data, a, b, marks, kinds):
                    to = copy_line(data, a, b, out, 0, True, marks, kinds)
                    to = _close(out, 0, to, kinds)
                    ended = any_end or is_terminated(copy, 0, to, marks.closers, kinds)
                    found, sentences = _read_line(copy, 0, to, phrases, code, marks.closers, kinds)
            if _note(counts, doc, _wrong(longest, ended, enough, found, code, line)):
                counts[SENTENCES, doc] += sentences
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
    kinds = rules.kinds
    k = w = 0
    for doc in range(offsets.size - 1):
        start, end = offsets[doc], offsets[doc + 1]
        code, begin, blank = codes[doc], k, False
        while start < end:
            stop, following = next_line(data, start, end, kinds, native)
            a, b = strip(data, start, stop, kinds)
            start = following
            if a == b:
                blank = True
                continue
            counts[LINES, doc] += 1
            words, longest = _runs(data, a, b, kinds)
            enough = words >= line.min_words[code]
            if native:
                enough, w = _has_words(word_start, w, a, b, line.min_words[code])
            at = k + (0 if k == begin else 2 if blank and native else 1)
            to = copy_line(data, a, b, out, at, line.citations[code], marks, kinds)
            if native:
                to = _close(out, at, to, kinds)
            ended = not line.terminal[code] or is_terminated(out, at, to, marks.closers, kinds)
            found, sentences = _read_line(out, at, to, phrases, code, marks.closers, kinds)
            if not _note(counts, doc, _wrong(longest, ended, enough, found, code, line)):
                continue
            if not native:
                sentences = _sentences(out, at, to, rules, scratch)
            if sentences < 0:
                return False
            counts[SENTENCES, doc] += sentences
            counts[KEPT, doc] += 1
            for p in range(k, at):
                out[p] = 10
            k = to
            blank = False
        k = _close(out, begin, k, kinds)
        out_offsets[doc + 1] = k
        counts[COUNTS, doc] = count_points(out, begin, k)
    return True
