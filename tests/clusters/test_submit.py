"""`malmoi submit` against a head whose Python knows no malmoi: what is shipped, said, stopped and returned."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import sys
import threading
import time

import pytest

pytestmark = pytest.mark.ray

SHARED = "run.shared_filesystem=true"


def job_of(text: str) -> str:
    [job] = re.findall(r"^job (malmoi-\S+) on", text, re.M)
    return job


def test_a_run(bare, malmoi, noted):
    """Nodes without malmoi: it is shipped, with the recipe, the rule and the module that the rule imports."""
    made = noted(4)
    process = malmoi(
        "submit",
        made.recipe,
        SHARED,
        "--address",
        bare.url,
        "--env",
        "NOTED=:so",
        PYTHONPATH=str(made.folder),
    )
    out, err = process.communicate(timeout=150)
    assert (process.returncode, err) == (0, ""), out
    assert "filter: 4 documents" in out, "the same progress as of a run"
    assert "noted: 4 documents" in out
    assert (made.folder / "run/manifest.json").is_file(), "the output is where a run here would put it"
    told = [note.read_text() for note in made.notes.iterdir()]
    assert all("/py_modules_files/" in text and text.endswith(":so") for text in told), told

    again = malmoi("submit", "--attach", job_of(out), "--address", bare.url)
    told, err = again.communicate(timeout=60)
    assert (again.returncode, err) == (0, "")
    assert "noted: 4 documents" in told

    finished = malmoi("run", made.recipe, PYTHONPATH=str(made.folder))
    told, err = finished.communicate(timeout=60)
    assert "all done already" in told, f"a run here is the same run\n{told}{err}"


def test_the_exit_code_and_the_reason(bare, malmoi, noted):
    made = noted(1)
    process = malmoi(
        "submit", made.recipe, "sources.0.path=/nowhere", "--address", bare.url, PYTHONPATH=str(made.folder)
    )
    out, err = process.communicate(timeout=90)
    assert process.returncode == 2, out + err
    assert "/nowhere" in out
    assert "Traceback" not in out + err


@pytest.mark.parametrize("how", ["ctrl-c", pytest.param("--stop", marks=pytest.mark.cluster)])
def test_stopped(bare, malmoi, noted, how):
    made = noted(40, seconds=1.0)
    process = malmoi(
        "submit",
        made.recipe,
        SHARED,
        "--address",
        bare.url,
        PYTHONPATH=str(made.folder),
        PYTHONUNBUFFERED="1",
    )
    made.wait(lambda seen: bool(seen))
    if how == "ctrl-c":
        process.send_signal(signal.SIGINT)
    else:
        job = job_of(process.stdout.readline())
        stopping = malmoi("submit", "--stop", job, "--address", bare.url)
        assert stopping.communicate(timeout=60)[1] == ""
        assert stopping.returncode == 0
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, ""), out
    assert "the same command goes on from here" in out
    time.sleep(1.5)
    count = len(list(made.notes.iterdir()))
    time.sleep(2)
    assert len(list(made.notes.iterdir())) == count, "it works on"


class Wire:
    """A TCP connection between a job server and those who ask it, that can be cut and mended."""

    def __init__(self, port):
        self.target, self.cut, self.open = port, False, []
        self.server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            near, _ = self.server.accept()
            if self.cut:
                near.close()
                continue
            far = socket.create_connection(("127.0.0.1", self.target))
            self.open += [near, far]
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(one, other), daemon=True).start()

    def _pump(self, one, other):
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def lose(self):
        self.cut = True
        for end in self.open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.mark.cluster
def test_a_lost_connection(bare, malmoi, noted):
    """The job runs on, the follower comes back, and no line is printed twice or not at all."""
    made = noted(3, held=True)
    wire = Wire(bare.dashboard)
    process = malmoi(
        "submit", made.recipe, SHARED, "--address", wire.url,
        PYTHONPATH=str(made.folder), PYTHONUNBUFFERED="1",
    )  # fmt: skip
    made.wait(lambda seen: bool(seen))
    wire.lose()
    lines = []
    while "lost; the job runs on" not in "".join(lines):
        lines.append(process.stdout.readline())
        assert lines[-1], "".join(lines)
    (made.notes / "go").touch()
    time.sleep(2)
    wire.cut = False
    out, err = process.communicate(timeout=90)
    out = "".join(lines) + out
    assert (process.returncode, err) == (0, ""), out
    assert "connected again" in out
    for line in ("Running entrypoint for job", "filter: 3 documents", "noted: 3 documents"):
        assert out.count(line) == 1, out


def test_nobody_answers(malmoi, noted):
    process = malmoi("submit", noted(1).recipe, "--address", "http://127.0.0.1:1", PYTHONPATH=".")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2, out
    assert "no Ray job server answers" in err
    assert "Traceback" not in err


def test_paths_of_this_machine_are_refused(malmoi, noted):
    process = malmoi("submit", noted(1).recipe, "--address", "http://192.0.2.1:8265", PYTHONPATH=".")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2, out
    assert "on a disk of this machine, which the cluster at 192.0.2.1 does not see" in " ".join(err.split())


@pytest.mark.cluster
def test_a_token(machines, malmoi, noted):
    """A head that asks for a token: told what to set, and then it works."""
    cluster = machines(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="f" * 64)
    cluster.start("head", wait=False)
    made = noted(2)
    command = (
        "submit",
        made.recipe,
        SHARED,
        "--address",
        cluster.url,
        "--python",
        sys.executable,
    )
    out, err = malmoi(*command, PYTHONPATH=str(made.folder)).communicate(timeout=60)
    told = " ".join(err.split())
    assert "asks for a token and none was sent" in told, out + err
    assert "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN=" in told
    wrong = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    out, err = malmoi(*command, PYTHONPATH=str(made.folder), **wrong).communicate(timeout=60)
    assert "asks for a token and ours is not its own" in " ".join(err.split()), out + err
    right = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 64}
    process = malmoi(*command, PYTHONPATH=str(made.folder), **right)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, ""), out
    assert "noted: 2 documents" in out
    cluster.stop()
