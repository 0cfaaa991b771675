"""Data flows operators -> pipeline -> training; imports point the other way, and only so far."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("operators", "pipeline", "training")
TO_TRAINING = (
    "manifest", "token_manifest", "errors", "storage", "lock", "yaml_file", "console", "ray_place",
)  # fmt: skip
# What a file of a folder may import of ours, by longest match of the dotted name.
ALLOWED = {
    "operators": ("malmoi.operators",),
    "pipeline": ("malmoi.operators", "malmoi.pipeline"),
    "training": (
        "malmoi.training",
        "malmoi.operators",
        *(f"malmoi.pipeline.{name}" for name in TO_TRAINING),
    ),
}
BANNED = {"operators": ("ray", "torch"), "pipeline": ("torch",), "training": ()}


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).glob("*.py"))


def imports(path: Path, folder: str) -> list[tuple[int, str]]:
    """(line, absolute dotted name) of everything imported, inside functions too; relative names resolved."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join(x for x in (f"malmoi.{folder}" if node.level == 1 else "malmoi", base) if x)
            found += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
    return found


def under(name: str, root: str) -> bool:
    return name == root or name.startswith(root + ".")


def problem(name: str, folder: str) -> str | None:
    if any(under(name, x) for x in FOLDERS):
        return "imported by its folder: the same file under two names; import malmoi.<folder>"
    if any(under(name, x) for x in BANNED[folder]):
        return f"not in {folder}/"
    if under(name, "malmoi") and not any(under(name, x) for x in ALLOWED[folder]):
        return f"{folder}/ may import of ours only {', '.join(ALLOWED[folder])}"
    return None


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_point_up(folder):
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}: {why}"
        for path in sources(folder)
        for line, name in imports(path, folder)
        if (why := problem(name, folder))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("ray.data", "operators"),
        ("malmoi.pipeline.recipe", "operators"),
        ("malmoi.training.loop", "pipeline"),
        ("malmoi.pipeline.recipe", "training"),
        ("operators.minhash", "pipeline"),
        ("torch", "pipeline"),
    ],
)
def test_a_planted_violation_is_seen(name, folder):
    assert problem(name, folder)


def test_relative_imports_are_resolved(tmp_path):
    path = tmp_path / "x.py"
    path.write_text("def f():\n    from ..pipeline import recipe\n    from .contract import Limit\n")
    assert imports(path, "operators") == [
        (2, "malmoi.pipeline.recipe"),
        (3, "malmoi.operators.contract.Limit"),
    ]


@pytest.mark.parametrize("folder", FOLDERS)
def test_folders_are_flat(folder):
    below = [x.name for x in (ROOT / folder).iterdir() if x.is_dir() and x.name != "__pycache__"]
    assert below == []


def modules(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(done.stdout.split())


def test_operators_load_neither_ray_nor_torch():
    loaded = modules("import malmoi.operators")
    assert "malmoi.operators" in loaded
    assert not loaded & {"ray", "torch", "malmoi.pipeline", "datasets", "pandas"}


def test_the_command_line_starts_without_ray():
    assert "ray" not in modules("import malmoi.pipeline.cli")


def test_windows_is_told_of_wsl():
    code = "import sys; sys.platform = 'win32'; import malmoi.pipeline.cli"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ImportError: malmoi runs on Linux and macOS; on Windows")


def test_tests_of_operators_start_no_ray():
    for path in sorted((ROOT / "tests" / "operators").glob("*.py")):
        names = [name for _, name in imports(path, "operators")]
        assert not [x for x in names if under(x, "ray") or under(x, "malmoi.pipeline")], path
