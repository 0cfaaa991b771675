"""Threshold sets by language for the quality rules, and how an operator finds the one for a document.

A rule's field holds the value for English (the published one) and for every language whose set here does
not name it. A set names only what differs; `None` switches a limit off. The order in which a value is
looked for: the operator's own `languages`, the language's set here, the operator's field.

How the values were chosen is said beside each set. VERSION is bumped with any of them, and it belongs to
the words of UAX #29 (an eojeol is one word, a Han character is one word): with another tokenizer the
numbers mean nothing.
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

# Scripts written without spaces: UAX #29 makes each Han character and each Thai letter a word of its own,
# so word lengths, word n-grams and words per line measure something else there.
_UNSPACED = ("zh", "ja", "th", "lo", "km", "my", "bo", "dz")

_GOPHER_QUALITY: dict[str, Settings] = {
    "ko": {},
    FALLBACK: {},
}

SETS: dict[str, dict[str, Settings]] = {
    "gopher_quality": _GOPHER_QUALITY,
    "gopher_repetition": {FALLBACK: {}},
    "fineweb_quality": {FALLBACK: {}},
    "c4_quality": {FALLBACK: {}},
    "c4_lines": {FALLBACK: {}},
}


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
            return dict(settings)[field]
    sets = SETS[operator.name]
    chosen = sets.get(wanted, {} if wanted == "en" else sets[FALLBACK])
    return chosen.get(field, value)


def language_codes(table: pa.Table, default: str) -> tuple[list[str], np.ndarray]:
    """The languages of the table and for each row its index in them, int32; `default` where there is none."""
    if LANGUAGE not in table.column_names:
        return [default], np.zeros(table.num_rows, np.int32)
    column = pc.fill_null(table.column(LANGUAGE).cast(pa.large_string()), "").combine_chunks()
    encoded = column.dictionary_encode()
    names = [name or default for name in encoded.dictionary.to_pylist()]
    return names or [default], encoded.indices.to_numpy(zero_copy_only=False).astype(np.int32)


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """float64 `part / whole`, NaN where `whole` is 0."""
    values = np.full(len(part), np.nan)
    return np.divide(part, whole, out=values, where=whole > 0)


def with_signals(
    table: pa.Table, operator: str, names: tuple[str, ...], signals: list[np.ndarray]
) -> pa.Table:
    """The table with float64 columns `<operator>.<signal>`."""
    pairs = zip(names, signals, strict=True)
    return with_columns(
        table, [(f"{operator}.{name}", pa.array(values, pa.float64())) for name, values in pairs]
    )
