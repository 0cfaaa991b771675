"""Write tests/data/datatrove_golden.json: what datatrove 0.10.1 itself decides on the project's own sample.

Run in an environment of its own, because datatrove pins other versions than this project does:

    python -m venv golden && golden/bin/pip install "datatrove[processing]==0.10.1" "spacy>=3.8,<3.9" nltk "xxhash<4" zstandard
    golden/bin/python benchmarks/make_datatrove_golden.py

Each filter runs with its defaults (English; `gopher_quality_relaxed` with limits that keep more of the sample, which
is mostly documentation full of punctuation) on every document of examples/sample whose text is a string, in every
language: the English tokenizer is defined for any text. The file holds ids and decisions, no text: for each filter the
reasons that occur, and per document the place of its reason in that list, "" meaning kept.
"""  # noqa: E501

from __future__ import annotations

import gzip
import hashlib
import io
import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import zstandard
from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "tests" / "data" / "datatrove_golden.json"
FILTERS = {
    "gopher_quality": GopherQualityFilter(),
    "gopher_quality_relaxed": GopherQualityFilter(
        min_doc_words=10, min_avg_word_length=2, max_non_alpha_words_ratio=0.55, min_stop_words=1
    ),
    "gopher_repetition": GopherRepetitionFilter(),
    "c4_quality": C4QualityFilter(),
    "c4_quality_any_line_end": C4QualityFilter(filter_no_terminal_punct=False),
    "fineweb_quality": FineWebQualityFilter(),
}
EDITORS = ("c4_quality", "c4_quality_any_line_end")


def _lines(path: Path) -> Iterator[str]:
    if path.suffix == ".zst":
        with path.open("rb") as stored:
            yield from io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(stored), encoding="utf-8")
    elif path.suffix == ".gz":
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            yield from lines
    else:
        yield from path.read_text(encoding="utf-8").splitlines()


def _documents() -> Iterator[tuple[str, str, str]]:
    """File, id and text of each document; Parquet files and broken.jsonl are left out."""
    for path in sorted((ROOT / "examples" / "sample").glob("*.jsonl*")):
        if path.name == "broken.jsonl":
            continue
        for line in _lines(path):
            record = json.loads(line)
            yield path.name, record["id"], record["text"]


def _decide(name: str, text: str) -> tuple[str, str]:
    """The reason ("" if kept), and a digest of the text that C4 leaves."""
    document = Document(text=text, id="")
    verdict = FILTERS[name].filter(document)
    reason = verdict[1] if isinstance(verdict, tuple) else ("" if verdict else "dropped")
    digest = hashlib.sha256(document.text.encode()).hexdigest()[:16]
    return reason, digest if name in EDITORS and not reason else ""


def main() -> None:
    documents = list(_documents())
    golden: dict[str, object] = {
        "made_with": {name: version(name) for name in ("datatrove", "spacy")},
        "documents": [f"{file}:{key}" for file, key, _ in documents],
    }
    for name in FILTERS:
        decided = [_decide(name, text) for _, _, text in documents]
        reasons = sorted({reason for reason, _ in decided} | {""})
        golden[name] = {"reasons": reasons, "decisions": [reasons.index(reason) for reason, _ in decided]}
        if name in EDITORS:
            kept = "".join(digest for _, digest in decided)
            golden[name]["edited"] = hashlib.sha256(kept.encode()).hexdigest()  # type: ignore[index]
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps(golden, separators=(",", ":")) + "\n", encoding="utf-8")
    print(f"{OUTPUT.name}: {len(documents)} documents, {OUTPUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
