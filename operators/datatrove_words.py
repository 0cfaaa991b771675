"""The English words of datatrove 0.10.1, for the parity mode of the quality rules.

datatrove splits English with `spacy.blank("en")` (3.8) and counts sentences with spaCy's `sentencizer`.
This file computes the same segmentation over UTF-8 bytes: white space cuts chunks; of each chunk prefixes
and suffixes are peeled off, special cases ("don't", "a.m.", ":-)") are looked up whole, URLs stay whole,
the rest is cut at infixes; at the end runs of tokens that spell a special case are joined again. The tables
come from datatrove_words.npz, made by benchmarks/make_datatrove_words.py from the libraries themselves (its
array `notice` holds their licences).

What is covered: every rule of the tokenizer. What is not: a text of 2**30 characters and more (spaCy
refuses it), and code points that a Unicode newer than the tables' has reclassified.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .analysis import TextBatch
from .datatrove_affixes import Chunk, find_infix, find_prefix, find_suffix, new_chunk
from .datatrove_joins import Tokens, find_joins, new_tokens
from .datatrove_tables import (
    DOT_BEFORE,
    MAX_SPECIAL_CHARS,
    PLAIN,
    SPACE,
    SUFFIX,
    Rules,
    class_of,
    decode,
    english_rules,
    find_key,
    hash_bytes,
)
from .datatrove_url import is_url
from .kernel import lean


class Words(NamedTuple):
    """Words of document `i` are `first[i]:first[i + 1]` of `tokens`; `first` int64 [documents + 1]."""

    first: np.ndarray
    tokens: Tokens


@lean
def _emit(out: Tokens, n: int, data: np.ndarray, start: int, end: int, chars: int) -> int:
    """Append a token; beyond the capacity only the count goes on."""
    if n < out.start.size:
        out.start[n] = start
        out.size[n] = end - start
        out.chars[n] = chars
        out.hash[n] = hash_bytes(data, start, end)
        out.space[n] = 0
    return n + 1


@lean
def _emit_special(out: Tokens, n: int, data: np.ndarray, start: int, rules: Rules, row: int) -> int:
    for place in range(rules.piece_first[row], rules.piece_first[row + 1]):
        chars = rules.piece_chars[place]
        end = start
        for _ in range(chars):
            end += 1
            while end < data.size and (data[end] & 0xC0) == 0x80:
                end += 1
        n = _emit(out, n, data, start, end, chars)
        start = end
    return n


@lean
def _row(data: np.ndarray, start: int, end: int, rules: Rules) -> int:
    """Row of the special case that the bytes [start, end) spell, or -1."""
    if not rules.special_ends[np.int64(data[start]) << 8 | np.int64(data[end - 1])]:
        return -1
    slot = find_key(rules.special_keys, rules.special_rows, -1, hash_bytes(data, start, end))
    return -1 if slot < 0 else int(rules.special_rows[slot])


@lean
def _special(data: np.ndarray, at: np.ndarray, a: int, b: int, rules: Rules) -> int:
    """Row of the special case that characters [a, b) of the chunk spell, or -1."""
    return -1 if b - a > MAX_SPECIAL_CHARS else _row(data, at[a], at[b], rules)


@lean
def _cut_infixes(out: Tokens, n: int, data: np.ndarray, chunk: Chunk, a: int, b: int) -> int:
    start = i = a
    while i < b:
        length = find_infix(chunk, i, a, b)
        if length == 0:
            i += 1
            continue
        if i > a:  # spaCy leaves an infix at the very beginning with what follows it
            if i > start:
                n = _emit(out, n, data, chunk.at[start], chunk.at[i], i - start)
            n = _emit(out, n, data, chunk.at[i], chunk.at[i + length], length)
            start = i + length
        i += length
    if start < b:
        n = _emit(out, n, data, chunk.at[start], chunk.at[b], b - start)
    return n


@lean
def _cut_chunk(out: Tokens, n: int, data: np.ndarray, chunk: Chunk, b: int, rules: Rules) -> int:
    """Tokens of the chunk's characters [0, b)."""
    at = chunk.at
    a = suffixes = last = 0
    while b > a and b - a != last:
        if _special(data, at, a, b, rules) >= 0:
            break
        last = b - a
        pre = find_prefix(chunk, a, b)
        if pre and a + pre < b and _special(data, at, a + pre, b, rules) >= 0:
            n = _emit(out, n, data, at[a], at[a + pre], pre)
            a += pre
            break
        suf = find_suffix(data, chunk, a + pre, b, rules)
        if suf and b - suf > a and _special(data, at, a, b - suf, rules) >= 0:
            pre = 0
            last = -1
        if pre:
            n = _emit(out, n, data, at[a], at[a + pre], pre)
            a += pre
        if suf:
            chunk.suffix[suffixes] = suf
            suffixes += 1
            b -= suf
        if last < 0:
            break
    if b > a:
        row = _special(data, at, a, b, rules)
        if row >= 0:
            n = _emit_special(out, n, data, at[a], rules, row)
        elif is_url(chunk.cp, chunk.cls, a, b):
            n = _emit(out, n, data, at[a], at[b], b - a)
        else:
            n = _cut_infixes(out, n, data, chunk, a, b)
    for place in range(suffixes - 1, -1, -1):
        suf = chunk.suffix[place]
        n = _emit(out, n, data, at[b], at[b + suf], suf)
        b += suf
    return n


