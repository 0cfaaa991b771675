"""Kernels are compiled ahead by what a run would call, and nothing of it is left."""

import os
import subprocess
import sys
import tempfile

import pytest

from malmoi.operators import OPERATORS
from malmoi.pipeline import ahead

STEPS = [OPERATORS[name]() for name in OPERATORS if name not in ("token_count",)]


@pytest.mark.parametrize("step", [None, *STEPS], ids=lambda x: "no steps" if x is None else x.name)
def test_each_call_compiles_and_leaves_nothing(tmp_path, monkeypatch, step):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ahead._compile(step)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.ray
def test_a_step_that_fails_is_not_told_here(ray_here, tmp_path):
    """The job that meets it tells it."""
    ahead.compile_ahead((OPERATORS["token_count"](str(tmp_path / "absent")), OPERATORS["normalise"]()))


BROKEN = """
import gc
from malmoi.operators import exact
exact.text_hash = lambda column: 1 / 0
import malmoi.pipeline.warm
assert gc.isenabled()
"""


def test_a_worker_starts_whatever_goes_wrong():
    """The job tells it; the worker would only be said to have died."""
    subprocess.run([sys.executable, "-c", BROKEN], check=True, timeout=120)


def test_kernels_kept_elsewhere_are_found(tmp_path):
    code = "from malmoi.pipeline import ahead; print(ahead.cache_folder(), ahead.compiled())"
    env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(str(tmp_path))
    assert done.stdout.endswith(" False\n")
