"""Paths of one machine: refused where another one would have to read them, shipped where that can be."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import threading

import pytest
import yaml
from rich.console import Console

from malmoi.pipeline import cluster, run, submit, tokenize
from malmoi.pipeline.config import parse_recipe
from malmoi.pipeline.errors import RecipeError, ResourceError
from malmoi.pipeline.follow import follow_job
from malmoi.pipeline.plan import make_plan
from malmoi.pipeline.ray_place import check_lasting, ray_address
from malmoi.pipeline.recipe import Run
from malmoi.pipeline.ship import working_folder

JOB = "session_1/runtime_resources/working_dir_files/_ray_pkg_1"
FAR, NEAR = "http://192.0.2.1:8265", "http://127.0.0.1:8265"


def nodes(count):
    return lambda: [cluster.Node(str(i), f"10.0.0.{i}", {"CPU": 1.0}, {}) for i in range(count)]


def recipe(**more):
    sources = [{"name": "s", "path": "s3://b/in"}]
    return parse_recipe({"name": "r", "output": "s3://b/run", "sources": sources, **more})


def tokenizers(path):
    return {"mixture": {"unit": "tokens", "tokenizer": path}, "tokenize": {"tokenizer": path}}


@pytest.mark.parametrize("path", ["models/ko", "/models/ko/tokenizer.json", "~/ko"])
def test_a_tokenizer_on_this_disk(monkeypatch, path):
    monkeypatch.setattr(cluster, "nodes", nodes(2))
    with pytest.raises(ResourceError) as told:
        cluster.check_shared(recipe(**tokenizers(path)), ".")
    assert f"mixture.tokenizer: {path}; tokenize.tokenizer: {path}: a path of one machine" in str(told.value)
    assert "ships a tokenizer that lies below the folder" in str(told.value)
    assert "s3://" not in str(told.value), "a tokenizer is not read from there"
    cluster.check_shared(recipe(run={"shared_filesystem": True}, **tokenizers(path)), ".")
    monkeypatch.setattr(cluster, "nodes", nodes(1))
    cluster.check_shared(recipe(**tokenizers(path)), ".")


def test_a_tokenizer_that_came_with_the_job(monkeypatch, tmp_path):
    (tmp_path / JOB).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / JOB)
    monkeypatch.setattr(cluster, "nodes", nodes(2))
    cluster.check_shared(recipe(**tokenizers("models/ko")), "/home/me")
    for path in ("/models/ko", "../ko", "~/ko"):
        with pytest.raises(ResourceError, match="a path of one machine"):
            cluster.check_shared(recipe(**tokenizers(path)), "/home/me")


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("127.0.0.1:1", r"RAY_ADDRESS=127.0.0.1:1: no Ray cluster answers \(.*refused"),
        ("ray://127.0.0.1:1", "no Ray cluster answers"),
        ("[::1]:1", "no Ray cluster answers"),
        ("127.0.0.1:99999", "no Ray cluster answers"),
        ("no-such-host.invalid:6379", "no Ray cluster answers"),
        (NEAR, "a job server's, which `malmoi submit` goes to; want HEAD:6379"),
    ],
)
def test_an_address_where_nobody_answers(monkeypatch, address, told):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ResourceError, match=told):
        ray_address()


@pytest.mark.parametrize("address", ["", "auto", "local"])
def test_an_address_that_ray_looks_up(monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert ray_address() == (address or None)


def test_an_address_where_somebody_answers(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        assert ray_address() == address


def test_the_address_of_a_dashboard(monkeypatch):
    """Ray would ask it for minutes."""

    def answer(server):
        there, _ = server.accept()
        with there:
            there.recv(1000)
            there.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=answer, args=(server,), daemon=True).start()
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(
            ResourceError, match=r"a web server answers, perhaps the dashboard; .*127\.0\.0\.1:6379"
        ):
            ray_address()


def test_an_output_that_goes_with_the_job(tmp_path):
    check_lasting("s3://bucket/runtime_resources/working_dir_files/run")
    check_lasting(str(tmp_path))
    with pytest.raises(RecipeError, match=r"output=.*/run lies in the job's working folder"):
        check_lasting(str(tmp_path / JOB / "run"))


def test_rows_on_this_disk(monkeypatch, tmp_path, tiny_tokenizer):
    """Of a finished run, where only the rows are left to make."""
    (tmp_path / "in.jsonl").write_text(json.dumps({"text": "one two"}))
    plan = tokenize.plan_tokens(
        recipe(tokenize={"tokenizer": str(tiny_tokenizer)}).tokenize,
        [str(tmp_path / "in.jsonl")],
        str(tmp_path / "rows"),
    )
    monkeypatch.setattr(tokenize, "start_ray", lambda run: 1)
    monkeypatch.setattr(cluster, "nodes", nodes(2))
    with pytest.raises(ResourceError, match=r"output: .*rows; input: .*in\.jsonl; tokenize\.tokenizer: "):
        tokenize.tokenize(plan, console=Console(quiet=True), run=Run())
    left = [x.name for x in (tmp_path / "rows").iterdir()]
    assert left == ["run.lock"], "rows of other settings may be made there"


def test_a_run_that_the_cluster_refuses(monkeypatch, tmp_path):
    """Leaves no plan behind, so that the mended recipe runs in the same folder."""
    (tmp_path / "in.jsonl").write_text(json.dumps({"text": "하나 둘"}))
    monkeypatch.setattr(run, "start_ray", lambda run: 1)
    monkeypatch.setattr(cluster, "nodes", nodes(2))
    output, sources = str(tmp_path / "run"), [{"name": "s", "path": "in.jsonl"}]
    with pytest.raises(ResourceError, match=r"output: .*run; sources.s: in.jsonl: a path of one machine"):
        run.run_recipe(recipe(output=output, sources=sources), str(tmp_path))
    assert [x.name for x in (tmp_path / "run").iterdir()] == ["run.lock"]
    mended = recipe(output=output, sources=[{"name": "t", "path": "in.jsonl"}])
    plan = make_plan(mended, str(tmp_path))
    assert run.run_plan(plan, console=Console(quiet=True), engine="local").rows == 1


@pytest.fixture
def models(tmp_path, tiny_tokenizer):
    """models/ko: a tokenizer, and what does not belong to it."""
    shutil.copytree(tiny_tokenizer, tmp_path / "models/ko")
    (tmp_path / "models/ko/model.safetensors").write_bytes(b"large")


def write(path, **content):
    path.write_text(yaml.safe_dump(content))
    return str(path)


@pytest.mark.parametrize("given", ["models/ko", "models/ko/tokenizer.json"])
@pytest.mark.parametrize("how", ["tokenize", "mixture", "step", "override"])
@pytest.mark.usefixtures("models")
def test_a_tokenizer_is_shipped(tmp_path, monkeypatch, given, how):
    monkeypatch.chdir(tmp_path)
    more = {
        "tokenize": {"tokenize": {"tokenizer": given}},
        "mixture": {"mixture": {"tokenizer": given}},
        "step": {"steps": [{"token_count": {"tokenizer": given}}]},
        "override": {"tokenize": {"tokenizer": "nowhere"}},
    }[how]
    path = write(tmp_path / "r.yaml", **more)
    working_folder(path, tmp_path / "job", [f"tokenize.tokenizer={given}"] if how == "override" else [])
    there = {str(x.relative_to(tmp_path / "job")) for x in (tmp_path / "job").rglob("*") if x.is_file()}
    assert there == {"r.yaml", "models/ko/tokenizer.json", "models/ko/tokenizer_config.json"}


TRAINING = {
    "name": "t", "output": "runs/model", "data": {"path": "runs/rows", "tokenizer": "ko"},
    "model": {"path": "base"},
}  # fmt: skip


def test_training_reads_and_writes_where_a_run_here_would(tmp_path, monkeypatch):
    """Relative to the job's folder they would be removed with it."""
    monkeypatch.chdir(tmp_path)
    request = submit.Request(write(tmp_path / "t.yaml", **TRAINING), ["output=runs/other"], "train")
    overrides, arguments = submit._places(request, NEAR)
    assert overrides == [
        "output=runs/other", f"output={tmp_path}/runs/other", f"data.path={tmp_path}/runs/rows",
        f"data.tokenizer={tmp_path}/ko", f"model.path={tmp_path}/base",
    ]  # fmt: skip
    assert arguments == []