@lean
def _cut_simple(out: Tokens, n: int, data: np.ndarray, chunk: Chunk, b: int, rules: Rules) -> int:
    """Tokens of a chunk of plain characters, the last one of any kind; -1 where that is not so simple."""
    at, last = chunk.at, chunk.cls[b - 1]
    if _special(data, at, 0, b, rules) >= 0:
        return -1
    end = b
    if not last & PLAIN:
        c = chunk.cp[b - 1]
        if b == 1 or not (last & SUFFIX or (c == 46 and chunk.cls[b - 2] & DOT_BEFORE)):
            return -1
        end = b - 1
    row = _special(data, at, 0, end, rules)
    if row >= 0:
        n = _emit_special(out, n, data, at[0], rules, row)
    else:
        n = _emit(out, n, data, at[0], at[end], end)
    return _emit(out, n, data, at[end], at[b], 1) if end < b else n


@lean
def _letters(data: np.ndarray, p: int, end: int) -> int:
    """End of the run of ASCII letters at `p` if white space or the end of the text follows, else `p`."""
    q = p
    while q < end and 97 <= (data[q] | 32) <= 122:
        q += 1
    if q == end or data[q] == 32 or 9 <= data[q] <= 13:
        return q
    return p


@lean
def _cut(out: Tokens, data: np.ndarray, begin: int, end: int, rules: Rules, chunk: Chunk) -> int:
    """Tokens of the text [begin, end) before runs are joined, white space tokens among them."""
    n = 0
    p = begin
    while p < end:
        q = _letters(data, p, end)
        if q > p:
            row = _row(data, p, q, rules) if q - p <= MAX_SPECIAL_CHARS else -1
            n = _emit_special(out, n, data, p, rules, row) if row >= 0 else _emit(out, n, data, p, q, q - p)
            p = q
            continue
        size = marks = 0
        q = p
        while q < end:
            cp, length = decode(data, q, end)
            cls = class_of(rules.kinds, cp)
            if cls & SPACE:
                break
            chunk.cp[size], chunk.cls[size], chunk.at[size] = cp, cls, q
            marks += cls & PLAIN == 0
            size += 1
            q += length
        if size:
            chunk.at[size] = q
            done = -1
            if marks == 0 or (marks == 1 and not chunk.cls[size - 1] & PLAIN):
                done = _cut_simple(out, n, data, chunk, size, rules)
            n = done if done >= 0 else _cut_chunk(out, n, data, chunk, size, rules)
        p = q
        chars = 0
        while q < end:
            cp, length = decode(data, q, end)
            if not class_of(rules.kinds, cp) & SPACE:
                break
            q += length
            chars += 1
        if p > begin and p < q and data[p] == 32:
            p += 1
            chars -= 1
        if p < q:
            n = _emit(out, n, data, p, q, chars)
            if n <= out.space.size:
                out.space[n - 1] = 1
        p = q
    return n


