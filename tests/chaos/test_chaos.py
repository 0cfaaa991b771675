"""Faults of real processes: the same command goes on, and its bytes are those of the undisturbed run.

`make chaos` meets a hundred at random points.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from .bench import ROOT, Fault

FAULTS = (
    # Ray: a worker, a raylet with its worker, the driver; a disk that is full under one worker
    Fault("point", "ray", "shuffled", "filter", "stages/filter/part-00001.kept.parquet", "part", "self"),
    Fault("point", "ray", "shuffled", "split", "stages/scatter/part-00002.batches", "whole", "raylet"),
    Fault(
        "point",
        "ray",
        "in-order",
        "verify",
        "stages/verify/r00-compare-00000-of-00002.near",
        "open",
        "driver",
    ),
    Fault("point", "ray", "in-order", "write", "stages/write/shard-00001.commit.json", "open", "disk"),
    # in one process, which is the driver and the worker
    Fault("point", "local", "shuffled", "filter", "stages/filter/part-00003.commit.json", "open", "self"),
    Fault("point", "local", "in-order", "decide", "stages/decide/all.commit.json", "whole", "self"),
    Fault("point", "local", "in-order", "split", "dropped/part-00003.decided.parquet", "part", "self"),
    Fault("point", "local", "shuffled", "end", "manifest.json", "whole", "self"),
    Fault("damage", "local", "shuffled", "filter", "stages/filter/part-00002.keys.parquet", "tear"),
    Fault("damage", "local", "shuffled", "decide", "stages/decide/part-00001.verdict.parquet", "corrupt"),
    Fault("damage", "local", "shuffled", "filter", "stages/filter/part-00000.commit.json", "remove"),
    Fault("damage", "local", "shuffled", "filter", "stages/filter/part-00004.kept.parquet", "remove"),
    Fault("limit", "local", "shuffled", "any", amount=2500),
    Fault("recipe", "local", "in-order", "filter", "stages/filter/part-00002.commit.json", "there", "self"),
)


@pytest.fixture(scope="session")
def met(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """What came of each fault, by its name; a process of its own, as it starts a cluster."""
    path: Path = tmp_path_factory.mktemp("chaos") / "faults"
    path.write_text("\n".join(json.dumps(asdict(fault)) for fault in FAULTS))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    process = subprocess.run(
        [sys.executable, "-m", "tests.chaos.run", "--faults", str(path), "--json"],
        cwd=ROOT, env=kept, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    found = [json.loads(line) for line in process.stdout.splitlines() if line.startswith("{")]
    assert len(found) == len(FAULTS), process.stderr[-3000:]
    return {str(Fault(**one["fault"])): one for one in found}


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_fault(met, fault):
    one = met[str(fault)]
    assert not one["wrong"], one["wrong"]
    assert one["felt"], "the fault did not meet the run: nothing is shown"
    if (fault.engine == "ray" and fault.victim == "self") or fault.kind == "damage":
        assert one["calls"] == 1, "Ray tries again, and damage is mended, without another call"
