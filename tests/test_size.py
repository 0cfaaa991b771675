"""House numbers: files and functions that are read in one go, plain classes, no catch-all arguments."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CODE = ("operators", "pipeline", "training", "benchmarks")
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

FILES = sorted(path for folder in CODE for path in (ROOT / folder).glob("*.py"))
Functions = ast.FunctionDef | ast.AsyncFunctionDef


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_there_are_files_to_look_at():
    assert {"operators/contract.py", "pipeline/recipe.py"} <= {str(x.relative_to(ROOT)) for x in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda x: str(x.relative_to(ROOT)))
def test_size(path):
    count = len(path.read_text(encoding="utf-8").splitlines())
    assert count <= MAX_FILE_LINES, f"{path.name}: {count} lines, at most {MAX_FILE_LINES}"
    long = [
        f"{path.name}:{node.lineno}: {node.name} has {length} lines, at most {MAX_FUNCTION_LINES}"
        for node in ast.walk(tree(path))
        if isinstance(node, Functions)
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > MAX_FUNCTION_LINES
    ]
    assert not long, "\n".join(long)


def test_operators_take_no_catch_all_keywords():
    wrong = [
        f"{path.name}:{node.lineno}: {node.name}(**{node.args.kwarg.arg})"
        for path in FILES
        if path.parent.name == "operators"
        for node in ast.walk(tree(path))
        if isinstance(node, Functions) and node.args.kwarg
    ]
    assert not wrong, "\n".join(wrong)


def test_no_class_inherits_from_ours():
    """Exceptions may; so may the recipe's models, from `Strict`, which is pydantic's settings alone."""
    classes = [
        (path, node) for path in FILES for node in ast.walk(tree(path)) if isinstance(node, ast.ClassDef)
    ]
    ours = {node.name for _, node in classes}
    exceptions = {"Exception", "ValueError", "RuntimeError", "OSError"}
    grown = -1
    while grown != len(exceptions):
        grown = len(exceptions)
        exceptions |= {
            node.name for _, node in classes if {ast.unparse(base) for base in node.bases} & exceptions
        }
    wrong = [
        f"{path.name}:{node.lineno}: {node.name}({ast.unparse(base)})"
        for path, node in classes
        for base in node.bases
        if ast.unparse(base).rpartition(".")[2] in ours - exceptions - {"Strict"}
    ]
    assert not wrong, "\n".join(wrong)


def test_an_operator_is_a_frozen_dataclass():
    wrong = [
        f"{path.name}:{node.lineno}: {node.name}"
        for path in FILES
        if path.parent.name == "operators"
        for node in tree(path).body
        if isinstance(node, ast.ClassDef)
        and any(isinstance(x, ast.FunctionDef) and x.name == "__call__" for x in node.body)
        and not any(ast.unparse(x) == "Protocol" for x in node.bases)
        and not any("frozen=True" in ast.unparse(x) for x in node.decorator_list)
    ]
    assert not wrong, "\n".join(wrong)
