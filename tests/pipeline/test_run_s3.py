"""A whole run from S3 to S3, against a real S3 server on the loopback interface."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest
import yaml
from rich.console import Console

from malmoi.pipeline.errors import BusyError, StorageError
from malmoi.pipeline.lock import only_run
from malmoi.pipeline.manifest import Manifest
from malmoi.pipeline.storage import Folder

s3fs = pytest.importorskip("s3fs")

DOCUMENTS = [{"id": str(i), "text": f"document {i} stands alone, {i * i} words apart"} for i in range(60)]


@pytest.fixture(scope="module")
def options(s3):
    """fsspec options of a running server with the bucket `whole`."""
    fs = s3fs.S3FileSystem(**s3)
    fs.mkdir("whole")
    for part in range(3):
        lines = [json.dumps(document).encode() for document in DOCUMENTS[part::3]]
        fs.pipe(f"whole/in/{part}.jsonl", b"\n".join([*lines, b"no JSON"]))
    return s3


def recipe(options):
    return {
        "sources": [{"name": "s", "path": "s3://whole/in", "id": "id", "storage_options": options}],
        "output_options": options,
        "steps": ["normalise", "language_id"],
        "write": {"shard_bytes": 1024},
        "part_bytes": 1500,
    }


@pytest.fixture(scope="module")
def remote(options, run_here):
    """A finished run at s3://whole/run."""
    return run_here("s3://whole/run", recipe(options)).manifest


def test_the_same_as_on_a_disk(tmp_path, options, remote, run_here):
    local = run_here(tmp_path / "run", recipe(options))
    assert local.manifest.manifest_hash == remote.manifest_hash
    folder = Folder("s3://whole/run", options)
    for output in (*remote.corpus, *remote.others):
        assert folder.read_bytes(output.path) == (tmp_path / "run" / output.path).read_bytes()
    assert remote.rows == 60
    assert remote.books[0].quarantine_reasons == {"quarantine.bad_json": 3}


def test_it_can_be_read(options, remote):
    folder = Folder("s3://whole/run", options)
    assert Manifest.load(folder) == remote
    remote.verify(folder, deep=True)
    ids = [id for shard in remote.corpus for id in pq.read_table(folder.open(shard.path))["id"].to_pylist()]
    assert sorted(ids) == sorted(document["id"] for document in DOCUMENTS)


def test_again(options, remote, run_here, tmp_path):
    with (tmp_path / "said").open("w") as file:
        assert run_here("s3://whole/run", recipe(options), console=Console(file=file)).manifest == remote
    assert "all done already: s3://whole/run" in (tmp_path / "said").read_text()


def test_it_mends_itself(options, remote, run_here):
    folder = Folder("s3://whole/run", options)
    folder.remove(remote.corpus[1].path)
    run_here("s3://whole/run", recipe(options))
    remote.verify(folder, deep=True)


def test_stopped_and_gone_on(options, remote, run_here, monkeypatch):
    write = Folder.write_bytes

    def stop(self, name, data):
        if name == "stages/filter/part-00001.commit.json":
            raise KeyboardInterrupt
        write(self, name, data)

    with monkeypatch.context() as patched:
        patched.setattr(Folder, "write_bytes", stop)
        with pytest.raises(KeyboardInterrupt):
            run_here("s3://whole/stopped", recipe(options))
    again = run_here("s3://whole/stopped", recipe(options)).manifest
    assert again.manifest_hash == remote.manifest_hash
    assert again.corpus == remote.corpus


def test_two_runs_at_once(options, run_here):
    folder = Folder("s3://whole/busy", options)
    with only_run(folder), pytest.raises(BusyError, match=r"s3://whole/busy: process .* is running here"):
        run_here("s3://whole/busy", recipe(options))
    assert folder.list() == [], "neither the lock nor anything of the second run"


def test_secrets_are_written_nowhere(options, remote):
    for name in ("plan.json", "manifest.json", "README.md"):
        assert b"client_kwargs" not in Folder("s3://whole/run", options).read_bytes(name)


def test_asked_about(options, remote, cli, tmp_path, monkeypatch):
    """By the recipe, which knows how the store is reached, or by the folder with the same options."""
    made = tmp_path / "recipe.yaml"
    made.write_text(yaml.safe_dump({"name": "test", **recipe(options), "output": "s3://whole/elsewhere"}))
    flat = {
        "key": "test",
        "secret": "test",
        "client_kwargs.endpoint_url": options["client_kwargs"]["endpoint_url"],
    }
    stored = [f"output_options.{key}={value}" for key, value in flat.items()]
    for place, more in ((made, ["output=s3://whole/run"]), ("s3://whole/run", stored)):
        why = cli("why", place, "7", *more)
        assert (why.code, why.err) == (0, "")
        assert (
            "in the corpus, 1 time\npart: stages/filter/part-00001.kept.parquet, row 2\ncorpus: " in why.out
        )
        pairs = cli("duplicates", place, *more)
        assert (pairs.code, pairs.err) == (0, "")
        assert "0 compared pairs nearest the threshold 0.8" in pairs.out
        assert cli("duplicates", place, "--clusters", "3", *more).out.startswith(
            "the largest of the clusters"
        )
        assert "test: finished" in cli("status", place, *more).out
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    for command in (
        ["why", "s3://whole/run", "7"],
        ["duplicates", "s3://whole/run"],
        ["status", "s3://whole/run"],
    ):
        said = cli(*command)
        assert said.code == 2
        assert said.err.startswith("error: s3://whole/run: cannot be read (")
    said = cli("why", "s3://whole/run", "7", "output=s3://whole/run")
    assert "output=: beside a folder want output_options.key=value only" in said.err


def test_no_bucket(options, run_here):
    with pytest.raises(StorageError, match=r"s3://nosuchbucket/run.*does the bucket or folder exist"):
        run_here("s3://nosuchbucket/run", recipe(options))
