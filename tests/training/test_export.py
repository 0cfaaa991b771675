"""`malmoi export`: what plain transformers and peft load has the logits of what was trained."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import train_rows
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from typer.testing import CliRunner

from malmoi.pipeline.errors import MalmoiError
from malmoi.pipeline.storage import Folder
from malmoi.pipeline.token_manifest import TokenizerId, read_token_manifest
from malmoi.training.export import export
from malmoi.training.model import build_model, save_model
from malmoi.training.ray_entry import run_local
from malmoi.training.recipe import MethodSettings, ModelSettings
from malmoi.training.trained import load_trained, open_trained

IDS = torch.arange(24).reshape(2, 12) + 1


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a tokenizer, rows and a base model."""
    top = tmp_path_factory.mktemp("export")
    words = {"<eos>": 0, **{f"w{i}": i for i in range(1, train_rows.VOCAB)}}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<eos>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.add_special_tokens(["<eos>"])
    (top / "tok").mkdir()
    tokenizer.save(str(top / "tok" / "tokenizer.json"))
    tokens = train_rows.make_rows(top / "tokens")
    sha = hashlib.sha256((top / "tok" / "tokenizer.json").read_bytes()).hexdigest()
    manifest = read_token_manifest(tokens)
    replace(manifest, tokenizer=TokenizerId("tok", sha, train_rows.VOCAB, 0)).save(Folder(tokens))
    shape = {**train_rows.LLAMA, "vocab_size": train_rows.VOCAB, "max_positions": 32, "tie_embeddings": False}
    settings = ModelSettings.model_validate({"config": shape, "dtype": "float32"})
    save_model(build_model(settings, MethodSettings(), "cpu", seed=5), MethodSettings(), top / "base")
    return top


def train(place, name, method, *, path=True, steps=6, dtype="float32"):
    model = {"path": str(place / "base")} if path else {"config": train_rows.QWEN3}
    made = train_rows.recipe(
        str(place / "tokens"), place / "runs" / name,
        data={"path": str(place / "tokens"), "tokenizer": str(place / "tok"), "holdout": 0.1},
        model={**model, "dtype": dtype}, method=method, steps=steps, optimizer={"lr": 0.02},
    )  # fmt: skip
    run_local(made)
    return str(place / "runs" / name)


def logits(model: torch.nn.Module, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids).logits[:, -ids.shape[1] :].float()


def from_folder(folder: Path, **options) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, **options).eval()


MERGED = {
    "full": {"kind": "full"},
    "lora": {"kind": "lora", "rank": 4},
    "qlora": {"kind": "qlora", "rank": 4},
    "dora": {"kind": "dora", "rank": 4},
    "ia3": {"kind": "ia3"},
}
ADAPTERS = {
    "lora": {"kind": "lora", "rank": 4},
    "qlora": {"kind": "qlora", "rank": 4},
    "prefix": {"kind": "prefix", "num_virtual_tokens": 3, "reparameterization": "mlp"},
    "prompt": {"kind": "prompt", "num_virtual_tokens": 3},
    "p_tuning": {"kind": "p_tuning", "num_virtual_tokens": 3, "reparameterization": "lstm"},
    "llama_adapter": {"kind": "llama_adapter", "num_virtual_tokens": 3},
    "bottleneck": {"kind": "bottleneck", "bottleneck_size": 4},
}


