"""The wheel holds what the three folders hold, no more and no less."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("operators", "pipeline", "training")


def in_the_tree() -> set[str]:
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "--cached", "--others", "--exclude-standard", *FOLDERS],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    return {f"malmoi/{name}" for name in listed if (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, so that no build folder of the tree's can slip in or be left behind."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "tree"
    names = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\0")  # fmt: skip
    wanted = [x for x in names if x.startswith(FOLDERS) or x in ("pyproject.toml", "README.md", "LICENSE")]
    for name in wanted:
        if (ROOT / name).is_file():
            target = copy / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return next(folder.glob("*.whl"))


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout: no list of files to compare with")
def test_content_equals_the_tree(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {x for x in archive.namelist() if not x.endswith("/")}
    packed = {x for x in names if ".dist-info/" not in x}
    tree = in_the_tree()
    assert packed == tree, f"only packed: {sorted(packed - tree)}; only in the tree: {sorted(tree - packed)}"
    assert {f"malmoi/{x}/py.typed" for x in FOLDERS} <= packed
    assert any(x.endswith("licenses/LICENSE") for x in names)


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout: no list of files to build from")
def test_the_command_is_declared(wheel):
    with zipfile.ZipFile(wheel) as archive:
        name = next(x for x in archive.namelist() if x.endswith("entry_points.txt"))
        assert "malmoi = malmoi.pipeline.cli:script" in archive.read(name).decode()
