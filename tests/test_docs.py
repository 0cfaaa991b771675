"""The code in the docs runs, and the recipe's reference agrees with its models."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import sys
import types
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from malmoi.pipeline import plan
from malmoi.pipeline import recipe as models

ROOT = Path(__file__).resolve().parent.parent


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_own_operator(tmp_path, monkeypatch):
    rules, usage = blocks("docs/own_operator.md", "python")
    (tmp_path / "my_pkg").mkdir()
    (tmp_path / "my_pkg" / "rules.py").write_text(rules, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("my_pkg", "my_pkg.rules"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    scope: dict = {}
    exec(compile(usage, "docs/own_operator.md", "exec"), scope)
    judged, operator = scope["judged"], scope["HangulShare"]
    assert judged.schema.field("hangul_share.share").type == operator().adds.field("hangul_share.share").type
    assert operator()(scope["table"].slice(0, 0)).schema == judged.schema
    with pytest.raises(ValueError, match="got 2"):
        operator(min_share=2)

    from malmoi.operators.config import build, load_class

    [steps] = [yaml.safe_load(x)["steps"] for x in blocks("docs/own_operator.md", "yaml")]
    [(name, settings)] = steps[-1].items()
    assert build(load_class(name, {}, "here"), settings, "here").min_share == 0.3


def test_contributing(tmp_path, monkeypatch):
    module, tests = blocks("CONTRIBUTING.md", "python")
    path = tmp_path / "url_share.py"
    path.write_text(module, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("malmoi.operators.url_share", path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, made)
    spec.loader.exec_module(made)
    scope: dict = {}
    exec(compile(tests, "CONTRIBUTING.md", "exec"), scope)
    found = [x for name, x in scope.items() if name.startswith("test_")]
    assert len(found) == 2
    for test in found:
        assert isinstance(test, types.FunctionType)
        test()


def test_readme():
    [code] = blocks("README.md", "python")
    scope: dict = {}
    exec(compile(code, "README.md", "exec"), scope)
    assert scope["table"]["language"].to_pylist() == ["ko"]


def shown(default: object) -> str:
    if default is PydanticUndefined:
        return "required"
    if isinstance(default, tuple):
        default = list(default)
    return f"`{json.dumps(default)}`"


def expected(model: type[BaseModel], prefix: str = "") -> dict[str, str]:
    """Dotted key to default, for every key that is not itself a mapping of keys."""
    keys: dict[str, str] = {}
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys |= expected(field.annotation, f"{prefix}{name}.")
        else:
            default = field.default_factory() if field.default_factory else field.default  # type: ignore[call-arg]
            keys[prefix + name] = shown(default)
    return keys


def test_recipe_reference_agrees_with_the_models():
    text = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w.\[\]]+)` \| ([^|]+?) \|", text, re.MULTILINE)
    written = dict(rows)
    assert len(written) == len(rows), "a key stands twice"
    want = expected(models.Recipe) | expected(models.Source, "sources[].")
    assert written == want, {k: (written.get(k), want.get(k)) for k in written.keys() | want.keys()
                             if written.get(k) != want.get(k)}  # fmt: skip


def test_the_table_of_tokenize_agrees_with_its_model():
    text = (ROOT / "docs" / "tokenize.md").read_text(encoding="utf-8")
    assert dict(re.findall(r"^\| `(\w+)` \| ([^|]+?) \|", text, re.MULTILINE)) == expected(models.Tokenize)


def test_both_readmes_show_the_same():
    """Commands, recipe, output and figures; what is said around them is in two languages."""
    english, korean = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.ko.md"))
    for language in ("sh", "text", "yaml", "python"):
        shown = [
            [re.sub(r"\s*#.*", "", x) for x in blocks(page, language)]
            for page in ("README.md", "README.ko.md")
        ]
        assert shown[0] == shown[1], language
    rows = [re.findall(r"^\|.*`(?:make|benchmarks/).*\|$", page, re.MULTILINE) for page in (english, korean)]
    figures = [[sorted(re.findall(r"\d+(?:[.,]\d+)+|\d{2,}", row)) for row in page] for page in rows]
    assert figures[0] == figures[1]
    assert set(re.findall(r"\]\(([^)]+)", english)) - {"README.ko.md"} <= set(
        re.findall(r"\]\(([^)]+)", korean)
    )


def test_estimates_in_the_docs_are_those_of_plan():
    driver = f"{plan.DRIVER_BASE_BYTES >> 20} MiB and {plan.KEY_BYTES_PER_DOCUMENT} bytes a document"
    for page in ("clusters/README.md", "docs/performance.md"):
        assert driver in " ".join((ROOT / page).read_text(encoding="utf-8").split()), page
    assert f"some {plan.KEY_BYTES_PER_DOCUMENT} bytes a document" in (
        ROOT / "docs/deduplication.md"
    ).read_text("utf-8")
    for path in (ROOT / "clusters").rglob("*.yaml"):
        told = re.findall(r"(\d+) bytes of memory a document", path.read_text(encoding="utf-8"))
        assert set(told) <= {str(plan.KEY_BYTES_PER_DOCUMENT)}, path


def test_failures_names_tests_that_there_are():
    page = (ROOT / "docs" / "failures.md").read_text(encoding="utf-8")
    rows = [line.rsplit("|", 2)[1] for line in page.splitlines() if line.startswith("| ")]
    found = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")}
    names = re.findall(r"`(test_\w+)`", page)
    assert len(names) > 20
    for name in names:
        assert any(f"def {name}(" in text for text in found.values()), name
    for row in rows:
        for file, tests in re.findall(r"(?<!`)\b(test_\w+)((?:,? `test_\w+`)*)", row):
            assert all(f"def {test}(" in found[file] for test in re.findall(r"`(\w+)`", tests)), row


def test_every_benchmark_is_listed():
    there = {path.name for path in (ROOT / "benchmarks").glob("*.py")}
    text = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`(\w+\.py)`", text)) == there


@pytest.mark.parametrize("page", ["README.md", "README.ko.md", "docs/recipe.md"])
def test_recipes_in_the_docs_hold(page):
    found = [yaml.safe_load(x) for x in blocks(page, "yaml")]
    assert found, "no recipe in it"
    for data in found:
        if "sources" in data:
            models.Recipe.model_validate(data)
