"""Histograms of signals with their limits, by matplotlib (extra `notebook`)."""

from __future__ import annotations

from typing import Any

import numpy as np

from .errors import MalmoiError
from .extras import wanted
from .html import BLUE, RED
from .signal_view import SignalView, limits_of

_COLUMNS = 3


def _limited(view: SignalView) -> list[str]:
    """The signals with a limit that is on for a language of the table; all where there is none."""
    of = limits_of(view.operator)
    on = {
        x.signal
        for name in view.languages
        for x in (of(name) if of else ())
        if (x.min, x.max) != (None, None)
    }
    return [name for name in view.signals if name in on] or list(view.signals)


def _draw(view: SignalView, signal: str, bins: int, axes: Any) -> None:
    found = view.histogram(signal, bins)
    width = np.diff(found.edges)
    axes.bar(found.edges[:-1], found.counts, width, align="edge", color=BLUE, label="kept by this limit")
    axes.bar(found.edges[:-1], found.failed, width, align="edge", color=RED, label="outside it")
    bounds = {
        value
        for language in view.languages
        for limit in view.limits(found.signal, language)
        for value in (limit.min, limit.max)
        if value is not None and found.edges[0] <= value <= found.edges[-1]
    }
    for value in sorted(bounds):
        axes.axvline(value, color="black", linewidth=1, linestyle="--")
    undefined = f", {found.undefined:,} undefined" if found.undefined else ""
    axes.set_title(
        f"{found.signal}\n{int(found.failed.sum()):,} of {view.num_docs:,} outside{undefined}", fontsize=9
    )
    axes.set_yscale("symlog")
    axes.set_ylabel("documents", fontsize=8)
    axes.tick_params(labelsize=8)


def plot(view: SignalView, signal: str | None, bins: int) -> Any:
    """A matplotlib Figure: documents by value, those outside the limits in red, limits as dashed lines.

    The count's axis is logarithmic: what a threshold drops is rare beside what it keeps.
    """
    pyplot = wanted("matplotlib.pyplot", "plot")
    names = [view.histogram(signal, bins).signal] if signal is not None else _limited(view)
    if not names:
        raise MalmoiError(f"{view.operator.name}: adds no numbers to plot")
    columns = min(len(names), _COLUMNS)
    rows = -(-len(names) // columns)
    figure, grid = pyplot.subplots(
        rows, columns, squeeze=False, figsize=(4.2 * columns, 2.6 * rows), layout="constrained"
    )
    pyplot.close(figure)  # it is shown as the cell's value, once
    grid = grid.ravel()
    for axes, name in zip(grid, names, strict=False):
        _draw(view, name, bins, axes)
    for axes in grid[len(names) :]:
        axes.set_visible(False)
    return figure
