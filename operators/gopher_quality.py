"""Gopher's quality rules (Rae et al. 2021, arXiv 2112.11446, appendix A1.1) as signals and limits.

| signal | definition (native) | undefined |
|---|---|---|
| `words` | UAX #29 words with a letter or number | - |
| `mean_word_chars` | mean code points of those words | no words |
| `hashes_per_word` | number signs / words | no words |
| `ellipses_per_word` | "..." and "…" / words | no words |
| `bullet_line_fraction` | lines that begin with a bullet / lines that are not blank | no lines |
| `ellipsis_line_fraction` | lines that end in an ellipsis / lines that are not blank | no lines |
| `alphabetic_word_fraction` | words with a letter / words | no words |
| `stop_words` | different stop words of the document's language (stop_words.py) | no list |

An undefined signal is NaN and never fails; a document without words fails by `words`.

`parity: datatrove` computes datatrove 0.10.1's `GopherQualityFilter` instead: words are all tokens of
datatrove_words.py; `words` and `mean_word_chars` leave out tokens of punctuation only; every other ratio is
by all tokens; lines are those of `str.splitlines`, blank ones too; only "•" and "-" are bullets; the
English stop words are matched with case, for every language.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa

from .analysis import TextBatch, analyse
from .contract import Kind, Limit, judge
from .datatrove_joins import Tokens
from .datatrove_tables import IS_ALPHA, SYMBOL, Kinds, class_of, decode, english_rules
from .datatrove_words import english_words
from .kernel import lean
from .stop_words import count_stop_words, stop_table
from .text_scan import BULLETS, code_points, count_symbols, line_shapes, python_line_shapes
from .thresholds import ByLanguage, canonical, language_codes, ratio, setting, with_signals

SIGNALS = (
    "words",
    "mean_word_chars",
    "hashes_per_word",
    "ellipses_per_word",
    "bullet_line_fraction",
    "ellipsis_line_fraction",
    "alphabetic_word_fraction",
    "stop_words",
)
THRESHOLDS = (
    "min_words",
    "max_words",
    "min_mean_word_chars",
    "max_mean_word_chars",
    "max_hashes_per_word",
    "max_ellipses_per_word",
    "max_bullet_line_fraction",
    "max_ellipsis_line_fraction",
    "min_alphabetic_word_fraction",
    "min_stop_words",
)


@lean
def _count_words(first: np.ndarray, chars: np.ndarray, flags: np.ndarray, counts: np.ndarray) -> None:
    """Fill int64 [3, D]: words, their code points, words with a letter."""
    for doc in range(first.size - 1):
        total = letters = np.int64(0)
        begin = np.uint64(first[doc])
        for w in range(first[doc + 1] - first[doc]):
            total += chars[begin + np.uint64(w)]
            letters += flags[begin + np.uint64(w)] & 1
        counts[0, doc], counts[1, doc], counts[2, doc] = first[doc + 1] - first[doc], total, letters


@lean
def _count_tokens(
    data: np.ndarray, first: np.ndarray, tokens: Tokens, kinds: Kinds, counts: np.ndarray
) -> None:
    """Fill int64 [3, D]: tokens that are not punctuation only, their code points, tokens with a letter."""
    for doc in range(first.size - 1):
        for w in range(first[doc], first[doc + 1]):
            p = tokens.start[w]
            end = p + tokens.size[w]
            alpha = word = False
            while p < end and not (alpha and word):
                cp, length = decode(data, p, end)
                cls = class_of(kinds, cp)
                alpha |= cls & IS_ALPHA != 0
                word |= cls & SYMBOL == 0
                p += length
            counts[0, doc] += word
            counts[1, doc] += tokens.chars[w] if word else 0
            counts[2, doc] += alpha


@dataclass(frozen=True)
class GopherQuality:
    """Drop documents that do not look like prose. Defaults: English, as published; other languages have their own.

    `min_words`, `max_words`: words of a document. `*_mean_word_chars`: code points. The other limits are those of
    the signals of their names. `languages`: thresholds by language, e.g. `{"ko": {"min_words": 30}}`.
    """

    min_words: float | None = 50
    max_words: float | None = 100_000
    min_mean_word_chars: float | None = 3.0
    max_mean_word_chars: float | None = 10.0
    max_hashes_per_word: float | None = 0.1
    max_ellipses_per_word: float | None = 0.1
    max_bullet_line_fraction: float | None = 0.9
    max_ellipsis_line_fraction: float | None = 0.3
    min_alphabetic_word_fraction: float | None = 0.8
    min_stop_words: float | None = 2
    default_language: str = "en"
    languages: ByLanguage = ()
    parity: Literal["none", "datatrove"] = "none"

    name: ClassVar[str] = "gopher_quality"
    version: ClassVar[int] = 2
    kind: ClassVar[Kind] = "judge"
    reference: ClassVar[str] = "Rae et al. 2021, arXiv 2112.11446, A1.1; parity: datatrove 0.10.1"

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
        batch = analyse(table)
        names, codes = language_codes(table, self.default_language)
        signals = (
            self._as_datatrove(batch) if self.parity == "datatrove" else self._native(batch, names, codes)
        )
        return judge(with_signals(table, self.name, SIGNALS, signals), self.limits)

    def _native(self, batch: TextBatch, names: list[str], codes: np.ndarray) -> list[np.ndarray]:
        words = batch.words
        counts = np.zeros((3, batch.num_docs), np.int64)
        _count_words(words.first, words.chars, words.flags, counts)
        count, chars, alphabetic = counts
        stops = stop_table(tuple(names))
        stop_words = count_stop_words(batch.data, words.first, words.start, words.end, True, codes, stops)
        return _signals(batch, BULLETS, True, (count, chars, count, alphabetic), stop_words)

    def _as_datatrove(self, batch: TextBatch) -> list[np.ndarray]:
        first, tokens = english_words(batch)
        counts = np.zeros((3, batch.num_docs), np.int64)
        _count_tokens(batch.data, first, tokens, english_rules().kinds, counts)
        count, chars, alphabetic = counts
        codes = np.zeros(batch.num_docs, np.int32)
        end = tokens.start + tokens.size
        stop_words = count_stop_words(batch.data, first, tokens.start, end, False, codes, stop_table(("en",)))
        return _signals(batch, "•-", False, (count, chars, np.diff(first), alphabetic), stop_words)


@lru_cache(maxsize=1024)  # a batch asks for every language in it
def _limits(operator: GopherQuality, language: str) -> tuple[Limit, ...]:
    def get(field: str) -> float | None:
        return setting(operator, language, field)

    return (
        Limit("gopher_quality.words", get("min_words"), get("max_words")),
        Limit("gopher_quality.mean_word_chars", get("min_mean_word_chars"), get("max_mean_word_chars")),
        Limit("gopher_quality.hashes_per_word", max=get("max_hashes_per_word")),
        Limit("gopher_quality.ellipses_per_word", max=get("max_ellipses_per_word")),
        Limit("gopher_quality.bullet_line_fraction", max=get("max_bullet_line_fraction")),
        Limit("gopher_quality.ellipsis_line_fraction", max=get("max_ellipsis_line_fraction")),
        Limit("gopher_quality.alphabetic_word_fraction", get("min_alphabetic_word_fraction")),
        Limit("gopher_quality.stop_words", get("min_stop_words")),
    )


def _signals(
    batch: TextBatch, bullets: str, native: bool, words: tuple[np.ndarray, ...], stop_words: np.ndarray
) -> list[np.ndarray]:
    """The columns in the order of SIGNALS. `words`: words, their chars, the denominator, words with a
    letter.
    """
    count, chars, total, alphabetic = words
    shapes, symbols = np.zeros((3, batch.num_docs), np.int64), np.zeros((2, batch.num_docs), np.int64)
    if native:
        line_shapes(batch.data, (batch.lines.first, *batch.stripped), code_points(bullets), shapes)
    else:
        python_line_shapes(batch.data, batch.offsets, english_rules().kinds, code_points(bullets), shapes)
    count_symbols(batch.data, batch.offsets, symbols)
    lines, bulleted, elliptic = shapes
    hashes, ellipses = symbols
    return [
        count.astype(np.float64),
        ratio(chars, count),
        ratio(hashes, total),
        ratio(ellipses, total),
        ratio(bulleted, lines),
        ratio(elliptic, lines),
        ratio(alphabetic, total),
        stop_words,
    ]
