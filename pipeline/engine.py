"""Runs the numbered jobs of a stage: on Ray Data, or one after the other in this process.

A job reads and writes its own files; only its descriptor and its counts travel. It is committed by a record
`stages/<stage>/<job>.commit.json` (counts, files with size and hash) that is renamed into place last. A job
with a valid record is not run again; a record whose file is missing or has another size does not count.
"""

from __future__ import annotations

import json
import os
import pickle
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa

from .errors import MalmoiError, ResourceError
from .recipe import Run
from .storage import Folder

Counts = dict[str, Any]
Work = Callable[[Folder, Any], Counts]
EngineKind = Literal["ray", "local"]


@dataclass(frozen=True)
class Job:
    """One unit of work: `work(folder, payload)` returns its counts, with written files under `files`."""

    stage: str
    name: str
    work: Work
    payload: Any = field(compare=False)

    @property
    def record(self) -> str:
        return f"stages/{self.stage}/{self.name}.commit.json"


def committed(folder: Folder, job: Job) -> Counts | None:
    """The counts of a job that is done, else None."""
    if not folder.exists(job.record):
        return None
    try:
        counts: Counts = json.loads(folder.read_bytes(job.record))
        whole = all(folder.exists(name) and folder.size(name) == size for name, size, _ in counts["files"])
    except (ValueError, KeyError, TypeError):
        return None
    return counts if whole else None


def execute(folder: Folder, job: Job) -> Counts:
    """Run one job and commit it."""
    started = time.perf_counter()
    counts = dict(job.work(folder, job.payload))
    counts.setdefault("files", [])
    counts["seconds"] = round(time.perf_counter() - started, 4)
    folder.write_bytes(job.record, json.dumps(counts, sort_keys=True, ensure_ascii=False).encode())
    return counts


def _execute_row(table: pa.Table) -> pa.Table:
    """The Ray Data side of `execute`: a row holds a pickled (folder, job), the result a JSON answer."""
    answers = []
    for raw in table.column("job").to_pylist():  # one job a block: no loop over documents
        folder, job = pickle.loads(raw)
        try:
            answer = {"name": job.name, "counts": execute(folder, job)}
        except MalmoiError as error:
            answer = {"name": job.name, "error": [type(error).__name__, str(error)]}
        except MemoryError:
            answer = {"name": job.name, "error": ["ResourceError", f"{job.stage}/{job.name}: out of memory"]}
        answers.append(json.dumps(answer))
    return pa.table({"answer": pa.array(answers, pa.large_string())})


def _raise(stage: str, job: str, kind: str, message: str) -> None:
    from . import errors

    found = getattr(errors, kind, MalmoiError)
    raise found(f"{stage}/{job}: {message}" if job not in message else message)


def start_ray(run: Run) -> int:
    """Connect to RAY_ADDRESS, or start Ray in this process; the number of CPUs that a stage may use."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_task_oom_retries", "2")
    import ray

    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS")
        options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
        if address:
            ray.init(address=address, **options)
        else:
            store = 256 * 1024**2  # only descriptors and counts pass through it
            ray.init(
                num_cpus=run.num_cpus or usable_cpus(), include_dashboard=False, object_store_memory=store, **options
            )
    there = int(ray.cluster_resources().get("CPU", 0))
    if there < 1:
        raise ResourceError("a run needs at least 1 CPU and the cluster has none: add a node with num-cpus >= 1")
    return min(run.num_cpus or there, there)


def usable_cpus() -> int:
    """CPUs that this process may run on (affinity respected)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def wait_for_cpu(seconds: float = 60.0) -> None:
    """Fail, rather than wait for ever, when other work on the cluster holds every CPU."""
    import ray

    deadline = time.monotonic() + seconds
    while ray.available_resources().get("CPU", 0) < 1:
        if time.monotonic() > deadline:
            total = ray.cluster_resources().get("CPU", 0)
            raise ResourceError(
                f"needs 1 free CPU and none of {total:g} became free in {seconds:.0f} s: other work holds them"
            )
        time.sleep(0.5)


def _on_ray(folder: Folder, jobs: list[Job], num_cpus: int) -> Iterator[tuple[str, Counts]]:
    import ray
    from ray.data import DataContext

    wait_for_cpu()
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    rows = [{"job": pickle.dumps((folder, job))} for job in jobs]
    answers = (
        ray.data.from_items(rows, override_num_blocks=len(rows))
        .map_batches(
            _execute_row,
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=1,
            concurrency=min(num_cpus, len(jobs)),
            max_retries=2,
        )
        .iter_rows()
    )
    for row in answers:
        answer = json.loads(row["answer"])
        if "error" in answer:
            _raise(jobs[0].stage, answer["name"], *answer["error"])
        yield answer["name"], answer["counts"]


def run_jobs(
    folder: Folder, jobs: Iterable[Job], *, engine: EngineKind, num_cpus: int, tick: Callable[[Counts], None]
) -> list[Counts]:
    """All jobs of one stage; the counts in the jobs' order, those of finished jobs from their records."""
    jobs = list(jobs)
    done: dict[str, Counts] = {}
    for job in jobs:
        counts = committed(folder, job)
        if counts is not None:
            done[job.name] = counts
            tick(counts)
    rest = [job for job in jobs if job.name not in done]
    if rest:
        if engine == "local":
            answers = ((job.name, execute(folder, job)) for job in rest)
        else:
            answers = iter(_on_ray(folder, rest, num_cpus))
        for name, counts in answers:
            done[name] = counts
            tick(counts)
    missing = [job.name for job in jobs if job.name not in done]
    if missing:
        raise MalmoiError(f"{jobs[0].stage}: Ray returned no answer for {', '.join(missing[:5])}")
    return [done[job.name] for job in jobs]
