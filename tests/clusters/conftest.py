"""Ray nodes in processes of their own, each with its own home and temporary folder, on ports that are free."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "examples/recipes/demo.yaml"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def clean(**more: str) -> dict[str, str]:
    """This environment without what a Ray of another test has left in it."""
    hidden = ("RAY_", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    return {**kept, "RAY_USAGE_STATS_ENABLED": "0", **more}


@dataclass
class Machines:
    """A cluster of `ray start --block` processes on this machine; `python`: the interpreter of the nodes."""

    home: Path
    python: str = sys.executable
    env: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    dashboard: int = field(default_factory=free_port)
    address: str = ""
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    client: int = field(default_factory=free_port)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.dashboard}"

    def folder(self, name: str) -> Path:
        return Path(f"/tmp/mlm{self.port}{name}")  # a socket's path may not be longer than 107 bytes

    def start(self, name: str, *options: str, cpus: int = 1, wait: bool = True) -> None:
        """The head first, then others; returns when the head's dashboard counts the node."""
        head = name == "head"
        place = [
            "--head", f"--port={self.port}", f"--dashboard-port={self.dashboard}",
            f"--ray-client-server-port={self.client}",
        ] if head else [f"--address={self.address}"]  # fmt: skip
        told = self.home / f"{name}.txt"
        command = [
            self.python, "-m", "ray.scripts.scripts", "start", "--block", f"--num-cpus={cpus}", *place,
            f"--dashboard-agent-listen-port={free_port()}", "--min-worker-port=0", "--max-worker-port=0",
            "--object-store-memory=100000000", f"--temp-dir={self.folder(name)}", *options,
        ]  # fmt: skip
        self.running[name] = subprocess.Popen(
            command, env=clean(HOME=str(self.home), **self.env), start_new_session=True,
            stdout=told.open("w"), stderr=subprocess.STDOUT, cwd=self.home,
        )  # fmt: skip
        if head:
            found = _until(lambda: re.findall(r"--address='([^']+:\d+)'", told.read_text()), told)
            self.address = found[0]
        if wait:
            _until(lambda: len(self.alive()) >= len(self.running), told)

    def alive(self) -> list[dict[str, Any]]:
        try:
            with urllib.request.urlopen(f"{self.url}/nodes?view=summary", timeout=5) as answer:
                nodes = json.load(answer)["data"]["summary"]
        except OSError:
            return []
        return [node for node in nodes if node["raylet"].get("state") == "ALIVE"]

    def id(self, name: str) -> str:
        """The first characters of a node's id."""
        folder = str(self.folder(name))
        [found] = [x for x in self.alive() if folder in x["raylet"]["objectStoreSocketName"]]
        return str(found["raylet"]["nodeId"])[:12]

    def kill(self, name: str, keep: bool = False) -> None:
        """As a machine dies: all of its processes at once. `keep`: its disk is there when it starts again."""
        process = self.running.pop(name)
        pids = [process.pid, *_below(process.pid)]
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.wait(20)
        if keep:  # Ray takes this file for a sign that it is running
            (self.folder(name) / "ray_current_cluster").unlink(missing_ok=True)
        else:
            shutil.rmtree(self.folder(name), ignore_errors=True)

    def stop(self) -> None:
        for name in reversed(list(self.running)):
            self.kill(name)


