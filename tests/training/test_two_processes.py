"""Several processes of torchrun take the steps of one: sharded, replicated, with rows that do not divide evenly."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from train_rows import CASES, make_rows, recipe

from malmoi.training import metrics
from malmoi.training.checkpoint import complete_checkpoints, name_of, read_state
from malmoi.training.ray_entry import run_local


def lines(output, key):
    text = (output / metrics.FILE).read_text(encoding="utf-8")
    return [x[key] for x in map(json.loads, text.splitlines()) if key in x]


def processes(count, place, where, *cases):
    script = Path(__file__).with_name("two_processes.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    done = subprocess.run(
        [*command, str(script), str(place), where, *cases],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`two/<case>` made by two processes; a base model for the adapters; `rows`."""
    place = tmp_path_factory.mktemp("processes")
    make_rows(place / "rows")
    run_local(recipe(str(place / "rows"), place / "first"))
    (place / "first" / "model").rename(place / "base")
    processes(2, place, "two")
    shutil.copytree(place / "two" / "stopped", place / "three" / "stopped")
    return place


@pytest.mark.parametrize("name", CASES)
def test_two_take_the_steps_of_one(name, folder):
    changes = CASES[name](folder)
    one, two = folder / "one" / name, folder / "two" / name
    run_local(recipe(str(folder / "rows"), one, **changes))
    if name == "stopped":
        assert len(lines(two, "loss")) == 5
        run_local(recipe(str(folder / "rows"), two, **changes))  # one process goes on where two stopped
    near = {"rel": 5e-3} if name in ("bfloat16", "replicas", "qlora") else {"rel": 1e-5}
    for key in ("loss", "grad_norm", "heldout_loss"):
        assert lines(two, key) == pytest.approx(lines(one, key), **near)
    assert len(lines(two, "loss")) == 12
    file = "model.safetensors" if (one / "model/model.safetensors").exists() else "adapter_model.safetensors"
    want, got = load_file(one / "model" / file), load_file(two / "model" / file)
    assert want.keys() == got.keys()
    if "rel" in near and near["rel"] < 1e-4:
        for key, value in want.items():
            torch.testing.assert_close(got[key], value, rtol=1e-2, atol=1e-4, msg=key)


@pytest.mark.slow
def test_three_go_on_where_two_stopped(folder):
    """Each row of an epoch once: the losses of all steps are those of one process, which reads them in one go."""
    processes(3, folder, "three", "stopped")
    one, three = folder / "one" / "unstopped", folder / "three" / "stopped"
    run_local(recipe(str(folder / "rows"), one, **CASES["stopped"](folder)))
    for key in ("loss", "grad_norm"):
        assert lines(three, key) == pytest.approx(lines(one, key), rel=1e-5)
    assert lines(three, "step") == list(range(1, 13))
    assert [x.name for x in complete_checkpoints(three)] == [name_of(8), name_of(12)]
    assert [read_state(x).world for x in complete_checkpoints(three)] == [3, 3]