@pytest.mark.parametrize("name", MERGED)
def test_a_whole_model(place, tmp_path, name):
    run = train(place, f"merged-{name}", MERGED[name])
    done = export(run, tmp_path / "out")
    assert done.whole
    want = logits(load_trained(open_trained(run)))
    plain = from_folder(tmp_path / "out", dtype="auto")
    assert torch.allclose(logits(plain), want, atol=1e-5)
    assert not torch.allclose(logits(from_folder(place / "base")), want, atol=1e-2)
    assert {x.suffix for x in (tmp_path / "out").iterdir()} <= {".safetensors", ".json", ".md"}
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "quantization_config" not in config
    assert str(place) not in (tmp_path / "out" / "config.json").read_text()


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter(place, tmp_path, name):
    """From the model at the end and from the last checkpoint, which are the same."""
    run = train(place, f"adapter-{name}", ADAPTERS[name])
    done = export(run, tmp_path / "out", merge=False)
    assert not done.whole
    want = logits(load_trained(open_trained(run)))
    checkpoint = f"{run}/checkpoints/step-00000006"
    assert torch.allclose(logits(load_trained(open_trained(checkpoint))), want, atol=1e-5)
    export(checkpoint, tmp_path / "again", merge=False)
    for folder in (tmp_path / "out", tmp_path / "again"):
        if name == "qlora":
            base = load_trained(open_trained(run)).unload()
        else:
            base = from_folder(place / "base", dtype=torch.float32)
        if name == "bottleneck":
            from malmoi.training.bottleneck import with_bottlenecks

            loaded = with_bottlenecks(base, folder)
        else:
            from peft import PeftModel

            loaded = PeftModel.from_pretrained(base, str(folder)).eval()
            assert (
                json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "base"
            )
        assert torch.allclose(logits(loaded), want, atol=1e-5)
        assert str(place) not in "".join(x.read_text() for x in folder.glob("*.json"))


def test_bfloat16_and_random_weights(place, tmp_path):
    run = train(place, "random", {"kind": "full"}, path=False, dtype="bfloat16")
    export(run, tmp_path / "out")
    model = from_folder(tmp_path / "out", dtype="auto")
    assert {x.dtype for x in model.parameters()} == {torch.bfloat16}
    assert torch.equal(logits(model), logits(load_trained(open_trained(run))))
    assert model.generation_config.eos_token_id == model.config.eos_token_id == 0
    export(f"{run}/checkpoints/step-00000004", tmp_path / "earlier")
    assert not torch.allclose(logits(from_folder(tmp_path / "earlier")), logits(model), atol=1e-3)

    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("w3 w9").input_ids == [3, 9]
    assert tokenizer.eos_token == "<eos>"


def test_the_card(place, tmp_path):
    run = train(place, "card", {"kind": "lora", "rank": 4})
    figure = {"documents": 3, "tokens": 40, "bytes": 120, "loss": 2.5, "loss_stderr": 0.25}
    figure |= {"bits_per_byte": 1.25, "bits_per_byte_stderr": None}
    held = {"hash": "abc", "window": 24, "all": figure, "sources": {"news": figure}}
    metrics = {"acc": {"value": 0.5, "stderr": 0.1}}
    report = {"heldout": held, "tasks": {"kobest": {"documents": 9, "chance": 0.5, "metrics": metrics}}}
    Path(run, "model", "evaluation.json").write_text(json.dumps(report))
    export(run, tmp_path / "a" / "tiny-lora")
    text = (tmp_path / "a" / "tiny-lora" / "README.md").read_text()
    manifest = read_token_manifest(str(place / "tokens"))
    for part in (
        manifest.tokens_hash, manifest.source, manifest.tokenizer.sha256, "| method | lora |", "6 of 6", "lr: 0.02",
        "held-out loss", "base_model: base", 'from_pretrained("tiny-lora", dtype="auto")', "merged into the weights",
        "| news | 3 | 120 | 2.5000 ± 0.2500 | 1.2500 |", "hash `abc`", "| kobest | 9 | acc | 0.5000 ± 0.1000 | 0.500 |",
    ):  # fmt: skip
        assert part in text, part
    assert str(place) not in text
    assert json.loads((tmp_path / "a" / "tiny-lora" / "evaluation.json").read_text()) == report
    export(f"{run}/checkpoints/step-00000004", tmp_path / "adapter", merge=False)
    text = (tmp_path / "adapter" / "README.md").read_text()
    assert "PeftModel.from_pretrained" in text
    assert "Not evaluated" in text
    assert "4 of 6" in text
    assert "needs the model that it began from" in text


