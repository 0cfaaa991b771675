"""`malmoi evaluate` as a whole: any kind of model, one report, the same in this process and on Ray."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console
from task_rows import make
from tiny_models import WINDOW, make_model, write_lines
from train_rows import make_rows, recipe

from malmoi.pipeline.errors import ChangedError, MalmoiError, RecipeError, ResourceError
from malmoi.pipeline.storage import Folder
from malmoi.pipeline.token_manifest import read_token_manifest
from malmoi.training import evaluate as module
from malmoi.training.evaluate import EvaluateSettings, evaluate, report_text
from malmoi.training.evaluate_model import find_model, load

TEXTS = [
    {"text": "말모이는 조선어학회가 엮으려던 사전이다. " * 5, "source": "docs", "language": "ko"},
    {"text": "the words of a text", "source": "web", "language": "en"},
    {"text": "漢字と😀", "source": "web", "language": "ja"},
]
PROBLEM = {
    "task_id": "T/0",
    "prompt": "def f(x):\n    return x\n#",
    "entry_point": "f",
    "test": "def check(c):\n    assert c(1) == 1\n",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_tokenizer):
    return make_model(tmp_path_factory.mktemp("evaluate") / "model", tiny_tokenizer)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Held-out text and tasks.yaml."""
    place = tmp_path_factory.mktemp("given")
    tasks = [
        {"name": kind, "format": kind, "path": write_lines(place / f"{kind}.jsonl", make(kind, 6))}
        for kind in ("mmlu", "kobest_copa")
    ]
    code = {"max_new_tokens": 4, "stop": [], "seconds": 20}
    problems = write_lines(place / "code.jsonl", [PROBLEM])
    tasks.append({"name": "code", "format": "humaneval", "path": problems, "code": code})
    (place / "tasks.yaml").write_text(yaml.safe_dump({"tasks": tasks}), encoding="utf-8")
    return {"heldout": (write_lines(place / "text.jsonl", TEXTS),), "tasks": str(place / "tasks.yaml")}


def run(settings):
    screen = io.StringIO()
    report = evaluate(settings, Console(file=screen, width=120))
    return report, screen.getvalue()


def test_a_model_has_one_report(folder, given, tmp_path):
    out = tmp_path / "one.json"
    settings = EvaluateSettings(str(folder), **given, out=str(out), allow_code_execution=True)
    report, screen = run(settings)
    assert list(report) == ["format_version", "model", "versions", "heldout", "tasks"]
    assert out.read_text(encoding="utf-8") == report_text(report)
    assert report["heldout"]["window"] == WINDOW
    assert list(report["heldout"]["sources"]) == ["docs", "web"]
    assert list(report["tasks"]) == ["mmlu", "kobest_copa", "code"]
    assert report["tasks"]["code"]["metrics"] == {"pass@1": {"value": 1.0, "stderr": None}}, (
        "the prompt is right"
    )
    for word in ("bits per byte", "docs", "acc_norm", "pass@1", "confined by", str(out)):
        assert word in screen
    again = dataclasses.replace(settings, out=str(tmp_path / "again.json"), batch_tokens=100)
    run(again)
    assert (tmp_path / "again.json").read_bytes() == out.read_bytes(), "whatever the batches"
    for text in (out.read_text(encoding="utf-8"),):
        assert str(tmp_path) not in text


def test_by_default_the_report_lies_beside_the_model(folder, given, tmp_path):
    place = tmp_path / "model"
    shutil.copytree(folder, place)
    first, _ = run(EvaluateSettings(str(place), heldout=given["heldout"]))
    assert json.loads((place / "evaluation.json").read_text(encoding="utf-8")) == first
    again, _ = run(EvaluateSettings(str(place), heldout=given["heldout"]))
    assert again == first, "the report is not part of the model's hash"
    (place / "config.json").write_text((place / "config.json").read_text() + "\n")
    changed, _ = run(EvaluateSettings(str(place), heldout=given["heldout"]))
    assert changed["model"]["hash"] != first["model"]["hash"]


def test_a_window_and_a_stride(folder, given, tmp_path):
    out = str(tmp_path / "r.json")
    short, _ = run(EvaluateSettings(str(folder), heldout=given["heldout"], window=16, stride=4, out=out))
    assert (short["heldout"]["window"], short["heldout"]["stride"]) == (16, 4)
    full, _ = run(EvaluateSettings(str(folder), heldout=given["heldout"], out=out))
    assert short["heldout"]["all"]["tokens"] == full["heldout"]["all"]["tokens"]
    with pytest.raises(MalmoiError, match=f"--window=65 is more than the {WINDOW} positions"):
        run(EvaluateSettings(str(folder), heldout=given["heldout"], window=65))


