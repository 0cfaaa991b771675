"""Where the time of the filter stage goes, on one CPU: `benchmarks/filter_profile.py INPUT.jsonl.zst [--mb 20]`.

Runs the stage's own functions in this process, without Ray, over the parts of the input until `--mb` of text are
read; the first part is run twice and counted once, so that kernels are compiled. What operators share (words,
lines, their hashes) is made before them and shown by itself.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from whole_path import recipe

from malmoi.operators.analysis import analyse, forget, restrict
from malmoi.operators.contract import DROP, TEXT
from malmoi.pipeline.filtering import FilterPart, align, keep_memory, key_table
from malmoi.pipeline.parquet_out import RowGroupWriter
from malmoi.pipeline.plan import Plan
from malmoi.pipeline.run import plan_file
from malmoi.pipeline.sources import read_part
from malmoi.pipeline.spread import Spread

Seconds = dict[str, float]


@contextmanager
def timed(seconds: Seconds, name: str) -> Iterator[None]:
    started = time.thread_time()  # not the wall clock: other work on the machine does not count
    yield
    seconds[name] += time.thread_time() - started


def share_words(table: pa.Table, seconds: Seconds, of: str) -> None:
    if of == "kept":
        with timed(seconds, "kept: hashes of words in lower case"):
            assert analyse(table).lower_words
        return
    with timed(seconds, f"{of}: words"):
        words = analyse(table).words
    with timed(seconds, f"{of}: hashes of words"):
        assert words.hash is not None


def share_lines(table: pa.Table, seconds: Seconds) -> None:
    with timed(seconds, "all: lines, paragraphs, hashes"):
        assert analyse(table).lines.hash is not None
        assert analyse(table).paragraphs.hash is not None


def run_part(plan: Plan, work: FilterPart, seconds: Seconds) -> float:
    """One part; MB of text."""
    total, spread = 0, Spread()
    batches = read_part(work.part, work.source, work.source_extras, base=work.base)
    with RowGroupWriter(io.BytesIO(), plan.documents) as writer:
        while True:
            with timed(seconds, "read"):
                batch = next(batches, None)
            if batch is None:
                return total / 1e6
            table = align(batch.table, work.extras)
            total += pc.sum(pc.binary_length(table.column(TEXT))).as_py() or 0
            for number, step in enumerate(work.steps):
                if number == 1:
                    share_words(table, seconds, "all")
                    share_lines(table, seconds)
                with timed(seconds, step.name):
                    table = step(table)
            with timed(seconds, "write"):
                writer.write(table)
            is_kept = pc.is_null(table.column(DROP))
            with timed(seconds, "split"):
                kept = table.filter(is_kept)
                restrict(table, kept, is_kept)
            share_words(kept, seconds, "kept")
            with timed(seconds, "keys (exact hash, MinHash)"):
                key_table(kept, work.keys, work.source.priority)
            with timed(seconds, "diversity sample"):
                spread.add(kept)
            forget()


def main() -> int:
    parser = argparse.ArgumentParser(description="Seconds of the filter stage by step, on one CPU.")
    parser.add_argument("input", type=Path)
    parser.add_argument("--mb", type=float, default=20)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "recipe.yaml"
        file.write_text(recipe("profile", chosen.input.absolute(), Path(folder) / "run", 1), "utf-8")
        plan = plan_file(str(file))
    keep_memory()
    jobs = plan.jobs()
    run_part(plan, jobs[0], defaultdict(float))
    seconds: Seconds = defaultdict(float)
    megabytes = 0.0
    for work in jobs:
        megabytes += run_part(plan, work, seconds)
        if megabytes >= chosen.mb:
            break
    total = sum(seconds.values())
    print(f"{megabytes:.1f} MB of text in {total:.2f} s: {megabytes / total:.1f} MB/s on one CPU")
    for name, value in sorted(seconds.items(), key=lambda item: -item[1]):
        print(f"{name:32s} {value:8.3f} s {100 * value / total:5.1f} % {megabytes / value:8.0f} MB/s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
