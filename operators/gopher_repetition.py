"""Gopher's repetition rules (Rae et al. 2021, arXiv 2112.11446, table A1) as signals and limits.

| signal | definition (native) | undefined |
|---|---|---|
| `chars` | code points of the document; one without any is `empty` | - |
| `duplicate_paragraph_fraction` | paragraphs that came before / paragraphs | none |
| `duplicate_paragraph_char_fraction` | chars of those / of all paragraphs | none |
| `duplicate_line_fraction` | lines that came before / lines that are not empty | none |
| `duplicate_line_char_fraction` | code points of those / of all lines | none |
| `top_{2,3,4}_gram_char_fraction` | chars of the most frequent n-gram times its count / of all words | none |
| `duplicate_{5..10}_gram_char_fraction` | chars of words in an n-gram that came before / of all words | none |

A top n-gram that occurs once gives 0, and the fraction is at most 1; of several equally frequent ones it is the
first in the text; of duplicate n-grams each word counts once. An undefined signal is NaN and never fails. Words
are those of UAX #29, with case; extra copies are counted, not the first one.

`parity: datatrove` computes datatrove 0.10.1's `GopherRepetitionFilter` instead: words are the tokens of
datatrove_words.py; all character fractions are by the code points of the whole document; a top n-gram is
joined by spaces and counts even if it occurs once; the search for duplicate n-grams goes on behind each one
found, and compares the words joined without a space; lines are those of `re.split("\\n+")`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa

from .analysis import TextBatch, analyse
from .contract import Kind, Limit, judge
from .datatrove_words import english_words
from .repeat_scan import (
    DUPLICATE_SIZES,
    LARGEST,
    TOP_SIZES,
    NGrams,
    count_repeats,
    new_prefixes,
    new_seen,
    repeated_ngrams,
)
from .repeat_words import repeated_words, scratch_for
from .thresholds import ByLanguage, canonical, ratio, setting, with_signals

PIECES = ("paragraph", "line")
SIGNALS = (
    "chars",
    "duplicate_paragraph_fraction",
    "duplicate_paragraph_char_fraction",
    "duplicate_line_fraction",
    "duplicate_line_char_fraction",
    *(f"top_{n}_gram_char_fraction" for n in TOP_SIZES),
    *(f"duplicate_{n}_gram_char_fraction" for n in DUPLICATE_SIZES),
)
THRESHOLDS = tuple(f"max_{signal}" for signal in SIGNALS[1:])


@dataclass(frozen=True)
class GopherRepetition:
    """Drop documents that repeat themselves. Defaults: as published; some languages have their own.

    Each limit is the largest allowed value of the signal of its name, a fraction. `languages`: thresholds by
    language, e.g. `{"ko": {"max_duplicate_line_fraction": 0.37}}`.
    """

    max_duplicate_paragraph_fraction: float | None = 0.30
    max_duplicate_paragraph_char_fraction: float | None = 0.20
    max_duplicate_line_fraction: float | None = 0.30
    max_duplicate_line_char_fraction: float | None = 0.20
    max_top_2_gram_char_fraction: float | None = 0.20
    max_top_3_gram_char_fraction: float | None = 0.18
    max_top_4_gram_char_fraction: float | None = 0.16
    max_duplicate_5_gram_char_fraction: float | None = 0.15
    max_duplicate_6_gram_char_fraction: float | None = 0.14
    max_duplicate_7_gram_char_fraction: float | None = 0.13
    max_duplicate_8_gram_char_fraction: float | None = 0.12
    max_duplicate_9_gram_char_fraction: float | None = 0.11
    max_duplicate_10_gram_char_fraction: float | None = 0.10
    default_language: str = "en"
    languages: ByLanguage = ()
    parity: Literal["none", "datatrove"] = "none"

    name: ClassVar[str] = "gopher_repetition"
    version: ClassVar[int] = 2
    kind: ClassVar[Kind] = "judge"
    reference: ClassVar[str] = "Rae et al. 2021, arXiv 2112.11446, table A1; parity: datatrove 0.10.1"

    def __post_init__(self) -> None:
        object.__setattr__(self, "languages", canonical(self.languages, THRESHOLDS, self))

    @property
    def needs(self) -> tuple[str, ...]:
        return ("text",)

    @property
    def adds(self) -> pa.Schema:
        return pa.schema([(f"{self.name}.{signal}", pa.float64()) for signal in SIGNALS])

    def limits(self, language: str) -> tuple[Limit, ...]:
        """The limits for a document in `language`, in the order in which they are tried (datatrove's)."""
        return _limits(self, language)

    def __call__(self, table: pa.Table) -> pa.Table:
        signals = _signals(analyse(table), self.parity == "none")
        return judge(with_signals(table, self.name, SIGNALS, signals), self.limits)


@lru_cache(maxsize=1024)  # a batch asks for every language in it
def _limits(operator: GopherRepetition, language: str) -> tuple[Limit, ...]:
    empty = Limit(f"{operator.name}.chars", min=1, reason=f"{operator.name}.empty")
    return (
        empty,
        *(
            Limit(f"{operator.name}.{signal}", max=setting(operator, language, f"max_{signal}"))
            for signal in SIGNALS[1:]
        ),
    )


def _signals(batch: TextBatch, native: bool) -> list[np.ndarray]:
    """The columns in the order of SIGNALS."""
    signals = [batch.num_chars.astype(np.float64)]
    for pieces, edges in ((batch.paragraphs, False), (batch.lines, not native)):
        seen = new_seen(np.diff(pieces.first).max(initial=0))
        counts = np.zeros((4, batch.num_docs), np.int64)
        count_repeats(pieces.first, pieces.hash, pieces.chars, seen, edges, counts)
        count, repeated, repeated_chars, chars = counts
        signals.append(ratio(repeated, count))
        signals.append(ratio(repeated_chars, chars if native else batch.num_chars))
    ngrams = _ngram_chars(batch, native)
    whole = ngrams[0] if native else batch.num_chars
    for n in (*TOP_SIZES, *DUPLICATE_SIZES):
        fraction = ratio(ngrams[n - 1], whole)
        signals.append(np.minimum(fraction, 1.0) if native else fraction)
    return signals


def _ngram_chars(batch: TextBatch, native: bool) -> np.ndarray:
    result = np.zeros((LARGEST, batch.num_docs), np.int64)
    if native:
        words = batch.words
        longest = int(np.diff(words.first).max(initial=0))
        repeated_words(words.first, words.hash, words.chars, scratch_for(longest), result)
        return result
    first, tokens = english_words(batch)
    longest = int(np.diff(first).max(initial=0)) + LARGEST
    grams = NGrams(np.empty(longest, np.int32), np.empty(longest, np.int32))
    seen, prefixes = new_seen(longest), new_prefixes(longest)
    repeated_ngrams(first, tokens.hash, tokens.chars, tokens.size, prefixes, grams, seen, result)
    return result
