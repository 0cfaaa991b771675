"""Runs the numbered jobs of a stage: on Ray Data, or one after the other in this process.

A job reads and writes its own files; only its descriptor and its counts travel. It is committed by a record
`stages/<stage>/<job>.commit.json` (counts, files with size and hash) that is renamed into place last. A job
with a valid record is not run again; a record whose file is missing or holds other bytes does not count: what an
earlier call left is read once and hashed when a run goes on.

A job is marked while it runs (`watch.begin`). Where a mark is found that no error explains, the attempt before
ended with its process, and a job that has a second, careful way takes that.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import sys
import threading
import time
import traceback
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import pyarrow as pa

from . import cluster, errors, local_ray, watch
from .errors import MalmoiError, ResourceError
from .identity import check_environment, environment
from .local_ray import TRIES, TURN, usable_cpus
from .poison import Overdue, limited
from .ray_place import ray_address
from .recipe import Run
from .storage import READERS, Folder, in_parallel
from .written import Sizes, is_there

# Of files that an earlier call left: hashed in this process (1.5 GB/s from a disk) rather than by workers.
CHECK_HERE_BYTES = 4 * 1024**3

_DIED = (
    f"the worker process failed {TRIES} times. Most often the machine ran out of memory: lower run.num_cpus or "
    "run.batch_bytes. MALMOI_DEBUG=1 shows more"
)

Counts = dict[str, Any]
Work = Callable[[Folder, Any], Counts]
EngineKind = Literal["ray", "local"]


@dataclass(frozen=True)
class Job:
    """One unit of work: `work(folder, payload)` returns its counts, with written files under `files`.

    `plan`: the key of the plan that it belongs to; a record of another plan's job does not count. `careful`:
    the same work for a second attempt, after one that ended with its process or was ended because it gave no
    sign of life (`poison.alive`) for `limit_s` seconds.
    """

    stage: str
    name: str
    work: Work
    payload: Any = field(compare=False)
    plan: str = ""
    careful: Work | None = field(default=None, compare=False)
    limit_s: float | None = None

    @property
    def record(self) -> str:
        return f"stages/{self.stage}/{self.name}.commit.json"


def committed(folder: Folder, job: Job) -> Counts | None:
    """The counts of a job that is done, else None; its files are read and their hashes compared."""
    counts = _recorded(folder, job)
    return counts if counts is not None and _whole(folder, counts) else None


def _recorded(folder: Folder, job: Job, sizes: Sizes | None = None) -> Counts | None:
    """The counts of a job that has a record; with `sizes` only where its files are there, too."""
    try:
        if sizes is not None and sizes.of(job.record) is None:
            return None
        counts: Counts = json.loads(folder.read_bytes(job.record))
        whole = counts["plan"] == job.plan
        files = [(str(name), int(size), str(digest)) for name, size, digest in counts["files"]]
        if sizes is not None:
            whole = whole and all(sizes.of(name) == size for name, size, _ in files)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return counts if whole else None


def _whole(folder: Folder, counts: Counts) -> bool:
    """Whether the files of a record hold what it says."""
    files = counts["files"]
    if len(files) <= READERS:
        return all(is_there(folder, *file) for file in files)
    return all(in_parallel(folder, lambda file: is_there(folder, *file), files, local=usable_cpus()))


def execute(folder: Folder, job: Job, *, worker: bool = False, call: str = "") -> Counts:
    """Run one job and commit it. `worker`: this process may be ended where `job.limit_s` is exceeded; `call`: of
    `run_jobs`, of whose workers the job may end TRIES."""
    attempt = watch.begin(folder, job.stage, job.name, job.plan, call)
    if attempt.deaths >= TRIES:
        raise MalmoiError(_DIED)  # the mark stays one of a death: the next command goes on carefully
    started = time.perf_counter()
    try:
        counts = _work(folder, job, attempt.after_death, worker)
        counts.setdefault("files", [])
        counts["plan"] = job.plan
        counts["where"] = attempt.where
        counts["seconds"] = round(time.perf_counter() - started, 4)
        folder.write_bytes(job.record, json.dumps(counts, sort_keys=True, ensure_ascii=False).encode())
    except BaseException:
        attempt.failed()
        raise
    attempt.committed(counts)
    return counts


def _work(folder: Folder, job: Job, after_death: bool, worker: bool) -> Counts:
    if job.careful is None or job.limit_s is None:
        return dict(job.work(folder, job.payload))
    if not after_death:
        try:
            with limited(job.limit_s, end=worker):
                return dict(job.work(folder, job.payload))
        except Overdue:
            pass
    return dict(job.careful(folder, job.payload))


def _execute_row(table: pa.Table) -> Iterator[pa.Table]:
    """The Ray Data side: a row holds a pickled (folder, jobs, names of those to check, call, versions there), the
    results are JSON answers, each told when its job ends. An error ends the row.

    Where a worker died, Ray runs the row again: its first jobs are done already, up to the first that is not.
    """
    [raw] = table.column("jobs").to_pylist()
    folder, jobs, check, call, versions = pickle.loads(raw)
    again = True
    for job in jobs:
        answer: dict[str, Any] = {"name": job.name}
        try:
            check_environment(versions)
            earlier = committed(folder, job) if again or job.name in check else None
            if earlier is None:
                again = False
                answer["counts"] = execute(folder, job, worker=True, call=call)
            else:
                answer["counts"] = {**earlier, "earlier": job.name in check}
        except MalmoiError as error:
            answer["error"] = [type(error).__name__, str(error)]
        except MemoryError:
            answer["error"] = ["ResourceError", "out of memory; lower run.batch_bytes"]
        except Exception as error:  # a bug of ours or of a user's operator: told plainly, never swallowed
            answer["error"] = ["MalmoiError", f"{type(error).__name__}: {error}"]
            answer["trace"] = traceback.format_exc()
        yield pa.table({"answer": pa.array([json.dumps(answer)], pa.large_string())})
        if "error" in answer:
            return


def _raise(stage: str, answer: dict[str, Any]) -> None:
    """Raise in this process what a worker answered; a bug's trace goes to stderr with MALMOI_DEBUG=1."""
    kind, message = answer["error"]
    if "trace" in answer and os.environ.get("MALMOI_DEBUG"):
        sys.stderr.write(answer["trace"])
    raise getattr(errors, kind, MalmoiError)(f"{stage}/{answer['name']}: {message}")


