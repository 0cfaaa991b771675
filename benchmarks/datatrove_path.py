"""The peer's half of `whole_path.py`: the same work in datatrove 0.10.1, run by its own interpreter.

    python benchmarks/datatrove_path.py INPUT OUTPUT --workers 2 [--lid lid.176.ftz]

INPUT: a folder of JSON Lines files, one task each. Language identification (with a model file, else left out),
Gopher repetition, Gopher quality, C4, FineWeb; then the four MinHash stages, 14 bands of 8 over word 5-grams;
JSON Lines at the end, because its Parquet writer refuses a field that is null throughout the first batch and a
string later. All rules with their defaults, except that C4 does not ask for final punctuation (as in
FineWeb) and that no language is refused. Prints one line of JSON: seconds by stage.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import datatrove.utils.lid as lid
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import (
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
    LanguageFilter,
)
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter

CONFIG = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)


def stages(source: str, work: str, with_language: bool) -> list[tuple[str, list[Any], bool]]:
    """Name, pipeline, and whether the stage runs one task a file (else one a bucket, or one alone)."""
    language = [LanguageFilter(label_only=True)] if with_language else []
    filters = [
        *language,
        GopherRepetitionFilter(),
        GopherQualityFilter(),
        C4QualityFilter(filter_no_terminal_punct=False),
        FineWebQualityFilter(),
    ]
    kept, hashes, buckets, remove = (f"{work}/{name}" for name in ("kept", "hashes", "buckets", "remove"))
    reader = JsonlReader(kept)
    return [
        ("filter", [JsonlReader(source), *filters, JsonlWriter(kept, compression="zstd")], True),
        ("signatures", [reader, MinhashDedupSignature(hashes, config=CONFIG)], True),
        ("buckets", [MinhashDedupBuckets(hashes, buckets, config=CONFIG)], False),
        ("cluster", [MinhashDedupCluster(buckets, remove, config=CONFIG)], False),
        (
            "write",
            [reader, MinhashDedupFilter(remove), JsonlWriter(f"{work}/corpus", compression="zstd")],
            True,
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="The whole path in datatrove.")
    parser.add_argument("input", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--lid", help="a fastText model file; without it languages are not identified")
    chosen = parser.parse_args()
    if chosen.lid:  # instead of a download; "fork" below lets the workers see this
        lid.cached_asset_path_or_download = lambda *_, **__: chosen.lid
    files = len(list(chosen.input.iterdir()))
    seconds: dict[str, float] = {}
    for name, pipeline, by_file in stages(str(chosen.input), str(chosen.output), bool(chosen.lid)):
        tasks = files if by_file else CONFIG.num_buckets if name == "buckets" else 1
        started = time.perf_counter()
        LocalPipelineExecutor(
            pipeline,
            tasks=tasks,
            workers=min(chosen.workers, tasks),
            logging_dir=str(chosen.output / "logs" / name),
            start_method="fork",
        ).run()
        seconds[name] = time.perf_counter() - started
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