def _below(pid: int) -> list[int]:
    """Processes that a process has started, and those that these have, and so on."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(words[1]), []).append(int(path.parent.name))
    found, rest = [], [pid]
    while rest:
        rest = [child for parent in rest for child in parents.get(parent, [])]
        found += rest
    return found


def _until(check: Callable[[], Any], told: Path, seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := check():
            return found
        time.sleep(0.3)
    raise AssertionError(f"not in {seconds:.0f} s:\n{told.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Machines]]:
    """`machines(python=..., env=...)`: a cluster without nodes yet."""
    made: list[Machines] = []

    def make(python: str = sys.executable, **env: str) -> Machines:
        made.append(Machines(tmp_path_factory.mktemp("nodes"), python, env))
        return made[-1]

    yield make
    for cluster in made:
        cluster.stop()


@pytest.fixture(scope="module")
def bare(machines: Callable[..., Machines], tmp_path_factory: pytest.TempPathFactory) -> Machines:
    """A head of two CPUs whose Python has what malmoi needs, but no malmoi."""
    folder = tmp_path_factory.mktemp("bare") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    # A line of a .pth is a path whose own .pth files are not read: those make an editable malmoi importable.
    spec = importlib.util.find_spec("ray")
    assert spec is not None
    assert spec.origin is not None
    (packages / "all.pth").write_text(f"{Path(spec.origin).parents[1]}\n")
    python = str(folder / "bin/python")
    seen = subprocess.run(
        [python, "-c", "import ray, malmoi.operators"],
        capture_output=True,
        text=True,
        check=False,
        env=clean(),
    )
    if "No module named 'malmoi" not in seen.stderr:
        pytest.skip("malmoi is installed for good, so that no Python without it can be made")
    cluster = machines(python, PATH=f"{folder}/bin:{os.environ['PATH']}")
    cluster.start("head", cpus=2)
    return cluster


@pytest.fixture(scope="module")
def three(machines: Callable[..., Machines]) -> Machines:
    """A head and two more nodes of one CPU each; the last has the resource `data` and the label `role=data`."""
    cluster = machines(PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    cluster.start("head")
    cluster.start("one", wait=False)
    cluster.start("two", '--resources={"data": 4}', "--labels=role=data")
    return cluster


@pytest.fixture
def python(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """`python("led.py", ...)` starts this interpreter in a process of its own, in tmp_path."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            cwd=tmp_path, env=clean(HOME=str(tmp_path), **environment), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def malmoi(python: Callable[..., subprocess.Popen[str]]) -> Callable[..., subprocess.Popen[str]]:
    """`malmoi("submit", ...)` starts the command."""
    return partial(python, "-m", "malmoi.pipeline")


RULE = '''
"""Says where and when it ran."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pyarrow as pa

import malmoi.operators
import ray
from beside import SECONDS
from malmoi.operators.contract import with_columns


@dataclass(frozen=True)
class Noting:
    name: ClassVar[str] = "noting"
    version: ClassVar[int] = 1
    kind: ClassVar[str] = "signal"
    reference: ClassVar[str] = "nobody"

    folder: str = ""
    seconds: float = SECONDS
    held: bool = False
    needs: ClassVar[tuple[str, ...]] = ("id",)
    adds: ClassVar[pa.Schema] = pa.schema([("noting.one", pa.float64())])

    def __call__(self, table):
        node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else "here"
        place = Path(self.folder, f"{table['id'][0].as_py()}-{node[:12]}-{os.getpid()}")
        place.write_text(malmoi.operators.__file__ + os.environ.get("NOTED", ""))
        while self.held and not Path(self.folder, "go").exists():
            time.sleep(0.1)
        time.sleep(self.seconds)
        return with_columns(table, [("noting.one", pa.array([1.0] * len(table), pa.float64()))])
'''


@dataclass(frozen=True)
class Noted:
    """A recipe of as many parts as documents, each of which leaves a file in `notes`: document-node-process."""

    recipe: Path
    notes: Path
    folder: Path

    def nodes(self) -> set[str]:
        """First characters of the ids of the nodes that worked."""
        return {note.name.split("-")[1] for note in self.notes.glob("*-*")}

    def wait(self, check: Callable[[set[str]], bool], seconds: float = 120.0) -> None:
        """Until `check` is true of the nodes that have worked."""
        deadline = time.monotonic() + seconds
        while not check(self.nodes()):
            assert time.monotonic() < deadline, f"notes: {sorted(x.name for x in self.notes.iterdir())}"
            time.sleep(0.1)


@pytest.fixture
def noted(tmp_path: Path) -> Callable[..., Noted]:
    """`noted(parts, seconds, **recipe)`: the recipe, and its rule as a module beside it that imports another."""

    def make(parts: int, seconds: float = 0.1, held: bool = False, **more: Any) -> Noted:
        for name in ("in", "notes"):
            (tmp_path / name).mkdir()
        (tmp_path / "noting_rule.py").write_text(RULE)
        (tmp_path / "beside.py").write_text("SECONDS = 0.1\n")
        for part in range(parts):
            record = {"id": f"n{part}", "text": f"text number {part}", "fill": "x" * 500}
            (tmp_path / f"in/{part}.jsonl").write_text(json.dumps(record))
        step = {"noting_rule:Noting": {"folder": str(tmp_path / "notes"), "seconds": seconds, "held": held}}
        content = {
            "name": "noted", "output": "run", "sources": [{"name": "s", "path": "in", "id": "id"}],
            "part_bytes": 600, "steps": [step], "dedup": {"fuzzy": {"enabled": False}}, **more,
        }  # fmt: skip
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        return Noted(tmp_path / "recipe.yaml", tmp_path / "notes", tmp_path)

    return make
