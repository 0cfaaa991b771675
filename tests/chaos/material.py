"""What is run under faults: a small input of several kinds, two recipes over it, and how outputs are compared."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

WORDS = [
    a + b for a in ("ba", "ke", "mi", "lo", "su", "ta") for b in ("n", "r", "sh", "t", "ve", "dor", "li", "k")
]

COMMON = ["the", "and", "of", "to", "that", "with"]  # without which no rule takes it for a text


def text(rng: random.Random, length: int) -> str:
    return " ".join(rng.choice(WORDS if i % 4 else COMMON) for i in range(length)) + "."


def near(rng: random.Random, original: str) -> str:
    """The same text with one word changed."""
    words = original.split()
    words[rng.randrange(len(words))] = "other"
    return " ".join(words)


def make_input(folder: Path) -> None:
    """Four files of two sources; exact and near duplicates within and between them, and lines that are none."""
    rng = random.Random(4)
    originals = [text(rng, rng.randrange(40, 120)) for _ in range(120)]
    web = [*originals[:90], *(near(rng, x) for x in originals[:25]), *originals[5:15], "", "too short"]
    books = [*originals[90:], *(near(rng, x) for x in originals[20:45]), *originals[60:64]]
    rng.shuffle(web)
    rng.shuffle(books)
    folder.mkdir(parents=True)
    lines = [json.dumps({"id": f"w{i}", "text": x, "page": i}) for i, x in enumerate(web)]
    lines[7], lines[70] = (
        "no record",
        json.dumps({"id": "w3", "text": "an id that is there already, once more"}),
    )
    (folder / "web-0.jsonl").write_text("\n".join(lines[:60]))
    (folder / "web-1.jsonl").write_text("\n".join(lines[60:100]))
    (folder / "web-2.jsonl.gz").write_bytes(gzip.compress("\n".join(lines[100:]).encode(), mtime=0))
    rows = {"id": [f"b{i}" for i in range(len(books))], "text": books}
    pq.write_table(pa.table(rows), folder / "books.parquet", row_group_size=30)


RECIPES = {
    "shuffled": {
        "write": {"format": "jsonl.zst", "shard_bytes": 12_000},
        "mixture": {"method": "given", "weights": {"web": 1, "books": 2}, "max_epochs": 2.0},
    },
    "in-order": {"write": {"format": "parquet", "shard_bytes": 16_000, "shuffle": False}},
}


def make_recipe(folder: Path, name: str) -> Path:
    path = folder / f"{name}.yaml"
    sources = [
        {"name": "web", "path": "in/web-*", "id": "id"},
        {"name": "books", "path": "in/books.parquet", "id": "id", "priority": 1},
    ]
    content = {
        "name": "chaos",
        "output": str(folder / "run"),
        "sources": sources,
        "part_bytes": 14_000,
        "steps": ["normalise", {"gopher_quality": {"min_words": 20}}],
        "dedup": {"fuzzy": {"ngram_size": 3}, "partitions": 2, "save_index": True},
        **RECIPES[name],
    }
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def outputs(path: Path) -> dict[str, bytes]:
    """What must be the same byte for byte; the manifest but for the path of the output."""
    folders = ("corpus", "dropped", "quarantine", "index")
    files = [
        file for folder in folders for file in (path / folder).iterdir() if not file.name.startswith(".tmp-")
    ]
    found = {str(file.relative_to(path)): file.read_bytes() for file in (*files, path / "README.md")}
    manifest = (path / "manifest.json").read_text(encoding="utf-8")
    return {**found, "manifest.json": manifest.replace(str(path), "OUTPUT").encode()}


def differences(path: Path, want: dict[str, bytes]) -> list[str]:
    """What is not as in the undisturbed run, and books that do not balance."""
    from malmoi.pipeline.manifest import Manifest
    from malmoi.pipeline.storage import Folder

    folder = Folder(str(path))
    Manifest.load(folder).verify(folder, deep=True)
    found = outputs(path)
    wrong = [f"missing: {name}" for name in sorted(set(want) - set(found))]
    wrong += [f"too much: {name}" for name in sorted(set(found) - set(want))]
    wrong += [f"differs: {name}" for name in sorted(set(want) & set(found)) if want[name] != found[name]]
    for book in json.loads((path / "manifest.json").read_text())["books"]:
        if book["read"] != book["kept"] + sum(book["dropped"].values()) + book["quarantined"]:
            wrong.append(f"unbalanced: {book['stage']}")
    return wrong
