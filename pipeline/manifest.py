"""What a run made, from what, and how: `manifest.json`, the last file that a run writes.

A folder without a manifest is not a finished corpus. Training reads this file and nothing else of a run.
The manifest holds no seconds, hosts, processors or batch sizes (those are in report.json), so two runs of
the same recipe over the same input have the same `manifest_hash`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import TypeAdapter, ValidationError

from .errors import ChangedError, MalmoiError
from .storage import Folder, in_parallel
from .written import Sizes, hash_file

FILE = "manifest.json"
FORMAT = 1
SCHEMES = {"file": "xxh3_128", "manifest": "sha256 of sorted compact JSON"}


@dataclass(frozen=True)
class Book:
    """One stage in documents: read = kept + dropped + quarantined.

    `read_bytes`, `kept_bytes`: UTF-8 bytes of their text. `rows`: rows written, a copy counted like the
    first (0 where the stage writes none).
    """

    stage: str
    read: int
    kept: int
    dropped: dict[str, int]
    quarantined: int
    read_bytes: int = 0
    kept_bytes: int = 0
    rows: int = 0
    quarantine_reasons: dict[str, int] = dataclasses.field(default_factory=dict)

    @staticmethod
    def of(stage: str, counts: Mapping[str, Any]) -> Book:
        """From the summed counts of a stage's jobs; `kept_bytes` is `text_bytes` where it is not told."""
        text_bytes = int(counts.get("text_bytes", 0))
        return Book(
            stage=stage,
            read=int(counts["read"]),
            kept=int(counts["kept"]),
            dropped=_sorted(counts.get("dropped", {})),
            quarantined=int(counts.get("quarantined", 0)),
            read_bytes=text_bytes,
            kept_bytes=int(counts.get("kept_bytes", text_bytes)),
            rows=int(counts.get("rows", 0)),
            quarantine_reasons=_sorted(counts.get("quarantine_reasons", {})),
        )


def _sorted(counts: Mapping[str, Any]) -> dict[str, int]:
    return {name: int(counts[name]) for name in sorted(counts)}


@dataclass(frozen=True)
class Input:
    """A file that was read. `file` is relative to the source; `fingerprint` is of its content."""

    source: str
    file: str
    bytes: int
    fingerprint: str


@dataclass(frozen=True)
class Output:
    """A file of the run. `path`: within the run; `hash`: xxh3_128, hex; `tokens`: None if not counted."""

    path: str
    bytes: int
    hash: str
    rows: int
    text_bytes: int = 0
    tokens: int | None = None


@dataclass(frozen=True)
class Group:
    """A source, a language or a group of the mixture, from input to corpus.

    read: documents read; kept: of these, kept by the rules; unique: kept by deduplication as well (with the
    bytes and tokens of their text); documents: in the corpus; rows: with copies; text_bytes, tokens: of the
    rows; target: the share that the recipe asks for, in the mixture's unit, None where it asks for none.
    """

    name: str
    read: int = 0
    kept: int = 0
    unique: int = 0
    unique_bytes: int = 0
    unique_tokens: int | None = None
    documents: int = 0
    rows: int = 0
    text_bytes: int = 0
    tokens: int | None = None
    target: float | None = None


