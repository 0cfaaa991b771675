"""Whole runs in this process: they learn, and a run that stopped goes on as if it had not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from train_rows import LLAMA, QWEN3, recipe

from malmoi.pipeline.errors import ChangedError
from malmoi.training import checkpoint, loop, metrics, parallel
from malmoi.training.loop import LocalStore
from malmoi.training.model import build_model, load_model
from malmoi.training.outcome import read_record
from malmoi.training.plan import make_plan
from malmoi.training.ray_entry import run_local
from malmoi.training.reader import PackedReader

FLOAT = {"config": LLAMA, "dtype": "float32"}


def lines(output, key="loss"):
    text = (output / metrics.FILE).read_text(encoding="utf-8")
    return [x[key] for x in map(json.loads, text.splitlines()) if key in x]


def steps(given, stop_after=None):
    """Some steps of a run, as a process that ends early takes them."""
    plan, output = make_plan(given), Path(given.output)
    group = parallel.start(given)
    try:
        store = LocalStore(output, given.checkpoint.keep_last, given.checkpoint.keep_best)
        return loop.run(
            plan, group, store, lambda step: metrics.MetricsLog(output, step, plan.steps), stop_after=stop_after
        )  # fmt: skip
    finally:
        parallel.stop()


CASES = {
    "full": {},
    "bfloat16": {"model": {"config": LLAMA, "dtype": "bfloat16"}},
    "qwen3": {"model": {"config": QWEN3, "dtype": "float32"}, "activation_checkpointing": True},
    "lora": {"method": {"kind": "lora", "rank": 4, "dropout": 0.1}, "model": FLOAT},
    "8bit": {
        "model": {"config": {**LLAMA, "hidden_size": 64}, "dtype": "float32"},
        "optimizer": {"lr": 1e-2, "name": "paged_adamw_8bit"},
    },
}


@pytest.mark.parametrize("case", CASES)
def test_a_stopped_run_goes_on_as_if_it_had_not(case, text_rows, tmp_path):
    through = recipe(text_rows, tmp_path / "through", **CASES[case])
    assert steps(through).finished
    parts = recipe(text_rows, tmp_path / "parts", **CASES[case])
    assert not steps(parts, stop_after=5).finished
    assert steps(parts).finished
    want, got = lines(tmp_path / "through"), lines(tmp_path / "parts")
    assert got == want
    assert len(want) == 12
    assert lines(tmp_path / "parts", "grad_norm") == lines(tmp_path / "through", "grad_norm")


@pytest.mark.parametrize("kind", ["text", "sft"])
def test_a_model_learns(kind, text_rows, sft_rows, tmp_path):
    rows = text_rows if kind == "text" else sft_rows
    given = recipe(rows, tmp_path, steps=60, batch={"rows": 8}, log={"every_steps": 10})
    run_local(given)
    got = lines(tmp_path)
    assert got[-1] < 0.5 * got[0]


def test_micro_batches_and_chunks_do_not_change_the_steps(text_rows, tmp_path):
    at_once = recipe(text_rows, tmp_path / "a", batch={"rows": 6}, loss={"chunk_tokens": 0}, steps=5)
    split = recipe(
        text_rows, tmp_path / "b", batch={"rows": 6, "rows_per_device": 1}, loss={"chunk_tokens": 7}, steps=5
    )
    run_local(at_once)
    run_local(split)
    assert lines(tmp_path / "b") == pytest.approx(lines(tmp_path / "a"), rel=1e-5)


@pytest.mark.slow
def test_compiled_layers_take_the_same_steps(text_rows, tmp_path):
    changes = {"steps": 3, "checkpoint": {"every_steps": 2}, "activation_checkpointing": True}
    run_local(recipe(text_rows, tmp_path / "plain", **changes))
    run_local(recipe(text_rows, tmp_path / "compiled", compile="block", **changes))
    assert lines(tmp_path / "compiled") == pytest.approx(lines(tmp_path / "plain"), rel=1e-5)


def test_the_first_step_is_that_of_plain_torch(text_rows, tmp_path):
    """Loss, norm and weights after one step, against transformers' own loss and torch's own AdamW."""
    given = recipe(
        text_rows,
        tmp_path,
        steps=1,
        schedule={"kind": "constant", "warmup": 0},
        optimizer={"lr": 1e-2, "eps": 1e-3},
    )
    plan = make_plan(given)
    model = build_model(plan.recipe.model, plan.recipe.method, "cpu", seed=0)
    ids = torch.from_numpy(next(iter(PackedReader(text_rows, 0, 0, 1, 6))).input_ids.astype("int64"))
    loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    groups = [
        {"params": [x for x in model.parameters() if x.ndim >= 2], "weight_decay": 0.1},
        {"params": [x for x in model.parameters() if x.ndim < 2], "weight_decay": 0.0},
    ]
    torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95), eps=1e-3).step()
    run_local(given)
    assert lines(tmp_path) == [pytest.approx(loss.item(), rel=1e-6)]
    assert lines(tmp_path, "grad_norm") == [pytest.approx(norm.item(), rel=1e-5)]
    trained = load_model(plan.recipe.model, plan.recipe.method, tmp_path / "model", "cpu")
    for (name, want), got in zip(model.named_parameters(), trained.parameters(), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    "method",
    [
        {"kind": "lora", "rank": 2},
        {"kind": "qlora", "rank": 2},
        {"kind": "prefix", "num_virtual_tokens": 4},
        {"kind": "bottleneck", "bottleneck_size": 4},
    ],
    ids=lambda x: x["kind"],
)
def test_an_adapter_is_saved_without_its_base(method, text_rows, tmp_path):
    run_local(recipe(text_rows, tmp_path / "base"))
    base = {"path": str(tmp_path / "base/model"), "dtype": "float32"}
    given = recipe(text_rows, tmp_path / "run", model=base, method=method)
    run_local(given)
    assert lines(tmp_path / "run")[-1] < lines(tmp_path / "run")[0]
    newest = checkpoint.complete_checkpoints(tmp_path / "run")[-1]
    whole = checkpoint.complete_checkpoints(tmp_path / "base")[-1]
    assert size(newest) < size(whole)
    record = read_record(given.output)
    assert 0 < record["result"]["trained_parameters"] < record["result"]["parameters"]
    plan = make_plan(given)
    load_model(plan.recipe.model, plan.recipe.method, tmp_path / "run/model", "cpu")


def size(folder):
    return sum(x.stat().st_size for x in folder.iterdir())


def test_held_out_loss_best_checkpoints_and_records(text_rows, tmp_path):
    given = recipe(
        text_rows, tmp_path, steps=9,
        data={"path": text_rows, "holdout": 0.2, "evaluate_every": 3, "evaluate_rows": 100},
        checkpoint={"every_steps": 2, "keep_last": 1, "keep_best": 1}, log={"every_steps": 1, "tensorboard": True},
    )  # fmt: skip
    end = run_local(given)
    assert len(lines(tmp_path, "heldout_loss")) == 6  # at 2, 3, 4, 6, 8, 9
    assert end["heldout_loss"] == lines(tmp_path, "heldout_loss")[-1] < lines(tmp_path, "heldout_loss")[0]
    assert [x.name for x in checkpoint.complete_checkpoints(tmp_path)] == [checkpoint.name_of(9)]
    assert lines(tmp_path, "samples")[-1] == 54
    assert lines(tmp_path, "tokens")[-1] == 54 * 24
    assert lines(tmp_path, "mfu") == [None] * 9
    assert list((tmp_path / "tensorboard").iterdir())
    record = read_record(given.output)
    assert record["result"]["step"] == record["steps"] == 9
    assert record["data_hash"] == make_plan(given).data_hash


def test_the_held_out_loss_of_a_checkpoint_is_its_own(text_rows, tmp_path):
    """Also where measurements and checkpoints fall on different steps, and none is kept for being the best."""
    run_local(
        recipe(
            text_rows, tmp_path, steps=7, checkpoint={"every_steps": 2, "keep_last": 9},
            data={"path": text_rows, "holdout": 0.2, "evaluate_every": 5},
        )
    )  # fmt: skip
    logged = dict(zip((2, 4, 5, 6, 7), lines(tmp_path, "heldout_loss"), strict=True))
    states = map(checkpoint.read_state, checkpoint.complete_checkpoints(tmp_path))
    assert {x.step: x.heldout_loss for x in states} == {step: logged[step] for step in (2, 4, 6, 7)}


def test_a_finished_run_says_so_and_another_recipe_is_refused(text_rows, tmp_path, capsys):
    run_local(recipe(text_rows, tmp_path, steps=2))
    assert run_local(recipe(text_rows, tmp_path, steps=2)) is None
    assert "finished already" in capsys.readouterr().out
    with pytest.raises(ChangedError, match=r"optimizer.lr: 0.01 then, 0.02 now\n  steps: 2 then, 3 now"):
        run_local(recipe(text_rows, tmp_path, steps=3, optimizer={"lr": 2e-2}))


def test_flops_by_hand(text_rows, tmp_path):
    plan = make_plan(recipe(text_rows, tmp_path))
    model = build_model(plan.recipe.model, plan.recipe.method, "cpu")
    weights = 128 * 32 + 2 * (4 * 32 * 32 + 3 * 32 * 64 + 2 * 32) + 32
    assert metrics.flops_per_token(model, model.config, 24) == 6 * weights + 12 * 2 * 32 * 24
    model.requires_grad_(False)
    assert metrics.flops_per_token(model, model.config, 24) == 4 * weights + 12 * 2 * 32 * 24
    assert metrics.mfu(100.0, 5.0, 2, 1000.0) == 0.25
