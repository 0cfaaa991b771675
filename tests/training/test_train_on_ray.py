"""Ray Train: a killed worker, a run that gives up and goes on with fewer workers; the steps of one process."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from train_rows import recipe

from malmoi.pipeline.errors import MalmoiError
from malmoi.training import checkpoint, metrics
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
