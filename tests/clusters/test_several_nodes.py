"""Runs on three nodes: the same bytes as on one, a node lost, a node that joins late, nodes that are asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from malmoi.pipeline.manifest import Manifest
from malmoi.pipeline.run import plan_file, run_plan
from malmoi.pipeline.storage import Folder

pytestmark = pytest.mark.ray

SAMPLE = Path(__file__).resolve().parents[2] / "examples/sample"


def finish(process, seconds=170):
    out, err = process.communicate(timeout=seconds)
    assert (process.returncode, err) == (0, ""), out
    return out


def refused(process):
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2, out
    assert "Traceback" not in err
    return " ".join(err.split())


@pytest.fixture(scope="module")
def store(s3):
    """fsspec options of a running S3 server with the bucket `here`."""
    pytest.importorskip("s3fs").S3FileSystem(**s3).mkdir("here")
    return s3


def to_store(path, options, **more):
    """Rewrite the recipe of a file so that it reads s3://here/in and writes s3://here/run."""
    recipe = yaml.safe_load(path.read_text())
    recipe |= {"output": "s3://here/run", "output_options": options, **more}
    recipe["sources"] = [{"name": "s", "path": "s3://here/in", "id": "id", "storage_options": options}]
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    fs = pytest.importorskip("s3fs").S3FileSystem(**options)
    if fs.exists("here/in"):
        fs.rm("here/in", recursive=True)
    if fs.exists("here/run"):
        fs.rm("here/run", recursive=True)
    return fs


def same_as_here(path, options, folder):
    """The shards of s3://here/run are those that one process makes, byte for byte."""
    store = Folder("s3://here/run", options)
    manifest = Manifest.load(store)
    manifest.verify(store, deep=True)
    here = run_plan(plan_file(str(path), [f"output={folder}"]), console=Console(quiet=True), engine="local")
    assert here.corpus == manifest.corpus
    assert here.manifest_hash == manifest.manifest_hash
    for shard in here.corpus:
        assert (folder / shard.path).read_bytes() == store.read_bytes(shard.path)
    return manifest


def test_a_local_path_is_refused(three, malmoi, noted):
    told = refused(malmoi("run", noted(1).recipe, RAY_ADDRESS=three.address, PYTHONPATH="."))
    assert "output: run; sources.s: in: a path of one machine, but the cluster has 3 nodes" in told
    assert "run.shared_filesystem=true" in told


def test_a_place_that_there_is_not(three, malmoi, noted):
    run = {"shared_filesystem": True, "resources": {"data": 1}, "label": {"role": "!in(data,gpu)"}}
    told = refused(malmoi("run", noted(1, run=run).recipe, RAY_ADDRESS=three.address, PYTHONPATH="."))
    wanted = "a run needs a node with CPU >= 1 and data >= 1 and the labels {'role': '!in(data,gpu)'}"
    assert f"{wanted}, and the cluster has none (" in told
    assert "CPU 1, data 4, labels {'role': 'data'}" in told


def test_jobs_stay_where_the_recipe_says(three, malmoi, noted):
    made = noted(6, run={"shared_filesystem": True, "resources": {"data": 1}, "label": {"role": "data"}})
    finish(malmoi("run", made.recipe, RAY_ADDRESS=three.address, PYTHONPATH="."))
    assert made.nodes() == {three.id("two")}


def test_ray_job_submit(three, malmoi, noted, tmp_path):
    """The plain way, with malmoi on the nodes: `ray job submit --working-dir . -- malmoi run recipe.yaml`."""
    made = noted(3)
    ray = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", f"--address={three.url}"]
    command = [
        *ray,
        "--working-dir",
        ".",
        "--",
        sys.executable,
        "-m",
        "malmoi.pipeline",
        "run",
        "recipe.yaml",
    ]
    inside = subprocess.run(command, cwd=made.folder, capture_output=True, text=True, check=False)
    assert inside.returncode != 0
    assert "output=run lies in the job's working folder" in inside.stdout
    command += [f"output={tmp_path}/there", "run.shared_filesystem=true"]
    done = subprocess.run(command, cwd=made.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "noted: 3 documents" in done.stdout
    assert Path(tmp_path, "there/manifest.json").is_file()


@pytest.mark.parametrize("how", ["run", pytest.param("submit", marks=pytest.mark.cluster)])
def test_the_same_bytes_as_on_one_node(three, malmoi, noted, store, tmp_path, how):
    """From S3 to S3 with real text and all stages, from a node of the cluster or as a job of it."""
    made = noted(0)
    steps = ["normalise", "language_id", "gopher_quality"]
    fs = to_store(
        made.recipe, store, steps=steps, part_bytes=100_000, dedup={}, write={"shard_bytes": 100_000}
    )
    for name in ("docs-ko.jsonl", "docs-ko-old.jsonl.zst", "laws-de.parquet"):
        fs.put_file(str(SAMPLE / name), f"here/in/{name}")
    if how == "run":
        out = finish(malmoi("run", made.recipe, RAY_ADDRESS=three.address))
    else:
        out = finish(malmoi("submit", made.recipe, "--address", three.url, "--python", sys.executable))
    manifest = same_as_here(made.recipe, store, tmp_path / "here")
    assert manifest.manifest_hash[:16] in out
    assert len(manifest.corpus) > 2


@pytest.mark.cluster
def test_a_node_lost_and_one_that_joins_late(three, malmoi, noted, store, tmp_path, monkeypatch):
    made = noted(10, held=True)
    fs = to_store(made.recipe, store)
    fs.put(f"{made.folder}/in/", "here/in/", recursive=True)
    lost = three.id("one")
    process = malmoi("run", made.recipe, RAY_ADDRESS=three.address, PYTHONPATH=".")
    made.wait(lambda seen: len(seen) == 3)
    three.start("late")
    late = three.id("late")
    made.wait(lambda seen: late in seen)
    three.kill("one")  # in the middle of a part
    (made.notes / "go").touch()
    finish(process)
    assert {lost, late} <= made.nodes()
    monkeypatch.syspath_prepend(made.folder)
    same_as_here(made.recipe, store, tmp_path / "here")


@pytest.mark.cluster
def test_a_head_that_dies_and_comes_back(machines, malmoi, noted, tmp_path):
    """With the head's tables on a disk (RocksDB; Redis does the same) the other nodes stay and take new work. What
    was started on the head is lost with it; its finished parts are kept."""
    (tmp_path / "tables").mkdir()
    kept = {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(tmp_path / "tables")}
    cluster = machines(**kept)
    cluster.start("head", cpus=0)
    cluster.start("one")
    worker = cluster.id("one")
    made = noted(4, held=True, run={"shared_filesystem": True})
    process = malmoi("run", made.recipe, RAY_ADDRESS=cluster.address, PYTHONPATH=".")
    made.wait(lambda seen: worker in seen)
    cluster.kill("head", keep=True)
    process.kill()
    process.communicate()
    cluster.start("head", cpus=0)
    assert worker == cluster.id("one"), "the node has stayed"
    (made.notes / "go").touch()
    assert "noted: 4 documents" in finish(
        malmoi("run", made.recipe, RAY_ADDRESS=cluster.address, PYTHONPATH=".")
    )
    cluster.stop()
