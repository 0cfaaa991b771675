"""The figures of a finished run as tables of text, for the terminal and for the dataset card alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import TypeVar

from .manifest import Group, Manifest

TOP_REASONS = 12
TOP_GROUPS = 12
TOP_NOTES = 12
_NAME = attrgetter("name")
T = TypeVar("T")


@dataclass(frozen=True)
class Sheet:
    """A table: the first column is words, the others numbers; `notes` stand below it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def size(count: int) -> str:
    """Bytes in decimal units: `1.2 MB`."""
    value, units = float(count), ("bytes", "kB", "MB", "GB", "TB", "PB")
    for unit in units:
        # 999.95 would be shown as 1000.0
        if value < 999.95 or unit == units[-1]:
            break
        value /= 1000
    return f"{count} bytes" if unit == "bytes" else f"{value:.1f} {unit}"


def share(part: float, whole: float) -> str:
    """`12.3 %`, or `-` of nothing."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def speed(count: int, seconds: float | None) -> str:
    return f"{count / 1e6 / seconds:,.1f}" if seconds and count else "-"


def stages(manifest: Manifest, seconds: Mapping[str, float] | None = None) -> Sheet:
    """`seconds`: of each stage, for a column MB/s of text read."""
    columns = ("stage", "documents in", "kept", "dropped", "quarantined", "text in", "text kept")
    rows = []
    for book in manifest.books:
        dropped = sum(book.dropped.values())
        row = (book.stage, *(f"{x:,}" for x in (book.read, book.kept, dropped, book.quarantined)))
        known = book.read_bytes > 0
        row += (size(book.read_bytes), size(book.kept_bytes)) if known else ("-", "-")
        if seconds is not None:
            row += (speed(book.read_bytes, seconds.get(book.stage)),)
        rows.append(row)
    return Sheet("Stages", columns if seconds is None else (*columns, "MB/s"), tuple(rows))


def reasons(manifest: Manifest) -> Sheet:
    """Why documents were dropped and quarantined, commonest first."""
    read = manifest.books[0].read if manifest.books else 0
    counts: dict[tuple[str, str], int] = {}
    for book in manifest.books:
        known = sum(book.quarantine_reasons.values())
        rest = {"quarantined": book.quarantined - known} if book.quarantined > known else {}
        for name, count in {**book.dropped, **book.quarantine_reasons, **rest}.items():
            counts[name, book.stage] = counts.get((name, book.stage), 0) + count
    ranked = sorted(((key, count) for key, count in counts.items() if count), key=lambda x: (-x[1], x[0]))
    rows = tuple(
        (name, stage, f"{count:,}", share(count, read)) for (name, stage), count in ranked[:TOP_REASONS]
    )
    more = len(ranked) - TOP_REASONS
    left = sum(count for _, count in ranked[TOP_REASONS:])
    notes = (f"{more} more reasons: {left:,} documents",) if more > 0 else ()
    return Sheet("Not in the corpus", ("reason", "stage", "documents", "of all read"), rows, notes)


def _top(
    groups: Iterable[T], weight: Callable[[T], float], name: Callable[[T], str]
) -> tuple[list[T], tuple[str, ...]]:
    """The TOP_GROUPS heaviest, and a note how many more there are."""
    ranked = sorted(groups, key=lambda group: (-weight(group), name(group)))
    more = len(ranked) - TOP_GROUPS
    return ranked[:TOP_GROUPS], (f"{more} more",) if more > 0 else ()


def _some(lines: tuple[str, ...]) -> tuple[str, ...]:
    """The first TOP_NOTES lines, and how many more there are: of some hundred groups, one may say a line each."""
    more = len(lines) - TOP_NOTES
    return (*lines[:TOP_NOTES], f"{more} more such lines in manifest.json") if more > 0 else lines


def flow(title: str, groups: tuple[Group, ...]) -> Sheet:
    """Groups (sources or languages) from input to corpus."""
    total = sum(group.text_bytes for group in groups)
    shown, notes = _top(groups, lambda group: group.read, _NAME)
    rows = tuple(
        (
            group.name or "(none)",
            *(f"{count:,}" for count in (group.read, group.kept, group.documents)),
            size(group.text_bytes),
            share(group.text_bytes, total),
        )
        for group in shown
    )
    return Sheet(
        title, (title.lower(), "read", "after rules", "in corpus", "text", "share of text"), rows, notes
    )


def duplicates(manifest: Manifest) -> Sheet:
    dedup = manifest.dedup
    total = sum(loss.documents for loss in dedup.losses)
    shown, more = _top(dedup.losses, lambda loss: loss.exact + loss.fuzzy, attrgetter("source"))
    rows = tuple(
        (
            loss.source,
            *(f"{count:,}" for count in (loss.documents, loss.exact, loss.fuzzy)),
            share(loss.exact + loss.fuzzy, loss.documents),
        )
        for loss in shown
    )
    gone = dedup.exact + dedup.fuzzy
    line = (
        f"{dedup.clusters:,} cluster{'s' * (dedup.clusters != 1)}, the largest of {dedup.largest:,} documents; "
        f"removed {gone:,} of {total:,} ({share(gone, total)}): {dedup.exact:,} exact, {dedup.fuzzy:,} fuzzy"
    )
    notes = (*more, line, *_some(dedup.alarms))
    return Sheet("Duplicates", ("source", "documents", "exact", "fuzzy", "removed"), rows, notes)


def mixture(manifest: Manifest) -> Sheet | None:
    """Shares before and after in the mixture's unit."""
    mix = manifest.mixture
    if mix is None:
        return None

    def before(group: Group) -> float:
        tokens = group.unique_bytes if group.unique_tokens is None else group.unique_tokens
        return {"documents": group.unique, "tokens": tokens}.get(mix.unit, group.unique_bytes)

    def after(group: Group) -> float:
        tokens = group.text_bytes if group.tokens is None else group.tokens
        return {"documents": group.rows, "tokens": tokens}.get(mix.unit, group.text_bytes)

    all_before, all_after = sum(map(before, mix.groups)), sum(map(after, mix.groups))
    shown, notes = _top(mix.groups, before, _NAME)
    rows = tuple(
        (
            group.name or "(none)",
            share(before(group), all_before),
            "-" if group.target is None else share(group.target, 1.0),
            share(after(group), all_after),
            f"{group.rows / group.unique:.2f}" if group.unique else "-",
        )
        for group in shown
    )
    title = f"Mixture by {mix.by} ({mix.method}, in {mix.unit})"
    return Sheet(title, (mix.by, "before", "wanted", "after", "epochs"), rows, (*notes, *_some(mix.notes)))


