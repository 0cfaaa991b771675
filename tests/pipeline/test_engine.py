"""Jobs are committed once, wherever they run; an error comes back as what it is."""

import json
import os
from pathlib import Path

import pytest

from malmoi.pipeline import engine, watch
from malmoi.pipeline.engine import Job, committed, execute, run_jobs
from malmoi.pipeline.errors import BusyError, MalmoiError, ResourceError
from malmoi.pipeline.identity import check_environment, environment
from malmoi.pipeline.lock import only_run
from malmoi.pipeline.storage import Folder
from malmoi.pipeline.written import hash_file


def write_number(folder: Folder, number: int) -> dict:
    name = f"stages/t/{number}.txt"
    if number == 13:
        raise MalmoiError("13 is unlucky: use 14")
    folder.write_bytes(name, str(number).encode())
    return {"read": number, "kept": number, "files": [hash_file(folder, name)]}


def jobs(*numbers: int) -> list[Job]:
    return [Job("t", f"job-{n}", write_number, n) for n in numbers]


def test_a_job_runs_once(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    ticks: list = []
    first = run_jobs(folder, jobs(1, 22), engine="local", num_cpus=1, tick=ticks.append)
    again = run_jobs(folder, jobs(1, 22), engine="local", num_cpus=1, tick=ticks.append)
    assert [x["read"] for x in first] == [1, 22]
    assert json.loads(json.dumps(first)) == again
    assert len(ticks) == 4


@pytest.mark.parametrize(
    "damage", ["no file", "torn file", "other bytes", "torn record", "no record", "record of another form"]
)
def test_a_damaged_job_runs_again(tmp_path: Path, damage: str) -> None:
    folder = Folder(str(tmp_path))
    [job] = jobs(22)
    execute(folder, job)
    file, record = tmp_path / "stages/t/22.txt", tmp_path / job.record
    if damage == "no file":
        file.unlink()
    elif damage == "torn file":
        file.write_bytes(b"2")
    elif damage == "other bytes":
        file.write_bytes(b"23")
    elif damage == "torn record":
        record.write_bytes(record.read_bytes()[:20])
    elif damage == "no record":
        record.unlink()
    else:
        record.write_text("[1, 2]")
    assert committed(folder, job) is None
    run_jobs(folder, [job], engine="local", num_cpus=1, tick=lambda _: None)
    assert committed(folder, job) is not None
    assert file.read_bytes() == b"22"


def test_an_error_keeps_what_is_done(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    with pytest.raises(MalmoiError, match="13 is unlucky: use 14"):
        run_jobs(folder, jobs(1, 13, 2), engine="local", num_cpus=1, tick=lambda _: None)
    assert committed(folder, jobs(1)[0]) is not None
    assert committed(folder, jobs(13)[0]) is None


def test_two_runs_in_one_folder(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "run"))
    with (
        only_run(folder),
        pytest.raises(BusyError, match=r"process \d+ on .* is running here"),
        only_run(folder),
    ):
        pass
    with only_run(folder):
        pass


@pytest.mark.ray
def test_on_ray(tmp_path: Path, ray_here: int) -> None:
    folder = Folder(str(tmp_path))
    counts = run_jobs(folder, jobs(*range(5)), engine="ray", num_cpus=ray_here, tick=lambda _: None)
    assert [x["read"] for x in counts] == list(range(5))
    with pytest.raises(MalmoiError, match="t/job-13: 13 is unlucky: use 14"):
        run_jobs(folder, jobs(5, 13), engine="ray", num_cpus=ray_here, tick=lambda _: None)


@pytest.mark.parametrize(("count", "workers"), [(1, 1), (1, 8), (7, 2), (44, 2), (500, 3)])
def test_turns_hold_every_job_once_and_shrink(count: int, workers: int) -> None:
    some = jobs(*range(100, 100 + count))
    turns = list(engine._turns(some, workers))
    assert [job for turn in turns for job in turn] == some
    sizes = [len(turn) for turn in turns]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] <= engine.TURN
    assert sizes[-1] == 1


def die_until(folder: Folder, tries: int) -> dict:
    """A job that ends its process until it has been tried so many times."""
    with (Path(folder.local_path("tries") or "")).open("a") as file:
        file.write("x")
    if len(folder.read_bytes("tries")) < tries:
        os.kill(os.getpid(), 9)
    return {"read": tries}


