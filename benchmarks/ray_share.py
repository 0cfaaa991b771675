"""What Ray costs a run: the same jobs on Ray and in plain processes, one run after the other.

    python benchmarks/ray_share.py sample.jsonl.zst --repeat-to-mb 1000

The whole path as in `whole_path.py`, twice: as `malmoi run` does it, and with each stage's jobs dealt to a pool of as
many spawned processes. Both are timed from the start of their process to its end, must give the same bytes, and say
how long they took to their first document: from the start of the process to when the first part was begun.
Compiled kernels are there already, after a run on 200 documents.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from whole_path import input_files, machine, on_cpus, recipe, write_copies, write_warm_up


def plain(path: str, cpus: int) -> None:
    """Run a recipe file with a pool of processes where Ray would be."""
    from rich.console import Console

    from malmoi.pipeline import engine, run
    from malmoi.pipeline.storage import Folder

    pool = ProcessPoolExecutor(cpus, mp_context=get_context("spawn"))

    def in_pool(folder: Folder, jobs: list[engine.Job], *_: object) -> Iterator[tuple[str, engine.Counts]]:
        waiting = {pool.submit(engine.execute, folder, job): job.name for job in jobs}
        for done in as_completed(waiting):
            yield waiting[done], done.result()

    engine._on_ray = in_pool  # type: ignore[assignment]
    run.start_ray = lambda _: cpus  # type: ignore[assignment]
    run.check_shared = lambda *_: None  # type: ignore[assignment]
    with pool:
        run.run_file(path, console=Console(quiet=True))


def timed(kind: str, file: Path, output: Path, cpus: list[int]) -> tuple[float, float, str, str]:
    """Seconds of the process and to the first document, hashes of what was written, seconds by stage."""
    shutil.rmtree(output, ignore_errors=True)
    began, started = time.time(), time.perf_counter()
    if kind == "ray":
        on_cpus([sys.executable, "-m", "malmoi.pipeline", "run", str(file)], cpus)
    else:
        on_cpus([sys.executable, __file__, "--plain", str(file), "--cpus", str(len(cpus))], cpus)
    seconds = time.perf_counter() - started
    first = min(
        record.stat().st_mtime - json.loads(record.read_text())["seconds"]
        for record in (output / "stages/filter").glob("*.commit.json")
    )
    shards = json.loads((output / "manifest.json").read_text())["corpus"]
    stages = json.loads((output / "report.json").read_text())
    said = ", ".join(f"{name} {value:.1f}" for name, value in stages.items())
    return seconds, first - began, json.dumps(shards, sort_keys=True), said


def main() -> int:
    parser = argparse.ArgumentParser(description="A run on Ray beside the same jobs in plain processes.")
    parser.add_argument("input", type=Path, nargs="?")
    parser.add_argument("--repeat-to-mb", type=float, default=1000)
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--work", type=Path, help="folder for inputs and runs; a temporary one by default")
    parser.add_argument("--plain", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.plain:
        plain(chosen.plain, chosen.cpus)
        return 0
    cpus = sorted(os.sched_getaffinity(0))[: chosen.cpus]
    print(machine(cpus), flush=True)
    with tempfile.TemporaryDirectory(dir=chosen.work) as name:
        folder = Path(name)
        output = folder / "run"
        files = input_files(chosen.input)
        write_warm_up(files, folder / "warm.jsonl")
        file = folder / "recipe.yaml"
        file.write_text(recipe("warm", folder / "warm.jsonl", output, len(cpus)), "utf-8")
        timed("ray", file, output, cpus)
        megabytes = write_copies(files, folder / "input", chosen.repeat_to_mb)
        file.write_text(recipe("share", folder / "input", output, len(cpus)), "utf-8")
        for _ in range(chosen.rounds):
            load = os.getloadavg()[0]
            ours = timed("ray", file, output, cpus)
            bare = timed("plain", file, output, cpus)
            if ours[2] != bare[2]:
                raise SystemExit("the two runs wrote other bytes")
            for kind, (seconds, first, _, stages) in (("Ray", ours), ("processes", bare)):
                print(
                    f"{kind:10s} {megabytes:8.1f} MB {seconds:7.1f} s {megabytes / seconds:7.2f} MB/s", end=""
                )
                print(f"   first document after {first:.1f} s   ({stages})")
            print(f"ratio {ours[0] / bare[0]:.2f}   load before {load:.1f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