def diversity(manifest: Manifest) -> Sheet:
    before, after = manifest.diversity.get("before", {}), manifest.diversity.get("after", {})
    rows = tuple(
        (name.replace("_", " "), _number(before.get(name)), _number(after.get(name)))
        for name in dict.fromkeys([*before, *after])
    )
    return Sheet("Diversity", ("figure", "before", "after"), rows)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value == int(value) and abs(value) >= 1000 else f"{value:,.3f}"


def sheets(manifest: Manifest, seconds: Mapping[str, float] | None = None) -> list[Sheet]:
    """All tables that have a row or a note, in the order in which they are shown."""
    found = [
        stages(manifest, seconds),
        reasons(manifest),
        flow("Source", manifest.sources),
        flow("Language", manifest.languages),
        duplicates(manifest) if manifest.dedup.losses else None,
        mixture(manifest),
        diversity(manifest),
    ]
    return [sheet for sheet in found if sheet is not None and (sheet.rows or sheet.notes)]


def headline(manifest: Manifest) -> str:
    """The size of the corpus in one line; copies of a document count as documents."""
    distinct = manifest.books[-1].kept if manifest.books else manifest.rows
    copies = "" if distinct == manifest.rows else f" ({distinct:,} distinct)"
    tokens = "" if manifest.tokens is None else f", {manifest.tokens:,} tokens"
    shards = f"{len(manifest.corpus):,} shard{'' if len(manifest.corpus) == 1 else 's'}"
    return f"{manifest.rows:,} documents{copies}, {size(manifest.text_bytes)} of text{tokens}, in {shards}"
