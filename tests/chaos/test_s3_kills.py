"""Runs that write to S3 and are killed between and within their uploads; `python -m tests.chaos.s3` meets more."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from .bench import ROOT

pytest.importorskip("s3fs")
pytest.importorskip("moto.server")

POINTS = (
    "shuffled:stages/scatter/part-00002.batches.index:whole",
    "in-order:stages/decide/all.commit.json:whole",
)


@pytest.mark.slow
def test_killed_and_gone_on():
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_"))}
    command = [sys.executable, "-m", "tests.chaos.s3", *(x for point in POINTS for x in ("--at", point))]
    process = subprocess.run(
        command, cwd=ROOT, env=kept, capture_output=True, text=True, timeout=600, check=False
    )
    found = [json.loads(line) for line in process.stdout.splitlines() if line.startswith("{")]
    assert [one["point"] for one in found] == list(POINTS), process.stderr[-3000:]
    for one in found:
        assert one["felt"], one
        assert not one["wrong"], one
