"""`malmoi status`: what a run's folder tells, on a disk and on S3, while it runs, stopped, dead and finished."""

from __future__ import annotations

import json
import os
import threading
import time
import uuid

import pytest
from rich.console import Console

from malmoi.pipeline import filtering, watch
from malmoi.pipeline.errors import MalmoiError, SourceError
from malmoi.pipeline.manifest import Manifest
from malmoi.pipeline.plan import make_plan
from malmoi.pipeline.run import run_plan
from malmoi.pipeline.status import STALE_BEATS, read_status
from malmoi.pipeline.storage import Folder

DOCUMENTS = [
    {"id": str(i), "text": f"말모이 문서 {i}. It stands alone, {i * i} words apart. " * (i % 4)}
    for i in range(60)
]
STEPS = [{"gopher_quality": {"min_words": 5, "min_stop_words": None, "min_alphabetic_word_fraction": None}}]


def write_input(folder: Folder) -> None:
    for part in range(3):
        lines = [json.dumps(x, ensure_ascii=False) for x in DOCUMENTS[part::3]]
        folder.write_bytes(f"in/{part}.jsonl", "\n".join([*lines, "no JSON"]).encode())


@pytest.fixture(params=["disk", "s3"])
def place(request, tmp_path):
    """(folder for everything, its options)."""
    if request.param == "disk":
        return str(tmp_path), {}
    options = request.getfixturevalue("s3")
    s3fs = pytest.importorskip("s3fs")
    bucket = f"bucket-{uuid.uuid4().hex}"  # the server keeps what it holds from test to test
    s3fs.S3FileSystem(**options).mkdir(bucket)
    return f"s3://{bucket}/here", options


@pytest.fixture
def started(place):
    """A plan whose input is there: three parts at least."""
    from malmoi.pipeline.config import parse_recipe

    url, options = place
    write_input(Folder(url, options))
    recipe = {
        "name": "watched", "output": f"{url}/run", "output_options": options, "steps": STEPS, "part_bytes": 1500,
        "sources": [{"name": "s", "path": f"{url}/in", "id": "id", "storage_options": options}],
    }  # fmt: skip
    return make_plan(parse_recipe(recipe))


def status(plan, **more):
    return read_status(plan.recipe.output, plan.recipe.output_options, **more)


def log_of(plan) -> list[dict]:
    data = Folder(plan.recipe.output, plan.recipe.output_options).read_bytes(watch.LOG)
    return [json.loads(line) for line in data.splitlines()]


def go(plan) -> Manifest:
    return run_plan(plan, console=Console(quiet=True), engine="local")


def break_at(monkeypatch, index, error, wait=None):
    """The part of this index raises; `wait`: an event that it waits for, when told so."""
    real = filtering.read_part

    def read(part, *arguments, **named):
        if part.index == index:
            if wait is not None:
                wait[0].set()
                wait[1].wait(60)
            raise error
        return real(part, *arguments, **named)

    monkeypatch.setattr(filtering, "read_part", read)


def test_from_nothing_to_the_end(started, monkeypatch):
    with pytest.raises(SourceError, match=r"no run here .*want the `output`"):
        status(started)
    reached, leave = threading.Event(), threading.Event()
    last = started.num_parts - 1
    with monkeypatch.context() as patched:
        break_at(patched, last, KeyboardInterrupt(), (reached, leave))
        seen = []

        def look():
            reached.wait(60)
            try:
                seen.append(status(started))
                seen.append(status(started, now=time.time() + STALE_BEATS * watch.ALIVE_SECONDS + 60))
            finally:
                leave.set()

        looker = threading.Thread(target=look)
        looker.start()
        with pytest.raises(KeyboardInterrupt):
            go(started)
        looker.join()
    running, stale = seen
    assert (running.state, stale.state) == ("running", "stale")
    [stage] = running.stages[:1]
    assert (stage.name, stage.done, stage.total, stage.running) == ("filter", last, started.num_parts, 1)
    assert "no sign of life" in stale.headline

    stopped = status(started)
    assert stopped.state == "stopped"
    assert "KeyboardInterrupt" in stopped.error
    manifest = go(started)
    done = status(started)
    assert (done.state, done.runs) == ("finished", 2)
    by_name = {stage.name: stage for stage in done.stages}
    filtered, book = by_name["filter"], manifest.books[0]
    assert (filtered.read, filtered.kept, filtered.quarantined) == (book.read, book.kept, book.quarantined)
    assert filtered.dropped == book.dropped
    assert filtered.done == filtered.total == started.num_parts
    assert filtered.retried == 1
    assert filtered.documents_per_second > 0
    assert (by_name["decide"].read, by_name["decide"].kept) == (book.kept, manifest.books[-1].kept)
    assert by_name["write"].kept == manifest.books[-1].kept
    assert json.loads(done.as_json())["state"] == "finished"
    assert "watched: finished" in done._repr_html_()


