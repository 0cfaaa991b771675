"""The benchmark's code runs on the CPU for each method; its figures there say nothing."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "train_gpu.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("train_gpu", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_self_check(method, benchmark, capsys):
    rows = benchmark.main(["--self-check", "--method", method])
    assert len(rows) == 8
    assert all(row.tokens_per_second > 0 and math.isfinite(row.loss) for row in rows)
    assert capsys.readouterr().out.count(f"\n| {method} |") == 8


def test_without_a_gpu_it_says_so(benchmark, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit, match="--self-check"):
        benchmark.main([])
