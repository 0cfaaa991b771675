"""Threshold sets by language for the quality rules, and how an operator finds the one for a document.

A rule's field holds the value for English (the published one) and for every language whose set here does
not name it. A set names only what differs; `None` switches a limit off. The order in which a value is
looked for: the operator's own `languages`, the language's set here, the operator's field.

VERSION is bumped with any value. The values belong to the words of UAX #29 (an eojeol is one word, a Han
character is one word): with another tokenizer they mean nothing.

Korean: an eojeol carries its particles, so the same text has fewer and shorter words than English. Measured
on 4,303 Korean documents (Wikinews, book reviews, petitions, news, technical documentation) and the same
kinds of English:

- `min_words` 30, `max_words` 60,000, two words per line, 0.5 newlines per word: news of one site in both
  languages has a median of 202 eojeol against 347 words, 0.58 of them.
- `mean_word_chars` 2 to 9: prose has 2.8 to 5.4 (1st and 99th percentile; comments from 2.5, documentation
  full of Latin names up to 7.9 at the 95th), where English has 3.5 to 6.3 within limits of 3 and 10; the same
  margins.
- `min_stop_words` 4: the list is longer than the English one; the 1st percentile of prose is at least 5.
- `short_line_chars` 14: the same news has 0.47 of the characters.
- `min_terminal_line_fraction` 0.062, `max_duplicate_line_char_fraction` 0.1: FineWeb-2's for kor_Hang; these
  rules are by line and hold for any tokenizer. Half of the lines of petitions end without a full stop, so
  C4's test of it is off, as in FineWeb.
- repetition: nothing differs. The 99th percentile of prose lies below each published limit (top bigram 0.13
  of 0.20, duplicate 5-grams 0.11 of 0.15), as in English.

Chinese and Japanese: about 1.5 words of one character stand for an English word (few parallel pages,
rounded), word length says nothing, and 5 to 8 words are a common phrase (Aozora novels: median duplicate
5-gram fraction 0.13), so duplicates count from 9-grams on. Half of the lines of Chinese web pages are
menus: 0.04 terminal lines drop the same quarter of them as 0.12 do of English ones. Thai and its like have
neither spaces nor full stops: rules on line ends and lengths are off.

Every other language (the fallback): what depends on English words is off, the rest is widened for
compounding and agglutinative languages (German laws: 5th percentile of alphabetic words 0.79; FineWeb-2:
0.1 of duplicate line characters for all languages).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .contract import LANGUAGE, with_columns

VERSION = 1
FALLBACK = "*"

Settings = Mapping[str, float | None]
ByLanguage = Mapping[str, Settings] | tuple[tuple[str, tuple[tuple[str, float | None], ...]], ...]

_ALIASES = {"eng": "en", "kor": "ko", "jpn": "ja", "zho": "zh", "cmn": "zh", "yue": "zh", "wuu": "zh"} | {
    "tha": "th", "lao": "lo", "khm": "km", "mya": "my", "bod": "bo", "dzo": "dz",
}  # fmt: skip

_HAN: dict[str, Settings] = {
    "gopher_quality": {
        "min_words": 75,
        "max_words": 150_000,
        "min_mean_word_chars": None,
        "min_alphabetic_word_fraction": 0.7,
        "min_stop_words": None,
    },
    "gopher_repetition": {f"max_duplicate_{n}_gram_char_fraction": None for n in (5, 6, 7, 8)},
    "c4_quality": {"min_words_per_line": 5, "require_terminal_punctuation": 0, "remove_javascript_lines": 0},
    "fineweb_quality": {
        "min_terminal_line_fraction": 0.04,
        "short_line_chars": 12,
        "max_duplicate_line_char_fraction": 0.1,
    },
}
_UNMARKED: dict[str, Settings] = _HAN | {
    "fineweb_quality": {
        "min_terminal_line_fraction": None,
        "max_short_line_fraction": None,
        "max_duplicate_line_char_fraction": 0.1,
    },
}
_KOREAN: dict[str, Settings] = {
    "gopher_quality": {
        "min_words": 30,
        "max_words": 60_000,
        "min_mean_word_chars": 2.0,
        "max_mean_word_chars": 9.0,
        "min_stop_words": 4,
    },
    "gopher_repetition": {},
    "c4_quality": {"min_words_per_line": 2, "require_terminal_punctuation": 0, "remove_javascript_lines": 0},
    "fineweb_quality": {
        "min_terminal_line_fraction": 0.062,
        "short_line_chars": 14,
        "max_duplicate_line_char_fraction": 0.1,
        "max_newlines_per_word": 0.5,
    },
}
_ANY: dict[str, Settings] = {
    "gopher_quality": {
        "min_mean_word_chars": 2.0,
        "max_mean_word_chars": 15.0,
        "min_alphabetic_word_fraction": 0.7,
        "min_stop_words": None,
    },
    "gopher_repetition": {},
    "c4_quality": {"require_terminal_punctuation": 0, "remove_javascript_lines": 0},
    "fineweb_quality": {
        "min_terminal_line_fraction": 0.06,
        "max_duplicate_line_char_fraction": 0.1,
        "max_newlines_per_word": 0.5,
    },
}
SETS: dict[str, dict[str, Settings]] = {
    "en": {},
    "ko": _KOREAN,
    **dict.fromkeys(("zh", "ja"), _HAN),
    **dict.fromkeys(("th", "lo", "km", "my", "bo", "dz"), _UNMARKED),
    FALLBACK: _ANY,
}
_SHARED = {"c4_lines": "c4_quality"}


def base_language(language: str) -> str:
    """`ko` for `ko`, `ko-KR`, `kor_Hang`: the part before `_` or `-`, three letters shortened where known."""
    base = language.replace("-", "_").partition("_")[0].lower()
    return _ALIASES.get(base, base)


def canonical(languages: ByLanguage, known: tuple[str, ...], operator: Any) -> ByLanguage:
    """`languages` as sorted tuples, so that it can be hashed; ValueError for a setting that is not in
    `known`.
    """
    where = type(operator).__name__
    if operator.parity not in ("none", "datatrove"):
        raise ValueError(f"{where}: parity must be 'none' or 'datatrove', got {operator.parity!r}")
    if languages and operator.parity != "none":
        raise ValueError(
            f"{where}: parity {operator.parity!r} has one set for all languages; got languages={languages}"
        )
    pairs = {name: dict(settings) for name, settings in dict(languages).items()}
    bases = {base_language(name): name for name in pairs}
    for name in pairs:
        if (other := bases[base_language(name)]) != name:
            raise ValueError(
                f"{where}: languages: {name!r} and {other!r} are one language here; give one of them"
            )
    for name, settings in pairs.items():
        for key in settings:
            if key not in known:
                raise ValueError(
                    f"{where}: languages.{name}: unknown setting {key!r}; known: {', '.join(known)}"
                )
    return tuple((name, tuple(sorted(settings.items()))) for name, settings in sorted(pairs.items()))


def setting(operator: Any, language: str, field: str) -> float | None:
    """The value of `field` for a document in `language` (empty: the operator's `default_language`).

    In parity with datatrove every language has the value of the field, as there.
    """
    value: float | None = getattr(operator, field)
    if operator.parity != "none":
        return value
    wanted = base_language(language or operator.default_language)
    for name, settings in operator.languages:
        if base_language(name) == wanted and field in dict(settings):
            found: float | None = dict(settings)[field]
            return found
    chosen = SETS.get(wanted, SETS[FALLBACK]).get(_SHARED.get(operator.name, operator.name), {})
    return chosen.get(field, value)


def sets_of(operator: str) -> dict[tuple[str, ...], Settings]:
    """What languages have of their own for an operator; `FALLBACK` stands for all others."""
    found: dict[tuple[str, ...], Settings] = {}
    for language, own in SETS.items():
        settings = own.get(_SHARED.get(operator, operator), {})
        same = next((names for names, other in found.items() if other == settings), ())
        found.pop(same, None)
        found[(*same, language)] = settings
    return {names: settings for names, settings in found.items() if settings}


def language_codes(table: pa.Table, default: str) -> tuple[list[str], np.ndarray]:
    """The `base_language`s of the table, sorted, each once, and for each row its index in them, int32.

    A row without a language has `default`.
    """
    if LANGUAGE not in table.column_names:
        return [base_language(default)], np.zeros(table.num_rows, np.int32)
    column = pc.fill_null(table.column(LANGUAGE).cast(pa.large_string()), "").combine_chunks()
    encoded = column.dictionary_encode()
    bases = [base_language(name or default) for name in encoded.dictionary.to_pylist()]
    names = sorted({*bases, base_language(default)})
    places = np.array([names.index(base) for base in bases], np.int32)
    return names, places[encoded.indices.to_numpy(zero_copy_only=False)]


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """float64 `part / whole`, NaN where `whole` is 0."""
    values = np.full(len(part), np.nan)
    np.divide(part, whole, out=values, where=whole > 0)
    return values


def with_signals(
    table: pa.Table, operator: str, names: tuple[str, ...], signals: list[np.ndarray]
) -> pa.Table:
    """The table with float64 columns `<operator>.<signal>`."""
    pairs = zip(names, signals, strict=True)
    return with_columns(
        table, [(f"{operator}.{name}", pa.array(values, pa.float64())) for name, values in pairs]
    )
