"""Whole runs against a slow loop that knows the documentation only (`reference`): losses, norms, rates, held-out loss
and weights; and runs that are killed at any moment against runs that are not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference import LowRank, Row, Settings, heldout, share_of_rate, train
from safetensors.torch import load_file
from train_rows import VOCAB, make_rows, recipe

from malmoi.training.model import build_model, load_model
from malmoi.training.plan import make_plan
from malmoi.training.ray_entry import run_local
from malmoi.training.reader import PackedReader

ROWS, HELD = 33, 7
SIZES = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 0,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": True, "tie_word_embeddings": False},
    "qwen3": {"head_dim": 16, "tie_word_embeddings": True},
    "olmo2": {},
    "gemma3_text": {"head_dim": 16, "sliding_window": 5},
}
FEW = {"rank": 2, "alpha": 3, "target_modules": ["q_proj", "down_proj"]}
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "plain": ("llama", "text", {"batch": {"rows": 6}, "schedule": {"kind": "cosine", "warmup": 3}}),
    "uneven micro batches": ("qwen3", "sft", {"batch": {"rows": 5, "rows_per_device": 2}, "loss": {"chunk_tokens": 7}}),
    "one row at a time": ("llama", "sft", {"batch": {"rows": 4, "rows_per_device": 1}, "clip_norm": 0.05}),
    "sliding window": ("gemma3_text", "text", {"activation_checkpointing": True, "loss": {"chunk_tokens": 0}}),
    "over two epochs": ("olmo2", "text", {"steps": None, "epochs": 1.4, "batch": {"rows": 7}, "clip_norm": 0,
                                          "schedule": {"kind": "wsd", "warmup": 0.3, "decay": 0.5, "min_lr_ratio": 0}}),
    "replicas": ("qwen3", "text", {"workers": {"sharding": "ddp"}, "schedule": {"kind": "constant", "warmup": 50}}),
    "lora": ("llama", "sft", {"method": {"kind": "lora", "rank": 4}, "batch": {"rows": 5, "rows_per_device": 3}}),
    "lora of some": ("qwen3", "text", {"method": {"kind": "lora", **FEW}, "clip_norm": 0.01, "seed": 5}),
}  # fmt: skip


def base(folder: Path, family: str) -> Path:
    """A saved model whose weights are large enough for each to matter."""
    import transformers

    with torch.random.fork_rng():
        torch.manual_seed(1)
        config = transformers.AutoConfig.for_model(family, **SIZES, **FAMILIES[family])
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for weight in model.parameters():
        weight.data.mul_(3.0 if weight.ndim == 2 else 1.0)
    model.save_pretrained(folder)
    return folder


def rows_of(batch: Any) -> list[Row]:
    ids = torch.from_numpy(np.array(batch.input_ids, np.int64))
    labels = ids if batch.labels is None else torch.from_numpy(np.array(batch.labels, np.int64))
    return [Row(*x, [int(y) for y in z]) for *x, z in zip(ids, labels, batch.doc_starts, strict=True)]


def with_low_rank(model: Any, started: Any, method: Any) -> dict[str, LowRank]:
    """Put LowRank beside the layers that the recipe means, beginning with the numbers of `started`."""
    tensors = {name: x for name, x in started.named_parameters() if "lora_" in name}
    wanted = method.target_modules or ()
    made = {}
    for name, layer in list(model.named_modules()):
        leaf = name.rpartition(".")[2]
        if not isinstance(layer, torch.nn.Linear) or leaf == "lm_head" or (wanted and leaf not in wanted):
            continue
        a, b = (next(v for k, v in tensors.items() if f".{name}.lora_{x}." in k) for x in "AB")
        assert (len(a), b.abs().max()) == (method.rank, 0)
        made[name] = LowRank(layer, a, b, method.alpha or 2 * method.rank)
        model.get_submodule(name.rpartition(".")[0]).register_module(leaf, made[name])
    assert 2 * len(made) == len(tensors)
    return made


@pytest.mark.parametrize("case", CASES)
def test_a_run_is_that_of_the_reference(case, tmp_path):
    family, kind, changes = CASES[case]
    rows = make_rows(tmp_path / "rows", rows=ROWS, kind=kind, shards=3)
    given = recipe(
        rows, tmp_path / "run",
        **{
            "data": {"path": rows, "holdout": HELD / ROWS, "evaluate_every": 2, "evaluate_rows": 3},
            "model": {"path": str(base(tmp_path / "base", family)), "dtype": "float32"},
            "optimizer": {"lr": 1e-2, "eps": 1e-4, "betas": [0.8, 0.99], "weight_decay": 0.5},
            "steps": 7, **changes,
        },
    )  # fmt: skip
    plan = make_plan(given)
    size, seed, method = given.batch.rows, given.seed, given.method
    steps = given.steps or -(-int(1.4 * (ROWS - HELD)) // size)
    settings = Settings(
        steps, kind == "sft", given.optimizer.lr, given.optimizer.betas, given.optimizer.eps,
        given.optimizer.weight_decay, given.clip_norm, given.schedule.model_dump(),
    )  # fmt: skip
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        tmp_path / "base", attn_implementation="eager", dtype=torch.float32
    )
    added = {}
    if method.kind == "lora":
        model.requires_grad_(False)
        added = with_low_rank(model, build_model(plan.recipe.model, method, "cpu", seed=seed), method)
    reader = iter(PackedReader(rows, seed, 0, 1, size, last_row=ROWS - HELD))
    losses, norms = train(model, [rows_of(next(reader)) for _ in range(steps)], settings)
    held = rows_of(next(iter(PackedReader(rows, seed, 0, 1, 3, first_row=ROWS - HELD, last_row=ROWS))))

    run_local(given)
    lines = [json.loads(x) for x in (tmp_path / "run/metrics.jsonl").read_text("utf-8").splitlines()]
    taken = [x for x in lines if "loss" in x]
    assert [x["loss"] for x in taken] == pytest.approx(losses, abs=1e-5)
    assert [x["grad_norm"] for x in taken] == pytest.approx(norms, rel=1e-4)
    rates = [settings.lr * share_of_rate(step, steps, **settings.schedule) for step in range(steps)]
    assert [x["lr"] for x in taken] == pytest.approx(rates, rel=1e-9)
    assert lines[-1]["heldout_loss"] == pytest.approx(heldout(model, held, settings.apart), abs=1e-5)
    trained = dict(load_model(plan.recipe.model, method, tmp_path / "run/model", "cpu").named_parameters())
    if not added:
        for name, want in model.named_parameters():
            torch.testing.assert_close(trained[name], want.detach(), rtol=0, atol=2e-5, msg=name)
    for name, layer in added.items():
        for x, want in (("A", layer.a), ("B", layer.b)):
            got = next(v for k, v in trained.items() if f".{name}.lora_{x}." in k)
            torch.testing.assert_close(got, want.detach(), rtol=0, atol=2e-5, msg=name)


@pytest.mark.parametrize("case", ["full", "lora"])
def test_a_run_that_is_killed_at_any_moment_ends_with_the_same_weights(case, tmp_path):
    make_rows(tmp_path / "rows")
    base(tmp_path / "base", "llama")
    script = Path(__file__).with_name("kills.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), case, "1"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] != "0 kills"
    logs, weights = [], []
    for name in ("whole", "killed"):
        lines = map(json.loads, (tmp_path / name / "metrics.jsonl").read_text("utf-8").splitlines())
        logs.append([[x.get(key) for key in ("step", "loss", "grad_norm", "heldout_loss")] for x in lines])
        weights.append(load_file(next((tmp_path / name / "model").glob("*.safetensors"))))
    assert logs[0] == logs[1]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(x, weights[1][name]) for name, x in weights[0].items())
    left = [
        sorted(x.name for x in (tmp_path / name / "checkpoints").iterdir()) for name in ("whole", "killed")
    ]
    assert left[0] == left[1]
