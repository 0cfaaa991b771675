"""Training on three nodes: the weights of one node, a node lost in the middle, a job of `malmoi submit`."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

pytestmark = [pytest.mark.ray, pytest.mark.cluster]

ROOT = Path(__file__).resolve().parents[2]

# Each worker leaves a file after each step, step-node-process, and waits after one step where it is told to.
LED = """
import os, sys, time
from pathlib import Path

from malmoi.training.ray_entry import run_on_ray
from malmoi.training.recipe import read_recipe

NOTES, HELD = Path(sys.argv[1]), int(sys.argv[2])


def note(step):
    import ray

    node = ray.get_runtime_context().get_node_id()[:12]
    (NOTES / f"{step:02d}-{node}-{os.getpid()}").touch()
    while step == HELD and not (NOTES / "go").exists():
        time.sleep(0.1)


run_on_ray(read_recipe("train.yaml", sys.argv[3:]), on_step=note)
"""


@dataclass(frozen=True)
class Trained:
    """A run of 12 steps that was started: its process, its notes and its output."""

    process: object
    notes: Path
    output: Path

    def nodes(self, step: int | None = None) -> set[str]:
        """The ids of the nodes that took the step, or any."""
        pattern = "*-*-*" if step is None else f"{step:02d}-*"
        return {note.name.split("-")[1] for note in self.notes.glob(pattern)}

    def finish(self, seconds=240):
        out, err = self.process.communicate(timeout=seconds)
        assert self.process.returncode == 0, out + err
        return (self.output / "model/model.safetensors").read_bytes()


def losses(output):
    lines = map(json.loads, (output / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """train.yaml in tmp_path: 12 steps of a tiny model over rows made here, by three workers."""
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(ROOT / "tests/training")
    from train_rows import make_rows
    from train_rows import recipe as tiny

    make_rows(tmp_path / "rows")
    workers = {"num_workers": 3, "shared_filesystem": True}
    given = tiny("rows", Path("out"), checkpoint={"every_steps": 3}, workers=workers)
    content = given.model_dump(mode="json", exclude_defaults=True)
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(content))
    (tmp_path / "led.py").write_text(LED)
    return tmp_path / "train.yaml"


@pytest.fixture
def train(recipe, python, tmp_path):
    """`train(name, *overrides, address=..., held=...)` starts the recipe."""

    def start(name, *overrides, address=None, held=0):
        notes = tmp_path / f"notes-{name}"
        notes.mkdir()
        more = {"RAY_ADDRESS": address} if address else {}
        process = python(
            "led.py", notes, held, f"output={name}", *overrides,
            OMP_NUM_THREADS="1", RAY_TRAIN_HEALTH_CHECK_INTERVAL_S="0.5", **more,
        )  # fmt: skip
        return Trained(process, notes, tmp_path / name)

    return start


def test_the_same_weights_as_on_one_node(three, train):
    there = train("three", address=three.address)
    weights = there.finish()
    assert len(there.nodes(12)) == 3
    here = train("one", "workers.cpus_per_worker=0.5")
    assert here.finish() == weights
    assert len(here.nodes()) == 1
    assert losses(here.output) == losses(there.output)


def test_a_node_lost(machines, train, python, tmp_path):
    """The run goes on with the workers that are left, from the last checkpoint; losses agree to rounding."""
    cluster = machines()
    for name in ("head", "one", "two"):
        cluster.start(name)
    run = train("three", "workers.num_workers=[1,3]", address=cluster.address, held=8)
    deadline = time.monotonic() + 120
    while len(run.nodes(8)) < 3:
        assert time.monotonic() < deadline, sorted(run.notes.iterdir())
        assert run.process.poll() is None, run.process.communicate()
        time.sleep(0.2)
    lost = cluster.id("two")
    cluster.kill("two")
    (run.notes / "go").touch()
    run.finish()
    assert run.nodes(12) == run.nodes(8) - {lost}
    cluster.stop()
    here = python("-m", "malmoi.pipeline", "train", "train.yaml", "output=here", "--local")
    assert here.communicate(timeout=120)[1] == ""
    assert losses(run.output) == pytest.approx(losses(tmp_path / "here"), rel=1e-4)


def test_submitted(bare, recipe, malmoi, tmp_path):
    """To nodes without malmoi. What is relative in the recipe is relative to this folder, not to the job's."""
    process = malmoi(
        "submit", recipe, "workers.num_workers=1", "--command", "train", "--address", bare.url,
        "--env", "OMP_NUM_THREADS=1",
    )  # fmt: skip
    out, err = process.communicate(timeout=240)
    assert (process.returncode, err) == (0, ""), out
    assert "done: 12 steps" in out
    assert (tmp_path / "out/model/model.safetensors").is_file()


def test_in_the_job_folder(three, recipe, python):
    """Ray removes that with the job: a model there would be lost."""
    process = python(
        "-m", "ray.scripts.scripts", "job", "submit", f"--address={three.url}", "--working-dir", ".", "--",
        "python", "-m", "malmoi.pipeline", "train", "train.yaml",
    )  # fmt: skip
    out, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "lies in the job's working folder, which Ray removes with the job" in out
