"""The training recipes that come with the project, and those in docs/methods.md, hold."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from malmoi.training.methods import MERGEABLE
from malmoi.training.recipe import METHOD_KEYS, PROMPT_KINDS, MethodSettings, TrainRecipe, read_recipe

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted(x for x in (ROOT / "examples" / "recipes").glob("*.yaml") if "train" in x.stem)
PAGE = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")


def test_there_is_one_of_each_main_method():
    assert {"train_full", "train_lora", "train_qlora"} <= {x.stem for x in RECIPES}


@pytest.mark.parametrize("path", RECIPES, ids=lambda x: x.name)
def test_recipes_hold(path):
    recipe = read_recipe(path)
    assert recipe.name == path.stem
    assert path.read_text(encoding="utf-8").startswith(f"# malmoi train examples/recipes/{path.name}")
    if recipe.name.startswith("train_"):
        assert recipe.method.kind == recipe.name.removeprefix("train_")


def test_every_method_is_described_and_its_snippet_holds():
    blocks = [yaml.safe_load(x) for x in re.findall(r"^```yaml\n(.*?)^```", PAGE, re.M | re.S)]
    assert {MethodSettings.model_validate(x["method"]).kind for x in blocks} == set(METHOD_KEYS)
    for block in blocks:
        run = {"name": "x", "output": "x", "data": {"path": "x"}, "model": {"path": "x"}, "steps": 1}
        TrainRecipe.model_validate({**run, **block})


def test_the_table_agrees_with_the_code():
    rows = re.findall(r"^\| `(\w+)` \|.*\| (\w+)[^|]* \| (\w+) \|$", PAGE, re.M)
    assert {kind for kind, _, _ in rows} == set(METHOD_KEYS)
    assert {kind for kind, merges, _ in rows if merges == "yes"} == set(MERGEABLE)
    assert {kind for kind, _, several in rows if several == "no"} == set(PROMPT_KINDS)


@pytest.mark.slow
def test_does_curation_pay(tmp_path):
    """The whole example with next to no training."""
    script = str(ROOT / "examples" / "does_curation_pay.py")
    command = [sys.executable, script, "--out", str(tmp_path), "--tokens", "4096", "--seeds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "result.json").read_text())["bits_per_byte"]
    assert found.keys() == {"raw", "cleaned", "curated"}
    for [bits] in found.values():
        assert {"kept", "dropped", "all", "mean of languages", "ko", "en", "de"} <= bits.keys()
        assert all(1.5 < x < 12.0 for x in bits.values())
    assert "held-out bits per byte" in done.stdout
    assert "cleaned: no difference from raw that all seeds agree on" in done.stdout, "one seed shows nothing"


def test_what_is_held_out_is_chosen_before_it_is_judged():
    spec = importlib.util.spec_from_file_location("pay", ROOT / "examples" / "does_curation_pay.py")
    pay = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pay)
    raw = [{"source": "s", "id": str(i), "text": f"document {i} " * 9} for i in range(240)]
    cleaned = [{**x, "language": "en"} for x in raw[::2]]
    held = pay.held_out(raw, cleaned)
    assert 10 < len(held) < 30
    assert [x["id"] for x in held] == [x["id"] for x in pay.held_out(raw, [])]
    assert {x["source"] for x in held} == {"kept", "dropped"}
    assert all((x["source"] == "kept") == (int(x["id"]) % 2 == 0) for x in held)
    seen = set().union(*(pay.runs_of(x["text"]) for x in held))
    rest = pay.without(raw, seen)
    assert not {x["id"] for x in held} & {x["id"] for x in rest}
    assert pay.verdict("a", [-0.1, 0.1, -0.2]) == "a: no difference from raw that all seeds agree on"
    assert pay.verdict("a", [-0.1, -0.1, -0.1]) == "a: lower than raw for each seed, by 0.1000 on average"
