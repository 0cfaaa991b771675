"""Whole runs on a Ray of their own or on a cluster: the same bytes as in this process, no CPU too many."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from malmoi.pipeline.engine import usable_cpus

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "examples/recipes/demo.yaml"

pytestmark = pytest.mark.ray

RULE = textwrap.dedent('''
    """Notes when it ran."""

    import os
    import time
    from dataclasses import dataclass
    from pathlib import Path
    from typing import ClassVar

    import pyarrow as pa

    from malmoi.operators.contract import with_columns


    @dataclass(frozen=True)
    class Noting:
        name: ClassVar[str] = "noting"
        version: ClassVar[int] = 1
        kind: ClassVar[str] = "signal"
        reference: ClassVar[str] = "nobody"

        folder: str = ""
        needs: ClassVar[tuple[str, ...]] = ("id",)
        adds: ClassVar[pa.Schema] = pa.schema([("noting.one", pa.float64())])

        def __call__(self, table):
            begin = time.time()
            time.sleep(0.2)
            Path(self.folder, table["id"][0].as_py()).write_text(f"{begin} {time.time()}")
            return with_columns(table, [("noting.one", pa.array([1.0] * len(table), pa.float64()))])
''')


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=170)
    assert (process.returncode, err) == (0, "")
    return out


@pytest.mark.parametrize("num_cpus", [1, 2])
def test_the_number_of_cpus_changes_no_byte(tmp_path, demo, outputs, malmoi, num_cpus):
    out = finish(malmoi("run", DEMO, f"output={tmp_path / 'run'}", f"run.num_cpus={num_cpus}"))
    assert f"({demo.manifest.manifest_hash[:16]})" in out
    assert "\x1b" not in out
    assert outputs(tmp_path / "run") == outputs(demo.path)


@pytest.fixture
def recipe(tmp_path, recipe_file):
    """Eight parts, and a rule in the folder of the recipe that notes its times in tmp_path/times."""
    (tmp_path / "noting_rule.py").write_text(RULE)
    (tmp_path / "times").mkdir()
    (tmp_path / "in").mkdir()
    for part in range(8):
        record = {"id": f"n{part}", "text": f"text number {part}", "fill": "x" * 500}
        (tmp_path / f"in/{part}.jsonl").write_text(json.dumps(record))
    step = {"noting_rule:Noting": {"folder": str(tmp_path / "times")}}
    return recipe_file([{"name": "s", "path": "in", "id": "id"}], part_bytes=600, steps=[step])


def at_once(tmp_path: Path) -> int:
    """The most calls of the rule at one time."""
    spans = [tuple(map(float, path.read_text().split())) for path in (tmp_path / "times").iterdir()]
    assert len(spans) == 8
    return max(sum(begin <= other < end for begin, end in spans) for other, _ in spans)


@pytest.fixture
def cluster(tmp_path):
    """The address of a running cluster of two CPUs that knows the folder of the recipe."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray = Path(sys.executable).with_name("ray")
    short = Path(f"/tmp/mlm{os.getpid()}")  # a socket's path may not be longer than 107 bytes
    options = [
        "--num-cpus=2",
        f"--port={port}",
        "--include-dashboard=false",
        "--block",
        f"--temp-dir={short}",
    ]
    # A Ray in this process leaves variables of its own behind, of authentication too.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    told = tmp_path / "ray-start.txt"
    process = subprocess.Popen(
        [str(ray), "start", "--head", "--node-ip-address=127.0.0.1", *options],
        env={**kept, "PYTHONPATH": str(tmp_path), "HOME": str(tmp_path), "RAY_USAGE_STATS_ENABLED": "0"},
        stdout=told.open("w"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and "Next steps" not in told.read_text():
        time.sleep(0.2)
    # Ray may take another address of this machine than the one that it was given.
    [(host, _)] = re.findall(r"ray start --address='([^']+):(\d+)'", told.read_text()) or [("127.0.0.1", "")]
    yield f"{host}:{port}"
    os.killpg(process.pid, signal.SIGKILL)  # `ray start --block` takes its time with any other
    process.wait()
    subprocess.run(["rm", "-rf", str(short)], check=False)


def test_on_a_running_cluster(tmp_path, recipe, malmoi, cluster):
    """RAY_ADDRESS is used, `num_cpus` caps it, and the rule comes from PYTHONPATH."""
    out = finish(malmoi("run", recipe, "run.num_cpus=1", RAY_ADDRESS=cluster))
    assert "8 documents" in out
    assert at_once(tmp_path) == 1
    session = list(Path(f"/tmp/mlm{os.getpid()}").glob("session_*/logs/worker-*"))
    assert session, "the work was done elsewhere"


def test_no_cluster_there(tmp_path, recipe, malmoi):
    process = malmoi("run", recipe, RAY_ADDRESS="127.0.0.1:1")
    _, err = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "RAY_ADDRESS=127.0.0.1:1" in err
    assert "Traceback" not in err


def test_a_rule_on_the_python_path(tmp_path, recipe, malmoi):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "noting_rule.py").rename(elsewhere / "noting_rule.py")
    assert "is it on PYTHONPATH?" in malmoi("plan", recipe).communicate(timeout=60)[1]
    finish(malmoi("run", recipe, "run.num_cpus=64", PYTHONPATH=str(elsewhere)))
    assert at_once(tmp_path) <= usable_cpus(), "more than there are"
