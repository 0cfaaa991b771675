"""Ray Train: a killed worker, a run that gives up and goes on with fewer workers; the steps of one process."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from train_rows import recipe

from malmoi.pipeline.errors import MalmoiError
from malmoi.pipeline.storage import Folder
from malmoi.training import checkpoint, metrics
from malmoi.training.outcome import read_record
from malmoi.training.ray_entry import run_local, run_on_ray

pytestmark = pytest.mark.ray


@dataclass(frozen=True)
class Kill:
    """Ends the process of rank 1 once, when it has taken `step` steps; `marker`: a file that says it was done."""

    marker: str
    step: int

    def __call__(self, step: int) -> None:
        import ray.train

        if step != self.step or ray.train.get_context().get_world_rank() != 1 or Path(self.marker).exists():
            return
        Path(self.marker).touch()
        time.sleep(2)  # a checkpoint that was reported is registered by then
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Note:
    """Appends the number of steps taken to a file."""

    file: str

    def __call__(self, step: int) -> None:
        with Path(self.file).open("a", encoding="utf-8") as out:
            out.write(f"{step}\n")


@dataclass(frozen=True)
class Spoil:
    """After `step` steps, the losses that follow are no numbers."""

    step: int

    def __call__(self, step: int) -> None:
        if step == self.step:
            import torch

            from malmoi.training import loop

            real = loop.train_step
            loop.train_step = lambda *given: (torch.tensor(float("nan")), real(*given)[1])


@dataclass(frozen=True)
class Both:
    first: Callable[[int], None]
    second: Callable[[int], None]

    def __call__(self, step: int) -> None:
        self.first(step)
        self.second(step)


@pytest.fixture(scope="module")
def options(s3):
    """fsspec options of a running S3 server with the bucket `models`."""
    pytest.importorskip("s3fs").S3FileSystem(**s3).mkdir("models")
    return s3


@pytest.fixture(scope="module")
def _ray():
    """A Ray of this module; with `train_rows` in the workers, which unpickle `Kill`."""
    import ray

    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.5"
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": path, "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5"}},
    )  # fmt: skip
    yield
    ray.shutdown()


def losses(output):
    text = (output / metrics.FILE).read_text(encoding="utf-8")
    return [x["loss"] for x in map(json.loads, text.splitlines()) if "loss" in x]


def given(rows, output, **workers):
    return recipe(
        rows, output, checkpoint={"every_steps": 3, "keep_last": 2}, log={"every_steps": 1},
        workers={"num_workers": 2, "cpus_per_worker": 0.5, **workers},
    )  # fmt: skip


def stored(rows, url, options, **workers):
    """The same from and to a store."""
    for file in Path(rows).iterdir():
        Folder("s3://models/rows", options).write_bytes(file.name, file.read_bytes())
    made = given("s3://models/rows", url, **workers)
    data = made.data.model_copy(update={"storage_options": options})
    return made.model_copy(update={"output_options": options, "data": data})


@pytest.mark.usefixtures("_ray")
def test_a_killed_worker_changes_nothing(text_rows, tmp_path):
    run_local(given(text_rows, tmp_path / "one", num_workers=1))
    run = given(text_rows, tmp_path / "ray", max_failures=1)
    end = run_on_ray(run, on_step=Kill(str(tmp_path / "killed"), 5))
    assert (tmp_path / "killed").exists()
    assert (end["step"], end["samples"], end["world"]) == (12, 72, 2)
    assert losses(tmp_path / "ray") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    assert [x.name for x in checkpoint.complete_checkpoints(run.output)] == [
        checkpoint.name_of(x) for x in (9, 12)
    ]
    assert (tmp_path / "ray/model/model.safetensors").exists()


@pytest.mark.usefixtures("_ray")
def test_a_run_that_gave_up_goes_on_with_fewer_workers(text_rows, tmp_path):
    run_local(given(text_rows, tmp_path / "one", num_workers=1))
    with pytest.raises(MalmoiError, match="worker"):
        run_on_ray(
            given(text_rows, tmp_path / "ray", max_failures=0), on_step=Kill(str(tmp_path / "killed"), 7)
        )
    fewer = given(text_rows, tmp_path / "ray", num_workers=[1, 2], cpus_per_worker=1.5)  # room for one
    end = run_on_ray(fewer, on_step=Note(str(tmp_path / "steps")))
    assert (tmp_path / "steps").read_text().split()[0] == "7"  # the checkpoint was of 6
    assert (end["step"], end["world"]) == (12, 1)
    assert losses(tmp_path / "ray") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)


@pytest.mark.usefixtures("_ray")
def test_to_a_store_through_a_killed_worker(text_rows, tmp_path, options):
    """From S3 to S3; stopped by a worker that dies, gone on with from the checkpoint that lies there."""
    run_local(given(text_rows, tmp_path / "one", num_workers=1))
    kill = Kill(str(tmp_path / "killed"), 7)
    run = stored(text_rows, "s3://models/killed", options, max_failures=0)
    with pytest.raises(MalmoiError, match="worker"):
        run_on_ray(run, on_step=kill)
    end = run_on_ray(run, on_step=Note(str(tmp_path / "steps")))
    assert (tmp_path / "steps").read_text().split()[0] == "7"  # the checkpoint was of 6
    assert (end["step"], end["samples"], end["world"]) == (12, 72, 2)
    there = Folder("s3://models/killed", options)
    lines = there.read_bytes(metrics.FILE).decode().splitlines()
    assert [x["loss"] for x in map(json.loads, lines)] == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    for step in (9, 12):
        assert there.exists(f"checkpoints/{checkpoint.name_of(step)}/{checkpoint.COMMIT}")
    assert not there.exists(f"checkpoints/{checkpoint.name_of(6)}/{checkpoint.COMMIT}")
    assert there.exists("model/model.safetensors")
    assert read_record("s3://models/killed", options)["result"]["step"] == 12
    assert "endpoint_url" not in there.read_bytes("train.json").decode()
    assert run_on_ray(run) is None, "finished already"


@pytest.mark.usefixtures("_ray")
@pytest.mark.parametrize("where", ["disk", "store"])
def test_a_loss_that_is_not_finite_stops_all_workers(where, text_rows, tmp_path, options):
    """At once, as in one process, and not after restarts; what was logged until then is there."""
    run = given(text_rows, tmp_path / "ray", max_failures=3)
    if where == "store":
        run = stored(text_rows, "s3://models/nan", options, max_failures=3)
    taken = tmp_path / "steps"
    with pytest.raises(MalmoiError) as told:
        run_on_ray(run, on_step=Both(Spoil(7), Note(str(taken))))
    said = str(told.value)
    assert said.startswith("step 8: the loss is nan and the norm of the gradients ")
    assert re.search(r"The last good checkpoint is \S+/checkpoints/step-00000006\. Lower optimizer.lr", said)
    assert sorted(map(int, taken.read_text().split())) == sorted([*range(1, 8)] * 2)
    folder = Folder(run.output, run.output_options)
    lines = folder.read_bytes(metrics.FILE).decode().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 8))
    assert not folder.exists("model/model.safetensors")
    assert run_on_ray(run)["step"] == 12, "the same command goes on from the last good checkpoint"
