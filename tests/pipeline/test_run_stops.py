"""A run that is stopped, wherever, goes on with the same command and gives the same bytes; and what stands in
the way is told in a clear word."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import textwrap
import time
from pathlib import Path

import pytest
from rich.console import Console

from malmoi.pipeline import engine
from malmoi.pipeline.errors import BusyError, ChangedError, StorageError
from malmoi.pipeline.lock import only_run
from malmoi.pipeline.storage import Folder

RULE = textwrap.dedent('''
    """A rule that takes its time."""

    import os
    import time
    from dataclasses import dataclass
    from typing import ClassVar

    import pyarrow as pa
    import pyarrow.compute as pc

    from malmoi.operators.contract import Limit, judge, with_columns


    @dataclass(frozen=True)
    class Slow:
        name: ClassVar[str] = "slow"
        version: ClassVar[int] = 1
        kind: ClassVar[str] = "judge"
        reference: ClassVar[str] = "nobody"

        seconds: float = 0.0

        @property
        def needs(self):
            return ("text",)

        @property
        def adds(self):
            return pa.schema([("slow.words", pa.float64())])

        def limits(self, language):
            return (Limit("slow.words", max=3000.0),)

        def __call__(self, table):
            time.sleep(float(os.environ.get("SLOW_SECONDS", 0)))
            words = pc.list_value_length(pc.utf8_split_whitespace(table["text"]))
            return judge(with_columns(table, [("slow.words", words.cast(pa.float64()))]), self.limits)
''')
PARTS = 12


@pytest.fixture
def recipe(tmp_path, recipe_file):
    """A recipe over a dozen small parts, with a rule of its own."""
    (tmp_path / "slow_rule.py").write_text(RULE)
    (tmp_path / "in").mkdir()
    for part in range(PARTS):
        records = [
            {"id": f"{part}-{i}", "text": " ".join(f"w{(part * 31 + i * k) % 97}" for k in range(9, 90))}
            for i in range(40)
        ]
        (tmp_path / f"in/{part:02d}.jsonl").write_text("\n".join(map(json.dumps, records)))
    return recipe_file(
        [{"name": "s", "path": "in", "id": "id"}],
        part_bytes=20_000,  # more than one file, less than two
        steps=["normalise", {"slow_rule:Slow": {}}],
        write={"shard_bytes": 20000},
    )


@pytest.fixture(scope="module")
def made():
    return {}


@pytest.fixture
def undisturbed(tmp_path, recipe, run_here, outputs, monkeypatch, made):
    """The bytes of a run that nothing disturbed; made once, since the folder of the input makes no difference."""
    monkeypatch.syspath_prepend(tmp_path)
    if not made:
        made.update(outputs(run_here(tmp_path / "undisturbed", recipe).path))
    return made


def wait_for(condition, process: subprocess.Popen[str], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def committed(path: Path) -> int:
    return len(list(path.glob("stages/filter/*.commit.json")))


@pytest.mark.ray
def test_ctrl_c(tmp_path, recipe, malmoi, undisturbed, outputs):
    first = malmoi("run", recipe, "run.num_cpus=1", SLOW_SECONDS="0.5")
    wait_for(lambda: committed(tmp_path / "run") >= 2, first)
    first.send_signal(signal.SIGINT)
    _, err = first.communicate(timeout=30)
    assert first.returncode == 130
    assert err.strip() == "stopped. Finished parts are kept: the same command goes on from here."
    done = committed(tmp_path / "run")
    assert 2 <= done < PARTS
    assert not (tmp_path / "run/manifest.json").exists()
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").glob("stages/filter/*.commit.json")}
    again = malmoi("run", recipe, "run.num_cpus=2")
    out, err = again.communicate(timeout=120)
    assert (again.returncode, err) == (0, "")
    assert {path: path.stat().st_mtime_ns for path in times} == times, "a finished part was done again"
    assert outputs(tmp_path / "run") == undisturbed
    third = malmoi("run", recipe)
    out, err = third.communicate(timeout=60)
    assert (third.returncode, err) == (0, "")
    assert "all done already" in out


@pytest.mark.ray
def test_killed(tmp_path, recipe, malmoi, run_here, undisturbed, outputs):
    first = malmoi("run", recipe, SLOW_SECONDS="0.5")
    wait_for(lambda: committed(tmp_path / "run") >= 2, first)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert committed(tmp_path / "run") < PARTS
    run_here(tmp_path / "run", recipe)
    assert outputs(tmp_path / "run") == undisturbed


class Stop(BaseException):
    """What a test throws where it wants a run to end."""


@pytest.mark.parametrize("stop_at", [0, 3, 11, 12, 13, 17, 25, 31])
def test_stopped_after_any_number_of_jobs(
    tmp_path, recipe, run_here, undisturbed, outputs, monkeypatch, stop_at
):
    """Also between the stages: before the record of a job is written, its files are there already."""
    monkeypatch.syspath_prepend(tmp_path)
    write, count = Folder.write_bytes, [0]

    def stop(self, name, data):
        if name.endswith(".commit.json"):
            count[0] += 1
            if count[0] > stop_at:
                raise Stop(name)
        write(self, name, data)

    with monkeypatch.context() as patched:
        patched.setattr(Folder, "write_bytes", stop)
        with pytest.raises(Stop):
            run_here(tmp_path / "run", recipe)
    (tmp_path / "run/stages/filter/.tmp-0123456789abcdef0123456789abcdef-part.parquet").write_bytes(b"torn")
    run_here(tmp_path / "run", recipe)
    assert outputs(tmp_path / "run") == undisturbed
    assert not list((tmp_path / "run").rglob(".tmp-*"))


def test_done_already(tmp_path, recipe, run_here, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    ran = run_here(tmp_path / "run", recipe)
    before = {path: path.stat().st_mtime_ns for path in ran.path.rglob("*") if path.name != "run.lock"}
    said = Console(record=True, quiet=False, width=100, file=open(os.devnull, "w"))  # noqa: SIM115
    begin = time.perf_counter()
    again = run_here(tmp_path / "run", recipe, console=said)
    assert time.perf_counter() - begin < 2.0
    assert "all done already" in said.export_text()
    assert again.manifest == ran.manifest
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize(
    "damage",
    [
        ["corpus/shard-00001-*"],
        ["corpus/*", "dropped/*", "quarantine/*"],
        ["corpus/shard-00000-*", "stages/filter/part-00003.kept.parquet"],
        ["corpus/shard-00000-*", "stages"],
        ["quarantine/part-00004.parquet", "stages/decide/part-00002.verdict.parquet"],
    ],
)
@pytest.mark.parametrize("how", ["gone", "cut"])
def test_a_finished_run_mends_itself(tmp_path, recipe, run_here, undisturbed, outputs, damage, how):
    ran = run_here(tmp_path / "run", recipe)
    hit = 0
    for pattern in damage:
        for place in ran.path.glob(pattern):
            for path in place.rglob("*.parquet") if place.is_dir() else [place]:
                hit += 1
                path.unlink() if how == "gone" else path.write_bytes(path.read_bytes()[:-7])
    assert hit >= len(damage)
    said = Console(record=True, width=200, file=open(os.devnull, "w"))  # noqa: SIM115
    run_here(tmp_path / "run", recipe, console=said)
    assert ("missing" if how == "gone" else "bytes, want") in said.export_text()
    assert outputs(tmp_path / "run") == undisturbed


def test_a_manifest_that_was_edited(tmp_path, recipe, run_here, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    ran = run_here(tmp_path / "run", recipe)
    manifest = ran.path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"kept": 4', '"kept": 5'))
    with pytest.raises(ChangedError, match=r"changed since it was written"):
        run_here(tmp_path / "run", recipe)
    manifest.unlink()
    assert run_here(tmp_path / "run", recipe).manifest == ran.manifest


def test_another_recipe_is_refused(tmp_path, recipe, cli, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    assert cli("run", recipe).code == 0
    said = cli("run", recipe, "dedup.fuzzy.threshold=0.7", "seed=3")
    assert said.code == 2
    assert "holds a run of another recipe or input" in said.err
    shown = {"".join(line.split()).rstrip(",") for line in said.err.splitlines()}
    assert {'-"seed":0', '+"seed":3', '-"threshold":0.8', '+"threshold":0.7'} <= shown
    assert cli("run", recipe, "run.batch_rows=5").code == 0, "how it is run is no part of a recipe"


@pytest.mark.parametrize("change", ["edited", "one more", "one less"])
def test_another_input_is_refused(tmp_path, recipe, cli, monkeypatch, change):
    monkeypatch.syspath_prepend(tmp_path)
    assert cli("run", recipe).code == 0
    file = tmp_path / "in/03.jsonl"
    if change == "edited":
        file.write_text(file.read_text().replace("w1", "v1", 1))
    elif change == "one more":
        (tmp_path / "in/031.jsonl").write_text('{"id": "new", "text": "a new document"}')
    else:
        file.unlink()
    said = cli("run", recipe)
    assert said.code == 2
    assert "holds a run of another recipe or input" in said.err
    assert ("031.jsonl" if change == "one more" else "03.jsonl") in said.err


def test_an_input_that_changes_while_it_is_read(tmp_path, recipe, run_here, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    execute = engine.execute

    def change(folder, job):
        if job.name == "part-00005":
            (tmp_path / "in/07.jsonl").write_text('{"id": "7", "text": "other"}')
        return execute(folder, job)

    monkeypatch.setattr(engine, "execute", change)
    with pytest.raises(ChangedError, match=r"07\.jsonl: has changed since the run was planned"):
        run_here(tmp_path / "run", recipe)


def test_two_runs_at_once(tmp_path, recipe, run_here, cli, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    with only_run(Folder(str(tmp_path / "run"))):
        with pytest.raises(BusyError, match="is running here; wait for it"):
            run_here(tmp_path / "run", recipe)
        said = cli("run", recipe)
    assert said.code == 2
    assert f"process {os.getpid()}" in said.err
    assert cli("run", recipe).code == 0


@pytest.mark.parametrize("case", ["a file", "below a file", "read-only"])
def test_an_output_that_cannot_be_written(tmp_path, recipe, cli, monkeypatch, case):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    output = {"a file": tmp_path / "file", "below a file": tmp_path / "file/run", "read-only": "/proc/run"}[
        case
    ]
    said = cli("run", recipe, f"output={output}")
    assert said.code == 2
    assert "choose another `output`" in " ".join(said.err.split())
    assert "Traceback" not in said.err


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 400 KB, and a function that enlarges it."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "malmoi-test", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a file system")

    def enlarge() -> None:
        subprocess.run(["mount", "-o", "remount,size=50m", str(place)], check=True)

    yield place, enlarge
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk(tmp_path, recipe, small_disk, run_here, undisturbed, outputs):
    place, enlarge = small_disk
    with pytest.raises(
        StorageError, match=r"no space left to write \([\d,]+ bytes free.*run the same command"
    ):
        run_here(place / "run", recipe)
    assert not (place / "run/manifest.json").exists()
    done = committed(place / "run")
    assert done > 0
    enlarge()
    run_here(place / "run", recipe)
    assert outputs(place / "run") == undisturbed


@pytest.mark.parametrize("limit", [1_000, 6_000, 12_000, 20_000])
def test_a_limit_on_files(tmp_path, recipe, run_here, undisturbed, outputs, limit):
    """The same where no file system can be mounted: a quota stops the run at a file of a later stage."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(StorageError, match="no space left to write"):
            run_here(tmp_path / "run", recipe)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    run_here(tmp_path / "run", recipe)
    assert outputs(tmp_path / "run") == undisturbed


