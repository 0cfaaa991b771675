"""Tests of this folder import `train_rows`, which the processes of torchrun do too; one thread for torch."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Here and in what is started: where another process has the second CPU, two threads that wait for each other
    take ten times the CPU time."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(autouse=True, scope="module")
def _no_ray_of_earlier_tests():
    """A Ray that other tests left in this process is not the one that these start."""
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


@pytest.fixture(scope="session")
def text_rows(tmp_path_factory):
    from train_rows import make_rows

    return make_rows(tmp_path_factory.mktemp("text") / "tokens")


@pytest.fixture(scope="session")
def sft_rows(tmp_path_factory):
    from train_rows import make_rows

    return make_rows(tmp_path_factory.mktemp("sft") / "tokens", kind="sft")
