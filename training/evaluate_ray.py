"""The same batches scored by actors of Ray Data, each with the model loaded once."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from malmoi.pipeline.errors import MalmoiError, ResourceError

from .code_eval import Limits, Outcome, run_program
from .evaluate import Ask, Local
from .evaluate_model import Place, load, load_tokenizer
from .ray_cluster import start_ray
from .scoring import Batch

# Below one, so that a pool over all CPUs leaves Ray Data room for its own tasks: it would wait for ever.
_CPUS = 0.5


class Worker:
    """`map_batches` of tables (number int64, payload large_binary): pickled Batch or Ask in, its answer out."""

    def __init__(self, place: Place, tokenizer: str, window: int) -> None:
        self.local = Local(load(place), load_tokenizer(Path(tokenizer), place), window)

    def __call__(self, table: pa.Table) -> pa.Table:
        answers = [self.local.answer_one(pickle.loads(x)) for x in table["payload"].to_pylist()]
        return _table(table["number"].to_pylist(), answers)


def _table(numbers: Sequence[int], things: Sequence[Any]) -> pa.Table:
    payload = pa.array([pickle.dumps(thing) for thing in things], pa.large_binary())
    return pa.table({"number": pa.array(numbers, pa.int64()), "payload": payload})


@dataclass(frozen=True)
class RayPool:
    """As `Local`, by `workers` actors on this machine or the cluster of RAY_ADDRESS."""

    place: Place
    tokenizer: str
    window: int
    workers: int
    gpus: float

    def answer(self, things: Sequence[Batch | Ask]) -> list[Any]:
        if not things:
            return []
        import ray

        blocks = _blocks(things, self.workers * 4)
        dataset = ray.data.from_arrow(blocks).map_batches(
            Worker,
            fn_constructor_args=(self.place, self.tokenizer, self.window),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=min(self.workers, len(blocks))),
            num_cpus=_CPUS,
            num_gpus=self.gpus or None,
        )
        return _collected(dataset, len(things))


def run_programs(programs: Sequence[str], limits: Limits, at_once: int) -> list[Outcome]:
    """As `code_eval.run_programs`, as tasks of Ray Data of one CPU each; `at_once` is Ray's to choose."""
    if not programs:
        return []
    import ray

    def run(table: pa.Table) -> pa.Table:
        outcomes = [run_program(pickle.loads(x), limits) for x in table["payload"].to_pylist()]
        return _table(table["number"].to_pylist(), outcomes)

    blocks = _blocks(programs, max(at_once, 1) * 4)
    dataset = ray.data.from_arrow(blocks).map_batches(run, batch_size=1, batch_format="pyarrow", num_cpus=1)
    return _collected(dataset, len(programs))


def _blocks(things: Sequence[Any], count: int) -> list[pa.Table]:
    """Dealt in turn, so that each block has long and short ones."""
    count = min(count, len(things))
    return [_table(range(i, len(things), count), things[i::count]) for i in range(count)]


def _collected(dataset: Any, count: int) -> list[Any]:
    from ray.exceptions import RayError

    answers: dict[int, Any] = {}
    try:
        for row in dataset.iter_rows():
            answers[row["number"]] = pickle.loads(row["payload"])
    except RayError as error:
        cause = getattr(error, "cause", None)
        raise cause if isinstance(cause, MalmoiError) else MalmoiError(f"a worker failed: {error}") from error
    return [answers[number] for number in range(count)]


def check_cluster(workers: int, gpus: float) -> None:
    """Reach or start Ray; ResourceError where nobody answers, or it has no room for the workers.

    Before anything that takes long. The Ray is the one in this process, that of RAY_ADDRESS, or a new one.
    """
    start_ray()
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    have = ray.cluster_resources()
    cpus, gpus_there = have.get("CPU", 0.0), have.get("GPU", 0.0)
    need_cpus, need_gpus = workers * _CPUS, workers * gpus
    if need_cpus >= cpus or need_gpus > gpus_there:
        raise ResourceError(
            f"{workers} workers need more than {need_cpus:g} CPUs and {need_gpus:g} GPUs, "
            f"the cluster has {cpus:g} and {gpus_there:g}; lower --workers"
        )
