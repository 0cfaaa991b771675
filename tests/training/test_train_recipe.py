"""Recipes of training: strict keys, combinations that cannot work, what belongs to a run's identity."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from train_rows import recipe

from malmoi.pipeline.errors import RecipeError
from malmoi.training.recipe import METHOD_KEYS, MethodSettings, TrainRecipe, identity, read_recipe

YAML = """\
name: tiny
output: out
data: {path: tokens}
model:
  config: {family: llama, hidden_size: 32, intermediate_size: 64, num_layers: 2, num_heads: 4}
method:
  kind: lora
  rank: 4
steps: 20
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(YAML, encoding="utf-8")
    return path


def test_a_recipe_is_read_and_overridden(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    got = read_recipe(file, ["method.rank=8", "workers.num_workers=[1, 3]"])
    assert got.method.rank == 8
    assert got.method.lora_alpha == 16.0
    assert got.workers.range == (1, 3)
    assert got.output == str(tmp_path / "out")
    assert got.data.path == str(tmp_path / "tokens")


def test_an_unknown_key_is_told_with_its_line(file):
    file.write_text(YAML.replace("rank:", "rank_:"), encoding="utf-8")
    with pytest.raises(RecipeError, match=r"recipe.yaml:8: unknown key 'method.rank_'; did you mean 'rank'"):
        read_recipe(file)


@pytest.mark.parametrize(
    ("changes", "want"),
    [
        ({"epochs": 1.0}, "one of steps, epochs and tokens, got steps, epochs"),
        ({"steps": None}, "one of steps, epochs and tokens, got none"),
        ({"model": {}}, "one of path and config, got none"),
        ({"method": {"kind": "full", "rank": 4}}, "rank says nothing for kind: full"),
        ({"method": {"kind": "prefix", "reparameterization": "lstm"}}, "lstm goes with kind: p_tuning"),
        ({"data": {"path": "x", "evaluate_every": 5}}, "needs holdout above 0"),
        ({"checkpoint": {"keep_best": 1}}, "keep_best needs data.holdout"),
        ({"workers": {"num_workers": [3, 2]}}, r"\[least, most\], got \[3, 2\]"),
        ({"workers": {"num_workers": 7}}, "batch.rows=6 are fewer than 7 workers"),
        ({"workers": {"num_workers": 2}, "optimizer": {"name": "paged_adamw_8bit"}}, "needs whole tensors"),
        ({"model": {"path": "x", "attention": "varlen"}}, "runs on CUDA only"),
        (
            {"model": {"path": "x", "attention": "packed"}, "method": {"kind": "prompt"}},
            "does not go with method.kind=prompt",
        ),
        ({"method": {"kind": "prefix"}, "activation_checkpointing": True}, "does not go with activation_"),
        ({"optimizer": {"lr": 0}}, "greater than 0"),
    ],
)
def test_what_cannot_work_is_refused(changes, want, tmp_path):
    with pytest.raises(ValidationError, match=want):
        recipe("tokens", tmp_path, **changes)


def test_every_kind_has_its_keys():
    assert set(METHOD_KEYS) == set(MethodSettings.model_fields["kind"].annotation.__args__)
    named = {key for keys in METHOD_KEYS.values() for key in keys}
    assert named == set(MethodSettings.model_fields) - {"kind"}


def test_identity_is_of_what_decides_the_weights(tmp_path):
    base = recipe("tokens", tmp_path)
    same = recipe(
        "elsewhere", tmp_path / "b", workers={"num_workers": 2}, log={"every_steps": 3},
        checkpoint={"every_steps": 9}, batch={"rows": 6, "rows_per_device": 1},
    )  # fmt: skip
    assert identity(base) == identity(same)
    assert identity(base) != identity(recipe("tokens", tmp_path, optimizer={"lr": 2e-2}))
    assert identity(base) != identity(recipe("tokens", tmp_path, steps=13))


def test_defaults_are_a_whole_recipe():
    assert (
        TrainRecipe(name="x", output="y", data={"path": "z"}, model={"path": "m"}, epochs=1).method.kind
        == "full"
    )
