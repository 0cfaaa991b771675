"""A view of an operator's signals as HTML: every signal with its spread, its limits and what fails them."""

from __future__ import annotations

from html import escape

import numpy as np

from malmoi.operators.config import settings_of
from malmoi.operators.contract import Limit

from . import html
from .figures import share
from .signal_view import SignalView, limits_of

_FEW = 3


def limit_text(limit: Limit) -> str:
    """`50 to 100000`, `at least 2`, `at most 0.1`; empty where the limit is off."""
    if limit.min == float("inf"):
        return "never"
    if limit.min is None and limit.max is None:
        return ""
    if limit.min is None:
        return f"at most {limit.max:g}"
    return f"at least {limit.min:g}" if limit.max is None else f"{limit.min:g} to {limit.max:g}"


def _limits(view: SignalView, signal: str) -> str:
    """The limits on a signal; by language where they differ."""
    if limits_of(view.operator) is None:
        return ""
    by_text: dict[str, list[str]] = {}
    for language in view.languages:
        text = ", ".join(filter(None, map(limit_text, view.limits(signal, language))))
        by_text.setdefault(text, []).append(language or "no language")
    if len(by_text) == 1:
        return next(iter(by_text))
    shown = [
        f"{text or 'no limit'} ({', '.join(names[:_FEW])}{', ...' if len(names) > _FEW else ''})"
        for text, names in list(by_text.items())[:_FEW]
    ]
    return "; ".join([*shown, *(["..."] if len(by_text) > _FEW else [])])


def _row(view: SignalView, signal: str, first: int) -> list[str]:
    found = view.histogram(signal)
    values = view.table.column(signal).to_numpy().astype(np.float64)
    values = values[np.isfinite(values)]
    spread = [f"{x:.4g}" for x in np.percentile(values, [1, 50, 99])] if len(values) else ["-", "-", "-"]
    return [
        escape(signal),
        html.histogram(found.counts.tolist(), found.failed.tolist()),
        *spread,
        f"{found.undefined:,}",
        escape(_limits(view, signal)),
        f"{int(found.failed.sum()):,}",
        f"{first:,}",
    ]


def signal_page(view: SignalView) -> str:
    """The page that a notebook shows."""
    counts, of = view.counts(), limits_of(view.operator)
    by_reason = {
        limit.name: limit.signal for language in view.languages for limit in (of(language) if of else ())
    }
    first: dict[str, int] = {}
    for reason, count in counts.items():
        signal = by_reason.get(reason, reason)
        first[signal] = first.get(signal, 0) + count
    rows = [_row(view, signal, first.get(signal, 0)) for signal in view.signals]
    columns = ("signal", "", "1 %", "median", "99 %", "undefined", "wanted", "outside", "first reason")
    changed = {
        name: value
        for name, value in settings_of(view.operator).items()
        if getattr(type(view.operator), name, value) != value
    }
    settings = ", ".join(f"{name}={value!r}" for name, value in changed.items())
    gone = f"{view.num_dropped:,} dropped ({share(view.num_dropped, view.num_docs)})"
    lines = [f"{view.num_docs:,} documents, {gone}, {view.num_only_here:,} of them by this operator alone"]
    return html.page(
        f"{type(view.operator).__name__}({settings})",
        html.notes(lines if of else [f"{view.num_docs:,} documents; this operator drops none by limits"]),
        html.raw_table("", columns, rows, words=2),
    )
