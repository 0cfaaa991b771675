"""What the tests of a whole run share: runs in this process, runs of the command, one Ray with two CPUs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from rich.console import Console

from malmoi.pipeline import cli as command
from malmoi.pipeline import run as whole
from malmoi.pipeline.config import load_recipe, parse_recipe
from malmoi.pipeline.engine import start_ray
from malmoi.pipeline.manifest import Manifest
from malmoi.pipeline.plan import make_plan
from malmoi.pipeline.recipe import Run

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "examples/recipes/demo.yaml"


@pytest.fixture(scope="session")
def ray_here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The number of CPUs of a Ray that runs in this process."""
    import ray

    home = os.environ.get("HOME")
    os.environ["HOME"] = str(tmp_path_factory.mktemp("home"))
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    os.environ.pop("RAY_ADDRESS", None)
    yield start_ray(Run(num_cpus=2))
    ray.shutdown()
    if home is not None:
        os.environ["HOME"] = home


@dataclass(frozen=True)
class Ran:
    """A finished run."""

    manifest: Manifest
    path: Path

    @property
    def corpus(self) -> list[dict[str, Any]]:
        return pa.concat_tables([pq.read_table(self.path / x.path) for x in self.manifest.corpus]).to_pylist()

    @property
    def dropped(self) -> list[dict[str, Any]]:
        return pq.read_table(self.path / "dropped").to_pylist()

    @property
    def quarantine(self) -> list[dict[str, Any]]:
        return pq.read_table(self.path / "quarantine").to_pylist()


def outputs(path: Path) -> dict[str, bytes]:
    """What must be the same byte for byte: shards, dropped and quarantined documents, the card, and the
    manifest but for the path of the output."""
    folders = ("corpus", "dropped", "quarantine")
    files = [file for folder in folders for file in (path / folder).iterdir()]
    found = {str(file.relative_to(path)): file.read_bytes() for file in (*files, path / "README.md")}
    manifest = (path / "manifest.json").read_text(encoding="utf-8")
    return {**found, "manifest.json": manifest.replace(str(path), "OUTPUT").encode()}


@pytest.fixture(scope="session", name="outputs")
def outputs_fixture() -> Callable[[Path], dict[str, bytes]]:
    return outputs


@pytest.fixture(scope="session")
def run_here() -> Callable[..., Ran]:
    """`run_here(output, recipe, base)`: a recipe (a mapping, or a file with overrides) in this process."""

    def run(
        output: Path,
        recipe: Mapping[str, Any] | Path,
        *overrides: str,
        base: Path | str = "/",
        console: Console | None = None,
    ) -> Ran:
        if isinstance(recipe, Path):
            made, base = load_recipe(recipe, [f"output={output}", *overrides]), recipe.parent
        else:
            made = parse_recipe({"name": "test", **recipe, "output": str(output)})
        plan = make_plan(made, str(base))
        return Ran(whole.run_plan(plan, console=console or Console(quiet=True), engine="local"), output)

    return run


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory, run_here: Callable[..., Ran]) -> Ran:
    """The demo recipe's run on the project's sample; not to be changed."""
    return run_here(tmp_path_factory.mktemp("demo") / "run", DEMO)


@pytest.fixture
def recipe_file(tmp_path: Path) -> Callable[..., Path]:
    """`recipe_file(sources, **others)` writes recipe.yaml into tmp_path; the output is tmp_path/run."""

    def write(sources: Any, **others: Any) -> Path:
        path = tmp_path / "recipe.yaml"
        content = {"name": "test", "output": str(tmp_path / "run"), "sources": sources, **others}
        path.write_text(yaml.safe_dump(content, allow_unicode=True, sort_keys=False), encoding="utf-8")
        return path

    return write


@dataclass(frozen=True)
class Said:
    """What a command ended with."""

    code: int
    out: str
    err: str


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """`cli("run", path, ...)`: the command in this process, its jobs run here and not on Ray."""

    def run_file(path: str, overrides: Any = (), *, console: Console, base: str | None = None) -> Manifest:
        return whole.run_plan(whole.plan_file(path, overrides, base), console=console, engine="local")

    def run(*arguments: object) -> Said:
        monkeypatch.setattr(whole, "run_file", run_file)
        monkeypatch.setattr(sys, "argv", ["malmoi", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "100")
        capsys.readouterr()
        code: Any = 0
        try:
            command.main()
        except SystemExit as stop:
            code = stop.code or 0
        told = capsys.readouterr()
        return Said(code, told.out, told.err)

    return run


@pytest.fixture
def malmoi(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """`malmoi("run", path, ...)` starts the real command in a process of its own, in tmp_path."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object, **environment: str) -> subprocess.Popen[str]:
        hidden = ("RAY_ADDRESS", "PYTHONPATH")
        kept = {
            name: value
            for name, value in os.environ.items()
            if name not in hidden and not name.startswith("RAY_")
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "malmoi.pipeline", *map(str, arguments)],
            cwd=tmp_path,
            env={**kept, "HOME": str(tmp_path), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
