"""What decides a step's output is part of the run's identity: settings, model bytes, a user's code."""

import importlib
import sys
from pathlib import Path

import pytest

from malmoi.operators import GopherQuality, LanguageId
from malmoi.pipeline.identity import code_of, files_of, identity_of

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
