"""The manifest of a finished run, put together from its plan and the counts of its stages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import TypeAdapter

from .engine import Counts
from .errors import MalmoiError
from .manifest import SCHEMES, Book, Dedup, Group, Input, Manifest, Mixture, Output
from .plan import Plan
from .scatter import SCHEME as ORDER_SCHEME


def add_counts(counts: Iterable[Counts]) -> Counts:
    """The sum of the counts of a stage's jobs: numbers are added, mappings of numbers key by key."""
    total: Counts = {}
    for one in counts:
        for key, value in one.items():
            if isinstance(value, Mapping):
                into = total.setdefault(key, {})
                for name, number in value.items():
                    into[name] = into.get(name, 0) + number
            elif isinstance(value, int | float) and not isinstance(value, bool):
                total[key] = total.get(key, 0) + value
    return {key: dict(sorted(v.items())) if isinstance(v, dict) else v for key, v in sorted(total.items())}


def write_book(written: list[Counts]) -> Book:
    """The write stage in documents (not rows): a document with copies counts once, its bytes as often."""
    total = add_counts(written)
    documents = total.get("documents", 0)
    text_bytes = total.get("text_bytes", 0)
    return Book("write", documents, documents, {}, 0, text_bytes, text_bytes, total.get("read", 0))


def _outputs(counts: list[Counts], rows: str) -> list[Output]:
    """The files of jobs that write one file each; `rows`: the count that tells its rows."""
    return [
        Output(name, size, digest, one[rows], one.get("text_bytes", 0), one.get("tokens"))
        for one in counts
        for name, size, digest in one["files"]
        if name.startswith("corpus/")
    ]


def _others(filtered: list[Counts], aside: list[Counts]) -> list[Output]:
    return [
        Output(name, size, digest, one["dropped_rows" if name.startswith("dropped/") else "quarantine_rows"])
        for one in [*filtered, *aside]
        for name, size, digest in one["files"]
        if name.startswith(("dropped/", "quarantine/"))
    ]


def _path(output: Output) -> str:
    return output.path


def _groups(counts: Mapping[str, Any], read: Mapping[str, int]) -> tuple[Group, ...]:
    names = sorted(set(counts) | set(read))
    return tuple(Group(name=name, read=read.get(name, 0), **counts.get(name, {})) for name in names)


def _mixture(plan: Plan, decided: Counts, read: Mapping[str, Mapping[str, int]]) -> Mixture:
    by, method, unit = (getattr(plan.recipe.mixture, key) for key in ("by", "method", "unit"))
    targets = decided["targets"]
    groups = []
    for name, counts in sorted(decided["groups"]["group"].items()):
        seen = read.get(by, {}).get(name, 0)
        groups.append(Group(name=name, read=seen, target=targets.get(name), **counts))
    return Mixture(by, method, unit, tuple(groups), tuple(decided["notes"]))


def _steps(plan: Plan) -> tuple[dict[str, int], dict[str, str | None]]:
    """(operator -> version, operator's file -> content); a second step of one operator is `<name>#2`."""
    versions: dict[str, int] = {}
    files: dict[str, str | None] = {}
    for step in plan.identity["operators"]:
        same = sum(name.partition("#")[0] == step["name"] for name in versions)
        name = f"{step['name']}#{same + 1}" if same else step["name"]
        versions[name] = step["version"]
        files |= {f"{name} file": f"{file} xxh3_128 {hash_}" for file, hash_ in step.get("files", {}).items()}
    return versions, files


def _check_written(
    books: list[Book],
    filtered: list[Counts],
    decided: Counts,
    written: list[Counts],
    aside: list[Counts],
) -> None:
    """MalmoiError unless exactly the planned rows are in the corpus, in dropped/ and in quarantine/."""
    groups = decided["groups"]["source"].values()
    lost = sum(sum(book.dropped.values()) for book in books)
    bad = sum(book.quarantined for book in books)
    for what, found, want in (
        ("rows in the corpus", sum(x["read"] for x in written), sum(group["rows"] for group in groups)),
        (
            "bytes of text in the corpus",
            sum(x["text_bytes"] for x in written),
            sum(group["text_bytes"] for group in groups),
        ),
        ("documents in dropped/", sum(x["dropped_rows"] for x in [*filtered, *aside]), lost),
        ("records in quarantine/", sum(x["quarantine_rows"] for x in aside), bad),
    ):
        if found != want:
            raise MalmoiError(
                f"write: the books do not balance: {found:,} {what}, want {want:,}; please report this"
            )


def build_manifest(
    plan: Plan,
    filtered: list[Counts],
    decided: Counts,
    written: list[Counts],
    aside: list[Counts],
    diversity: dict[str, dict[str, float | None]],
) -> Manifest:
    """Every figure is from a commit record, so a run that was stopped and went on tells the same."""
    total = add_counts(filtered)
    books = [Book.of("filter", total), *(Book(**book) for book in decided["books"]), write_book(written)]
    read = {"source": total.get("sources_read", {}), "language": total.get("languages_read", {})}
    quarantined = total.get("quarantine_sources", {})
    both = read["source"] | quarantined
    sources = {name: read["source"].get(name, 0) + quarantined.get(name, 0) for name in both}
    identity = plan.identity
    versions, files = _steps(plan)
    _check_written(books, filtered, decided, written, aside)
    order = ORDER_SCHEME if plan.recipe.write.shuffle else None
    return Manifest(
        name=plan.recipe.name,
        recipe=identity["recipe"] | {"output": plan.recipe.output},
        versions={"malmoi": identity["malmoi"], **identity["libraries"]},
        operators=versions,
        schemes={**SCHEMES, **identity["schemes"], "order": order} | files,
        books=tuple(books),
        inputs=tuple(Input(**entry) for entry in identity["inputs"]),
        corpus=tuple(_outputs(written, "read")),
        others=tuple(
            sorted(
                [*_others(filtered, aside), *(Output(*file) for file in decided.get("index", []))], key=_path
            )
        ),
        sources=_groups(decided["groups"]["source"], sources),
        languages=_groups(decided["groups"]["language"], read["language"]) if read["language"] else (),
        dedup=TypeAdapter(Dedup).validate_python(decided["dedup"]),
        mixture=_mixture(plan, decided, {**read, "source": sources}),
        diversity=diversity,
    )
