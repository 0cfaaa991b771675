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


def test_rows_of_malmoi_tokenize(benchmark, sft_rows, capsys):
    rows = benchmark.main(["--self-check", "--data", sft_rows])
    assert "T=24" in capsys.readouterr().out
    apart = {row.variant.attention: row.loss for row in rows}
    assert all(math.isfinite(x) for x in apart.values())
    assert apart["packed"] != apart["cudnn"]
    plain = benchmark.recipe_of(rows[0].variant, "tiny", 24, 2, 1, False)
    with pytest.raises(SystemExit, match="the shape has 20 embeddings"):
        benchmark.make_batches(plain, 24, 20, sft_rows)


@pytest.mark.slow
def test_compiled(benchmark):
    for method in ("full", "qlora"):
        rows = benchmark.main(
            ["--self-check", "--method", method, "--compile", "block", "--checkpointing", "on"]
        )
        assert all(row.tokens_per_second > 0 and math.isfinite(row.loss) for row in rows)
