"""docs/training.md and docs/methods.md agree with the recipe's models, and their recipes hold."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from malmoi.training.recipe import METHOD_KEYS, MethodSettings, TrainRecipe

DOCS = Path(__file__).resolve().parents[2] / "docs"
TEXT = (DOCS / "training.md").read_text(encoding="utf-8")
METHODS = (DOCS / "methods.md").read_text(encoding="utf-8")


def expected(model, prefix=""):
    keys = {}
    for name, field in model.model_fields.items():
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
        below = [x for x in kinds if isinstance(x, type) and issubclass(x, BaseModel)]
        if below:
            keys |= expected(below[0], f"{prefix}{name}.")
            continue
        default = field.default_factory() if field.default_factory else field.default
        default = list(default) if isinstance(default, tuple) else default
        keys[prefix + name] = "required" if default is PydanticUndefined else f"`{json.dumps(default)}`"
    return keys


def test_keys_and_defaults():
    written = dict(re.findall(r"^\| `([\w.]+)` \| ([^|]+?) \|", TEXT, re.MULTILINE))
    want = {key: value for key, value in expected(TrainRecipe).items() if not key.startswith("method.")}
    assert written == want


def test_the_recipe_holds():
    [block] = re.findall(r"^```yaml\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    assert TrainRecipe.model_validate(yaml.safe_load(block)).workers.range == (1, 4)


def test_methods():
    assert set(re.findall(r"^\| `(\w+)` \|", METHODS, re.MULTILINE)) == {"kind", *METHOD_KEYS}
    blocks = [
        yaml.safe_load(x) for x in re.findall(r"^```yaml\n(.*?)^```", METHODS, re.MULTILINE | re.DOTALL)
    ]
    assert {MethodSettings.model_validate(block["method"]).kind for block in blocks} == set(METHOD_KEYS)
    [told] = re.findall(r"^Defaults: (.*?)\. A key", METHODS, re.MULTILINE | re.DOTALL)
    for name, value in re.findall(r"`(\w+)` (\d+|true|nf4|bfloat16)(?=[,.]|$)", told):
        assert MethodSettings.model_fields[name].default == yaml.safe_load(value), name


def test_torchrun_takes_the_command():
    """Without `--` it takes --local for the beginning of an option of its own."""
    from torch.distributed.run import parse_args

    [command] = re.findall(r"^    torchrun (.*)$", TEXT, re.MULTILINE)
    given = parse_args(shlex.split(command))
    assert [given.training_script, *given.training_script_args] == [
        "malmoi",
        "train",
        "train.yaml",
        "--local",
    ]