@pytest.mark.ray
@pytest.mark.parametrize("tries", [engine.TRIES, engine.TRIES + 1])
def test_a_dead_worker_s_turn_goes_on(tmp_path: Path, ray_here: int, tries: int) -> None:
    """What was done before stays done and is told once; a job that kills three workers stops the run."""
    folder, ticks = Folder(str(tmp_path)), []
    some = [*jobs(1, 2), Job("t", "dies", die_until, tries), *jobs(3, 4, 5, 6, 7)]

    def run() -> list:
        return run_jobs(folder, some, engine="ray", num_cpus=1, tick=ticks.append)

    if tries > engine.TRIES:
        with pytest.raises(MalmoiError, match="t/dies: the worker process failed 3 times"):
            run()
        assert (tmp_path / "tries").read_text() == "x" * engine.TRIES
        return
    assert [x["read"] for x in run()] == [1, 2, tries, 3, 4, 5, 6, 7]
    assert not any(x.get("earlier") for x in ticks)
    assert len(ticks) == 8
    [attempt] = [x["where"][4] for x in ticks if x["where"][0] == "dies"]
    assert attempt == tries


def test_only_deaths_of_one_call_are_counted(tmp_path: Path) -> None:
    """Else a process that is killed by hand three times would not be gone on with."""
    folder = Folder(str(tmp_path))
    here = [watch.begin(folder, "t", "job", "plan") for _ in range(5)]
    assert [x.deaths for x in here] == [0] * 5
    assert [x.after_death for x in here] == [False, True, True, True, True]
    calls = [watch.begin(folder, "t", "other", "plan", call) for call in ("a", "a", "a", "b", "b")]
    assert [x.deaths for x in calls] == [0, 1, 2, 0, 1]


@pytest.mark.ray
def test_workers_hash_what_an_earlier_call_left(
    tmp_path: Path, ray_here: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is too much for the driver: the whole is told as earlier, the damaged is done again."""
    folder = Folder(str(tmp_path))
    first = run_jobs(folder, jobs(1, 22, 3), engine="local", num_cpus=1, tick=lambda _: None)
    (tmp_path / "stages/t/22.txt").write_bytes(b"33")
    monkeypatch.setattr(engine, "CHECK_HERE_BYTES", 0)
    ticks: list = []
    again = run_jobs(folder, jobs(1, 22, 3), engine="ray", num_cpus=ray_here, tick=ticks.append)
    assert sorted((x["read"], x.get("earlier", False)) for x in ticks) == [(1, True), (3, True), (22, False)]
    assert (tmp_path / "stages/t/22.txt").read_bytes() == b"22"
    times = ("seconds", "where")
    assert [{k: v for k, v in x.items() if k not in times} for x in json.loads(json.dumps(first))] == [
        {k: v for k, v in x.items() if k not in times} for x in again
    ]


@pytest.mark.ray
def test_a_node_with_other_versions_is_refused(
    tmp_path: Path, ray_here: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = environment()
    assert {"malmoi", "pyarrow", "numba", "python"} <= set(there)
    check_environment(there)
    check_environment({**there, "a library that is not here": "1"})  # who needs it says so
    monkeypatch.setattr(engine.local_ray, "is_ours", lambda: False)
    monkeypatch.setattr(engine, "environment", lambda: {**there, "pyarrow": "25.0.1"})
    with pytest.raises(ResourceError, match=r"node .*: pyarrow \d.* \(there 25\.0\.1\)\. Install the same"):
        run_jobs(Folder(str(tmp_path)), jobs(1), engine="ray", num_cpus=ray_here, tick=lambda _: None)
    assert not list(tmp_path.rglob("*.*"))


def test_a_bug_in_a_job_is_named(tmp_path: Path, ray_here: int) -> None:
    job = Job("t", "bug", lambda folder, _: {}["absent"], None)
    with pytest.raises(MalmoiError, match="t/bug: KeyError: 'absent'"):
        run_jobs(Folder(str(tmp_path)), [job], engine="ray", num_cpus=ray_here, tick=lambda _: None)


@pytest.mark.ray
def test_no_free_cpu_fails_and_does_not_hang(ray_here: int) -> None:
    import ray

    @ray.remote(num_cpus=1)
    class Holder:
        def hold(self) -> bool:
            return True

    holders = [Holder.remote() for _ in range(ray_here)]
    ray.get([holder.hold.remote() for holder in holders])
    with pytest.raises(engine.ResourceError, match="needs 1 free CPU"):
        engine.wait_for_cpu(seconds=1.0)
    for holder in holders:
        ray.kill(holder)
