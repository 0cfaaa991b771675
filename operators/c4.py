"""C4's rules (Raffel et al. 2020, arXiv 1910.10683, section 2.2): `C4Quality` judges, `C4Lines` edits.

C4 removes lines and then drops documents. Here the judge computes what C4 would find after the removal
without touching the text, and the editor removes the lines where a recipe asks for it (list the judge
first: it decides the same before and after, but the signals then count what was there).

| signal | definition |
|---|---|
| `lines` | lines that are not blank |
| `kept_lines` | lines that stay |
| `sentences` | sentences of the lines that stay, at least one a line |
| `lorem_ipsum_lines` | lines with "lorem ipsum" among those that pass the first three tests |
| `curly_bracket_lines` | lines with "{" among those, lines about JavaScript left out |
| `long_word_lines` | lines removed for a run of more than `max_word_chars` code points without white space |
| `unterminated_lines` | ... that do not end in terminal punctuation or a quotation mark, or end in an ellipsis |
| `short_lines` | ... of fewer than `min_words_per_line` words |
| `javascript_lines` | ... with "javascript" |
| `policy_lines` | ... with a phrase about cookies, privacy, terms of use or copyright (c4_phrases.py) |

All signals are defined for every document; one without lines fails by `sentences`, which is tried last. A line is
removed for the first reason in the table's order. Citation marks ("[12]", "[edit]", "[citation needed]") are left out
of lines that stay.

Native: lines end at a newline; words are those of UAX #29, counted with citation marks; any script's terminal
punctuation counts, also right before closing quotes and brackets, and so does one of " ' ” ’ 」 』 at the end; a
sentence ends at such punctuation before white space (marks outside ASCII, full-width ones and dandas: anywhere),
closers between left out; blank lines between lines that stay are kept as one by the editor. `parity: datatrove`
is datatrove 0.10.1's `C4QualityFilter`: lines of `str.splitlines`, words of `str.split`, sentences of spaCy's
sentencizer, English only; of a document with both "lorem ipsum" and "{" the former is the reason, where datatrove
names what comes first. FineWeb uses it with `require_terminal_punctuation=False`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from .analysis import TextBatch, analyse
from .c4_phrases import COUNTS, KEPT, LINES, Phrases, marks_of, phrases_of
from .c4_scan import LineRules, Scratch, edit_lines, judge_lines
from .contract import TEXT, Kind, Limit, judge, with_columns
from .datatrove_affixes import new_chunk
from .datatrove_joins import new_tokens
from .datatrove_tables import english_rules
from .text_scan import CLOSERS
from .thresholds import ByLanguage, canonical, language_codes, setting, with_signals

SIGNALS = (
    "lines",
    "kept_lines",
    "sentences",
    "lorem_ipsum_lines",
    "curly_bracket_lines",
    "long_word_lines",
    "unterminated_lines",
    "short_lines",
    "javascript_lines",
    "policy_lines",
)
LINE_SETTINGS = (
    "min_words_per_line",
    "max_word_chars",
    "require_terminal_punctuation",
    "remove_javascript_lines",
    "remove_policy_lines",
    "remove_citations",
)
THRESHOLDS = (*LINE_SETTINGS, "min_sentences", "max_lorem_ipsum_lines", "max_curly_bracket_lines")


def _line_rules(operator: Any, names: list[str]) -> LineRules:
    def column(field: str, missing: float) -> np.ndarray:
        values = [setting(operator, name, field) for name in names]
        return np.array([missing if value is None else float(value) for value in values])

    fewest, longest = column("min_words_per_line", 0.0), column("max_word_chars", np.inf)
    return LineRules(fewest, longest, *(column(field, 0.0) != 0 for field in LINE_SETTINGS[2:]))


def _scratch(longest_line: int, tokens: int) -> Scratch:
    return Scratch(
        new_chunk(longest_line + 2),
        new_tokens(tokens),
        new_tokens(tokens),
        np.empty((4, tokens), np.int32),
    )


def _tables(operator: Any, table: pa.Table, batch: TextBatch) -> tuple[np.ndarray, LineRules, Phrases]:
    """The language codes of the documents, and what the kernels want to know of these languages."""
    names, codes = language_codes(table, operator.default_language)
    if operator.parity != "none":
        names, codes = ["en"], np.zeros(batch.num_docs, np.int32)
    return codes, _line_rules(operator, names), phrases_of(tuple(names))


def _judge(operator: Any, table: pa.Table, batch: TextBatch) -> np.ndarray:
    """Counts int64 [COUNTS, documents] of native rules."""
    counts = np.zeros((COUNTS, batch.num_docs), np.int64)
    longest = int((batch.lines.end - batch.lines.start).max(initial=0))
    copy = np.empty(longest + 4, np.uint8)
    read = copy.view()
    read.flags.writeable = False  # as the text, so that no function is compiled for both
    judge_lines(
        batch.data,
        (batch.lines.first, *batch.stripped),
        *_tables(operator, table, batch),
        batch.words.start,
        marks_of(CLOSERS),
        english_rules().kinds,
        copy,
        read,
        counts,
    )
    return counts


def _edit(operator: Any, table: pa.Table, batch: TextBatch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts int64 [COUNTS + 1, documents], the edited text's bytes and its offsets."""
    native = operator.parity == "none"
    lines = batch.lines
    longest = 0 if native else int((lines.end - lines.start).max(initial=0))
    edited = np.empty(batch.data.size + 4, np.uint8)
    offsets = np.zeros(batch.num_docs + 1, np.int64)
    for tokens in (longest // 3 + 256, longest + 256):
        counts = np.zeros((COUNTS + 1, batch.num_docs), np.int64)
        done = edit_lines(
            batch.data,
            batch.offsets,
            *_tables(operator, table, batch),
            batch.words.start if native else np.empty(0, np.int64),
            native,
            marks_of(CLOSERS if native else ""),
            english_rules(),
            _scratch(longest, tokens),
            edited,
            offsets,
            counts,
        )
        if done:
            break
    return counts, edited[: offsets[-1]], offsets


@dataclass(frozen=True)
class C4Quality:
    """Drop documents with too little prose left after C4's line rules. Defaults: English, as published.

    `min_sentences`: after removal of lines. `max_*_lines`: lines with the phrase or bracket that are allowed.
    `max_word_chars`: code points. A limit of None is off. `languages`: settings by language.
    """

    min_sentences: float | None = 5
    max_lorem_ipsum_lines: float | None = 0
    max_curly_bracket_lines: float | None = 0
    min_words_per_line: float | None = 3
    max_word_chars: float | None = 1000
    require_terminal_punctuation: bool = True
    remove_javascript_lines: bool = True
    remove_policy_lines: bool = True
    remove_citations: bool = True
    default_language: str = "en"
    languages: ByLanguage = ()
    parity: Literal["none", "datatrove"] = "none"

    name: ClassVar[str] = "c4_quality"
    version: ClassVar[int] = 3
    kind: ClassVar[Kind] = "judge"
    reference: ClassVar[str] = "Raffel et al. 2020, arXiv 1910.10683, 2.2; parity: datatrove 0.10.1"

    def __post_init__(self) -> None:
        object.__setattr__(self, "languages", canonical(self.languages, THRESHOLDS, self))

    @property
    def needs(self) -> tuple[str, ...]:
        return (TEXT,)

    @property
    def adds(self) -> pa.Schema:
        return pa.schema([(f"{self.name}.{signal}", pa.float64()) for signal in SIGNALS])

    def limits(self, language: str) -> tuple[Limit, ...]:
        """The limits for a document in `language`, in the order in which they are tried."""
        return _limits(self, language)

    def __call__(self, table: pa.Table) -> pa.Table:
        batch = analyse(table)
        counts = _judge(self, table, batch) if self.parity == "none" else _edit(self, table, batch)[0]
        signals = list(counts[:COUNTS].astype(np.float64))
        return judge(with_signals(table, self.name, SIGNALS, signals), self.limits)


@lru_cache(maxsize=1024)  # a batch asks for every language in it
def _limits(operator: C4Quality, language: str) -> tuple[Limit, ...]:
    def get(field: str) -> float | None:
        return setting(operator, language, field)

    return (
        Limit("c4_quality.lorem_ipsum_lines", max=get("max_lorem_ipsum_lines")),
        Limit("c4_quality.curly_bracket_lines", max=get("max_curly_bracket_lines")),
        Limit("c4_quality.sentences", min=get("min_sentences")),
    )


@dataclass(frozen=True)
class C4Lines:
    """Remove the lines that C4 removes, and citation marks; the settings are those of `C4Quality`.

    Adds int64 `c4_lines.lines_removed` and `c4_lines.chars_removed` (code points, white space at the ends
    of lines and citation marks among them). A document may become empty; a judge behind it drops it.
    """

    min_words_per_line: float | None = 3
    max_word_chars: float | None = 1000
    require_terminal_punctuation: bool = True
    remove_javascript_lines: bool = True
    remove_policy_lines: bool = True
    remove_citations: bool = True
    default_language: str = "en"
    languages: ByLanguage = ()
    parity: Literal["none", "datatrove"] = "none"

    name: ClassVar[str] = "c4_lines"
    version: ClassVar[int] = 2
    kind: ClassVar[Kind] = "editor"
    reference: ClassVar[str] = "Raffel et al. 2020, arXiv 1910.10683, 2.2; parity: datatrove 0.10.1"

    def __post_init__(self) -> None:
        object.__setattr__(self, "languages", canonical(self.languages, LINE_SETTINGS, self))

    @property
    def needs(self) -> tuple[str, ...]:
        return (TEXT,)

    @property
    def adds(self) -> pa.Schema:
        return pa.schema([(f"{self.name}.{count}_removed", pa.int64()) for count in ("lines", "chars")])

    def __call__(self, table: pa.Table) -> pa.Table:
        batch = analyse(table)
        counts, edited, offsets = _edit(self, table, batch)
        text = pa.LargeStringArray.from_buffers(
            batch.num_docs, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(edited))
        )
        columns = [
            (TEXT, text),
            (f"{self.name}.lines_removed", pa.array(counts[LINES] - counts[KEPT], pa.int64())),
            (f"{self.name}.chars_removed", pa.array(batch.num_chars - counts[COUNTS], pa.int64())),
        ]
        return with_columns(table, columns)
