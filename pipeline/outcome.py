"""The manifest of a finished run, put together from its plan and the counts of its stages."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numba
import numpy as np
import pyarrow as pa
import xxhash
from pydantic import TypeAdapter

from .engine import Counts
from .identity import files_of
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


def _others(aside: list[Counts]) -> list[Output]:
    return [
        Output(name, size, digest, one["dropped_rows" if name.startswith("dropped/") else "quarantine_rows"])
        for one in aside
        for name, size, digest in one["files"]
    ]


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


def _versions(plan: Plan) -> dict[str, str]:
    """What can change the bytes written: our version and the libraries that make the files."""
    return {
        "malmoi": plan.identity["malmoi"],
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "pyarrow": pa.__version__,
        "numpy": np.__version__,
        "numba": numba.__version__,
        "xxhash": xxhash.VERSION,
    }


def _step_files(plan: Plan) -> dict[str, str | None]:
    """The models and tokenizers used, by content."""
    files = [(step.name, name, digest) for step in plan.steps for name, digest in files_of(step).items()]
    return {f"{step} file": f"{name} xxh3_128 {digest}" for step, name, digest in files}


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
    order = ORDER_SCHEME if plan.recipe.write.shuffle else None
    return Manifest(
        name=plan.recipe.name,
        recipe=identity["recipe"] | {"output": plan.recipe.output},
        versions=_versions(plan),
        operators={step.name: step.version for step in plan.steps},
        schemes={**SCHEMES, **identity["schemes"], "order": order} | _step_files(plan),
        books=tuple(books),
        inputs=tuple(Input(**entry) for entry in identity["inputs"]),
        corpus=tuple(_outputs(written, "read")),
        others=tuple(sorted(_others(aside), key=lambda output: output.path)),
        sources=_groups(decided["groups"]["source"], sources),
        languages=_groups(decided["groups"]["language"], read["language"]) if read["language"] else (),
        dedup=TypeAdapter(Dedup).validate_python(decided["dedup"]),
        mixture=_mixture(plan, decided, {**read, "source": sources}),
        diversity=diversity,
    )
