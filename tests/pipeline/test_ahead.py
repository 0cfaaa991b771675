"""Kernels are compiled ahead by what a run would call, and nothing of it is left."""

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