def test_an_adapter_on_its_base(folder, given, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", r=2))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
    model.save_pretrained(tmp_path / "adapter")
    found, _ = run(EvaluateSettings(str(tmp_path / "adapter"), heldout=given["heldout"]))
    merged = model.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, tmp_path / "merged" / name)
    want, _ = run(EvaluateSettings(str(tmp_path / "merged"), heldout=given["heldout"]))
    loss = want["heldout"]["all"]["loss"]
    assert found["heldout"]["all"]["loss"] == pytest.approx(loss, rel=1e-4)
    assert found["model"]["kind"] == "adapter"
    assert found["model"]["base"] == "model"
    config = tmp_path / "adapter/adapter_config.json"
    config.write_text(config.read_text().replace(str(folder), "nowhere"))
    with pytest.raises(
        MalmoiError, match="an adapter on 'nowhere', which is no folder here; name it with --base"
    ):
        run(EvaluateSettings(str(tmp_path / "adapter"), heldout=given["heldout"]))
    again, _ = run(EvaluateSettings(str(tmp_path / "adapter"), heldout=given["heldout"], base=str(folder)))
    assert again["heldout"] == found["heldout"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_tokenizer):
    """A run of `malmoi train` of a few steps on rows that this tokenizer is said to have made."""
    from malmoi.training.ray_entry import run_local

    place = tmp_path_factory.mktemp("trained")
    tokens = make_rows(place / "tokens")
    made = read_token_manifest(tokens)
    content = (tiny_tokenizer / "tokenizer.json").read_bytes()
    real = dataclasses.replace(
        made.tokenizer, sha256=hashlib.sha256(content).hexdigest(), vocab_size=600, bos_id=1
    )
    dataclasses.replace(made, tokenizer=real).save(Folder(tokens))
    data = {"path": tokens, "tokenizer": str(tiny_tokenizer)}
    run_local(
        recipe(tokens, place / "run", data=data, steps=4, checkpoint={"every_steps": 2, "keep_last": 2})
    )
    return place / "run"


def test_a_training_run_and_its_checkpoints(trained, given):
    whole, _ = run(EvaluateSettings(str(trained), heldout=given["heldout"]))
    assert whole["model"]["kind"] == "run"
    assert whole["heldout"]["prefix_token"] == 0, (
        "the rows have eos between documents, the tokenizer has bos too"
    )
    assert (trained / "model/evaluation.json").is_file()
    named, _ = run(EvaluateSettings(str(trained / "model"), heldout=given["heldout"]))
    assert named["heldout"] == whole["heldout"]
    last, _ = run(EvaluateSettings(str(trained / "checkpoints/step-00000004"), heldout=given["heldout"]))
    assert last["heldout"] == whole["heldout"]
    before, _ = run(EvaluateSettings(str(trained / "checkpoints/step-00000002"), heldout=given["heldout"]))
    assert before["heldout"]["all"]["loss"] != whole["heldout"]["all"]["loss"]
    assert (trained / "checkpoints/step-00000002/evaluation.json").is_file()


def test_another_tokenizer_than_the_runs(trained, given, tmp_path, tiny_tokenizer):
    other = tmp_path / "tokenizer.json"
    other.write_text((tiny_tokenizer / "tokenizer.json").read_text(encoding="utf-8") + "\n", encoding="utf-8")
    with pytest.raises(ChangedError, match="not the tokenizer that the run was trained with"):
        run(EvaluateSettings(str(trained), heldout=given["heldout"], tokenizer=str(other)))


def test_models_that_are_none(folder, given, tmp_path, tiny_tokenizer):
    with pytest.raises(MalmoiError, match="nothing here: no such folder; nothing is ever downloaded"):
        run(EvaluateSettings(str(tmp_path / "nothing here"), heldout=given["heldout"]))
    with pytest.raises(MalmoiError, match=r"no train\.json, so this is neither a run"):
        run(EvaluateSettings(str(tmp_path), heldout=given["heldout"]))
    with pytest.raises(MalmoiError, match="--base says nothing"):
        run(EvaluateSettings(str(folder), heldout=given["heldout"], base=str(folder)))
    place = tmp_path / "model"
    shutil.copytree(folder, place)
    (place / "tokenizer.json").unlink()
    with pytest.raises(MalmoiError, match=r"no tokenizer\.json of the model"):
        run(EvaluateSettings(str(place), heldout=given["heldout"]))
    (place / "model.safetensors").unlink()
    with pytest.raises(MalmoiError, match="no causal language model with weights in safetensors"):
        run(EvaluateSettings(str(place), heldout=given["heldout"], tokenizer=str(tiny_tokenizer)))
    small = make_model(tmp_path / "small", tiny_tokenizer, vocab=100)
    with pytest.raises(MalmoiError, match="has 100 token embeddings, its tokenizer ids up to 599"):
        run(EvaluateSettings(str(small), heldout=given["heldout"]))