@dataclass(frozen=True)
class Mixture:
    """The groups by the values of column `by`; `notes`: what could not be met, with numbers."""

    by: str
    method: str
    unit: str
    groups: tuple[Group, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Loss:
    """Documents of a source (or a language) that entered deduplication, and those that it removed."""

    source: str
    documents: int
    exact: int
    fuzzy: int


@dataclass(frozen=True)
class Earlier:
    """An earlier run's index that documents were compared with. `matched`: documents of this run that a document
    of it made a duplicate; `superseded`: its documents that lost to one of this run."""

    run: str
    index: str
    documents: int
    matched: int = 0
    superseded: int = 0


@dataclass(frozen=True)
class Dedup:
    """Clusters of two and more documents, the size of the largest, losses by source and by language, alarms
    raised, earlier runs compared with."""

    clusters: int = 0
    largest: int = 0
    losses: tuple[Loss, ...] = ()
    alarms: tuple[str, ...] = ()
    languages: tuple[Loss, ...] = ()
    earlier: tuple[Earlier, ...] = ()

    @property
    def exact(self) -> int:
        return sum(loss.exact for loss in self.losses)

    @property
    def fuzzy(self) -> int:
        return sum(loss.fuzzy for loss in self.losses)


@dataclass(frozen=True)
class Manifest:
    """See the module. `recipe`: canonical, without `run` and storage options; `diversity`: the figures under
    `before` and `after`; `operators`: name -> version; `schemes`: name -> hash scheme; `others`: the files of
    dropped and quarantined documents.
    """

    name: str
    recipe: dict[str, Any]
    versions: dict[str, str]
    operators: dict[str, int]
    schemes: dict[str, str | None]
    books: tuple[Book, ...]
    inputs: tuple[Input, ...]
    corpus: tuple[Output, ...]
    others: tuple[Output, ...] = ()
    sources: tuple[Group, ...] = ()
    languages: tuple[Group, ...] = ()
    dedup: Dedup = Dedup()
    mixture: Mixture | None = None
    diversity: dict[str, dict[str, float | None]] = dataclasses.field(default_factory=dict)
    format_version: int = FORMAT

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.corpus)

    @property
    def text_bytes(self) -> int:
        return sum(shard.text_bytes for shard in self.corpus)

    @property
    def tokens(self) -> int | None:
        """Tokens of the corpus, None where any shard was not counted."""
        counts = [shard.tokens for shard in self.corpus if shard.tokens is not None]
        return sum(counts) if len(counts) == len(self.corpus) else None

    @cached_property
    def manifest_hash(self) -> str:
        """Hex; the same for the same recipe and input wherever they lie and however they were run."""
        return manifest_hash(self._plain())

    def _plain(self) -> dict[str, Any]:
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        content = dict(json.loads(json.dumps(own, allow_nan=False, default=vars)))
        return {**content, "recipe": _without(content["recipe"], ("run",), ("storage_options",))}

    def check(self) -> None:
        """MalmoiError where the books do not balance, or the shards are not what the last stage wrote."""
        check_books(self.books)
        if self.books and self.books[-1].rows != self.rows:
            stage, rows = self.books[-1].stage, self.books[-1].rows
            raise MalmoiError(f"{stage}: wrote {rows:,} rows, but the shards hold {self.rows:,}")

    def save(self, folder: Folder) -> None:
        """Check and write `manifest.json`, whole or not at all."""
        self.check()
        content = {"manifest_hash": self.manifest_hash, **self._plain()}
        folder.write_bytes(FILE, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())

    @staticmethod
    def load(run: Folder | str) -> Manifest:
        """Of a run's folder. MalmoiError: no manifest, another format, edited by hand."""
        folder = Folder(run) if isinstance(run, str) else run
        place = folder.join(FILE)
        try:
            content = json.loads(folder.read_bytes(FILE))
            found, version = content.pop("manifest_hash"), content["format_version"]
        except FileNotFoundError as error:
            raise MalmoiError(f"{place}: not there, so this is not a finished run; run its recipe") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise MalmoiError(f"{place}: not a manifest ({error!r})") from error
        if version != FORMAT:
            raise MalmoiError(f"{place}: format {version}; this malmoi reads format {FORMAT}")
        if manifest_hash(content) != found:
            raise ChangedError(f"{place}: changed since it was written (its hash is not {found})")
        try:
            return TypeAdapter(Manifest).validate_python(content)
        except ValidationError as error:
            raise MalmoiError(f"{place}: not a manifest: {error}") from error

    def verify(self, folder: Folder, *, deep: bool = False) -> None:
        """ChangedError naming every file of the run that is missing or has another size.

        `deep` also reads the files and compares their hashes.
        """
        wrong = wrong_files(folder, (*self.corpus, *self.others), deep=deep)
        if wrong:
            raise ChangedError(wrong)

    def corpus_files(self, folder: Folder) -> list[str]:
        """Full paths or URLs of the shards, in order."""
        return [folder.join(shard.path) for shard in self.corpus]


def wrong_files(folder: Folder, outputs: Iterable[Output], *, deep: bool) -> str:
    """A line for each file that is missing or has another size (`deep`: content), ten at most; "" if none."""
    listed, sizes = list(outputs), Sizes(folder)
    problems = in_parallel(folder, lambda output: _problem(sizes, output, deep), listed)
    found = zip(listed, problems, strict=True)
    wrong = [f"{folder.join(output.path)}: {problem}" for output, problem in found if problem]
    more = f"\n... {len(wrong) - 10} more files" if len(wrong) > 10 else ""
    return "\n".join(wrong[:10]) + more


def _problem(sizes: Sizes, output: Output, deep: bool) -> str:
    size = sizes.of(output.path)
    if size is None:
        return "missing"
    if size != output.bytes:
        return f"{size:,} bytes, want {output.bytes:,}"
    try:
        found = hash_file(sizes.folder, output.path)[2] if deep else output.hash
    except FileNotFoundError:  # gone since it was listed
        return "missing"
    return "" if found == output.hash else f"content changed (xxh3_128 {found}, want {output.hash})"


def manifest_hash(content: Mapping[str, Any]) -> str:
    """sha256 of a manifest as plain JSON values, leaving out where things lie and how they were run."""
    recipe = _without(content["recipe"], ("run", "output"), ("path", "storage_options"))
    canonical = json.dumps(
        {**content, "recipe": recipe}, sort_keys=True, ensure_ascii=False, separators=(",", ":")
    )
    return hashlib.sha256(canonical.encode()).hexdigest()


def _without(
    recipe: Mapping[str, Any], keys: tuple[str, ...], source_keys: tuple[str, ...]
) -> dict[str, Any]:
    kept = {key: value for key, value in recipe.items() if key not in keys}
    if "sources" in kept:
        kept["sources"] = [{k: v for k, v in s.items() if k not in source_keys} for s in kept["sources"]]
    return kept


def check_books(books: Iterable[Book]) -> None:
    """MalmoiError naming stage and numbers where a book does not balance, or does not begin with what the
    stage before kept.
    """
    before: Book | None = None
    for book in books:
        dropped = sum(book.dropped.values())
        total = book.kept + dropped + book.quarantined
        if book.read != total:
            raise MalmoiError(
                f"{book.stage}: the books do not balance: read {book.read:,}, but kept {book.kept:,} + "
                f"dropped {dropped:,} + quarantined {book.quarantined:,} = {total:,}"
            )
        if before is not None and book.read != before.kept:
            raise MalmoiError(f"{book.stage}: read {book.read:,}, but {before.stage} kept {before.kept:,}")
        before = book
