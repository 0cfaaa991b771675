"""How a run grows with its documents: `benchmarks/dedup_growth.py REAL.jsonl.zst [--documents 300000 1000000]`.

    python benchmarks/dedup_growth.py REAL --documents 300000 1000000 3000000
    python benchmarks/dedup_growth.py REAL --documents 500000 1600000 5000000 --words 40 --rules

Documents are made from real text: five runs of words from REAL (field `text`), `--words` in all, at random by a
seed; a fifth of them are copies of an earlier one with up to three words changed (of 100 words: Jaccard 1.0, 0.90,
0.81 or 0.73). Each number of documents is a run of its own, with all rules where `--rules` says so, and gives a row:
wall seconds of the run from its plan on, of the stage that reads, judges and hashes (`filter`) and of deduplication
(`verify`, the jobs, and `decide`, the process that leads), the largest resident set of that process and of any
worker, and the bytes per document that passed between the jobs.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

import zstandard
from whole_path import STEPS

RUNS, NEAR = 5, 2000  # runs of a document, all from so many that lie together


def fragments(real: Path, run_words: int, limit: int = 400_000) -> list[list[str]]:
    """Runs of words that follow each other in a document, those of a language (field `lang_hint`) together."""
    found: list[tuple[str, list[str]]] = []
    with real.open("rb") as stream:
        for line in io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(stream), "utf-8"):
            record = json.loads(line)
            words, language = record["text"].split(), str(record.get("lang_hint", ""))
            found += [
                (language, words[i : i + run_words]) for i in range(0, len(words) - run_words, run_words)
            ]
            if len(found) >= limit:
                break
    found.sort(key=lambda run: run[0])
    return [run for _, run in found if sum(map(len, run)) < 12 * run_words]


def write_documents(runs: list[list[str]], count: int, path: Path, seed: int = 1) -> int:
    """One JSON object a line, a run a line of its text; returns the bytes of text."""
    chance = random.Random(seed)
    recent: list[list[str]] = []
    size = 0
    with path.open("w", encoding="utf-8") as out:
        for number in range(count):
            if recent and chance.random() < 0.2:
                words = list(chance.choice(recent))
                for _ in range(chance.randrange(4)):
                    words[chance.randrange(len(words))] = "geändert"
            else:
                near = chance.randrange(len(runs) - NEAR)
                words = [word for _ in range(RUNS) for word in runs[near + chance.randrange(NEAR)]]
                if len(recent) < 100_000:
                    recent.append(words)
                else:
                    recent[chance.randrange(100_000)] = words
            step = len(words) // RUNS
            text = ".\n".join(" ".join(words[i : i + step]) for i in range(0, len(words), step)) + "."
            size += len(text.encode())
            out.write(json.dumps({"id": f"d{number}", "text": text}, ensure_ascii=False) + "\n")
    return size


def watch(peaks: dict[str, int], stop: threading.Event) -> None:
    """Keep the largest resident set (bytes) of this process and of any worker of Ray below it."""
    me = os.getpid()
    while not stop.wait(0.5):
        parents, names, sizes = {}, {}, {}
        for entry in os.listdir("/proc"):
            if not entry.isdigit():
                continue
            try:
                lines = Path(f"/proc/{entry}/status").read_text().splitlines()
                fields = dict(line.split(":", 1) for line in lines if ":" in line)
                command = Path(f"/proc/{entry}/cmdline").read_bytes()
            except OSError:
                continue
            pid = int(entry)
            parents[pid], names[pid] = int(fields["PPid"]), command
            sizes[pid] = int(fields.get("VmHWM", "0 kB").split()[0]) * 1024
        for pid, name in names.items():
            above = pid
            while above in parents and above != me:
                above = parents[above]
            kind = "driver" if pid == me else "worker" if above == me and name.startswith(b"ray::") else ""
            if kind:
                peaks[kind] = max(peaks.get(kind, 0), sizes[pid])


def measure(source: str, output: str, engine: str, cpus: int, rules: bool, answer: str) -> None:
    """One run, in a process of its own, so that its peak is its own."""
    from rich.console import Console

    from malmoi.pipeline.plan import make_plan
    from malmoi.pipeline.recipe import Recipe
    from malmoi.pipeline.run import run_plan

    recipe = Recipe.model_validate(
        {
            "name": "growth",
            "output": output,
            "sources": [{"name": "made", "path": source, "id": "id"}],
            "steps": [{step: {}} for step in STEPS] if rules else [],
            "run": {"num_cpus": cpus},
        }
    )
    peaks: dict[str, int] = {}
    stop = threading.Event()
    watcher = threading.Thread(target=watch, args=(peaks, stop), daemon=True)
    watcher.start()
    started = time.perf_counter()
    run_plan(make_plan(recipe), console=Console(quiet=True), engine=engine, summary=False)  # type: ignore[arg-type]
    stop.set()
    watcher.join()
    record = json.loads(Path(output, "stages/decide/all.commit.json").read_text())
    report = json.loads(Path(output, "report.json").read_text())
    figures = {
        "total": time.perf_counter() - started,
        "seconds": report,
        "peaks": peaks,
        "rounds": record["rounds"],
        "dedup": {"clusters": record["dedup"]["clusters"], "largest": record["dedup"]["largest"]},
    }
    Path(answer).write_text(json.dumps(figures))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Growth of deduplication with the number of documents.")
    parser.add_argument("real", type=Path)
    parser.add_argument("--documents", type=int, nargs="+", default=[300_000, 1_000_000])
    parser.add_argument("--engine", choices=("ray", "local"), default="ray")
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--words", type=int, default=100, help="of a document")
    parser.add_argument("--rules", action="store_true", help="judge by all rules, too")
    parser.add_argument("--work", type=Path, help="folder for the documents and runs; else a temporary one")
    chosen = parser.parse_args(arguments)
    work = chosen.work or Path(tempfile.mkdtemp(prefix="malmoi-growth-"))
    work.mkdir(parents=True, exist_ok=True)
    runs = fragments(chosen.real, chosen.words // RUNS)
    print(
        "documents     MB    total s  filter s  verify s  decide s  dedup us/document  driver MB  worker MB  "
        "partitions  shuffled B/document   removed"
    )
    for count in chosen.documents:
        source, output, answer = work / f"{count}.jsonl", work / f"run-{count}", work / f"{count}.json"
        size = write_documents(runs, count, source)
        shutil.rmtree(output, ignore_errors=True)
        context = multiprocessing.get_context("spawn")
        inputs = (str(source), str(output), chosen.engine, chosen.cpus, chosen.rules, str(answer))
        child = context.Process(target=measure, args=inputs)
        child.start()
        child.join()
        if child.exitcode:
            return 1
        found = json.loads(answer.read_text())
        took, rounds, peaks = found["seconds"], found["rounds"], found["peaks"]
        verify, decide = took.get("verify", 0.0), took.get("decide", 0.0)
        print(
            f"{count:9,} {size / 1e6:6.0f} {found['total']:10.1f} {took['filter']:9.1f} {verify:9.1f} {decide:9.1f} "
            f"{(verify + decide) / count * 1e6:18.1f} {peaks.get('driver', 0) / 1e6:10.0f} "
            f"{peaks.get('worker', 0) / 1e6:10.0f} {rounds.get('partitions', 0):11d} "
            f"{rounds.get('shuffled_bytes', 0) / count:20.0f} {sum(rounds['removed'][-1:]):9,}",
            flush=True,
        )
        shutil.rmtree(output, ignore_errors=True)
        source.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