def start_ray(run: Run) -> int:
    """Connect to RAY_ADDRESS, or start Ray in this process; the number of CPUs that a stage may use."""
    local_ray.prepare()
    import ray.data

    local_ray.settle()
    if not ray.is_initialized():
        address = ray_address()
        if address:
            ray.init(address=address, logging_level="ERROR", log_to_driver=False)
        else:
            local_ray.start(local_ray.own_cpus(run.num_cpus))
    local_ray.answer_for_cluster()
    there = cluster.usable(run)
    if os.environ.get("RAY_ADDRESS"):
        return run.num_cpus or sys.maxsize  # nodes may join later
    return min(run.num_cpus or there, there)


def wait_for_cpu(seconds: float = 60.0, run: Run | None = None) -> None:
    """Fail, rather than wait for ever, when other work on the cluster holds every CPU."""
    import ray

    deadline = time.monotonic() + seconds
    pause = 0.01  # at first it is the stage before, whose workers Ray has not given back yet
    while cluster.free_cpus(run or Run()) < 1:
        if time.monotonic() > deadline:
            total = ray.cluster_resources().get("CPU", 0)
            raise ResourceError(
                f"needs 1 free CPU and none of {total:g} became free in {seconds:.0f} s: other work holds them"
            )
        time.sleep(pause)
        pause = min(2 * pause, 0.5)


_making = threading.Lock()  # Ray Data's context is one for the process


