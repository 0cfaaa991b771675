"""A bench for faults: a reference run, a small Ray cluster of several raylets, and runs that are disturbed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from . import here
from .here import HOOK, Forked
from .material import RECIPES, differences, make_input, make_recipe, outputs

ROOT = Path(__file__).resolve().parents[2]
ON_WORKERS = (
    "filter",
    "verify",
    "split",
    "write",
    "index",
)  # stages whose jobs Ray's workers do
Process = subprocess.Popen[bytes] | Forked
LIMIT_S = 240.0  # of one command; more is a hang


@dataclass(frozen=True)
class Fault:
    """One disturbance of one run.

    kind: `point` (name, phase, victim: see hook/sitecustomize.py), `time` (victim, after `amount` of the time
    that an undisturbed run takes), `damage` (phase: what is done to the file `name` of a run that was stopped
    before its end), `limit` (no file larger than `amount` bytes), `recipe` (another one on the same folder).
    """

    kind: str
    engine: str
    recipe: str
    stage: str
    name: str = ""
    phase: str = ""
    victim: str = ""
    amount: float = 0.0

    def __str__(self) -> str:
        what = {
            "point": f"{self.victim} at {self.name}:{self.phase}",
            "time": f"{self.victim} after {self.amount:.0%}",
            "damage": f"{self.phase} {self.name}",
            "limit": f"files of {self.amount:.0f} bytes at most",
            "recipe": "changed",
        }[self.kind]
        return f"{self.engine}:{self.recipe}:{self.stage}:{self.kind}: {what}"


@dataclass(frozen=True)
class Outcome:
    """wrong: empty where all is as it should be; felt: whether the fault met the run; calls: of the command."""

    fault: Fault
    wrong: tuple[str, ...]
    felt: bool
    calls: int
    seconds: float


def stage_of(name: str) -> str:
    first, _, rest = name.partition("/")
    if name.endswith(".rules.parquet"):
        return "filter"
    if first == "stages":
        stage = rest.partition("/")[0]
        return "split" if stage == "scatter" else stage
    return {
        "corpus": "write",
        "dropped": "split",
        "quarantine": "split",
        "index": "index",
        "plan.json": "plan",
    }.get(first, "end")


@dataclass
class Bench:
    """`close` ends the cluster and removes all; one run at a time."""

    place: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="malmoi-chaos-")))
    want: dict[str, dict[str, bytes]] = field(default_factory=dict)
    points: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    cluster: Any = None
    number: int = 0
    usual: dict[str, float] = field(default_factory=lambda: {"local": 3.0, "ray": 9.0})

    def prepare(self) -> None:
        """Make the input and the undisturbed runs, and learn the points that a run passes."""
        chaos = self.place / "chaos"
        chaos.mkdir()
        make_input(self.place / "in")
        for name in RECIPES:
            make_recipe(self.place, name)
            run = self.place / f"undisturbed-{name}"
            (chaos / "listen").touch()
            begin = time.monotonic()
            process = self.start("local", name, run)
            assert self.finish(process) == 0, self.said()
            self.usual["local"] = time.monotonic() - begin
            (chaos / "listen").unlink()
            lines = (chaos / "log").read_text().splitlines()
            (chaos / "log").unlink()
            passed = dict.fromkeys(tuple(line.rsplit(" ", 1)) for line in lines)
            self.points[name] = [x for x in passed if x[0] not in ("report.json", "run.alive.json")]
            self.want[name] = outputs(run)

    def start(self, engine: str, recipe: str, run: Path, *more: str, limit: int = 0) -> Process:
        """The command that runs a recipe into a folder; `local`: the same without Ray, forked."""
        path, stderr = self.place / f"{recipe}.yaml", self.place / "stderr"
        overrides = (f"output={run}", *more, "run.shared_filesystem=true", "run.num_cpus=2")
        if engine == "local":
            return here.start(path, overrides, self.place / "chaos", stderr, limit)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        return subprocess.Popen(
            [sys.executable, "-m", "malmoi.pipeline", "run", str(path), *overrides],
            cwd=self.place,
            env={**kept, **self.variables(), "RAY_ADDRESS": self.address()},
            stdout=subprocess.DEVNULL,
            stderr=stderr.open("wb"),
        )

    def variables(self) -> dict[str, str]:
        path = [str(HOOK), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {
            "PYTHONPATH": os.pathsep.join(path),
            "MALMOI_CHAOS": str(self.place / "chaos"),
            "HOME": str(self.place),
            "RAY_USAGE_STATS_ENABLED": "0",
        }

    def finish(self, process: Process) -> int | None:
        """The exit status; None where it hangs, and is ended."""
        try:
            return process.wait(LIMIT_S)
        except (subprocess.TimeoutExpired, TimeoutError):
            process.kill()
            process.wait()
            return None

    def said(self) -> str:
        return (self.place / "stderr").read_text(errors="replace").strip()[-1500:]

    # --- the cluster

    def address(self) -> str:
        """Of a cluster with two nodes of one CPU beside its head; started, or mended, where it has to be."""
        if self.cluster is not None and not _lives(self.cluster.head_node):
            self.end_cluster()
        if self.cluster is None:
            place = Path(f"/tmp/mlc{os.getpid()}")
            (place / "ray").mkdir(parents=True, exist_ok=True)
            os.environ.update({**self.variables(), "RAY_TMPDIR": str(place)})  # where Ray notes its address
            from ray.cluster_utils import Cluster

            checks = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 1000}
            self.cluster = Cluster(
                initialize_head=True,
                head_node_args={
                    "num_cpus": 0,
                    "include_dashboard": False,
                    "object_store_memory": 80 * 1024**2,
                    "temp_dir": str(place),
                    "_system_config": {**checks, "health_check_failure_threshold": 5},
                },
            )
        for node in [x for x in self.cluster.worker_nodes if not _lives(x)]:
            with suppress(Exception):
                self.cluster.remove_node(node, allow_graceful=False)
        while len(self.cluster.worker_nodes) < 2:
            self.cluster.add_node(num_cpus=1, object_store_memory=80 * 1024**2, wait=False)
        return str(self.cluster.address)

    def end_cluster(self) -> None:
        if self.cluster is not None:
            with suppress(Exception):
                self.cluster.shutdown()
            shutil.rmtree(f"/tmp/mlc{os.getpid()}", ignore_errors=True)
            self.cluster = None

    def close(self) -> None:
        self.end_cluster()
        shutil.rmtree(self.place, ignore_errors=True)

    # --- faults

    def meet(self, fault: Fault) -> Outcome:
        """Run, disturbed; then the same command until it goes through; compare."""
        begin = time.monotonic()
        self.number += 1
        run = self.place / f"run-{self.number:03d}"
        chaos = self.place / "chaos"
        for name in ("fault.json", "done.json", "felt.json"):
            (chaos / name).unlink(missing_ok=True)
        wrong: list[str] = []
        code, felt = getattr(self, f"_{fault.kind}")(fault, run, wrong)
        (chaos / "fault.json").unlink(missing_ok=True)
        calls = 1
        while code != 0 and calls < 4 and not wrong:
            if code is None:
                wrong.append(f"hangs: {self.said()}")
            elif (
                code > 0 and fault.kind not in ("limit", "recipe") and fault.victim not in ("disk", "raylet")
            ):
                wrong.append(f"ends with {code}: {self.said()}")
            code = self.finish(self.start(fault.engine, fault.recipe, run))
            calls += 1
        if code != 0:
            wrong.append(f"does not go through: {code}: {self.said()}")
        else:
            try:
                wrong += differences(run, self.want[fault.recipe])
            except Exception as error:
                wrong.append(f"{type(error).__name__}: {error}")
        if not wrong:
            shutil.rmtree(run, ignore_errors=True)
        return Outcome(fault, tuple(wrong), felt, calls, time.monotonic() - begin)

    def _point(self, fault: Fault, run: Path, wrong: list[str]) -> tuple[int | None, bool]:
        chaos = self.place / "chaos"
        process = self.start(fault.engine, fault.recipe, run)
        armed = {"name": fault.name, "phase": fault.phase, "victim": fault.victim, "driver": process.pid}
        (chaos / "fault.tmp").write_text(json.dumps(armed))
        (chaos / "fault.tmp").rename(chaos / "fault.json")
        code = self.finish(process)
        return code, (chaos / "done.json").exists()

    def _time(self, fault: Fault, run: Path, wrong: list[str]) -> tuple[int | None, bool]:
        process = self.start(fault.engine, fault.recipe, run)
        deadline = time.monotonic() + 60
        while not (run / "plan.json").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(fault.amount * self.usual[fault.engine])
        pid = process.pid if fault.victim == "driver" else self._victim(fault.victim)
        felt = process.poll() is None and pid is not None
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return self.finish(process), felt

    def _victim(self, kind: str) -> int | None:
        raylets = [node.all_processes["raylet"][0].process.pid for node in self.cluster.worker_nodes]
        if kind == "raylet":
            return raylets[self.number % len(raylets)]
        workers = [
            one.pid
            for one in psutil.process_iter(["ppid", "cmdline"])
            if one.info["ppid"] in raylets and (one.info["cmdline"] or [""])[0].startswith("ray::Map")
        ]
        return workers[self.number % len(workers)] if workers else None

    def _damage(self, fault: Fault, run: Path, wrong: list[str]) -> tuple[int | None, bool]:
        shutil.copytree(self._stopped(fault.recipe), run)
        path = run / fault.name
        content = path.read_bytes()
        middle = len(content) // 2
        if fault.phase == "remove":
            path.unlink()
        elif fault.phase == "tear":
            path.write_bytes(content[:middle])
        elif fault.phase == "corrupt":
            path.write_bytes(content[:middle] + bytes([content[middle] ^ 0x55]) + content[middle + 1 :])
        else:
            raise ValueError(fault.phase)
        return self.finish(self.start(fault.engine, fault.recipe, run)), True

    def _stopped(self, recipe: str) -> Path:
        """A run that ended just before its manifest was written."""
        run = self.place / f"stopped-{recipe}"
        if not run.exists():
            end = Fault("point", "local", recipe, "end", "manifest.json", "open", "self")
            code, _ = self._point(end, run, [])
            assert code == -signal.SIGKILL, (code, self.said())
        return run

    def _limit(self, fault: Fault, run: Path, wrong: list[str]) -> tuple[int | None, bool]:
        code = self.finish(self.start(fault.engine, fault.recipe, run, limit=int(fault.amount)))
        if code not in (0, 1, 2) or (code and "no space left to write" not in self.said()):
            wrong.append(f"a full disk is not told: {code}: {self.said()}")
        return code, code != 0

    def _recipe(self, fault: Fault, run: Path, wrong: list[str]) -> tuple[int | None, bool]:
        """The run is stopped; then another recipe, and another input, are refused."""
        code, _ = self._point(fault, run, wrong)
        self._refused(fault, run, wrong, "seed=5")
        changed = self.place / "in/web-1.jsonl"
        content = changed.read_bytes()
        status = changed.stat()
        changed.write_bytes(content.replace(b"ba", b"ab", 1))
        self._refused(fault, run, wrong)
        changed.write_bytes(content)
        os.utime(changed, ns=(status.st_atime_ns, status.st_mtime_ns))
        return code, code != 0

    def _refused(self, fault: Fault, run: Path, wrong: list[str], *more: str) -> None:
        code = self.finish(self.start(fault.engine, fault.recipe, run, *more))
        if code == 0 or "holds a run of another recipe or input" not in self.said():
            wrong.append(f"not refused: {more}: {code}: {self.said()}")


def _lives(node: Any) -> bool:
    return all(x.process.poll() is None for x in node.all_processes.get("raylet", [])) and bool(
        node.all_processes.get("raylet")
    )


def choose(bench: Bench, rng: random.Random, engine: str) -> Fault:
    """A fault at random: first the stage, then the point, then who is struck."""
    recipe = rng.choice(sorted(RECIPES))
    kinds = {
        "local": ("point",) * 6 + ("damage",) * 3 + ("limit", "time", "recipe"),
        "ray": ("point",) * 4 + ("time",),
    }
    kind = rng.choice(kinds[engine])
    by_stage: dict[str, list[tuple[str, str]]] = {}
    for name, phase in bench.points[recipe]:
        by_stage.setdefault(stage_of(name), []).append((name, phase))
    if kind == "recipe":
        del by_stage["plan"]  # before the plan is there the folder is nobody's: any recipe may begin in it
    stage = rng.choice(sorted(by_stage))
    name, phase = rng.choice(by_stage[stage])
    if kind == "limit":
        return Fault(kind, engine, recipe, "any", amount=rng.randrange(200, 9000))
    if kind == "time":
        victims = ("driver",) if engine == "local" else ("driver", "driver", "worker", "raylet")
        return Fault(kind, engine, recipe, "any", victim=rng.choice(victims), amount=rng.random())
    if kind == "damage":
        run = bench._stopped(recipe)
        files = sorted(
            str(x.relative_to(run))
            for folder in ("stages", "corpus", "dropped", "quarantine", "index")
            for x in (run / folder).rglob("*")
            if x.is_file() and x.stat().st_size and not x.name.endswith(".running.json")
        )
        stages = sorted({stage_of(x) for x in files})
        stage = rng.choice(stages)
        name = rng.choice([x for x in files if stage_of(x) == stage])
        return Fault(kind, engine, recipe, stage, name, rng.choice(("remove", "tear", "corrupt")))
    if engine == "local" or stage not in ON_WORKERS:
        victims = ("self", "self", "self", "disk")
    else:
        victims = ("self", "self", "driver", "driver", "raylet", "raylet", "disk")
    victim = "self" if kind == "recipe" else rng.choice(victims)
    return Fault(kind, engine, recipe, stage, name, phase, victim)
