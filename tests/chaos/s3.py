"""`python -m tests.chaos.s3 --points 20 --seed 1`: runs that write to S3 are killed, and go on.

The store is moto's server on this machine. A process is ended with SIGKILL at a point that an undisturbed run passes
while it writes a file (see the hook); the same command has to go through at once, to the bytes of a run on a disk,
and to leave neither a lock nor what was only on its way. Prints a line of JSON for each point.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import signal
import sys
from pathlib import Path
from typing import Any

import boto3
import yaml
from moto.server import ThreadedMotoServer

from . import here
from .bench import Bench, stage_of
from .material import RECIPES, differences

BUCKET = "chaos"
KEYS = {"key": "test", "secret": "test"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at", action="append", help="recipe:file:phase, instead of random ones")
    given = parser.parse_args()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it tells each request
    bench = Bench()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    wrong = 0
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        store: Any = boto3.client(
            "s3",
            endpoint_url=url,
            aws_access_key_id="test",
            aws_secret_access_key="test",
            region_name="us-east-1",
        )
        store.create_bucket(Bucket=BUCKET)
        bench.prepare()
        for name in RECIPES:
            path = bench.place / f"{name}.yaml"
            recipe = yaml.safe_load(path.read_text())
            recipe["output_options"] = {**KEYS, "client_kwargs": {"endpoint_url": url}}
            path.write_text(yaml.safe_dump(recipe, sort_keys=False))
        for number, point in enumerate(given.at or chosen(bench, given.points, given.seed)):
            found = meet(bench, store, number, *point.split(":"))
            wrong += bool(found["wrong"])
            print(json.dumps({"point": point, **found}), flush=True)
    finally:
        server.stop()
        bench.close()
    print(f"seed {given.seed}: {wrong} wrong", file=sys.stderr)
    sys.exit(1 if wrong else 0)


def chosen(bench: Bench, count: int, seed: int) -> list[str]:
    """Points at random: first the stage, then the file and the moment."""
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        recipe = rng.choice(sorted(RECIPES))
        by_stage: dict[str, list[str]] = {}
        for name, phase in bench.points[recipe]:
            by_stage.setdefault(stage_of(name), []).append(f"{recipe}:{name}:{phase}")
        found.append(rng.choice(by_stage[rng.choice(sorted(by_stage))]))
    return found


def meet(bench: Bench, store: Any, number: int, recipe: str, name: str, phase: str) -> dict[str, Any]:
    """Kill a run at a point, run the same command again, compare."""
    chaos, url = bench.place / "chaos", f"s3://{BUCKET}/run-{number}"
    for left in ("done.json", "felt.json"):
        (chaos / left).unlink(missing_ok=True)
    (chaos / "fault.json").write_text(json.dumps({"name": name, "phase": phase, "victim": "self"}))

    def call() -> int | None:
        overrides = (f"output={url}", "run.num_cpus=2")
        return bench.finish(
            here.start(bench.place / f"{recipe}.yaml", overrides, chaos, bench.place / "stderr", 0)
        )

    code = call()
    (chaos / "fault.json").unlink(missing_ok=True)
    felt = code == -signal.SIGKILL
    wrong = [] if felt or code == 0 else [f"ends with {code}: {bench.said()}"]
    code = call()
    if code != 0:
        wrong.append(f"does not go through: {code}: {bench.said()}")
        return {"felt": felt, "wrong": wrong}
    local = bench.place / f"s3-{number}"
    download(store, f"run-{number}/", local)
    manifest = local / "manifest.json"
    manifest.write_text(manifest.read_text(encoding="utf-8").replace(url, str(local)), encoding="utf-8")
    wrong += differences(local, bench.want[recipe])
    passing = [*local.glob("stages/scatter/*"), *local.glob("stages/verify/*"), *local.glob("run.*.json")]
    wrong += [f"left behind: {path.relative_to(local)}" for path in passing]
    return {"felt": felt, "wrong": wrong}


def download(store: Any, prefix: str, folder: Path) -> None:
    for page in store.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix):
        for entry in page.get("Contents", []):
            path = folder / entry["Key"].removeprefix(prefix)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(store.get_object(Bucket=BUCKET, Key=entry["Key"])["Body"].read())


if __name__ == "__main__":
    main()