def test_the_rows_are_gone(place, tmp_path):
    """Then the card names their hash alone."""
    tokens = tmp_path / "tokens"
    train_rows.make_rows(tokens)
    sha = hashlib.sha256((place / "tok" / "tokenizer.json").read_bytes()).hexdigest()
    manifest = read_token_manifest(str(tokens))
    replace(manifest, tokenizer=TokenizerId("tok", sha, train_rows.VOCAB, 0)).save(Folder(str(tokens)))
    run_local(train_rows.recipe(str(tokens), tmp_path / "run", steps=1))
    (tokens / "tokens.json").unlink()
    with pytest.raises(MalmoiError, match="name it with --tokenizer"):
        export(str(tmp_path / "run"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    export(str(tmp_path / "run"), tmp_path / "out", tokenizer=str(place / "tok" / "tokenizer.json"))
    text = (tmp_path / "out" / "README.md").read_text()
    assert "is not there any more" in text
    assert json.loads((tmp_path / "run" / "train.json").read_text())["data_hash"] in text


def test_the_best_checkpoint(place, tmp_path):
    run = train(place, "best", {"kind": "full"}, steps=8)
    states = {x: json.loads(x.read_text()) for x in Path(run, "checkpoints").glob("*/state.json")}
    for number, (path, state) in enumerate(sorted(states.items())):
        path.write_text(json.dumps({**state, "heldout_loss": 1.0 + number}))
        commit = path.with_name("commit.json")
        files = json.loads(commit.read_text())["files"]
        commit.write_text(json.dumps({"files": {**files, "state.json": path.stat().st_size}}))
    assert len(states) == 2
    assert export(run, tmp_path / "out", best=True).trained.step == 4
    assert export(run, tmp_path / "last").trained.step == 8


def test_what_cannot_be_exported(place, tmp_path):
    full = train(place, "errors-full", {"kind": "full"}, steps=1)
    prompt = train(place, "errors-prompt", {"kind": "prompt"}, steps=1)
    random = train(place, "errors-random", {"kind": "prompt"}, path=False, steps=1)
    with pytest.raises(MalmoiError, match="leave --adapter out"):
        export(full, tmp_path / "x", merge=False)
    with pytest.raises(MalmoiError, match="prompt cannot be merged"):
        export(prompt, tmp_path / "x", merge=True)
    with pytest.raises(MalmoiError, match="an adapter on random weights"):
        export(random, tmp_path / "x")
    with pytest.raises(MalmoiError, match="neither a run of malmoi train nor one of its checkpoints"):
        export(str(place), tmp_path / "x")
    with pytest.raises(MalmoiError, match="not a complete checkpoint"):
        export(f"{full}/checkpoints/step-00000099", tmp_path / "x")
    torn = next(Path(full, "checkpoints", "step-00000001").glob("*.distcp"))
    torn.write_bytes(torn.read_bytes()[:-1])
    with pytest.raises(MalmoiError, match="take another checkpoint"):
        export(f"{full}/checkpoints/step-00000001", tmp_path / "x")
    with pytest.raises(MalmoiError, match="no complete checkpoint"):
        export(full, tmp_path / "x", best=True)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "mine").touch()
    with pytest.raises(MalmoiError, match="there already"):
        export(full, tmp_path / "x")
    assert sorted(x.name for x in tmp_path.iterdir()) == ["x"]


def test_the_command(place, tmp_path):
    import typer

    from malmoi.training.cli import COMMANDS

    app = typer.Typer()
    for command in COMMANDS:
        app.command()(command)
    run = train(place, "errors-full", {"kind": "full"}, steps=1)
    done = CliRunner().invoke(app, ["export", run, "--out", str(tmp_path / "out")], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "model after 1 steps" in done.output
    assert (tmp_path / "out" / "model.safetensors").is_file()
