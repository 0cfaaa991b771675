"""What decides a step's output is part of the run's identity: settings, model bytes, a user's code."""

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from malmoi.operators import GopherQuality, LanguageId
from malmoi.pipeline import plan as plan_module
from malmoi.pipeline.config import parse_recipe
from malmoi.pipeline.engine import Job, committed, execute
from malmoi.pipeline.errors import ChangedError
from malmoi.pipeline.identity import check_steps, code_of, files_of, identity_of
from malmoi.pipeline.plan import make_plan
from malmoi.pipeline.run import run_plan
from malmoi.pipeline.storage import Folder

RULE = """
from dataclasses import dataclass
from typing import ClassVar
import pyarrow as pa

@dataclass(frozen=True)
class Rule:
    name: ClassVar[str] = "rule"
    version: ClassVar[int] = 1
    kind: ClassVar[str] = "judge"
    reference: ClassVar[str] = "none"
    needs: ClassVar[tuple[str, ...]] = ("text",)
    adds: ClassVar[pa.Schema] = pa.schema([])
    limit: int = {limit}

    def __call__(self, table):
        return table
"""


def test_a_model_is_known_by_its_bytes() -> None:
    [(name, digest)] = files_of(LanguageId()).items()
    assert name == "lid.176.ftz"
    assert len(digest) == 32
    assert identity_of(LanguageId())["files"] == {name: digest}


def test_settings_and_version() -> None:
    found = identity_of(GopherQuality(min_words=7, languages={"ko": {"min_words": 3}}))
    assert found["settings"]["min_words"] == 7
    assert found["settings"]["languages"] == [["ko", [["min_words", 3]]]]
    assert "code" not in found


def test_a_changed_rule_of_a_user_is_another_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    seen = set()
    for limit in (1, 2):
        module = tmp_path / f"changing_rule_{limit}.py"
        module.write_text(RULE.format(limit=limit))
        importlib.invalidate_caches()
        seen.add(code_of(importlib.import_module(module.stem).Rule()))
        sys.modules.pop(module.stem)
    assert len(seen) == 2
    assert None not in seen


def test_a_record_of_another_plan_does_not_count(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    job = Job("t", "one", lambda folder, _: {"read": 1}, None, plan="a")
    execute(folder, job)
    assert committed(folder, job) is not None
    assert committed(folder, replace(job, plan="b")) is None


def test_parts_without_their_plan_are_refused(tmp_path: Path) -> None:
    recipe = {"name": "r", "output": str(tmp_path / "run"), "sources": [{"name": "a", "path": "a.jsonl"}]}
    (tmp_path / "a.jsonl").write_text('{"text": "말모이"}\n', encoding="utf-8")

    def go() -> None:
        plan = make_plan(parse_recipe(recipe), str(tmp_path))
        run_plan(plan, console=Console(quiet=True), engine="local")

    go()
    (tmp_path / "run" / "plan.json").unlink()
    with pytest.raises(ChangedError, match=r"holds parts of a run but not its plan.json"):
        go()


def test_a_model_that_changes_during_a_run_is_noticed() -> None:
    planned = [identity_of(LanguageId())]
    check_steps((LanguageId(),), planned)
    planned[0]["files"]["lid.176.ftz"] = "0" * 32
    with pytest.raises(ChangedError, match="step language: changed while the run went on"):
        check_steps((LanguageId(),), planned)


def test_a_finished_run_is_not_refused_for_newer_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = {"name": "r", "output": str(tmp_path / "run"), "sources": [{"name": "a", "path": "a.jsonl"}]}
    (tmp_path / "a.jsonl").write_text('{"text": "말모이"}\n', encoding="utf-8")
    first = run_plan(
        make_plan(parse_recipe(recipe), str(tmp_path)), console=Console(quiet=True), engine="local"
    )
    monkeypatch.setattr(plan_module, "libraries", lambda steps: {"pyarrow": "999"})
    again = make_plan(parse_recipe(recipe), str(tmp_path))
    assert run_plan(again, console=Console(quiet=True), engine="local").manifest_hash == first.manifest_hash
    (tmp_path / "run" / "manifest.json").unlink()
    with pytest.raises(ChangedError, match=r"999"):
        run_plan(again, console=Console(quiet=True), engine="local")
