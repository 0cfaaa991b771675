"""Two processes of torchrun take the same steps as one: sharded, replicated, with rows that do not divide evenly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from train_rows import CASES, make_rows, recipe

from malmoi.training import metrics
from malmoi.training.ray_entry import run_local


def lines(output, key):
    text = (output / metrics.FILE).read_text(encoding="utf-8")
    return [x[key] for x in map(json.loads, text.splitlines()) if key in x]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`two/<case>` made by two processes; a base model for the adapters; `rows`."""
    place = tmp_path_factory.mktemp("processes")
    make_rows(place / "rows")
    run_local(recipe(str(place / "rows"), place / "first"))
    (place / "first" / "model").rename(place / "base")
    script = Path(__file__).with_name("two_processes.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(script), str(place)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
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