def test_training_from_and_to_stores(tmp_path):
    stores = {"output": "s3://b/model", "data": {"path": "s3://b/rows"}, "model": {"config": {}}}
    request = submit.Request(write(tmp_path / "t.yaml", **stores), [], "train")
    assert submit._places(request, FAR) == ([], [])


@pytest.mark.parametrize("how", ["option", "variable"])
@pytest.mark.parametrize("command", ["run", "train"])
def test_another_machine_does_not_see_them(tmp_path, monkeypatch, command, how):
    run = {"name": "r", "output": "run", "sources": [{"name": "s", "path": "s3://b/in"}], **tokenizers("/ko")}
    path = write(tmp_path / "r.yaml", **(run if command == "run" else TRAINING))
    if how == "variable":
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", FAR)
    with pytest.raises(RecipeError) as told:
        submit.submit(
            submit.Request(path, [], command), FAR if how == "option" else None, console=Console(quiet=True)
        )
    assert "on a disk of this machine, which the cluster at 192.0.2.1 does not see" in str(told.value)
    named = ("output: run", "mixture.tokenizer: /ko", "tokenize.tokenizer: /ko", "run.shared_filesystem=true")
    if command == "train":
        named = (
            "output: runs/model",
            "data.path: runs/rows",
            "model.path: base",
            "workers.shared_filesystem",
        )
    assert all(x in str(told.value) for x in named)


class Answer:
    status_code = 200

    def json(self):
        return {"status": "SUCCEEDED", "driver_exit_code": 0}


class Server:
    """A job that has ended."""

    def get_address(self):
        return NEAR

    def _do_request(self, *_, **__):
        return Answer()

    async def tail_job_logs(self, job):
        for line in ("one\n", "two\n"):
            await asyncio.sleep(0.01)
            yield line


def test_followed_from_a_notebook(capsys):
    """Whose kernel runs an event loop in the thread of the cells."""

    async def cell():
        return follow_job(Server(), "job", Console(quiet=True), patience=0.0)

    assert asyncio.run(cell()) == 0
    assert capsys.readouterr().out == "one\ntwo\n"