def test_the_log(started):
    go(started)
    events = log_of(started)
    assert len({x["run"] for x in events}) == 1
    assert [events[0]["event"], events[-1]["event"]] == ["run_start", "run_end"]
    assert events[-1]["outcome"] == "finished"
    assert events[0]["plan"] == started.key
    for stage, count in (("filter", started.num_parts), ("write", 1), ("split", started.num_parts)):
        names = [x["event"] for x in events if x.get("stage") == stage]
        assert names.count("part_start") == names.count("part_commit") == count
        assert names.count("stage_start") == names.count("stage_end") == 1
    assert all(x["attempt"] == 1 for x in events if x["event"] == "part_commit")
    folder = Folder(started.recipe.output, started.recipe.output_options)
    assert not folder.exists(watch.ALIVE)
    assert not [x for x in folder.list("stages/filter") if x.endswith(watch.RUNNING)]
    assert sum(x["read"] for x in events if x["event"] == "part_commit" and x["stage"] == "filter") == 63


def test_a_log_that_is_lost_or_torn(started):
    go(started)
    folder = Folder(started.recipe.output, started.recipe.output_options)
    whole = status(started)
    data = folder.read_bytes(watch.LOG)
    folder.write_bytes(watch.LOG, data[: len(data) // 2] + b"\n[1]\n\xff\xfe")
    assert [(x.read, x.dropped) for x in status(started).stages] == [
        (x.read, x.dropped) for x in whole.stages
    ]
    folder.remove(watch.LOG)
    bare = status(started)
    assert (bare.state, bare.runs) == ("finished", 0)
    assert [(x.read, x.dropped) for x in bare.stages] == [(x.read, x.dropped) for x in whole.stages]


def test_an_error_of_a_user_is_told(tmp_path, monkeypatch, started):
    break_at(monkeypatch, 0, MalmoiError("the disk is on fire"))
    with pytest.raises(MalmoiError):
        go(started)
    found = status(started)
    assert found.state == "stopped"
    assert "the disk is on fire" in found.headline


def test_the_log_is_no_part_of_the_output(started, outputs):
    if started.recipe.output.startswith("s3"):
        pytest.skip("compared on a disk")
    go(started)
    from pathlib import Path

    run = Path(started.recipe.output)
    before = outputs(run)
    (run / watch.LOG).unlink()
    go(started)
    assert outputs(run) == before


def test_a_log_that_cannot_be_written_stops_no_run(started, monkeypatch):
    real = os.open

    def refuse(path, *arguments, **named):
        if str(path).endswith(watch.LOG):
            raise OSError(28, "No space left on device")
        return real(path, *arguments, **named)

    monkeypatch.setattr(watch.os, "open", refuse)
    monkeypatch.setattr(watch.RunLog, "_flush", lambda self: None)
    assert go(started).rows > 0


def test_the_command(tmp_path, recipe_file, cli):
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, DOCUMENTS)), encoding="utf-8")
    path = recipe_file([{"name": "s", "path": "in.jsonl", "id": "id"}], steps=STEPS)
    missing = cli("status", path)
    assert (missing.code, "no run here" in missing.err) == (2, True)
    assert cli("run", path).code == 0
    for run in (path, tmp_path / "run"):
        said = cli("status", run)
        assert said.code == 0
        assert "test: finished" in said.out
        assert "gopher_quality.words" in said.out
    assert json.loads(cli("status", path, "--json").out)["name"] == "test"
    (tmp_path / "run" / "manifest.json").unlink()
    (tmp_path / "run" / watch.ALIVE).write_text(json.dumps({"t": 0, "pid": 1, "host": "gone"}))
    dead = cli("status", path)
    assert (dead.code, "process 1 on gone" in dead.out) == (1, True)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_a_folder_that_is_no_run(tmp_path, content):
    (tmp_path / "plan.json").write_text(content)
    with pytest.raises(SourceError, match=r"plan\.json cannot be read"):
        read_status(str(tmp_path))


def test_a_store_that_does_not_answer():
    pytest.importorskip("s3fs")
    options = {"key": "k", "secret": "s", "client_kwargs": {"endpoint_url": "http://127.0.0.1:9"}}
    options["config_kwargs"] = {"retries": {"max_attempts": 0}, "connect_timeout": 2}
    with pytest.raises(SourceError, match=r"s3://bucket/run: cannot be read .*127\.0\.0\.1:9"):
        read_status("s3://bucket/run", options)
