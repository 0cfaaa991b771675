"""Ray is started for a run that is still to be made here, and for nothing else; nothing of it stays."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from malmoi.pipeline import local_ray


def recipe(folder: Path, **more: object) -> str:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"output": str(folder / "run"), "sources": [], **more}), "utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("said", "given", "want"),
    [
        ({"run": {"num_cpus": 1}}, [], 1),
        ({}, ["run.num_cpus=1"], 1),
        ({}, [], local_ray.usable_cpus()),
        ({"run": {"num_cpus": 10**6}}, [], local_ray.usable_cpus()),
        ({"output": "s3://말모이/run"}, [], None),
        ({}, ["output=s3://bucket/run"], None),
        ({"output": None}, [], None),
        ({"run": []}, [], None),
        ({}, ["no override"], None),
        ({}, ["run={num_cpus: 1}"], None),
    ],
)
def test_begins_for_a_run_that_is_to_be_made_here(tmp_path, monkeypatch, said, given, want):
    started = []
    monkeypatch.setitem(sys.modules, "ray", None)  # else it may run already, for other tests
    monkeypatch.setattr(local_ray, "_Start", started.append)
    monkeypatch.setattr(local_ray, "_early", None)
    monkeypatch.setattr(local_ray, "_alone", True)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    before = signal.getsignal(signal.SIGTERM)
    local_ray.begin(recipe(tmp_path, **said), given)
    signal.signal(signal.SIGTERM, before)
    assert started == ([want] if want else [])


def test_does_not_begin_for_a_finished_run_or_a_cluster(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(local_ray, "_Start", lambda cpus: pytest.fail("started"))
    monkeypatch.setattr(local_ray, "_early", None)
    monkeypatch.setattr(local_ray, "_alone", True)
    with monkeypatch.context() as inner:
        inner.setenv("RAY_ADDRESS", "127.0.0.1:6379")
        local_ray.begin(recipe(tmp_path), [])
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    local_ray.begin(str(tmp_path / "absent.yaml"), [])
    (tmp_path / "run").mkdir()
    (tmp_path / "run/manifest.json").touch()
    local_ray.begin(recipe(tmp_path), [])


def test_does_not_begin_in_a_process_of_others(tmp_path, monkeypatch):
    """A notebook, or a program that calls the command's functions."""
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(local_ray, "_Start", lambda cpus: pytest.fail("started"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert not local_ray._alone
    local_ray.begin(recipe(tmp_path), [])


def test_does_not_begin_beside_a_ray_that_runs(tmp_path, monkeypatch):
    class Ray:
        def is_initialized(self):
            return True

    monkeypatch.setattr(local_ray, "_Start", lambda cpus: pytest.fail("started"))
    monkeypatch.setattr(local_ray, "_early", None)
    monkeypatch.setattr(local_ray, "_alone", True)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setitem(sys.modules, "ray", Ray())
    local_ray.begin(recipe(tmp_path), [])


def without_ray() -> dict[str, str]:
    """This environment without what a Ray of another test has left in it."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}


def told_by(code: str) -> str:
    """What the code says in a process of its own, which must end well."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=without_ray(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


NO_ACTOR = """
from malmoi.pipeline import local_ray
local_ray.start(1)
local_ray.answer_for_cluster()
import ray
assert ray.data.range(3).map(lambda x: {"y": x["id"] + 1}).take_all() == [{"y": 1}, {"y": 2}, {"y": 3}]
print(ray.util.list_named_actors(all_namespaces=True))
local_ray.leave(0)
"""


@pytest.mark.ray
def test_ray_data_needs_no_actor():
    """On the Ray that the tests run on; on another one they may come back, and cost a second a stage."""
    assert told_by(NO_ACTOR) == "[]\n"


AGENT = """
from malmoi.pipeline import local_ray
local_ray.alone()
local_ray.start(1)
import os, ray
told = ray.remote(lambda: os.environ.get("TOLD", "nothing"))
print(ray.get(told.remote()))
print(ray.get(told.options(runtime_env={"env_vars": {"TOLD": "말모이"}}).remote(), timeout=60))
local_ray.leave(0)
"""


@pytest.mark.ray
@pytest.mark.skipif(sys.platform != "linux", reason="Ray's own agents are used")
def test_the_idle_agent_becomes_rays_when_it_is_asked():
    assert told_by(AGENT) == "nothing\n말모이\n"


LEAVES = """
import atexit, sys, threading
atexit.register(sys.stdout.write, "an operator's own end\\n")
atexit.register(lambda: 1 / 0)
from malmoi.pipeline import local_ray
local_ray.alone()
local_ray._early = local_ray._Start(1)
if "ready" in sys.argv:
    local_ray.settle()
    import ray
    ray.get(ray.remote(lambda: 1).remote())
    print("ready", flush=True)
else:
    while not threading.active_count() > 1 or "ray" not in sys.modules:
        pass
print("leaves", flush=True)
local_ray.leave(3)
sys.exit(3)
"""


def of_session(session: int) -> list[str]:
    found = []
    for entry in os.listdir("/proc"):
        try:
            fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            if fields[0] != "Z" and int(fields[3]) == session:
                found.append(Path(f"/proc/{entry}/cmdline").read_bytes().decode()[:80])
        except (OSError, IndexError, ValueError):
            continue
    return found


@pytest.mark.ray
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("when", ["ready", "starting"])
def test_nothing_stays(when):
    process = subprocess.Popen(
        [sys.executable, "-c", LEAVES, when],
        env=without_ray(),
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = process.communicate(timeout=120)
    assert process.returncode == 3
    assert out.splitlines() == [*([b"ready"] if when == "ready" else []), b"leaves", b"an operator's own end"]
    assert err.count(b"ZeroDivisionError") == 1, "and not once more by the interpreter"
    deadline = time.monotonic() + 30
    while of_session(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    left = of_session(process.pid)
    if left:
        os.killpg(process.pid, signal.SIGKILL)
    assert left == []
