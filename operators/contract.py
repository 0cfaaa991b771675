"""What an operator is, and how a signal becomes a verdict.

An operator is a frozen dataclass called on a `pyarrow.Table` of documents. Its fields are its whole
configuration. It returns the same rows in the same order with columns added (an editor also replaces
`text`). It keeps no state between calls, so any slicing of the input gives the same rows.

The columns that every table of documents has:

| column   | type                    | meaning                                                          |
|----------|-------------------------|------------------------------------------------------------------|
| `id`     | large_string            | stable id of the document within its source                      |
| `source` | large_string            | name of the source in the recipe                                 |
| `text`   | large_string            | the document, UTF-8                                              |
| `drop`   | large_string, nullable  | the first failing reason, null while the document is kept;       |
|          |                         | a table without the column is a table of kept documents          |

A *judge* adds signals (float64 columns named `<operator>.<signal>`) and a reason in `drop`; it never edits
text and never removes a row. An *editor* replaces `text` and records what it changed; it never drops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

TEXT = "text"
DROP = "drop"
LANGUAGE = "language"

Kind = Literal["editor", "judge", "signal"]


@runtime_checkable
class Operator(Protocol):
    """The shape of an operator; nothing inherits from it.

    `version` is bumped whenever the output for the same input changes. `reference` names the paper or the
    code that a rule comes from. `needs` are columns that must be there, `adds` the fields that are added
    (an editor's `text` is not among them).
    """

    name: ClassVar[str]
    version: ClassVar[int]
    kind: ClassVar[Kind]
    reference: ClassVar[str]

    @property
    def needs(self) -> tuple[str, ...]: ...

    @property
    def adds(self) -> pa.Schema: ...

    def __call__(self, table: pa.Table) -> pa.Table: ...


@dataclass(frozen=True)
class Limit:
    """A signal must lie in [`min`, `max`] (either may be absent), else the document fails for `reason`.

    The reason is the signal's own name unless another is given. A NaN or null signal never fails.
    """

    signal: str
    min: float | None = None
    max: float | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        if self.min != self.min or self.max != self.max:
            raise ValueError(f"{self.signal}: want numbers, got min={self.min}, max={self.max}")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"{self.signal}: want min <= max, got min={self.min}, max={self.max}")

    @property
    def name(self) -> str:
        return self.reason or self.signal


LimitsOf = Callable[[str], tuple[Limit, ...]]


def with_columns(table: pa.Table, columns: Iterable[tuple[str, pa.Array]]) -> pa.Table:
    """Add columns, or replace those of the same name in place; rows and other columns stay as they are."""
    for name, values in columns:
        position = table.schema.get_field_index(name)
        if position < 0:
            table = table.append_column(name, values)
        else:
            table = table.set_column(position, name, values)
    return table


def mark(table: pa.Table, failures: Iterable[tuple[str, np.ndarray]]) -> pa.Table:
    """Write the first failing reason of each row into `drop`; a reason that is there already stays.

    `failures`: (reason, bool [rows] mask) in the order in which the reasons are tried.
    """
    reasons: list[str] = []
    first = np.zeros(table.num_rows, dtype=np.int32)
    for reason, failed in failures:
        reasons.append(reason)
        rows = np.flatnonzero(failed)
        first[rows[first[rows] == 0]] = len(reasons)
    names = pa.array([None, *reasons], pa.large_string())
    found = names.take(pa.array(first))
    if DROP in table.column_names:
        found = pc.coalesce(table.column(DROP).cast(pa.large_string()), found)
    return with_columns(table, [(DROP, found)])


def judge(table: pa.Table, limits_of: LimitsOf) -> pa.Table:
    """Apply the limits of each row's language to signals that are in the table, in the limits' order.

    `limits_of(language)` must give the same signals in the same order for every language; a row without
    a language (or a table without the column) is judged as `limits_of("")`.
    """
    languages, codes = _languages(table)
    per_language = [limits_of(language) for language in languages]
    failures: list[tuple[str, np.ndarray]] = []
    for slot, limit in enumerate(per_language[0]):
        values = table.column(limit.signal).to_numpy().astype(np.float64, copy=False)
        for bounds, outside in (
            ([limits[slot].min for limits in per_language], np.less),
            ([limits[slot].max for limits in per_language], np.greater),
        ):
            if any(bound is not None for bound in bounds):
                bound = np.array(bounds, np.float64)  # None: NaN, which nothing is outside of
                failures.append((limit.name, outside(values, bound[codes])))
    return mark(table, failures)


def _languages(table: pa.Table) -> tuple[list[str], np.ndarray]:
    """The languages of the table, and for each row its place among them."""
    if LANGUAGE not in table.column_names or not table.num_rows:
        return [""], np.zeros(table.num_rows, dtype=np.int32)
    column = table.column(LANGUAGE).combine_chunks()
    encoded = pc.fill_null(column.cast(pa.large_string()), "").dictionary_encode()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False)