def _turns(jobs: list[Job], workers: int) -> Iterator[list[Job]]:
    """The jobs as workers get them: several at once, and one by one towards the end, so that all end together."""
    start = 0
    while start < len(jobs):
        size = min(-(-(len(jobs) - start) // (2 * workers)), TURN)
        yield jobs[start : start + size]
        start += size


def _context() -> Any:
    """Ray Data without its output, and answers told when they are there."""
    from ray.data import DataContext
    from ray.data._internal.execution.resource_manager import ResourceManager

    for logger in ("ray", "ray.data", "ray.data.dataset"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a copy sets what is deprecated, too
        context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = 1
    if hasattr(ResourceManager, "GLOBAL_LIMITS_UPDATE_INTERVAL_S"):  # until then only one job runs
        ResourceManager.GLOBAL_LIMITS_UPDATE_INTERVAL_S = 0.1
    context._max_num_blocks_in_streaming_gen_buffer = TURN
    return context


def _on_ray(
    folder: Folder, jobs: list[Job], num_cpus: int, run: Run, check: frozenset[str]
) -> Iterator[tuple[str, Counts]]:
    """Answers as they come; a job that crashes its worker is tried three times, then stops the run."""
    import ray
    from ray.data import DataContext, TaskPoolStrategy
    from ray.exceptions import RayError

    wait_for_cpu(run=run)
    call = uuid.uuid4().hex
    workers = min(num_cpus, len(jobs))
    ahead = workers if run.wait_for_nodes else min(workers, 2 * cluster.cpus(run))  # nodes may join later
    turns = list(_turns(jobs, ahead))
    versions = {} if local_ray.is_ours() else environment()
    rows = [  # cloudpickle: also what a notebook defines
        {"jobs": ray.cloudpickle.dumps((folder, some, check & {job.name for job in some}, call, versions))}
        for some in turns
    ]
    with _making, warnings.catch_warnings(), DataContext.current(_context()):
        warnings.simplefilter("ignore")  # max_retries has no other spelling yet in Ray 2.60
        answers = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _execute_row,
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=1,
            compute=TaskPoolStrategy(size=min(workers, len(rows))),  # Ray warns of more
            max_retries=local_ray.RETRIES,
            **cluster.placement(run),
        )
    try:
        for row in answers.iter_rows():
            answer = json.loads(row["answer"])
            if "error" in answer:
                _raise(jobs[0].stage, answer)
            yield answer["name"], answer["counts"]
    except RayError as error:
        if os.environ.get("MALMOI_DEBUG"):
            raise
        raise MalmoiError(f"{jobs[0].stage}: {_DIED} ({type(error).__name__})") from error


def run_jobs(
    folder: Folder,
    jobs: Iterable[Job],
    *,
    engine: EngineKind,
    num_cpus: int,
    tick: Callable[[Counts], None],
    run: Run | None = None,
    whole: bool = True,
    keep: Callable[[Counts], Counts] = dict,
) -> list[Counts]:
    """Jobs of one stage; the counts in the jobs' order, those of finished jobs from their records.

    `run`: where on a cluster the jobs may run; `keep`: what is held of a job's counts, once it is done; `whole`: they
    are all that the stage has, so that its folder is listed rather than each of their files looked for.
    """
    jobs = list(jobs)
    done, check = _done(folder, jobs, on_workers=engine == "ray", whole=whole)
    for name, counts in done.items():
        tick({**counts, "earlier": True})
        done[name] = keep(counts)
    rest = [job for job in jobs if job.name not in done]
    if rest:
        here = ((job.name, execute(folder, job)) for job in rest)
        for name, counts in (
            here if engine == "local" else _on_ray(folder, rest, num_cpus, run or Run(), check)
        ):
            tick(counts)
            done[name] = keep({key: value for key, value in counts.items() if key != "earlier"})
    missing = [job.name for job in jobs if job.name not in done]
    if missing:
        raise MalmoiError(f"{jobs[0].stage}: Ray returned no answer for {', '.join(missing[:5])}")
    return [done[job.name] for job in jobs]


def _done(
    folder: Folder, jobs: list[Job], *, on_workers: bool, whole: bool
) -> tuple[dict[str, Counts], frozenset[str]]:
    """The counts of the jobs that are done, in the jobs' order, and the names of those whose files are to be
    hashed by workers, being too many bytes for this process."""
    sizes = Sizes(folder) if whole else None
    found = in_parallel(folder, lambda job: _recorded(folder, job, sizes), jobs, local=usable_cpus())
    there = {job.name: counts for job, counts in zip(jobs, found, strict=True) if counts is not None}
    size = sum(size for counts in there.values() for _, size, _ in counts["files"])
    if on_workers and size > CHECK_HERE_BYTES:
        return {}, frozenset(there)
    checked = in_parallel(folder, partial(_whole, folder), list(there.values()), local=usable_cpus())
    return {
        name: counts for (name, counts), good in zip(there.items(), checked, strict=True) if good
    }, frozenset()
