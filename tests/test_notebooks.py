"""The notebooks run from the first cell to the last, and are committed without outputs."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
# What a cell must have shown, so that a notebook that does nothing does not pass.
SHOWN = {
    "quickstart": [
        "gopher_quality.words",
        "image/png",
        "removed duplicates",
        "quarantine.bad_json",
        "similarity",
    ],
    "on_a_cluster": [
        "'CPU': 2.0",
        "cluster-ko: finished",
        "run_start",
        "removed duplicates",
        r"Manifest +/",
    ],
    "train": ["rows of 128 tokens", "held-out loss", "image/png", "bits per byte", "model after", "서울에서"],
}


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_there_are_some():
    assert {path.stem for path in NOTEBOOKS} >= set(SHOWN)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda x: x.stem)
def test_without_outputs(path):
    book = read(path)
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert code
    assert not [cell for cell in code if cell["outputs"] or cell["execution_count"] is not None]
    assert [cell["id"] for cell in book["cells"]] == [f"cell-{i + 1:02d}" for i in range(len(book["cells"]))]
    assert set(book["metadata"]) == {"kernelspec", "language_info"}, "only what every editor writes the same"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda x: x.stem)
def test_uses_what_is_exported(path):
    """Of malmoi, a notebook imports operators, and the API as `mp`."""
    import malmoi.pipeline.api as mp

    source = "\n".join("".join(cell["source"]) for cell in read(path)["cells"] if cell["cell_type"] == "code")
    names = {
        node.attr
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "mp"
    }
    assert names <= set(mp.__all__)
    imported = set(re.findall(r"^(?:from|import) (malmoi[\w.]*)", source, re.MULTILINE))
    assert imported <= {"malmoi.operators", "malmoi.pipeline.api"}


@pytest.fixture
def examples(tmp_path, monkeypatch):
    """A copy of examples/ to run in, and an environment without the Ray of anybody else."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("runs"))
    for name in [x for x in os.environ if x.startswith("RAY_") and x != "RAY_TMPDIR"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # see training/conftest.py
    return tmp_path / "examples"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def cluster(examples, monkeypatch):
    """A head in processes of its own, named by RAY_ADDRESS."""
    temp = Path(
        tempfile.mkdtemp(prefix="mlm-", dir="/tmp")
    )  # a socket's path may not be longer than 107 bytes
    ports = ("port", "dashboard-port", "ray-client-server-port", "dashboard-agent-listen-port")
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=2",
        *(f"--{name}={free_port()}" for name in ports), "--min-worker-port=0", "--max-worker-port=0",
        "--object-store-memory=100000000", f"--temp-dir={temp}",
    ]  # fmt: skip
    said = temp / "said.txt"
    with said.open("w") as out:
        head = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
    deadline = time.monotonic() + 60
    while not (found := re.findall(r"--address='([^']+:\d+)'", said.read_text())):
        assert time.monotonic() < deadline, said.read_text()
        time.sleep(0.5)
    monkeypatch.setenv("RAY_ADDRESS", found[0])
    yield
    started = psutil.Process(head.pid)
    for process in [*started.children(recursive=True), started]:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    head.wait(20)
    shutil.rmtree(temp, ignore_errors=True)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SHOWN))
def test_runs(name, examples, request):
    if name == "on_a_cluster":
        request.getfixturevalue("cluster")
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    if name == "train":
        pytest.importorskip("torch")
    manager = pytest.importorskip("jupyter_client").AsyncKernelManager(kernel_name="python3")
    # The kernel of this interpreter, whether or not one is installed under that name.
    manager.kernel_spec.argv[:] = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    book = nbformat.read(examples / f"{name}.ipynb", as_version=4)
    client = nbclient.NotebookClient(
        book, km=manager, timeout=600, resources={"metadata": {"path": str(examples)}}
    )
    client.execute()
    shown = json.dumps([cell.get("outputs", []) for cell in book.cells], ensure_ascii=False)
    for wanted in SHOWN[name]:
        assert re.search(wanted, shown), f"no cell shows {wanted}"
    assert "Traceback" not in shown
    noise = [x for cell in book.cells for x in cell.get("outputs", []) if x.get("name") == "stderr"]
    assert not noise, "warnings and progress bars are nothing to read"
