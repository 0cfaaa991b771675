"""One run at a time in an output; what a killed one leaves, and who may go on with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from train_rows import recipe

from malmoi.pipeline.errors import BusyError, ChangedError, ResourceError
from malmoi.training import checkpoint, metrics, ray_entry
from malmoi.training.outcome import begin, read_record
from malmoi.training.plan import make_plan
from malmoi.training.ray_cluster import check_resources
from malmoi.training.ray_entry import run_local, run_on_ray

SCRIPT = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from train_rows import recipe
from malmoi.training.ray_entry import run_local
import torch
torch.set_num_threads(1)
def stepped(step):
    if step == 6:
        os.kill(os.getpid(), signal.SIGKILL)
run_local(recipe(sys.argv[2], Path(sys.argv[3])), on_step=stepped)
"""


def losses(output):
    text = (output / metrics.FILE).read_text(encoding="utf-8")
    return [x["loss"] for x in map(json.loads, text.splitlines()) if "loss" in x]


def test_a_second_run_is_refused(text_rows, tmp_path):
    given, refused = recipe(text_rows, tmp_path), []

    def again(step):
        for run in (run_local, run_on_ray):
            with pytest.raises(BusyError, match=rf"process {os.getpid()} on .* is running here"):
                run(given)
            refused.append(step)

    assert run_local(given, on_step=again)["step"] == 12
    assert refused == [x for step in range(1, 13) for x in (step, step)]


def test_a_killed_run_leaves_no_lock(text_rows, tmp_path):
    command = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), text_rows, str(tmp_path / "killed")]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert [x.name for x in checkpoint.complete_checkpoints(tmp_path / "killed")] == [checkpoint.name_of(4)]
    left = tmp_path / "killed" / f".tmp-{'0' * 32}-model"  # killed while it wrote the model
    left.mkdir()
    taken = []
    run_local(recipe(text_rows, tmp_path / "killed"), on_step=taken.append)
    run_local(recipe(text_rows, tmp_path / "through"))
    assert taken == list(range(5, 13))
    assert losses(tmp_path / "killed") == losses(tmp_path / "through")
    assert not left.exists()


def test_a_run_ends_that_lost_its_folder(text_rows, tmp_path, monkeypatch):
    """As with locks that are files with a heartbeat, after a machine slept."""
    calls = []

    @contextmanager
    def lost(_folder):
        def check():
            calls.append(0)
            if len(calls) == 3:
                raise BusyError("another is running here")

        yield check

    monkeypatch.setattr(ray_entry, "only_run", lost)
    with pytest.raises(BusyError, match="another is running here"):
        run_local(recipe(text_rows, tmp_path))
    assert len(calls) == 3


def test_nothing_is_written_before_the_recipe_holds(text_rows, tmp_path):
    given = recipe(text_rows, tmp_path / "out", data={"path": str(tmp_path / "nowhere")})
    with pytest.raises(Exception, match="no finished rows"):
        run_local(given)
    assert not (tmp_path / "out").exists()


def test_nothing_is_recorded_before_the_cluster_holds(text_rows, tmp_path, monkeypatch):
    """So that a mended recipe may go to the same output."""
    given = recipe(text_rows, tmp_path)
    with monkeypatch.context() as patched:
        patched.setenv("RAY_ADDRESS", "127.0.0.1:1")
        with pytest.raises(ResourceError, match="no Ray cluster answers"):
            run_on_ray(given)
    monkeypatch.setattr(ray_entry, "start_ray", lambda: None)
    monkeypatch.setattr(ray_entry, "check_cluster", lambda found: check_resources(found, [{"CPU": 0.5}]))
    with pytest.raises(ResourceError, match="room for 0 of 1 workers"):
        run_on_ray(given)
    assert read_record(given.output) is None
    other = recipe(text_rows, tmp_path, steps=1)
    assert run_local(other)["step"] == 1
    assert run_on_ray(other) is None, "a finished run asks for no cluster"


def test_ray_does_not_begin_anew_what_local_began(text_rows, tmp_path):
    given = recipe(text_rows, tmp_path / "local")
    plan = make_plan(given)
    begin(given, plan)
    with pytest.raises(ChangedError, match="has checkpoints of --local, which Ray Train does not know"):
        begin(given, plan, "ray")
    begin(given, plan)
    other = recipe(text_rows, tmp_path / "ray")
    begin(other, plan, "ray")
    begin(other, plan, "ray")
    begin(other, plan)  # sees the checkpoints of Ray Train
    assert read_record(other.output)["launcher"] == "local"
    with pytest.raises(ChangedError, match="which Ray Train does not know"):
        begin(other, plan, "ray")