def test_an_operator_that_fails(tmp_path, recipe, cli, monkeypatch):
    """A bug of a user's operator stops the run; what is done stays, and the mended operator goes on."""
    monkeypatch.syspath_prepend(tmp_path)
    import slow_rule

    whole = slow_rule.Slow.__call__

    def fails(self, table):
        if "5-0" in table["id"].to_pylist():
            raise ZeroDivisionError("of mine")
        return whole(self, table)

    monkeypatch.setattr(slow_rule.Slow, "__call__", fails)
    said = cli("run", recipe)
    assert said.code == 2
    assert "of mine" in said.err
    assert "Traceback" not in said.err
    assert committed(tmp_path / "run") == 5
    monkeypatch.setattr(slow_rule.Slow, "__call__", whole)
    assert cli("run", recipe).code == 0


@pytest.mark.ray
def test_terminated(tmp_path, recipe, malmoi, run_here, undisturbed, outputs):
    """What batch systems and containers send: the run ends in order, without a sign of life."""
    first = malmoi("run", recipe, SLOW_SECONDS="0.5")
    wait_for(lambda: committed(tmp_path / "run") >= 2, first)
    first.terminate()
    first.wait(timeout=30)
    assert first.returncode == 128 + signal.SIGTERM
    assert not (tmp_path / "run/run.alive.json").exists()
    assert '"event": "run_end"' in (tmp_path / "run/run.log.jsonl").read_text("utf-8")
    run_here(tmp_path / "run", recipe)
    assert outputs(tmp_path / "run") == undisturbed
