"""The whole run, deduplication over partitions included, on one raylet and on three: the same bytes."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.cluster]

STORE = 80 * 1024**2


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Ray's folder, where it also notes the address of what runs; short, as a socket's path must be."""
    folder = Path(f"/tmp/mlr{os.getpid()}")
    (folder / "ray").mkdir(parents=True)
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def recipe(tmp_path, recipe_file):
    """Some hundred documents in families of edited and exact copies."""
    chance = random.Random(7)
    lines = []
    for family in range(60):
        words = [f"낱말{chance.randrange(300)}" for _ in range(chance.randrange(30, 80))]
        for copy in range(chance.choice([1, 2, 3, 8])):
            lines.append(json.dumps({"id": f"{family}-{copy}", "text": " ".join(words)}))
            if copy % 2:
                words[chance.randrange(len(words))] = "바뀐"
    chance.shuffle(lines)
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    return recipe_file(
        [{"name": "s", "path": "in.jsonl", "id": "id"}],
        part_bytes=12_000,
        dedup={"partitions": 3, "save_index": True},
        write={"shard_bytes": 12_000},
        run={"shared_filesystem": True},
    )


def test_one_raylet_and_three(tmp_path, place, recipe, malmoi, outputs, run_here):
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    here = run_here(tmp_path / "here", recipe)
    assert here.manifest.dedup.fuzzy > 20
    assert len(here.manifest.corpus) > 2
    head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": STORE, "temp_dir": str(place)}
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
    try:
        for raylets in (1, 3):
            while len(cluster.list_all_nodes()) < raylets:
                cluster.add_node(num_cpus=1, object_store_memory=STORE)
            run = tmp_path / f"raylets-{raylets}"
            process = malmoi("run", recipe, f"output={run}", RAY_ADDRESS=cluster.address)
            out, err = process.communicate(timeout=300)
            assert (process.returncode, err) == (0, ""), out
            assert outputs(run) == outputs(here.path)
            index = sorted((here.path / "index").iterdir())
            assert [x.read_bytes() for x in index] == [(run / "index" / x.name).read_bytes() for x in index]
    finally:
        cluster.shutdown()
