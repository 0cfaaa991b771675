"""The peers' half of `kernels.py`, run by their own interpreter: CPU seconds, all threads, of rensa and datatrove.

    python benchmarks/kernels_peers.py EVERY.jsonl ENGLISH.jsonl --rounds 5

Prints one line of JSON: a list of seconds, one a round, for each.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from rensa import RMinHash

PERMUTATIONS, WORDS = 112, 5


def shingles(text: str) -> list[str]:
    words = text.lower().split()
    return [" ".join(words[i : i + WORDS]) for i in range(max(1, len(words) - WORDS + 1))]


def split_seconds(texts: list[str]) -> float:
    started = time.process_time()
    for text in texts:
        shingles(text)
    return time.process_time() - started


def rensa(split: list[list[str]]) -> float:
    started = time.process_time()
    for tokens in split:
        sketch = RMinHash(num_perm=PERMUTATIONS, seed=1)
        sketch.update(tokens)
        sketch.digest()
    return time.process_time() - started


def datatrove(texts: list[str]) -> float:
    """Every filter judges every document, as ours do."""
    filters = [
        GopherQualityFilter(),
        GopherRepetitionFilter(),
        C4QualityFilter(filter_no_terminal_punct=False),
        FineWebQualityFilter(),
    ]
    filters[0].filter(Document(text="warm up", id="0"))
    started = time.process_time()
    for one in filters:
        for number, text in enumerate(texts):
            one.filter(Document(text=text, id=str(number)))
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description="Peers' kernels.")
    parser.add_argument("every", type=Path)
    parser.add_argument("english", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["minhash", "rules"])
    chosen = parser.parse_args()
    every, english = (
        [json.loads(line)["text"] for line in file.read_text("utf-8").splitlines()]
        for file in (chosen.every, chosen.english)
    )
    split = [shingles(text) for text in every]
    rensa(split[:10])
    found = {}
    if chosen.only != "rules":
        found["rensa_splitting"] = [split_seconds(every) for _ in range(chosen.rounds)]
        found["rensa"] = [rensa(split) for _ in range(chosen.rounds)]
    if chosen.only != "minhash":
        found["datatrove"] = [datatrove(english) for _ in range(chosen.rounds)]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
