"""What an operator measured on a table, and what it would drop with another threshold.

A judge's verdict depends on its signals alone, so a threshold is moved without reading the text again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from malmoi.operators.config import build, did_you_mean, settings_of
from malmoi.operators.contract import DROP, LANGUAGE, TEXT, Limit, Operator, judge, with_columns
from malmoi.operators.thresholds import base_language, setting

from .errors import MalmoiError
from .steps import step_entry


@dataclass(frozen=True, eq=False)
class Histogram:
    """A signal's distribution. edges: float64 [bins + 1]; counts, failed: int64 [bins] documents, and of these
    the ones that fail a limit on this signal; undefined: documents without a value, which never fail."""

    signal: str
    edges: np.ndarray
    counts: np.ndarray
    failed: np.ndarray
    undefined: int


@dataclass(frozen=True, eq=False)
class SignalView:
    """An operator's signals over a table of documents.

    `table`: the documents with the signals, and without a verdict. `others`: bool [rows], documents that
    something else drops anyway.
    """

    operator: Operator
    table: pa.Table
    others: np.ndarray = dataclasses.field(repr=False)

    @property
    def num_docs(self) -> int:
        return int(self.table.num_rows)

    @property
    def step(self) -> dict[str, dict[str, Any]]:
        """The operator as a step of a recipe: its name, and the settings that are not the defaults."""
        return step_entry(self.operator)

    @property
    def signals(self) -> tuple[str, ...]:
        """The names of the signals that are numbers."""
        return tuple(
            f.name for f in self.operator.adds if _is_number(f.type) and f.name in self.table.column_names
        )

    @cached_property
    def languages(self) -> tuple[str, ...]:
        """The languages of the documents, most frequent first; `("",)` where none is known."""
        if LANGUAGE not in self.table.column_names or not self.num_docs:
            return ("",)
        counts = pc.value_counts(pc.fill_null(self.table.column(LANGUAGE), "")).to_pylist()
        return tuple(x["values"] for x in sorted(counts, key=lambda x: (-x["counts"], x["values"])))

    @cached_property
    def reasons(self) -> pa.ChunkedArray:
        """large_string [rows]: the first limit of this operator that the document fails, else null."""
        limits = limits_of(self.operator)
        if limits is None:
            return pa.chunked_array([pa.nulls(self.num_docs, pa.large_string())])
        return judge(self.table, limits).column(DROP)

    @cached_property
    def failed(self) -> np.ndarray:
        """bool [rows]: fails this operator, whatever else would drop it."""
        return cast(np.ndarray, pc.is_valid(self.reasons).to_numpy())

    @property
    def num_dropped(self) -> int:
        """Documents that fail this operator."""
        return int(self.failed.sum())

    @property
    def num_only_here(self) -> int:
        """Documents that fail this operator and are dropped by nothing else."""
        return int((self.failed & ~self.others).sum())

    def counts(self) -> dict[str, int]:
        """Documents by their first failing reason, commonest first."""
        found = pc.value_counts(self.reasons.drop_null()).to_pylist()
        return {x["values"]: x["counts"] for x in sorted(found, key=lambda x: (-x["counts"], x["values"]))}

    def dropped(self) -> pa.Table:
        """The documents that fail this operator: the columns of `table` and the reason in `drop`."""
        return with_columns(self.table, [(DROP, self.reasons)]).filter(pa.array(self.failed))

    def histogram(self, signal: str, bins: int = 30) -> Histogram:
        """The distribution of a signal (its name with or without `<operator>.`); KeyError-like MalmoiError
        where there is no such signal."""
        name = self._named(signal)
        if bins < 1:
            raise MalmoiError(f"histogram: want bins >= 1, got {bins}")
        values = _numbers(self.table, name)
        there = np.isfinite(values)
        low, high = (float(values[there].min()), float(values[there].max())) if there.any() else (0.0, 1.0)
        edges = np.linspace(low, high if high > low else low + 1.0, bins + 1)
        bad = self._fails_on(name)
        counts, failed = (np.histogram(values[mask], bins=edges)[0] for mask in (there, there & bad))
        return Histogram(name, edges, counts.astype(np.int64), failed.astype(np.int64), int((~there).sum()))

    def limits(self, signal: str, language: str | None = None) -> tuple[Limit, ...]:
        """The limits on a signal for a language (default: the most frequent one)."""
        name, of = self._named(signal), limits_of(self.operator)
        chosen = self.languages[0] if language is None else language
        return tuple(x for x in of(chosen) if x.signal == name) if of else ()

    def with_threshold(self, field: str, value: Any, *, language: str | None = None) -> SignalView:
        """The same signals judged with another threshold; no text is read.

        `field`: a field of the operator that is a limit, such as `min_words`; None as `value` takes the limit
        away. It is moved for every language of the table, or for `language` alone. The view's `operator` is
        what then belongs into the recipe. MalmoiError where the field is none, or where another value of it
        would change the signals themselves.
        """
        known = settings_of(self.operator)
        if field not in known:
            raise MalmoiError(f"{self.operator.name}: no field {field!r}{did_you_mean(field, list(known))}")
        moved = moved_operator(self.operator, field, value, self.languages, language)
        if known[field] != value and not self._only_limits(moved, field):
            raise MalmoiError(
                f"{self.operator.name}.{field}: decides what is measured, or changes nothing for the languages here "
                f"({', '.join(map(repr, self.languages[:5]))}); call signals() with the changed operator instead"
            )
        return SignalView(moved, self.table, self.others)

    def changes(self, before: SignalView) -> pa.Table:
        """The documents whose verdict differs between `before` and this view (of the same table): their
        columns, with `before` and `after`, the reasons (null = kept)."""
        if before.num_docs != self.num_docs:
            raise MalmoiError(
                f"changes: want a view of the same table, got {before.num_docs:,} and {self.num_docs:,} rows"
            )
        differ = before.failed != self.failed
        both = with_columns(self.table, [("before", before.reasons), ("after", self.reasons)])
        return both.filter(pa.array(differ))

    def plot(self, signal: str | None = None, bins: int = 40) -> Any:
        """A matplotlib figure of one signal, or of all that have a limit; MalmoiError without matplotlib."""
        from .signal_plot import plot

        return plot(self, signal, bins)

    def _named(self, signal: str) -> str:
        for name in (signal, f"{self.operator.name}.{signal}"):
            if name in self.signals:
                return name
        raise MalmoiError(
            f"{self.operator.name}: no signal {signal!r}{did_you_mean(signal, list(self.signals))}"
        )

    def _fails_on(self, name: str) -> np.ndarray:
        """bool [rows]: outside a limit on this one signal, for the document's language."""
        of = limits_of(self.operator)
        if of is None:
            return np.zeros(self.num_docs, bool)

        def here(language: str) -> tuple[Limit, ...]:
            return tuple(limit for limit in of(language) if limit.signal == name)

        return cast(np.ndarray, pc.is_valid(judge(self.table, here).column(DROP)).to_numpy())

    def _only_limits(self, moved: Operator, field: str) -> bool:
        """Whether limits differ for a language of the table, and the field is one that limits are named by."""
        old, new = limits_of(self.operator), limits_of(moved)
        named = field.startswith(("min_", "max_")) or field == "keep"
        return bool(named and old and new and any(old(x) != new(x) for x in self.languages))

    def __repr__(self) -> str:
        return (
            f"SignalView({self.operator.name}: {self.num_docs:,} documents, {self.num_dropped:,} dropped, "
            f"{len(self.signals)} signals)"
        )

    def _repr_html_(self) -> str:
        from .signal_html import signal_page

        return signal_page(self)