@lean
def _join(
    out: Tokens,
    k: int,
    data: np.ndarray,
    raw: Tokens,
    n: int,
    rules: Rules,
    joins: np.ndarray,
    keep_space: bool,
) -> int:
    """Append the first `n` tokens of `raw` to `out` from `k` on, runs that spell a special case joined."""
    any_join = find_joins(raw, n, rules, joins)
    i = 0
    while i < n:
        length = joins[0, i] if any_join else 0
        if length:
            end = raw.start[i + length - 1] + raw.size[i + length - 1]
            touching = True
            for j in range(i, i + length - 1):
                touching &= raw.start[j] + raw.size[j] == raw.start[j + 1]
            row = -1
            if touching:
                row = _row(data, raw.start[i], end, rules)
            if row >= 0:
                k = _emit_special(out, k, data, raw.start[i], rules, row)
                i += length
                continue
        if keep_space or not raw.space[i]:
            if k < out.start.size:
                out.start[k], out.size[k], out.chars[k] = raw.start[i], raw.size[i], raw.chars[i]
                out.hash[k], out.space[k] = raw.hash[i], raw.space[i]
            k += 1
        i += 1
    return k


@lean
def tokenize(
    out: Tokens,
    k: int,
    data: np.ndarray,
    begin: int,
    end: int,
    rules: Rules,
    chunk: Chunk,
    raw: Tokens,
    joins: np.ndarray,
    keep_space: bool,
) -> int:
    """Append the tokens of the text [begin, end) to `out` from `k` on; -1 where scratch is too small.

    `chunk` holds the longest run without white space plus one, `raw` and `joins` one more than the tokens.
    """
    n = _cut(raw, data, begin, end, rules, chunk)
    if n >= raw.start.size:
        return -1
    return _join(out, k, data, raw, n, rules, joins, keep_space)


@lean
def longest_chunk(data: np.ndarray) -> int:
    """Bytes of the longest run without a space, tab or newline."""
    longest = run = 0
    for i in range(data.size):
        run = 0 if data[i] == 32 or 9 <= data[i] <= 13 else run + 1
        longest = max(longest, run)
    return longest


@lean
def _tokenize_all(
    data: np.ndarray,
    offsets: np.ndarray,
    rules: Rules,
    out: Tokens,
    first: np.ndarray,
    chunk: Chunk,
    raw: Tokens,
    joins: np.ndarray,
) -> int:
    k = 0
    for doc in range(offsets.size - 1):
        first[doc] = k
        k = tokenize(out, k, data, offsets[doc], offsets[doc + 1], rules, chunk, raw, joins, False)
        if k < 0 or k > out.start.size:
            return -1
    first[offsets.size - 1] = k
    return k


def english_words(batch: TextBatch) -> Words:
    """Words of each document as datatrove 0.10.1 splits them; kept with the batch's analysis."""
    known: Words | None = vars(batch).get("_english_words")
    if known is not None:
        return known
    offsets = batch.offsets
    data = batch.data
    longest = int(np.diff(offsets).max(initial=0))
    chunk = new_chunk(longest_chunk(data) + 2)
    first = np.empty(offsets.size, np.int64)
    for bytes_per_token in (3, 1):
        out = new_tokens(data.size // bytes_per_token + 256)
        raw = new_tokens(longest // bytes_per_token + 256)
        joins = np.empty((4, raw.start.size), np.int32)
        count = _tokenize_all(data, offsets, english_rules(), out, first, chunk, raw, joins)
        if count >= 0:
            break
    words = Words(first, Tokens(*(column[:count] for column in out)))
    vars(batch)["_english_words"] = words
    return words