def test_weights_that_give_no_numbers(folder, given, tmp_path):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    model.lm_head.weight.data[3] = float("nan")
    shutil.copytree(folder, tmp_path / "model")
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(MalmoiError, match="NaN or infinite log-likelihood"):
        run(EvaluateSettings(str(tmp_path / "model"), heldout=given["heldout"]))
    assert not (tmp_path / "model/evaluation.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heldout": ()}, "nothing to evaluate"),
        ({"stride": 0}, "--stride=0: want 1 or more"),
        ({"batch_tokens": 0}, "--batch-tokens=0"),
        ({"workers": -1}, "want 0 workers or more, got -1"),
        ({"dtype": "int8"}, "--dtype=int8"),
    ],
)
def test_options_are_checked_first(change, message):
    with pytest.raises(RecipeError, match=message):
        EvaluateSettings(**{"model": "m", "heldout": ("h",), **change})


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("there", r"there: a folder; name a file in it, such as .*there/evaluation\.json"),
        ("there/", r"there/: a folder"),
        ("file/report.json", "file/report.json"),
    ],
)
def test_a_report_that_cannot_be_written_is_told_before_the_work(
    folder, given, tmp_path, monkeypatch, out, message
):
    (tmp_path / "there").mkdir()
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("malmoi.training.evaluate.plan_work", None)
    with pytest.raises(MalmoiError, match=message):
        run(EvaluateSettings(str(folder), heldout=given["heldout"], out=f"{tmp_path}/{out}"))


def test_a_gpu_that_is_not_there(folder, given, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ResourceError, match="--device=cuda, but torch finds no CUDA device"):
        run(EvaluateSettings(str(folder), heldout=given["heldout"], device="cuda"))
    with pytest.raises(ResourceError, match="finds no CUDA device"):
        load(find_model(str(folder), base=None, device="cuda", dtype="auto"))


def test_the_command(folder, given, tmp_path, monkeypatch, capsys):
    from malmoi.pipeline import cli

    arguments = [
        str(folder),
        "--heldout",
        given["heldout"][0],
        "--limit",
        "1",
        "--out",
        str(tmp_path / "r.json"),
    ]
    monkeypatch.setattr(sys, "argv", ["malmoi", "evaluate", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code in (0, None)
    assert "bits per byte" in capsys.readouterr().out
    assert json.loads((tmp_path / "r.json").read_text())["heldout"]["all"]["documents"] == 2


def test_a_cluster_that_does_not_answer(folder, given, monkeypatch):
    """Told before the model is read and the text is tokenized."""
    monkeypatch.setattr(module, "describe", lambda *_: pytest.fail("the model was read"))
    monkeypatch.setattr(module, "plan_work", lambda *_: pytest.fail("the text was tokenized"))
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(ResourceError, match="no Ray cluster answers"):
        run(EvaluateSettings(str(folder), heldout=given["heldout"], workers=1))


@pytest.mark.ray
def test_on_ray_it_is_the_same(folder, given, tmp_path, monkeypatch):
    import ray

    shim = Path(__file__).parent
    monkeypatch.setenv("PYTHONPATH", str(shim))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    settings = EvaluateSettings(
        str(folder), **given, out=str(tmp_path / "here.json"), allow_code_execution=True, batch_tokens=100
    )
    run(settings)
    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="ERROR")
    try:
        run(dataclasses.replace(settings, out=str(tmp_path / "ray.json"), workers=2))
        monkeypatch.setattr(module, "plan_work", lambda *_: pytest.fail("the text was tokenized"))
        with pytest.raises(ResourceError, match="9 workers need more than"):
            run(dataclasses.replace(settings, out=None, workers=9))
    finally:
        ray.shutdown()
    assert (tmp_path / "ray.json").read_bytes() == (tmp_path / "here.json").read_bytes()
