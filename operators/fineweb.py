"""FineWeb's own rules (Penedo et al. 2024, arXiv 2406.17557, section 3.6) as signals and limits.

| signal | definition (native) | undefined |
|---|---|---|
| `lines` | lines that are not blank; a document without any is `empty` | - |
| `terminal_line_fraction` | lines that end in terminal punctuation, white space at the end and closing | no lines |
| | quotes and brackets right behind the mark left out / lines | |
| `short_line_fraction` | lines of at most `short_line_chars` code points / lines | no lines |
| `duplicate_line_char_fraction` | code points of lines that came before / of all, blank ones too | no text |
| `newlines_per_word` | newline characters / UAX #29 words | no words |

An undefined signal is NaN and never fails. Terminal punctuation is datatrove's list, which has the
full-width and non-Latin marks.

`parity: datatrove` computes datatrove 0.10.1's `FineWebQualityFilter` instead: the very last character of
the line must be terminal punctuation; words are the tokens of datatrove_words.py; the same values for every
language.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa

from .analysis import analyse
from .contract import Kind, Limit, judge
from .datatrove_tables import Kinds, english_rules
from .datatrove_words import english_words
from .kernel import lean
from .repeat_scan import Seen, mask_for, new_seen, see, stamp_of, times
from .text_scan import CLOSERS, code_points, ends_for_sure, is_terminal, strip_closers
from .thresholds import ByLanguage, canonical, language_codes, ratio, setting, with_signals

SIGNALS = (
    "lines",
    "terminal_line_fraction",
    "short_line_fraction",
    "duplicate_line_char_fraction",
    "newlines_per_word",
)
THRESHOLDS = (
    "min_terminal_line_fraction",
    "max_short_line_fraction",
    "short_line_chars",
    "max_duplicate_line_char_fraction",
    "max_newlines_per_word",
)


@lean
def _scan_lines(
    data: np.ndarray,
    first: np.ndarray,
    start: np.ndarray,
    end: np.ndarray,
    stripped: np.ndarray,
    chars: np.ndarray,
    hashes: np.ndarray,
    short: np.ndarray,
    closers: np.ndarray,
    kinds: Kinds,
    seen: Seen,
    counts: np.ndarray,
) -> None:
    """Fill int64 [6, D]: lines that are not blank, terminal ones, short ones, chars of repeated ones, of all;
    newlines.

    `short` float64 [D]: most code points of a short line.
    """
    for doc in range(first.size - 1):
        begin, stop = first[doc], first[doc + 1]
        mask = mask_for(stop - begin)
        stamp = stamp_of(doc + 1)
        for i in range(begin, stop):
            counts[4, doc] += chars[i]
            a, b = stripped[0, i], stripped[1, i]
            if a == b:
                continue
            counts[0, doc] += 1
            if closers.size and ends_for_sure(data, a, b):
                counts[1, doc] += data[b - 1] == 46
            else:
                last = strip_closers(data, a, b, closers) if closers.size else end[i]
                counts[1, doc] += is_terminal(data, start[i], last, kinds)
            counts[2, doc] += chars[i] <= short[doc]
            if times(seen, see(seen, stamp, mask, hashes[i], 0)) > 1:
                counts[3, doc] += chars[i]
        counts[5, doc] = stop - begin - 1


@dataclass(frozen=True)
class FineWebQuality:
    """Drop documents of lists, menus and repeated lines. Defaults: English, as published.

    `short_line_chars`: code points; the other limits are those of the signals of their names. `languages`:
    thresholds by language, e.g. `{"ko": {"min_terminal_line_fraction": 0.05}}`.
    """

    min_terminal_line_fraction: float | None = 0.12
    max_short_line_fraction: float | None = 0.67
    short_line_chars: float | None = 30
    max_duplicate_line_char_fraction: float | None = 0.01
    max_newlines_per_word: float | None = 0.3
    default_language: str = "en"
    languages: ByLanguage = ()
    parity: Literal["none", "datatrove"] = "none"

    name: ClassVar[str] = "fineweb_quality"
    version: ClassVar[int] = 1
    kind: ClassVar[Kind] = "judge"
    reference: ClassVar[str] = "Penedo et al. 2024, arXiv 2406.17557, 3.6; parity: datatrove 0.10.1"

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
        native = self.parity == "none"
        names, codes = language_codes(table, self.default_language)
        short = np.array([setting(self, name, "short_line_chars") or -1.0 for name in names])[codes]
        lines = batch.lines
        counts = np.zeros((6, batch.num_docs), np.int64)
        _scan_lines(
            batch.data,
            lines.first,
            lines.start,
            lines.end,
            batch.stripped,
            lines.chars,
            lines.hash,
            short,
            code_points(CLOSERS if native else ""),
            english_rules().kinds,
            new_seen(np.diff(lines.first).max(initial=0)),
            counts,
        )
        count, terminal, short_lines, repeated, chars, newlines = counts
        words = np.diff(batch.words.first if native else english_words(batch).first)
        signals = [
            count.astype(np.float64),
            ratio(terminal, count),
            ratio(short_lines, count),
            ratio(repeated, chars),
            ratio(newlines, words),
        ]
        return judge(with_signals(table, self.name, SIGNALS, signals), self.limits)


@lru_cache(maxsize=1024)  # a batch asks for every language in it
def _limits(operator: FineWebQuality, language: str) -> tuple[Limit, ...]:
    def get(field: str) -> float | None:
        return setting(operator, language, field)

    return (
        Limit("fineweb_quality.lines", min=1, reason="fineweb_quality.empty"),
        Limit("fineweb_quality.terminal_line_fraction", min=get("min_terminal_line_fraction")),
        Limit("fineweb_quality.short_line_fraction", max=get("max_short_line_fraction")),
        Limit("fineweb_quality.duplicate_line_char_fraction", max=get("max_duplicate_line_char_fraction")),
        Limit("fineweb_quality.newlines_per_word", max=get("max_newlines_per_word")),
    )
