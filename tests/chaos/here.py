"""Runs without Ray, each in a process of its own: forked from this one, which has imported everything."""

from __future__ import annotations

import importlib.util
import os
import resource
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from rich.console import Console

from malmoi.pipeline import storage
from malmoi.pipeline.config import load_recipe
from malmoi.pipeline.errors import MalmoiError
from malmoi.pipeline.plan import make_plan
from malmoi.pipeline.run import run_plan

HOOK = Path(__file__).resolve().parent / "hook"


@dataclass
class Forked:
    """As much of subprocess.Popen as is needed."""

    pid: int
    returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float = 1e9) -> int:
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise TimeoutError
            time.sleep(0.01)
        assert self.returncode is not None
        return self.returncode

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def start(recipe: Path, overrides: Sequence[str], chaos: Path, stderr: Path, limit: int) -> Forked:
    """Run a recipe; ends with status 0, or 1 and the error in `stderr`. `limit`: bytes that a file may have."""
    pid = os.fork()
    if pid:
        return Forked(pid)
    status = 70
    try:
        handle = os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 2)
        hook = _hook()
        hook.PLACE = str(chaos)
        hook.wrap(storage)
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        status = _run(recipe, overrides)
    finally:
        os._exit(status)
    return Forked(0)


def _hook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("chaos_hook", HOOK / "sitecustomize.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _run(recipe: Path, overrides: Sequence[str]) -> int:
    try:
        plan = make_plan(load_recipe(str(recipe), overrides), str(recipe.parent))
        run_plan(plan, console=Console(quiet=True), engine="local")
    except MalmoiError as error:
        os.write(2, str(error).encode())
        return 1
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}".encode())
        return 3
    return 0