def limits_of(operator: Operator) -> Callable[[str], tuple[Limit, ...]] | None:
    """The operator's limits by language; None for one that judges nothing by limits."""
    found: Callable[[str], tuple[Limit, ...]] | None = getattr(operator, "limits", None)
    return found


def moved_operator(
    operator: Operator, field: str, value: Any, languages: tuple[str, ...], language: str | None
) -> Operator:
    """The operator with another threshold, for the languages that have a value of their own too."""
    known, name, own = settings_of(operator), operator.name, getattr(operator, "languages", None)
    by_language = own is not None and getattr(operator, "parity", "none") == "none" and field != "languages"
    if language is not None and not by_language:
        raise MalmoiError(f"{name}.{field}: has one value for every language; leave out language=")
    try:
        moved = build(type(operator), known if language is not None else {**known, field: value}, name)
        if by_language:
            sets = {base_language(key): dict(settings) for key, settings in own or ()}
            default = known.get("default_language", "")
            for key in sorted(
                {base_language(x or default) for x in (languages if language is None else (language,))}
            ):
                if setting(moved, key, field) != value:
                    sets[key] = {**sets.get(key, {}), field: value}
            moved = build(type(operator), {**settings_of(moved), "languages": sets}, name)
        of = limits_of(moved)
        for key in languages:
            _ = of(key) if of else ()  # refuses a least value above the greatest
    except (ValueError, TypeError) as error:
        raise MalmoiError(f"{error}") from error
    return moved


def signals(table: pa.Table, operator: Operator) -> SignalView:
    """Run an operator on a table of documents and look at its signals.

    `table`: a column `text` (string or large_string) and what else the operator `needs`, such as `language`;
    a `drop` that is there counts as dropped by something else. Nothing is changed in the table itself.
    MalmoiError naming the column that is missing.
    """
    if isinstance(operator, type):
        raise MalmoiError(
            f"signals: want an operator, got the class {operator.__name__}; write {operator.__name__}()"
        )
    for name in ("name", "needs", "adds"):
        if not hasattr(operator, name):
            raise MalmoiError(
                f"signals: want an operator, got {type(operator).__name__}; see docs/own_operator.md"
            )
    if not isinstance(table, pa.Table):
        raise MalmoiError(
            f"signals: want a pyarrow.Table, got {type(table).__name__}; pa.table({{'text': [...]}}) makes one, and "
            "pa.Table.from_pandas(frame)"
        )
    missing = [name for name in operator.needs if name not in table.column_names]
    if missing:
        raise MalmoiError(
            f"{operator.name} needs column {missing[0]!r}; there: {', '.join(table.column_names) or 'none'}"
        )
    if TEXT in table.column_names:
        kind = table.schema.field(TEXT).type
        if not any(of(kind) for of in (pa.types.is_string, pa.types.is_large_string, pa.types.is_null)):
            raise MalmoiError(f"signals: column 'text' is {kind}, want strings")
        table = with_columns(table, [(TEXT, table.column(TEXT).cast(pa.large_string()))])
    others = np.zeros(table.num_rows, bool)
    if DROP in table.column_names:
        others = pc.is_valid(table.column(DROP)).to_numpy()
        table = table.drop_columns([DROP])
    judged = operator(table)
    return SignalView(operator, judged.drop_columns([x for x in (DROP,) if x in judged.column_names]), others)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def _numbers(table: pa.Table, name: str) -> np.ndarray:
    return cast(np.ndarray, table.column(name).to_numpy().astype(np.float64))
