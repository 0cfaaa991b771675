"""`malmoi submit` against a head whose Python knows no malmoi: what is shipped, said, stopped and returned."""

from __future__ import annotations

import re
import signal
import time

import pytest

pytestmark = pytest.mark.ray

SHARED = "run.shared_filesystem=true"
PLAIN = (
    "NUMBA_DISABLE_JIT=1"  # compiling what was shipped takes half a minute, reading four documents does not
)


def job_of(text: str) -> str:
    [job] = re.findall(r"^job (malmoi-\S+) on", text, re.M)
    return job


def test_a_run(bare, malmoi, noted):
    """Nodes without malmoi: it is shipped, with the recipe, the rule and the module that the rule imports."""
    made = noted(4)
    process = malmoi(
        "submit", made.recipe, SHARED, "--address", bare.url, "--env", PLAIN, PYTHONPATH=str(made.folder)
    )
    out, err = process.communicate(timeout=150)
    assert (process.returncode, err) == (0, ""), out
    assert "filter: 4 documents" in out, "the same progress as of a run"
    assert "noted: 4 documents" in out
    assert (made.folder / "run/manifest.json").is_file(), "the output is where a run here would put it"
    assert {"/py_modules_files/" in note.read_text() for note in made.notes.iterdir()} == {True}

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
        "--env",
        PLAIN,
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
