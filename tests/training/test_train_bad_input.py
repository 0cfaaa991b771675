"""What is wrong is told before anything loads, or with what to do about it."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from train_rows import LLAMA, make_rows, recipe
from typer.testing import CliRunner

from malmoi.pipeline.errors import ChangedError, MalmoiError, RecipeError, ResourceError
from malmoi.training import loop, parallel, ray_entry
from malmoi.training.plan import make_plan
from malmoi.training.ray_cluster import check_paths, check_resources, start_ray
from malmoi.training.ray_entry import run_local, run_on_ray


@pytest.fixture
def nothing_loads(monkeypatch):
    def fail(*_args, **_given):
        raise AssertionError("a model was built")

    monkeypatch.setattr(loop, "build_model", fail)


@pytest.mark.usefixtures("nothing_loads")
def test_a_gpu_that_is_not_there(text_rows, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    given = recipe(text_rows, tmp_path, workers={"gpus_per_worker": 1})
    for run in (run_local, run_on_ray):
        with pytest.raises(ResourceError, match="gpus_per_worker=1, but torch finds no CUDA device"):
            run(given)


@pytest.mark.usefixtures("nothing_loads")
@pytest.mark.parametrize("damage", ["content", "size", "missing"])
def test_shards_that_changed(damage, tmp_path):
    rows = Path(make_rows(tmp_path / "rows"))
    shard = rows / "tokens-00001.parquet"
    content = shard.read_bytes()
    if damage == "content":
        shard.write_bytes(content[:-20] + bytes([content[-20] ^ 1]) + content[-19:])
    elif damage == "size":
        shard.write_bytes(content + b"x")
    else:
        shard.unlink()
    with pytest.raises(ChangedError, match=r"tokens-00001.parquet: .*\ntokenize again"):
        run_local(recipe(str(rows), tmp_path / "out"))


@pytest.mark.usefixtures("nothing_loads")
def test_another_tokenizer(text_rows, tmp_path):
    (tmp_path / "tokenizer.json").write_text("another")
    with pytest.raises(ChangedError, match="not the one that made these rows"):
        run_local(recipe(text_rows, tmp_path / "a", data={"path": text_rows, "tokenizer": str(tmp_path)}))
    (tmp_path / "tokenizer.json").write_text("tiny")
    make_plan(recipe(text_rows, tmp_path / "b", data={"path": text_rows, "tokenizer": str(tmp_path)}))
    with pytest.raises(RecipeError, match=r"data\.tokenizer is a tokenizer.json or its folder"):
        run_local(recipe(text_rows, tmp_path / "c", data={"path": text_rows, "tokenizer": "/nowhere"}))


@pytest.fixture
def saved(text_rows, tmp_path):
    run_local(recipe(text_rows, tmp_path / "base", steps=1))
    return tmp_path / "base" / "model"


def from_path(rows, place, tmp_path):
    return recipe(rows, tmp_path / "out", model={"path": str(place), "dtype": "float32"})


def test_model_folders(saved, text_rows, tmp_path, monkeypatch):
    def fail(*_args, **_given):
        raise AssertionError("a model was built")

    monkeypatch.setattr(loop, "build_model", fail)
    (saved / "tokenizer.json").write_text("another")
    with pytest.raises(ChangedError, match="not the one that made these rows"):
        run_local(from_path(text_rows, saved, tmp_path))
    (saved / "tokenizer.json").unlink()
    config = json.loads((saved / "config.json").read_text())
    for key, value, want in (
        ("vocab_size", 64, "has 64 token embeddings, but the rows hold ids up to 95"),
        ("max_position_embeddings", 16, "has 16 positions, the rows have 24"),
    ):
        (saved / "config.json").write_text(json.dumps({**config, key: value}))
        with pytest.raises(RecipeError, match=want):
            run_local(from_path(text_rows, saved, tmp_path))
    (saved / "config.json").write_text(json.dumps(config))
    (saved / "model.safetensors").unlink()
    with pytest.raises(RecipeError, match="no weights"):
        run_local(from_path(text_rows, saved, tmp_path))
    shutil.rmtree(saved)
    with pytest.raises(RecipeError, match="no such folder"):
        run_local(from_path(text_rows, saved, tmp_path))


@pytest.mark.usefixtures("nothing_loads")
@pytest.mark.parametrize(
    ("changes", "want"),
    [
        ({"model": {"config": {**LLAMA, "vocab_size": 90}}}, "has 90 token embeddings"),
        ({"model": {"config": {**LLAMA, "max_positions": 20}}}, "max_positions=20, but the rows have 24"),
        ({"data": {"path": "/nowhere"}}, "no finished rows; run malmoi tokenize"),
    ],
)
def test_sizes_and_rows(changes, want, text_rows, tmp_path):
    with pytest.raises(MalmoiError, match=want):
        run_local(recipe(text_rows, tmp_path, **changes))


@pytest.mark.usefixtures("nothing_loads")
@pytest.mark.parametrize(
    ("changes", "want"),
    [
        ({"model": {"config": LLAMA, "attention": "sdpa"}}, "would see each other with model.attention=sdpa"),
        ({"method": {"kind": "prompt"}}, "stand before the first only; tokenize with one example a row"),
    ],
)
def test_examples_that_would_see_each_other(changes, want, sft_rows, tmp_path):
    with pytest.raises(RecipeError, match=want):
        run_local(recipe(sft_rows, tmp_path, **changes))


def test_attention_is_chosen_by_the_rows(text_rows, sft_rows, tmp_path):
    assert make_plan(recipe(text_rows, tmp_path)).recipe.model.attention == "sdpa"
    assert make_plan(recipe(sft_rows, tmp_path)).recipe.model.attention == "packed"
    on_gpu = {"workers": {"gpus_per_worker": 1}, "model": {"config": LLAMA}}
    assert make_plan(recipe(sft_rows, tmp_path, **on_gpu)).recipe.model.attention == "varlen"


def test_the_folder_of_a_run_stands_for_its_rows(tmp_path):
    rows = make_rows(tmp_path / "run" / "tokens")
    assert make_plan(recipe(str(tmp_path / "run"), tmp_path / "out")).recipe.data.path == rows


@pytest.mark.parametrize("what", ["loss", "norm"])
def test_a_loss_that_is_not_finite_stops_the_run(what, text_rows, tmp_path, monkeypatch):
    real = loop.train_step

    def broken(trainer, step):
        loss, norm = real(trainer, step)
        bad = torch.tensor(float("nan"))
        return (loss, norm) if step != 9 else ((bad, norm) if what == "loss" else (loss, bad))

    monkeypatch.setattr(loop, "train_step", broken)
    with pytest.raises(MalmoiError, match=r"step 10: .* last good checkpoint is .*step-00000008\."):
        run_local(recipe(text_rows, tmp_path, log={"every_steps": 6}))


def test_out_of_memory_names_the_knobs(text_rows, tmp_path, monkeypatch):
    def full(*_args):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(loop, "train_step", full)
    with pytest.raises(
        ResourceError,
        match=r"lower batch.rows_per_device \(now 3; .*activation_checkpointing: true.* more workers",
    ):
        run_local(recipe(text_rows, tmp_path))


@pytest.mark.parametrize(
    ("workers", "have", "want"),
    [
        (
            {"num_workers": 2, "gpus_per_worker": 1}, [{"CPU": 8.0}],
            r"room for 0 of 2 workers that take GPU 1, CPU 1 each \(nodes: 1 x GPU 0, CPU 8\)",
        ),
        ({"num_workers": [3, 4]}, [{"CPU": 2.0}], "room for 2 of 3 workers"),
        ({"num_workers": 2, "cpus_per_worker": 0.5}, [{"CPU": 1.0}], None),
        ({"num_workers": 3}, [{"CPU": 1.0}] * 3, None),
        ({"num_workers": 1, "cpus_per_worker": 4}, [{"CPU": 2.0}] * 3, r"room for 0 of 1 .*3 x CPU 2"),
        ({"num_workers": 2, "gpus_per_worker": 1}, [{"CPU": 8.0}, {"CPU": 1.0, "GPU": 8.0}], "for 1 of 2"),
        ({"num_workers": 2, "gpus_per_worker": 1, "autoscaling": True}, [], None),
    ],
)  # fmt: skip
def test_a_cluster_that_is_too_small(workers, have, want, text_rows, tmp_path):
    given = recipe(text_rows, tmp_path, workers=workers)
    with nullcontext() if want is None else pytest.raises(ResourceError, match=want):
        check_resources(given, have)


def test_paths_that_other_nodes_do_not_see(text_rows, tmp_path):
    given = recipe(text_rows, tmp_path)
    check_paths(given, 1)
    with pytest.raises(RecipeError, match=r"several nodes, but output=.*, data.path=.* are local"):
        check_paths(given, 2)
    check_paths(recipe(text_rows, tmp_path, workers={"shared_filesystem": True}), 2)
    check_paths(recipe("s3://b/rows", tmp_path).model_copy(update={"output": "s3://b/run"}), 2)


def test_an_output_that_goes_with_the_job(text_rows, tmp_path):
    output = tmp_path / "runtime_resources/working_dir_files/_ray_pkg_1/runs/model"
    with pytest.raises(RecipeError, match="in the job's working folder, which Ray removes with the job"):
        check_paths(recipe(text_rows, output), 1)


def test_without_an_address_ray_is_our_own(monkeypatch):
    """Whatever cluster runs on this machine: a trace of it is not an invitation."""
    import ray

    asked = []
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **given: asked.append(given["address"]))
    start_ray()
    assert asked == ["local"]


def test_the_worker_that_knows_why_is_quoted():
    """The others only see that it is gone, and come first."""
    full, gone = ResourceError("the device is out of memory"), RuntimeError("connection closed by peer")
    error = RuntimeError("workers failed")
    error.worker_failures = {0: gone, 1: SimpleNamespace(_base_exc=full)}
    assert ray_entry._cause(error) is full
    error.worker_failures = {1: gone}
    assert str(ray_entry._cause(error)) == "worker 1: RuntimeError: connection closed by peer"
    assert str(ray_entry._cause(RuntimeError("x"))) == "x"


def test_what_one_worker_would_meet_again_is_no_reason_for_a_restart(text_rows, tmp_path, monkeypatch):
    import ray.train.torch

    def full(*_args):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(loop, "train_step", full)
    monkeypatch.setattr(ray.train.torch, "get_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(ray.train, "get_checkpoint", lambda: None)
    plan = make_plan(recipe(text_rows, tmp_path))
    found = ray_entry._worker({"plan": plan, "on_step": None})
    assert "lower batch.rows_per_device (now 3" in found["error"]


def test_more_processes_than_gpus(text_rows, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ResourceError, match="3 processes or more on this machine, but it has 2 CUDA devices"):
        parallel.start(recipe(text_rows, tmp_path, workers={"gpus_per_worker": 1}))


def test_the_command(text_rows, tmp_path, monkeypatch):
    import yaml

    from malmoi.pipeline import cli

    cli._add_commands()
    monkeypatch.chdir(tmp_path)
    given = recipe(text_rows, tmp_path / "out", steps=2).model_dump(mode="json", exclude_defaults=True)
    Path("recipe.yaml").write_text(yaml.safe_dump(given), encoding="utf-8")
    done = CliRunner().invoke(cli.app, ["train", "recipe.yaml", "--local"], catch_exceptions=False)
    assert done.exit_code == 0
    assert "done: 2 steps" in done.output
    assert (tmp_path / "out/model/model.safetensors").exists()
